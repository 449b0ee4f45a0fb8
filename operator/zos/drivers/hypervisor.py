"""The connection to the node's libvirtd: made again when it was lost, and awake to what happens to guests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import libvirt

from zos.drivers import DriverError
from zos.drivers.thread import in_own_thread

_P = ParamSpec("_P")
_T = TypeVar("_T")
#: Seconds between questions whether the daemon is alive, and how many may stay without an answer: then the connection is given
#: up, and with it what waits for an answer.
_KEEPALIVE, _MISSED = 5, 3
#: Seconds for another call to open the connection.
_OPENING = 5.0
#: Seconds to say goodbye to a daemon that may hang.
_CLOSING = 3.0
_events = threading.Lock()
_events_run = False


def _run_events() -> None:
    """libvirt's own event loop, once for the process; it must run before a connection is opened."""
    global _events_run
    with _events:
        if _events_run:
            return
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors come as exceptions: not on stderr too
        libvirt.virEventRegisterDefaultImpl()

        def run() -> None:
            while True:
                libvirt.virEventRunDefaultImpl()

        # A timer that never does anything keeps the loop from returning for want of anything to wait for.
        libvirt.virEventAddTimeout(60_000, lambda _timer, _context: None, None)
        threading.Thread(target=run, name="libvirt-events", daemon=True).start()
        _events_run = True


class Hypervisor:
    """``changed(name, event)`` is called in the event loop's thread: a guest's name and the lifecycle event (a
    ``VIR_DOMAIN_EVENT_…``), or ``("", -1)`` for a connection that was lost or made again. ``failed(name, path)``, there too: a
    guest's disk could not be read or written, for another reason than that there was no room."""

    def __init__(self, uri: str, changed: Callable[[str, int], None], failed: Callable[[str, str], None]) -> None:
        self._uri = uri
        self._changed = changed
        self._failed = failed
        self._connection: Any = None
        self._opened = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def call(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs blocking work in a thread; libvirt's errors come as DriverError. A daemon that hangs lets the work hang, until
        the connection is given up; the next one is made by one call alone, and the others end meanwhile."""
        self._loop = asyncio.get_running_loop()
        try:
            return await in_own_thread(functools.partial(work, *args, **kwargs), "libvirt")
        except libvirt.libvirtError as error:
            raise DriverError(f"libvirt: {error}") from error

    def connection(self) -> Any:
        """The open connection; opens it if need be. Blocks; raises libvirtError or DriverError."""
        if not self._lock.acquire(timeout=_OPENING):
            raise DriverError("libvirt: the daemon does not answer (is libvirtd stopped or overloaded?)")
        try:
            if self._connection is not None and self._connection.isAlive():
                return self._connection
            self._drop()
            _run_events()
            connection = libvirt.open(self._uri)
            connection.setKeepAlive(_KEEPALIVE, _MISSED)
            connection.registerCloseCallback(self._closed, None)
            connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
            connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, self._io_error, None)
            self._connection = connection
            if self._opened:
                self._tell("", -1)  # those who could not wait for it look again
            self._opened = True
            return connection
        finally:
            self._lock.release()

    def find(self, name: str) -> Any:
        """The running guest of that name, None where there is none. Blocks; raises libvirtError."""
        try:
            return self.connection().lookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    async def close(self) -> None:
        self._changed = lambda _name, _event: None
        self._failed = lambda _name, _path: None
        closing = asyncio.ensure_future(in_own_thread(self._close, "libvirt"))
        await asyncio.wait([closing], timeout=_CLOSING)

    def _close(self) -> None:
        if self._lock.acquire(timeout=1):  # else it is just being opened, and that hangs
            try:
                self._drop()
            finally:
                self._lock.release()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                connection.unregisterCloseCallback()
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    def _closed(self, _connection: Any, _reason: int, _context: None) -> None:
        self._tell("", -1)

    def _lifecycle(self, _connection: Any, domain: Any, event: int, _detail: int, _context: None) -> None:
        self._tell(domain.name(), event)

    def _io_error(
        self, _connection: Any, domain: Any, path: str, _alias: str, _action: int, reason: str, _context: None
    ) -> None:
        if reason != "enospc":  # for that the guest is paused, which is told by itself
            self._in_loop(lambda: self._failed(domain.name(), path))

    def _tell(self, name: str, event: int) -> None:
        self._in_loop(lambda: self._changed(name, event))

    def _in_loop(self, work: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                self._loop.call_soon_threadsafe(work)


def gone(error: libvirt.libvirtError) -> bool:
    """Whether the guest ended between being found and being talked to."""
    return error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)
