"""Files by https, on their way into the node: a fetcher brings them, and goes on where one before it was broken off."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import zos.programs
from zos.drivers import DriverError, Unavailable
from zos.drivers.beside import beside
from zos.drivers.confined import fetcher
from zos.drivers.fencerules import closed_in
from zos.drivers.meter import Meter
from zos.drivers.process import ProcessError, lines
from zos.drivers.registry import CLOSED
from zos.drivers.sources import Pull
from zos.drivers.unpacking import last_line

_WHOLE = 3600.0
#: The interpreter itself, not a virtual environment's name for it.
_PYTHON = os.path.realpath(sys.executable)
_DOWNLOAD = Path(zos.programs.__path__[0]) / "download.py"


class BrokenOff(Unavailable):
    """What is there may be gone on with."""


#: What the program says where a server may do better the next time.
_BROKEN_OFF = r"the server ended|the server does not go on|dial |lookup |it can't be downloaded|the server answers (5|429)"


async def download(pull: Pull) -> contextlib.AbstractContextManager[int]:
    """Gives a descriptor of it. Raises DriverError; BrokenOff where another try goes on with what is there."""
    pull.say("downloading")
    limits = pull.sources.limits
    # Without anything of ours or of the environment: its user could not read it, and need not.
    url = pull.ref.partition("#")[0]
    command = fetcher(pull.fetched, limits.size, _PYTHON, "-I", "-S", "-", url, str(limits.size))
    meter = Meter(pull.fetched, limits, "packed, it has")
    try:
        with _descriptor(_DOWNLOAD) as program:
            await pull.fence.around(lambda: beside(lambda: _follow(pull, command, program), meter.watch))
    except ProcessError as error:
        raise _meaning(pull, error) from error
    return _descriptor(pull.fetched / "file")


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


async def _follow(pull: Pull, command: list[str], program: int) -> None:
    with pull.space.hold() as hold:
        async with contextlib.aclosing(lines(*command, stdin=program, timeout=_WHOLE)) as output:
            async for line in output:
                if found := re.fullmatch(r"(\d{1,15}) (\d{1,15})", line):
                    hold.written, whole = int(found[1]), int(found[2])
                    if whole > hold.size:
                        pull.space.grow(hold, whole)
                    pull.tell("downloading", hold.written, whole)


def _meaning(pull: Pull, error: ProcessError) -> DriverError:
    said = last_line(error)
    if closed_in(said, pull.fence.ground):
        return DriverError(CLOSED)
    if found := re.match(r"too big: (\d+)", said):
        pull.sources.limits.check(int(found[1]), 0, "packed, it has")
    kind = BrokenOff if re.match(_BROKEN_OFF, said) else DriverError
    if said.startswith("dial "):
        return kind("the server can't be reached")
    if said.startswith("lookup "):
        return kind("the server's name can't be resolved")
    if said.startswith("x509: "):
        return kind(f"the server's certificate is not trusted by the node: {said.removeprefix('x509: ')}")
    return kind(said)
