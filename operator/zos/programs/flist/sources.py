"""Where blocks are: what a route of an flist means, and one try to get a block from there.

Where packets may go is for the kernel to say (this user's, in this namespace): an address that must not be asked
is one that doesn't answer. Nobody is sent on to elsewhere, so that a route says itself where it leads.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from zos.programs.flist.catalogue import BadFlist, Route
from zos.programs.flist.sealing import STORED

_PIECE = 64 << 10
#: Seconds without a byte after which nobody is waited for.
_SILENT = 3.0


class Unavailable(Exception):
    """It can't be had from there; what is told names who and why."""


@dataclass(frozen=True)
class Source:
    """Of the blocks whose id begins with a byte from ``start`` to ``end``."""

    start: int
    end: int

    @property
    def name(self) -> str:
        """Who is asked, for people."""
        raise NotImplementedError

    def has(self, block: bytes) -> bool:
        return self.start <= block[0] <= self.end

    def get(self, block: bytes, deadline: float) -> bytes:
        """Stored bytes, unchecked, until ``deadline`` (of the monotonic clock). Raises Unavailable."""
        raise NotImplementedError


@dataclass(frozen=True)
class Directory(Source):
    """``dir://``: files that are called as their ids, as a store of rfs has them."""

    place: Path

    @property
    def name(self) -> str:
        return str(self.place)

    def get(self, block: bytes, deadline: float) -> bytes:
        for name in (f"{block.hex()[:2]}/{block.hex()}", block.hex()):
            try:
                # What is no plain file is opened without waiting for anybody.
                descriptor = os.open(self.place / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
                with open(descriptor, "rb", buffering=0) as file:
                    if stat.S_ISREG(os.fstat(descriptor).st_mode):
                        return file.read(STORED + 1)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise Unavailable(f"{self.name}: {error.strerror}") from None
        raise Unavailable(f"{self.name} does not have the block {block.hex()}")


@dataclass(frozen=True)
class Web(Source):
    """``http://`` and ``https://``: below the URL as rfs stores and asks for them, ``<first two digits>/<id>``, or ``<id>``."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    def get(self, block: bytes, deadline: float) -> bytes:
        name = block.hex()
        try:
            for path in (f"{self.path}/{name[:2]}/{name}", f"{self.path}/{name}"):
                status, body = self._ask(path, deadline)
                if status == 200:
                    return body
                if status != 404:
                    raise Unavailable(f"{self.name} answers {status}")
        except ssl.SSLCertVerificationError as error:
            raise Unavailable(f"{self.name}: x509: {error.verify_message}") from None
        except TimeoutError:
            raise Unavailable(f"{self.name} does not answer in time") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"{self.name}: {_words(error)}") from None
        raise Unavailable(f"{self.name} does not have the block {name}")

    def _connect(self, deadline: float) -> socket.socket:
        sock = self._dial(deadline)
        return ssl.create_default_context().wrap_socket(sock, server_hostname=self.host) if self.secure else sock

    def _dial(self, deadline: float) -> socket.socket:
        """One address after the other. An error names the one that it is of: where that is closed, others tell why."""
        problem = ""
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(_left(deadline))
                sock.connect(address)
            except TimeoutError:
                sock.close()
                problem = problem or "it does not answer in time"
            except OSError as error:
                sock.close()
                place = f"[{address[0]}]" if family is socket.AF_INET6 else address[0]
                problem = f"dial tcp {place}:{self.port}: {error.strerror}"
            else:
                return sock
        raise OSError(problem)

    def _ask(self, path: str, deadline: float) -> tuple[int, bytes]:
        """Status, and the body where that is 200."""
        with self._connect(deadline) as sock:
            connection = http.client.HTTPConnection(self.host, self.port)
            connection.sock = _Line(sock, deadline)
            connection.request("GET", path, headers={"User-Agent": "zos", "Accept-Encoding": "identity"})
            response = connection.getresponse()
            body = bytearray()
            while response.status == 200 and len(body) <= STORED:
                piece = response.read1(_PIECE)
                if not piece:
                    break
                body += piece
            if len(body) > STORED:
                raise Unavailable(f"{self.name} sends more than a block has")
            return response.status, bytes(body)


class _Patient(io.RawIOBase):
    """What comes by a socket until ``deadline``, however little at a time: a server may send a byte a second, of its headers as
    well."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._sock.settimeout(_left(self._deadline))
        return self._sock.recv_into(buffer)


class _Line:
    """As much of a socket as http.client uses. It is closed by who opened it."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_left(self._deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Patient(self._sock, self._deadline))

    def close(self) -> None:
        pass


def source(route: Route, directories: tuple[Path, ...]) -> Source:
    """What a route means. ``directories`` are those below which a ``dir://`` may be. Raises BadFlist."""
    try:
        parts = urlsplit(route.url)
        port = parts.port
    except ValueError:
        raise BadFlist(f"its route {route.url[:200]!r} is no URL") from None
    if any(ord(letter) < 33 or ord(letter) > 126 for letter in route.url):
        raise BadFlist(f"its route {route.url[:200]!r} is no URL")
    match parts.scheme:
        case "http" | "https" if parts.hostname and not (parts.username or parts.query or parts.fragment):
            secure = parts.scheme == "https"
            return Web(route.start, route.end, secure, parts.hostname, port or (443 if secure else 80), parts.path.rstrip("/"))
        case "dir":
            place = Path(os.path.realpath(unquote(f"{parts.netloc}{parts.path}")))
            if not any(place.is_relative_to(os.path.realpath(allowed)) for allowed in directories):
                words = f"its route {route.url[:200]!r} is not below an --image-dir of the node"
                raise BadFlist(f"{words}: make it with --url, or have its blocks there")
            return Directory(route.start, route.end, place)
        case "zdb":
            raise BadFlist(
                f"its route {route.url[:200]!r} leads to a 0-db, which can't be asked yet: publish its blocks over https"
            )
        case _:
            raise BadFlist(f"its route {route.url[:200]!r} is none that blocks can be had from (https, http, dir)")


def _left(deadline: float) -> float:
    """Seconds to wait for what comes next. Raises TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, _SILENT)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__)[:200]
