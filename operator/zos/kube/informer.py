"""The informer: kopf's watching, as plain calls. The only module that imports kopf.

kopf runs in a thread and an event loop of its own, because on its way out it cancels whatever else runs in its loop; events
come out in the caller's loop. What kopf doesn't do is done here: knowing when everything has been listed once, noticing
objects that vanished while the connection was down, and starting over when it gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import aiohttp
import kopf

from zos.api.meta import Key, Object, version_number
from zos.kube.client import Access, ApiError, Client, Raw, Unavailable, path_of

log = logging.getLogger("zos.informer")

#: Seconds between comparisons of what was heard with what is listed: the net below the watches.
_RELIST = 300.0
_RETRY = 2.0
#: Seconds between the end of a list of kopf's and the look at what it no longer had: further lists join.
_SETTLE = 0.3


@dataclass(frozen=True)
class Watched:
    """A kind to watch; ``namespace`` empty: all of them; ``name``: only the object of that name."""

    model: type[Object]
    namespace: str = ""
    name: str = ""


class _Heard(NamedTuple):
    """What was heard of an object last."""

    uid: str
    version: str


@dataclass
class _State:
    """What kopf's thread tells: that it listed something anew, that it ended. ``stir`` wakes the other side."""

    stir: Callable[[], object]
    listed: bool = False
    ended: bool = False


