"""kopf's watching, as plain calls. The only module that imports kopf.

kopf runs in a thread and an event loop of its own, because on its way out it cancels whatever else runs in its loop; events
come out in the caller's loop. They are taken from its connections (`zos.kube.tap`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import kopf

from zos.api.meta import Key, Object
from zos.kube.client import Access, Raw, path_of
from zos.kube.tap import tapped

log = logging.getLogger("zos.watches")

#: A connection whose other end is gone without a word is found dead by the kernel: seconds until it asks, between questions,
#: and their number.
_PROBES = (10, 5, 3)
#: Seconds for which events are taken in before everybody else in the caller's loop has a turn.
_TURN = 0.05


@dataclass(frozen=True)
class Watched:
    """A kind to watch; ``namespace`` empty: all of them; ``name``: only the object of that name; ``labels``: only those that
    this selector selects. ``metadata``: of its objects no more is told. ``probe``: it is watched to prove that something is
    heard; where it is not to be had (rights of before an upgrade), the rest does not wait for it."""

    model: type[Object]
    namespace: str = ""
    name: str = ""
    labels: str = ""
    metadata: bool = False
    probe: bool = False

    @property
    def path(self) -> str:
        return path_of(self.model, self.namespace)

    @property
    def selectors(self) -> Mapping[str, str]:
        """Parameters of a request."""
        chosen = {"fieldSelector": f"metadata.name={self.name}" if self.name else "", "labelSelector": self.labels}
        return {name: value for name, value in chosen.items() if value}

    def covers(self, key: Key) -> bool:
        return key.kind == self.model.KIND and self.namespace in ("", key.namespace) and self.name in ("", key.name)


#: For a watch, and for a list.
_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json"


class Watches:
    """Watches of ``served``, from their making until `stop`. In the caller's loop ``event(type, object)`` is called for each
    event (type None: from a list), and ``stir()`` when one of the attributes below changed.

    When a watch can't go on where it ended (an API server that began anew, a CRD that changed), kopf lists, and nobody tells of
    what was deleted in between: ``listed``. A watch that was ``cut`` off goes on from a version that the server may have lost:
    then that it goes on counts as listed too. ``opened`` has the paths of collections that are watched, and since when, on
    ``clock``; ``ended``: kopf gave up.
    """

    def __init__(
        self,
        access: Access,
        served: Sequence[Watched],
        event: Callable[[str | None, Raw], None],
        stir: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._access = access
        self._served = served
        self._collections = {watched.path: watched for watched in served}
        self._event = event
        self._stir = stir
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._asked: set[str] = set()
        self._opened: dict[str, float] = {}
        self.listed = False
        self.ended = False
        self.cut = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self._thread.start()

    @property
    def begun(self) -> bool:
        """Whether kopf has asked for every collection: its discovery lags behind a CRD that has just been made."""
        return self._collections.keys() <= self._asked

    @property
    def opened(self) -> Mapping[str, float]:
        return self._opened

    async def stop(self) -> None:
        """Nothing is told any more."""
        self._stop.set()
        await asyncio.shield(asyncio.to_thread(self._thread.join, 2))

    # -- in kopf's thread

    def _run(self) -> None:
        try:
            asyncio.run(self._kopf())
        except Exception as error:  # a kind that is no longer served, a watch that breaks off: what it is, the next look shows
            log.warning("the watches ended: %s: %s", type(error).__name__, error)
        finally:
            self._end()

    def _end(self) -> None:
        self._stop.set()
        self.ended = True
        with contextlib.suppress(RuntimeError):  # the caller's loop is closed
            self._stirred()

    def _stirred(self) -> None:
        self._loop.call_soon_threadsafe(self._stir)

    async def _kopf(self) -> None:
        registry = kopf.OperatorRegistry()
        namespaces = sorted({watched.namespace for watched in self._served if watched.namespace})
        heard_of: deque[tuple[str | None, Raw]] = deque()

        def take() -> None:
            end = self._loop.time() + _TURN
            while heard_of:
                if self._loop.time() > end:
                    self._loop.call_soon(take)
                    return
                try:
                    if not self._stop.is_set():  # what comes after the end will be listed by the next watch
                        self._event(*heard_of[0])
                finally:
                    heard_of.popleft()  # as long as it was there, nobody woke this loop again

        def heard(path: str, type: str | None, raw: Raw) -> None:
            model = self._collections[path].model
            raw |= {"apiVersion": model.API_VERSION, "kind": model.KIND}  # what is told of metadata only says that it is such
            heard_of.append((type, raw))
            if len(heard_of) == 1:  # waking the other loop is dear: once for all that comes before it is awake
                self._loop.call_soon_threadsafe(take)

        async def nothing(**_: Any) -> None:
            """kopf watches what it has a handler for."""

        for watched in self._served:
            group, _, version = watched.model.API_VERSION.rpartition("/")
            kopf.on.event(group, version, watched.model.PLURAL, registry=registry)(nothing)

        async def login(**_: Any) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(server=self._access.server, aiohttp_session=await self._session(heard))

        async def given_up(**_: Any) -> None:
            """It waits for what hangs, as watches of other kinds do; and a thread of its waits for the flag, for ever."""
            self._end()

        kopf.on.login(registry=registry)(login)
        kopf.on.cleanup(registry=registry)(given_up)
        try:
            await kopf.operator(
                registry=registry,
                settings=kopf_settings(self._served),
                namespaces=namespaces,
                clusterwide=not namespaces,
                standalone=True,
                identity="zos",  # type: ignore[arg-type]  # else it asks for the name of its user, who may have none
                stop_flag=self._stop,
            )
        finally:
            self._stop.set()  # where it ended before it began

    async def _session(self, heard: Callable[[str, str | None, Raw], None]) -> aiohttp.ClientSession:
        """kopf's connections, on which its requests are seen, and what is answered to them."""

        async def started(_: object, __: object, request: aiohttp.TraceRequestStartParams) -> None:
            self._asked.add(request.url.path)
            if authorization := await self._authorization():  # a session outlives a token
                request.headers["Authorization"] = authorization
            if (watched := self._collections.get(request.url.path)) is not None and watched.metadata:
                request.headers["Accept"] = _METADATA.format("" if "watch" in request.url.query else "List")

        async def ended(_: object, __: object, request: aiohttp.TraceRequestEndParams) -> None:
            path = request.url.path
            if path not in self._collections:
                return
            if request.response.status != 200:
                self._opened.pop(path, None)
                self.cut = self.cut or request.response.status >= 500
                return
            self._opened[path] = self._clock()
            if "watch" not in request.url.query or self.cut:
                self.cut = False
                self.listed = True
                self._stirred()

        async def failed(_: object, __: object, request: aiohttp.TraceRequestExceptionParams) -> None:
            self._opened.pop(request.url.path, None)
            self.cut = True

        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(started)
        trace.on_request_end.append(ended)
        trace.on_request_exception.append(failed)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._access.ssl(), socket_factory=_probed),
            trace_configs=[trace],
            response_class=tapped(self._collections, heard),
        )

    async def _authorization(self) -> str | None:
        """Asked in the caller's loop, whose it is. None as well while there is no token: the answer will say so."""
        asked = asyncio.run_coroutine_threadsafe(self._access.authorization(), self._loop)
        with contextlib.suppress(OSError):
            return await asyncio.wrap_future(asked)
        return None


def _probed(address: tuple[Any, ...]) -> socket.socket:
    """A socket whose other end is asked by the kernel whether it is still there."""
    family, type, protocol, *_ = address
    made = socket.socket(family, type, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), _PROBES, strict=True):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def kopf_settings(watched: Sequence[Watched]) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.error_backoffs = [0.2, 0.5, 1.0, 2.0]
    settings.watching.reconnect_backoff = 0.5
    settings.queueing.exit_timeout = 0.2
    settings.watching.server_timeout = 240
    settings.watching.inactivity_timeout = 70.0  # the API server sends a bookmark a minute, whatever else there is to tell
    settings.process.ultimate_exiting_timeout = None  # or it kills the whole process ten minutes after its own end
    for one in watched:
        if one.labels:
            settings.watching.label_selectors[one.model.PLURAL] = one.labels
        if one.name:
            settings.watching.field_selectors[one.model.PLURAL] = f"metadata.name={one.name}"
    return settings
