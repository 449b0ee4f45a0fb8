"""The kernel's end of a FUSE file system: questions in, answers out, until it is unmounted or somebody asks to end.

Nothing is remembered between two questions, so that whoever is started on a connection that was made for another goes on where
that one ended (ADR 0024).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct

from zos.programs.flist import wire
from zos.programs.flist.serving import Tree
from zos.programs.flist.wire import Opcode, Request


class Connection:
    def __init__(self, descriptor: int, tree: Tree) -> None:
        self._descriptor, self._tree = descriptor, tree
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reading: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        os.set_blocking(self._descriptor, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._descriptor, self._asked)
        try:
            await self._over
        finally:
            loop.remove_reader(self._descriptor)
            for task in self._reading:
                task.cancel()

    def end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _asked(self) -> None:
        """One question at a time: what came meanwhile from elsewhere has its turn as well."""
        try:
            data = os.read(self._descriptor, wire.QUESTION)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno != errno.ENOENT:  # who asked has been called off
                self.end()
            return
        request = Request.of(data)
        if request.opcode == Opcode.READ:
            task = asyncio.create_task(self._read(request))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)
        elif request.opcode not in wire.UNANSWERED:
            self._say(self._answered(request))

    def _answered(self, request: Request) -> bytes:
        try:
            return wire.answer(request.unique, self._answer(request))
        except OSError as error:
            return wire.answer(request.unique, error=error.errno or errno.EIO)
        except struct.error:  # a question that is none
            return wire.answer(request.unique, error=errno.EINVAL)

    def _answer(self, request: Request) -> bytes:
        """Raises OSError."""
        match request.opcode:
            case Opcode.INIT:
                told = wire.initialised(request.body)
                if told is None:
                    raise OSError(errno.EPROTO, "a kernel of another age")
                return told
            case Opcode.LOOKUP:
                return wire.entry(self._tree.child(request.node, request.name))
            case Opcode.GETATTR:
                return wire.attributes(self._tree.inode(request.node))
            case Opcode.READLINK:
                return self._tree.target(request.node)
            case Opcode.OPEN:
                if request.flags & os.O_ACCMODE != os.O_RDONLY:
                    raise OSError(errno.EROFS, "nothing here can be changed")
                return wire.opened(directory=False)
            case Opcode.OPENDIR:
                return wire.opened(directory=True)
            case Opcode.READDIR | Opcode.READDIRPLUS:
                first, size = request.span
                entries = self._tree.children(request.node)
                return wire.listed(entries, first, size, plus=request.opcode == Opcode.READDIRPLUS)
            case Opcode.STATFS:
                return wire.statfs(self._tree.blocks, self._tree.entries)
            case Opcode.RELEASE | Opcode.RELEASEDIR | Opcode.DESTROY:
                return b""
        raise OSError(errno.EROFS if request.opcode in wire.CHANGES else errno.ENOSYS, "not here")

    async def _read(self, request: Request) -> None:
        try:
            told = wire.answer(request.unique, await self._tree.read(request.node, *request.span))
        except OSError as error:
            told = wire.answer(request.unique, error=error.errno or errno.EIO)
        self._say(told)

    def _say(self, told: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody waits for it any more
            os.write(self._descriptor, told)
