"""The informer: kopf's watching, as plain calls. The only module that imports kopf.

kopf runs in a thread and an event loop of its own, because on its way out it cancels whatever else runs in its loop; events
come out in the caller's loop. What kopf doesn't do is done here: knowing when everything has been listed once, noticing
objects that vanished while the connection was down, starting over when it gives up, being sure that the watches hear, and
noticing an API server whose versions went back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import aiohttp
import kopf

from zos.api.core import Lease
from zos.api.meta import Key, Object, version_number
from zos.kube.client import Access, ApiError, Client, NotFound, Raw, Unavailable, path_of
from zos.kube.echo import PATIENCE, Echo
from zos.kube.hearing import Hearing

log = logging.getLogger("zos.informer")

#: Seconds between comparisons of what was heard with what is listed: the net below the watches.
_RELIST = 300.0
_RETRY = 2.0
#: Seconds between the end of a list of kopf's and the look at what it no longer had: further lists join.
_SETTLE = 0.3
#: Times the patience in which kopf has asked for each kind, or it does not know that there is one (discovery lags behind a new
#: CRD); and in which it has been answered.
_BEGIN, _ANSWERED = 2, 12
#: Watches that were begun anew in a row without hearing any better, before the process had better do so itself.
_HOPELESS = 3
#: A connection whose other end is gone without a word is found dead by the kernel: seconds until it asks, between questions,
#: and their number.
_PROBES = (10, 5, 3)


@dataclass(frozen=True)
class Watched:
    """A kind to watch; ``namespace`` empty: all of them; ``name``: only the object of that name. ``probe``: it is watched to
    prove that something is heard; where it is not to be had (rights of before an upgrade), the rest does not wait for it."""

    model: type[Object]
    namespace: str = ""
    name: str = ""
    probe: bool = False

    @property
    def path(self) -> str:
        return path_of(self.model, self.namespace)

    def covers(self, key: Key) -> bool:
        return key.kind == self.model.KIND and self.namespace in ("", key.namespace) and self.name in ("", key.name)


class Deaf(Exception):
    """The watches do not hear, however often they are begun anew."""


class _Heard(NamedTuple):
    """What was heard of an object last."""

    uid: str
    version: str


@dataclass(frozen=True)
class _Look:
    """What there is. ``unserved``: kinds that could not be looked at, and why. ``back``: it is an older state than was heard of
    before."""

    keys: Mapping[Key, str]
    served: tuple[Watched, ...]
    unserved: Mapping[str, str]
    back: bool


@dataclass
class _State:
    """What kopf's thread tells: that it listed something anew, that it ended, which collections it asked for, which it watches
    and since when, whether it was cut off. ``stir`` wakes the other side."""

    stir: Callable[[], object]
    listed: bool = False
    ended: bool = False
    asked: set[str] = field(default_factory=set)
    watches: dict[str, float] = field(default_factory=dict)
    cut: bool = False


class Informer:
    """Calls ``handle(key, object)`` in the caller's event loop for every object and change; None: it is gone.

    Each object is heard of at least once, in the order of its changes, and one that took another's name after that one's
    end (kopf keeps the order only within an object's life). ``listed`` is set when everything that existed at
    the start has been. ``trusted`` is asked before objects are declared gone because a list no longer has them. ``buried`` is
    told the uid of each object that was deleted, known or not: an answer to a write may come after the word of its end.
    ``relisted`` is called before objects come that were listed: the server that listed them may be another than before.

    An event whose handling fails is its object's problem: ``unreadable(key, object, error)`` is told, the others go on.
    ``rewound`` is called when the API server shows an older state than was heard of (a restored backup): everything is told
    anew after it, with versions that may be lower than before.
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
        unreadable: Callable[[Key, Raw, Exception], None] = lambda *_: None,
        rewound: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
    ) -> None:
        self._access = access
        self._client = client
        self._watched = watched
        self._models = {(w.model.API_VERSION, w.model.KIND): w.model for w in watched}
        self._handle = handle
        self._trusted = trusted
        self._buried = buried
        self._relisted = relisted
        self._unreadable = unreadable
        self._rewound = rewound
        self._relist = relist
        self._clock = clock
        self._patience = patience
        self._known: dict[Key, _Heard] = {}
        self._highest: dict[str, int] = {}  # version heard or answered, by kind
        self._leases: dict[Key, int] = {}  # versions of the Leases that this process renews
        self._doubted = False  # whether an answer was older than one before
        self._missing: set[Key] | None = None  # what the first list had and nobody heard of yet
        self._stirred = asyncio.Event()
        self._state: _State | None = None
        self._in_vain = 0  # watches in a row that did not tell what the API server answered
        self._echo = Echo(clock, patience)
        self.hearing = Hearing((w.model.KIND for w in watched), clock)
        self.listed = asyncio.Event()
        client.answered.append(self._answered)

    async def run(self) -> None:
        """Until cancelled. Raises `Deaf` where beginning anew does not help."""
        told = ""
        while True:
            hindrance = ""
            look = None
            try:
                look = await self._look()
            except Unavailable as error:
                hindrance = str(error)
            if look is not None and look.unserved:
                hindrance = "; ".join(f"{kind} is not served: {why}" for kind, why in look.unserved.items())
            if hindrance and hindrance != told:
                log.warning("waiting for the API server: %s", hindrance)
            told = hindrance
            # What is not served is not known; so nothing is complete before everything could be listed once.
            lacking = look is None or any(w.model.KIND in look.unserved for w in self._watched if not w.probe)
            if look is None or not look.served or (lacking and not self.listed.is_set()):
                await asyncio.sleep(_RETRY)
                continue
            if look.back:
                self._rewind()
            self._missing = look.keys.keys() - self._known.keys()
            self._check_listed()
            await self._watch(look.served)
            self._echo.clear()
            await asyncio.sleep(_RETRY if not told else 0)

    def hears(self, model: type[Object], within: float) -> bool:
        """Whether a kind is watched, and what the API server answered of it was heard from the watch ``within`` seconds."""
        paths = {watched.path for watched in self._watched if watched.model is model}
        return self._state is not None and paths <= self._state.watches.keys() and self._echo.waits(model.KIND) <= within

    async def _watch(self, served: Sequence[Watched]) -> None:
        """Until the watches had better be begun anew."""
        loop = asyncio.get_running_loop()
        stop = threading.Event()

        def stir() -> None:
            if state.listed:
                self._guard(self._relisted)
            self._stirred.set()

        state = self._state = _State(lambda: loop.call_soon_threadsafe(stir))
        thread = threading.Thread(target=self._thread, args=(loop, stop, state, served), name="kopf", daemon=True)
        thread.start()
        begun = loop.time()
        due, begin = begun + self._relist, begun + _BEGIN * self._patience
        absent = asyncio.create_task(self._appears([w for w in self._watched if w not in served]))
        absent.add_done_callback(lambda _: self._stirred.set())
        try:
            while True:
                await self._wait(due if self._begun(state, served) else min(due, begin))
                if state.ended or absent.done():
                    return
                if loop.time() >= begin and not self._begun(state, served):
                    if not state.cut:
                        self._in_vain_again("some kinds are served, but not watched")
                        return
                    begin = loop.time() + _BEGIN * self._patience
                if state.listed:
                    await asyncio.sleep(_SETTLE)
                    state.listed = False
                    self.hearing.deaf = self.hearing.deaf and not self._begun(state, served)
                    if not await self._drop_vanished():
                        return
                elif self._doubted:
                    if not await self._drop_vanished():
                        return
                elif loop.time() >= due:
                    due = loop.time() + self._relist
                    if not await self._compare():
                        log.warning("something was not heard of; starting over")
                        return
                if await self._deaf(state, self._clock() - (loop.time() - begun)):
                    return
        finally:
            self._state = None
            absent.cancel()
            stop.set()
            await asyncio.shield(asyncio.to_thread(thread.join, 2))

    async def _wait(self, due: float) -> None:
        """Until something stirs, or it is time for a look."""
        if (overdue := self._echo.due()) is not None:
            due = min(due, asyncio.get_running_loop().time() + max(0.0, overdue - self._clock()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._stirred.wait()
        self._stirred.clear()

    @staticmethod
    def _begun(state: _State, served: Iterable[Watched]) -> bool:
        return all(watched.path in state.asked for watched in served)

    async def _appears(self, unserved: Sequence[Watched]) -> None:
        """Until one of these is served. Nobody tells of that: rights come and CRDs are made elsewhere."""
        if not unserved:
            await asyncio.Event().wait()
        while True:
            for watched in unserved:
                with contextlib.suppress(ApiError, Unavailable):
                    params = {"limit": "1"} | ({"fieldSelector": f"metadata.name={watched.name}"} if watched.name else {})
                    await self._client.request("GET", watched.path, params=params)
                    log.info("%s is served again", watched.model.KIND)
                    return
            await asyncio.sleep(_RETRY)

    def _thread(self, loop: asyncio.AbstractEventLoop, stop: threading.Event, state: _State, served: Sequence[Watched]) -> None:
        try:
            asyncio.run(self._kopf(loop, stop, state, served))
        except Exception as error:  # a kind that is no longer served, a watch that breaks off: what it is, the next look shows
            log.warning("the watches ended: %s: %s", type(error).__name__, error)
        finally:
            state.ended = True
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed
                state.stir()

    async def _kopf(
        self, loop: asyncio.AbstractEventLoop, stop: threading.Event, state: _State, served: Sequence[Watched]
    ) -> None:
        registry = kopf.OperatorRegistry()
        namespaces = sorted({w.namespace for w in served if w.namespace})

        heard_of: deque[tuple[str | None, Raw]] = deque()

        def take() -> None:
            while heard_of:
                type, raw = heard_of.popleft()
                if not stop.is_set():  # what comes after the end will be listed by the next watch
                    self._event(type, raw)

        async def heard(event: kopf.RawEvent, **_: Any) -> None:
            heard_of.append((event["type"], cast("Raw", event["object"])))
            if len(heard_of) == 1:  # waking the other loop is dear: once for all that comes before it is awake
                loop.call_soon_threadsafe(take)

        for watched in served:
            group, _, version = watched.model.API_VERSION.rpartition("/")
            kopf.on.event(group, version, watched.model.PLURAL, registry=registry)(heard)

        async def login(**_: Any) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(server=self._access.server, aiohttp_session=await self._session(state, served))

        kopf.on.login(registry=registry)(login)
        await kopf.operator(
            registry=registry,
            settings=_settings(served),
            namespaces=namespaces,
            clusterwide=not namespaces,
            standalone=True,
            stop_flag=stop,
        )

    async def _session(self, state: _State, served: Sequence[Watched]) -> aiohttp.ClientSession:
        """kopf's connections, on which its requests are seen. When a watch can't go on where it ended (an API server that began
        anew, a CRD that changed), kopf lists, and nobody tells of what was deleted in between. When it was cut off, the watch
        goes on from a version that the server may have lost: that is to be looked at too."""
        collections = {watched.path for watched in served}

        async def started(_: object, __: object, request: aiohttp.TraceRequestStartParams) -> None:
            state.asked.add(request.url.path)

        async def ended(_: object, __: object, request: aiohttp.TraceRequestEndParams) -> None:
            path = request.url.path
            if path not in collections:
                return
            if request.response.status != 200:
                state.watches.pop(path, None)
                state.cut = state.cut or request.response.status >= 500
            else:
                state.watches[path] = self._clock()
            if request.response.status == 200 and ("watch" not in request.url.query or state.cut):
                state.cut = False
                state.listed = True
                state.stir()

        async def failed(_: object, __: object, request: aiohttp.TraceRequestExceptionParams) -> None:
            state.watches.pop(request.url.path, None)
            state.cut = True

        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(started)
        trace.on_request_end.append(ended)
        trace.on_request_exception.append(failed)
        authorization = await self._access.authorization()
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._access.ssl(), socket_factory=_probed),
            headers={"Authorization": authorization} if authorization else None,
            trace_configs=[trace],
        )

    # -- events

    def _event(self, type: str | None, raw: Raw) -> None:
        """Takes one event in. Whatever is wrong with it, the next ones are taken in as well."""
        kind = str(raw.get("kind"))
        try:
            model = self._models[(raw["apiVersion"], kind)]
            meta = raw["metadata"]
            key, uid, version = model.key_of(meta.get("namespace", ""), meta["name"]), meta["uid"], meta["resourceVersion"]
        except (KeyError, TypeError, AttributeError) as error:
            log.error("an event that is none: %s %s", kind, error)
            return
        self._note(key, version_number(version))
        if type is not None:  # not from a list
            self._in_vain = 0
        known = self._known.get(key)
        earlier = known is not None and known.uid != uid and version_number(known.version) >= version_number(version)
        if type == "DELETED":
            self._guard(self._buried, uid)
            if known is None or known.uid == uid:
                self._known.pop(key, None)
                self._echo.forget(key)
                self._tell(key, None)
        elif not earlier:
            self._known[key] = _Heard(uid, version)
            self._tell(key, raw)
        if self._missing:
            self._missing.discard(key)
        self._check_listed()

    def _note(self, key: Key, version: int) -> None:
        self._highest[key.kind] = max(self._highest.get(key.kind, 0), version)
        self._echo.heard(key, version)
        self.hearing.heard(key.kind)
        self.hearing.deaf = False

    def _tell(self, key: Key, obj: Raw | None) -> None:
        try:
            self._handle(key, obj)
        except Exception as error:
            self.hearing.unreadable(key.kind)
            log.exception("could not be taken in, and is put aside: %s", key, extra={"kind": key.kind, "object": key.name})
            if obj is not None:
                self._guard(self._unreadable, key, obj, error)

    @staticmethod
    def _guard(told: Callable[..., None], *about: object) -> None:
        """Whom the informer tells does not break its watching."""
        try:
            told(*about)
        except Exception:
            log.exception("%s failed", getattr(told, "__qualname__", told))

    def _check_listed(self) -> None:
        if self._missing is not None and not self._missing and not self.listed.is_set():
            self.listed.set()

    # -- whether the watches hear

    def _answered(self, model: type[Object], raw: Raw) -> None:
        """What the API server answered to anybody in this process is to be heard from the watches as well."""
        meta = raw["metadata"]
        key, version = model.key_of(meta.get("namespace", ""), meta["name"]), version_number(meta["resourceVersion"])
        if model is Lease:  # nobody else writes those that this process writes, one write after the other
            if version < self._leases.get(key, 0):
                self._doubted = True
                self._stirred.set()
            self._leases[key] = version
        if not any(watched.covers(key) for watched in self._watched):
            return
        known = self._known.get(key)
        if known is None or version > version_number(known.version):
            first = not self._echo.waiting
            self._echo.expects(key, version)
            if first:
                self._stirred.set()

    async def _deaf(self, state: _State, begun: float) -> bool:
        """Whether the API server has answered what the watches, ``begun`` then, don't tell of. Raises `Deaf`."""
        for key, since in self._echo.overdue().items():
            if self.hearing.last(key.kind) > since:
                self._echo.forget(key)  # the watch of this kind does tell
                continue
            watched = next(watched for watched in self._watched if watched.covers(key))
            opened = state.watches.get(watched.path)
            young = self._clock() - begun < _ANSWERED * self._patience if opened is None else opened > since
            if young:
                self._echo.postpone(key)
                continue
            try:
                raw = await self._client.get(watched.model, key.namespace, key.name)
            except (Unavailable, ApiError):
                self._echo.postpone(key)
                continue
            known = self._known.get(key)
            heard = raw is None or (known is not None and known.version == raw["metadata"]["resourceVersion"])
            if heard or self.hearing.last(key.kind) > since:
                self._echo.forget(key)
                continue
            self._in_vain_again(f"the watch of {key.kind} does not tell of {key}, which the API server answered")
            return True
        return False

    def _in_vain_again(self, what: str) -> None:
        self.hearing.deaf = True
        self.hearing.deafened += 1
        self._in_vain += 1
        log.error("%s; starting over", what)
        if self._in_vain > _HOPELESS:
            raise Deaf(f"{what}, {self._in_vain} times in a row")

    def _rewind(self) -> None:
        """An older state than was heard of: what is known of versions says nothing any more, and everything is told anew."""
        log.warning("the API server's versions went back, as after a backup was restored: everything is looked at anew")
        self._known = {key: _Heard(heard.uid, "0") for key, heard in self._known.items()}
        self._highest.clear()
        self._echo.clear()
        self.hearing.rewound += 1
        self._guard(self._rewound)

    # -- looking

    async def _look(self) -> _Look:
        """Raises Unavailable."""
        before, highest = dict(self._known), dict(self._highest)
        self._doubted = False
        keys: dict[Key, str] = {}
        served: list[Watched] = []
        unserved: dict[str, str] = {}
        versions: dict[str, int] = {}
        for watched in self._watched:
            kind = watched.model.KIND
            try:
                found = await self._client.keys(watched.model, watched.namespace, name=watched.name)
            except NotFound:
                unserved[kind] = "its CRD is not there"
                continue
            except ApiError as error:
                unserved[kind] = str(error)
                continue
            keys |= found
            served.append(watched)
            versions[kind] = version_number(found.version)
        self.hearing.unserved = unserved
        back = any(0 < version < highest.get(kind, 0) for kind, version in versions.items()) or any(
            0 < version_number(version) < version_number(heard.version)
            for key, version in keys.items()
            if (heard := before.get(key)) is not None
        )
        for kind, version in versions.items():
            self._highest[kind] = max(self._highest.get(kind, 0), version)
        return _Look(keys, tuple(served), unserved, back)

    async def _compare(self) -> bool:
        """The net below the notifications. False: something was not heard of, so the watch is not to be relied on."""
        before = dict(self._known)
        try:
            look = await self._look()
        except Unavailable:
            return True
        if not await self._believe(look, before):
            return False
        unheard = {key for key, version in look.keys.items() if (heard := before.get(key)) is None or heard.version != version}
        if not unheard:
            return True
        await asyncio.sleep(_RETRY)  # it may be on its way
        return all(self._known.get(key) != before.get(key) for key in unheard)

    async def _drop_vanished(self) -> bool:
        """Declares gone what vanished unheard. False: the watches are to be begun anew."""
        before = dict(self._known)
        try:
            look = await self._look()
        except Unavailable:
            await asyncio.sleep(_RETRY)
            self._doubted = True  # it is still to be looked at
            self._stirred.set()
            return True
        return await self._believe(look, before)

    async def _believe(self, look: _Look, before: Mapping[Key, _Heard]) -> bool:
        """Takes over what a look shows against what was known ``before`` it. False: it is an older state than that."""
        if look.back:
            self._rewind()
            return False
        kinds = {watched.model.KIND for watched in look.served}  # of the others it is not known what is gone
        if self._missing:  # of the first list: what was deleted before it was heard of won't come any more
            self._missing = {key for key in self._missing if key in look.keys or key.kind not in kinds}
            self._check_listed()
        gone = [key for key in before if key.kind in kinds and key not in look.keys and self._known.get(key) == before[key]]
        if gone and (self._trusted is None or await self._trusted()):
            for key in gone:
                if (heard := self._known.pop(key, None)) is not None:
                    log.info("%s went unheard", key)
                    self._echo.forget(key)
                    self._guard(self._buried, heard.uid)
                    self._tell(key, None)
        return True


def _probed(address: tuple[Any, ...]) -> socket.socket:
    """A socket whose other end is asked by the kernel whether it is still there."""
    family, type, protocol, *_ = address
    made = socket.socket(family, type, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), _PROBES, strict=True):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


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