class Informer:
    """Calls ``handle(key, object)`` in the caller's event loop for every object and change; None: it is gone.

    Each object is heard of at least once, in the order of its changes, and one that took another's name after that one's
    end (kopf keeps the order only within an object's life). ``listed`` is set when everything that existed at
    the start has been. ``trusted`` is asked before objects are declared gone because a list no longer has them. ``buried`` is
    told the uid of each object that was deleted, known or not: an answer to a write may come after the word of its end.
    ``relisted`` is called before objects come that were listed: the server that listed them may be another than before.
    """

    def __init__(
        self,
        access: Access,
        client: Client,
        watched: Sequence[Watched],
        handle: Callable[[Key, Raw | None], None],
        *,
        trusted: Callable[[], Awaitable[bool]] | None = None,
        relist: float = _RELIST,
        buried: Callable[[str], None] = lambda _: None,
        relisted: Callable[[], None] = lambda: None,
    ) -> None:
        self._access = access
        self._client = client
        self._watched = watched
        self._models = {(w.model.API_VERSION, w.model.KIND): w.model for w in watched}
        self._handle = handle
        self._trusted = trusted
        self._buried = buried
        self._relisted = relisted
        self._relist = relist
        self._known: dict[Key, _Heard] = {}
        self._missing: set[Key] | None = None  # what the first list had and nobody heard of yet
        self.listed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        told = ""
        while True:
            try:
                keys = await self._list()
            except (Unavailable, ApiError) as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("waiting for the API server: %s", error)
                await asyncio.sleep(_RETRY)
                continue
            told = ""
            self._missing = keys.keys() - self._known.keys()
            self._check_listed()
            await self._watch()
            log.warning("the watch ended; starting over")
            await asyncio.sleep(_RETRY)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        stirred, stop = asyncio.Event(), threading.Event()

        def stir() -> None:
            if state.listed:
                self._relisted()
            stirred.set()

        state = _State(lambda: loop.call_soon_threadsafe(stir))
        thread = threading.Thread(target=self._thread, args=(loop, stop, state), name="kopf", daemon=True)
        thread.start()
        due = loop.time() + self._relist
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await stirred.wait()
                stirred.clear()
                if state.ended:
                    return
                if state.listed:
                    await asyncio.sleep(_SETTLE)
                    state.listed = False
                    await self._drop_vanished()
                elif loop.time() >= due:
                    due = loop.time() + self._relist
                    if not await self._compare():
                        return
        finally:
            stop.set()
            await asyncio.shield(asyncio.to_thread(thread.join, 2))

    def _thread(self, loop: asyncio.AbstractEventLoop, stop: threading.Event, state: _State) -> None:
        try:
            asyncio.run(self._kopf(loop, stop, state))
        except Exception:
            log.exception("kopf ended")
        finally:
            state.ended = True
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed
                state.stir()

    async def _kopf(self, loop: asyncio.AbstractEventLoop, stop: threading.Event, state: _State) -> None:
        registry = kopf.OperatorRegistry()
        namespaces = sorted({w.namespace for w in self._watched if w.namespace})

        heard_of: deque[tuple[str | None, Raw]] = deque()

        def take() -> None:
            while heard_of:
                self._event(*heard_of.popleft())

        async def heard(event: kopf.RawEvent, **_: Any) -> None:
            heard_of.append((event["type"], cast("Raw", event["object"])))
            if len(heard_of) == 1:  # waking the other loop is dear: once for all that comes before it is awake
                loop.call_soon_threadsafe(take)

        for watched in self._watched:
            group, _, version = watched.model.API_VERSION.rpartition("/")
            kopf.on.event(group, version, watched.model.PLURAL, registry=registry)(heard)

        async def login(**_: Any) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(server=self._access.server, aiohttp_session=await self._session(state))

        kopf.on.login(registry=registry)(login)
        await kopf.operator(
            registry=registry,
            settings=_settings(self._watched),
            namespaces=namespaces,
            clusterwide=not namespaces,
            standalone=True,
            stop_flag=stop,
        )

    async def _session(self, state: _State) -> aiohttp.ClientSession:
        """kopf's connections, on which its lists are seen. When a watch can't go on where it ended (an API server that began
        anew, a CRD that changed), kopf lists, and nobody tells of what was deleted in between."""
        collections = {path_of(watched.model, watched.namespace) for watched in self._watched}

        async def ended(_: object, __: object, request: aiohttp.TraceRequestEndParams) -> None:
            if request.url.path in collections and "watch" not in request.url.query and request.response.status == 200:
                state.listed = True
                state.stir()

        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(ended)
        authorization = await self._access.authorization()
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._access.ssl()),
            headers={"Authorization": authorization} if authorization else None,
            trace_configs=[trace],
        )

    def _event(self, type: str | None, raw: Raw) -> None:
        meta = raw["metadata"]
        model = self._models[(raw["apiVersion"], raw["kind"])]
        key = model.key_of(meta.get("namespace", ""), meta["name"])
        known = self._known.get(key)
        version = version_number(meta["resourceVersion"])
        earlier = known is not None and known.uid != meta["uid"] and version_number(known.version) >= version
        if type == "DELETED":
            self._buried(meta["uid"])
            if known is None or known.uid == meta["uid"]:
                self._known.pop(key, None)
                self._handle(key, None)
        elif not earlier:
            self._known[key] = _Heard(meta["uid"], meta["resourceVersion"])
            self._handle(key, raw)
        if self._missing:
            self._missing.discard(key)
        self._check_listed()

    def _check_listed(self) -> None:
        if self._missing is not None and not self._missing and not self.listed.is_set():
            self.listed.set()

    async def _list(self) -> dict[Key, str]:
        found: dict[Key, str] = {}
        for watched in self._watched:
            found |= await self._client.keys(watched.model, watched.namespace, name=watched.name)
        return found

    async def _compare(self) -> bool:
        """The net below the notifications. False: something was not heard of, so the watch is not to be relied on."""
        before = dict(self._known)
        listed = await self._drop_vanished()
        if listed is None:
            return True
        unheard = {key for key, version in listed.items() if (heard := before.get(key)) is None or heard.version != version}
        if not unheard:
            return True
        await asyncio.sleep(_RETRY)  # it may be on its way
        return all(self._known.get(key) != before.get(key) for key in unheard)

    async def _drop_vanished(self) -> dict[Key, str] | None:
        """Declares gone what vanished unheard. Gives what there is; None: the API server doesn't say."""
        before = dict(self._known)
        try:
            listed = await self._list()
        except (Unavailable, ApiError):
            return None
        if self._missing:  # of the first list: what was deleted before it was heard of won't come any more
            self._missing &= listed.keys()
            self._check_listed()
        gone = [key for key in before if key not in listed and self._known.get(key) == before[key]]
        if gone and (self._trusted is None or await self._trusted()):
            for key in gone:
                if (heard := self._known.pop(key, None)) is not None:
                    log.info("%s went unheard", key)
                    self._buried(heard.uid)
                    self._handle(key, None)
        return listed


class _NoDifferences(kopf.AnnotationsDiffBaseStorage):
    """Handlers of plain events need no differences; kopf would copy every object twice to find them."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[kopf.FieldSpec] | None = None) -> kopf.BodyEssence:
        return cast("kopf.BodyEssence", {})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None


def _settings(watched: Sequence[Watched]) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    # kopf takes its own finalizer off everything it sees: it must be nobody's.
    settings.persistence.diffbase_storage = _NoDifferences()
    settings.persistence.finalizer = "zos.grid.tf/kopf-is-not-used-for-this"
    settings.networking.error_backoffs = [0.2, 0.5, 1.0, 2.0]
    settings.watching.reconnect_backoff = 0.5
    settings.queueing.exit_timeout = 0.2
    settings.watching.server_timeout = 240
    settings.process.ultimate_exiting_timeout = None  # or it kills the whole process ten minutes after its own end
    for one in watched:
        if one.name:
            settings.watching.field_selectors[one.model.PLURAL] = f"metadata.name={one.name}"
    return settings
