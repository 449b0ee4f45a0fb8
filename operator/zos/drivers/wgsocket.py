"""What a running wireguard-go tells of itself, over its socket."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

_SOCKETS = Path("/run/wireguard")
_UCRED = struct.Struct("3i")  # struct ucred, unix(7)


def of(name: str) -> Path:
    """The socket of an interface. It is made by the program, which leaves it behind where it is killed."""
    return _SOCKETS / f"{name}.sock"


async def ask(name: str, seconds: float) -> str:
    """A running userspace interface's answer over its socket. Raises TimeoutError with a text for who reads it."""
    process = 0
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(str(of(name)))
            try:
                peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
                process, _, _ = _UCRED.unpack(peer)
                writer.write(b"get=1\n\n")
                return (await reader.readuntil(b"\n\n")).decode()
            except asyncio.IncompleteReadError as error:
                raise ValueError("no answer") from error
            finally:
                writer.close()
    except TimeoutError:
        raise TimeoutError(
            f"its wireguard-go (process {process}) has not answered for {seconds:g} s: if it is stopped, let it go on "
            f"(kill -CONT {process}); if it hangs, end it (kill -9 {process}), and another one begins"
        ) from None
