"""Our unpackers at work: what a stranger packed becomes a tree, within bounds."""

from __future__ import annotations

import asyncio
import re

from zos.drivers import DriverError, Unavailable
from zos.drivers.beside import beside
from zos.drivers.confined import MEMORY, program, unpacker
from zos.drivers.meter import Meter, Refused, in_words, no_room
from zos.drivers.process import ProcessError, run
from zos.drivers.sources import Pull

_WHOLE = 3600.0
_WHAT = "it unpacks to"


async def unpack(pull: Pull, name: str, source: int, packed: int, *more: str) -> str:
    """By the program of this name, from a descriptor into ``rootfs``; gives what it said. What it will be is not known, but
    hardly less than ``packed`` bytes; beyond them it takes what nobody else has spoken for. Raises DriverError."""
    limits, root = pull.sources.limits, pull.room / "rootfs"
    await asyncio.to_thread(root.mkdir, mode=0o755)
    with pull.space.hold(packed) as hold:
        bounds = (str(limits.size), str(limits.entries), str(pull.space.kept(hold)))
        command = program(name, str(source), str(root), *bounds, *more)
        confined = unpacker(pull.room, limits.size, *command, memory=MEMORY)
        try:
            done = await beside(lambda: run(*confined, fds=(source,), timeout=_WHOLE), Meter(root, limits, _WHAT).watch)
        except ProcessError as error:
            said = last_line(error)
            if found := re.match(r"too big: (\d+) (\d+)", said):
                limits.check(int(found[1]), int(found[2]), _WHAT)
            if found := re.match(r"no room: (\d+) (\d+)", said):
                raise no_room(f"what it unpacks to ({in_words(int(found[1]))} so far)", int(found[2])) from error
            raise wrong(error, said) from error
    return done.stdout


def wrong(error: ProcessError, said: str) -> DriverError:
    """What an unpacker that failed says of the content, unless it was for the node that it failed."""
    if "no space left" in said.lower():
        return Unavailable("the node's disk is full")
    return Refused(said) if (error.code or 0) > 0 else DriverError(said)


def last_line(error: ProcessError) -> str:
    """What a program said last, without the log format of skopeo."""
    if late := re.search(r"not done after [\d.]+ s", str(error)):
        return f"it takes too long: {late[0]}"
    said = ((error.stderr or error.stdout).strip() or str(error)).splitlines()[-1]
    found = re.search(r'msg="?(.*?)"?$', said)
    return (found[1] if found else said).removeprefix("Error: ")[:400]
