"""The informer: what `Watches` tell, and what they don't: when everything has been listed once, what vanished while the
connection was down, whether the watches hear, and that an API server's versions went back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from zos.api.core import Lease
from zos.api.meta import Key, Object, version_number
from zos.kube.client import Access, ApiError, Client, Raw, Unavailable
from zos.kube.echo import PATIENCE, Echo
from zos.kube.hearing import Hearing
from zos.kube.looking import Heard, Look, look
from zos.kube.watches import Watched, Watches

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


class Deaf(Exception):
    """The watches do not hear, however often they are begun anew."""


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
        self._known: dict[Key, Heard] = {}
        self._highest: dict[str, int] = {}  # version heard or answered, by kind
        self._leases: dict[Key, int] = {}  # versions of the Leases that this process renews
        self._doubted = False  # whether an answer was older than one before
        self._missing: set[Key] | None = None  # what the first list had and nobody heard of yet
        self._stirred = asyncio.Event()
        self._watches: Watches | None = None
        self._in_vain = 0  # watches in a row that did not tell what the API server answered
        self._echo = Echo(clock, patience)
        self.hearing = Hearing((w.model.KIND for w in watched), clock)
        self.listed = asyncio.Event()
        client.answered.append(self._answered)

    def known(self, model: type[Object]) -> frozenset[Key]:
        """The objects of a kind that are there, as far as was heard."""
        return frozenset(key for key in self._known if key.kind == model.KIND)

    async def run(self) -> None:
        """Until cancelled. Raises `Deaf` where beginning anew does not help."""
        told = ""
        while True:
            hindrance = ""
            found = None
            try:
                found = await self._look()
            except Unavailable as error:
                hindrance = str(error)
            if found is not None and found.unserved:
                hindrance = "; ".join(f"{kind} is not served: {why}" for kind, why in found.unserved.items())
            if hindrance and hindrance != told:
                log.warning("waiting for the API server: %s", hindrance)
            told = hindrance
            # What is not served is not known; so nothing is complete before everything could be listed once.
            lacking = found is None or any(w.model.KIND in found.unserved for w in self._watched if not w.probe)
            if found is None or not found.served or (lacking and not self.listed.is_set()):
                await asyncio.sleep(_RETRY)
                continue
            if found.back:
                self._rewind()
            self._missing = found.keys.keys() - self._known.keys()
            self._check_listed()
            await self._watch(found.served)
            self._echo.clear()
            await asyncio.sleep(_RETRY if not told else 0)

    def hears(self, model: type[Object], within: float) -> bool:
        """Whether a kind is watched, and what the API server answered of it was heard from the watch ``within`` seconds."""
        paths = {watched.path for watched in self._watched if watched.model is model}
        return self._watches is not None and paths <= self._watches.opened.keys() and self._echo.waits(model.KIND) <= within

    async def _watch(self, served: Sequence[Watched]) -> None:
        """Until the watches had better be begun anew."""
        loop = asyncio.get_running_loop()

        def stir() -> None:
            if watches.listed:
                self._guard(self._relisted)
            self._stirred.set()

        watches = self._watches = Watches(self._access, served, self.event, stir, self._clock)
        begun = loop.time()
        due, begin = begun + self._relist, begun + _BEGIN * self._patience
        absent = asyncio.create_task(self._appears([w for w in self._watched if w not in served]))
        absent.add_done_callback(lambda _: self._stirred.set())
        try:
            while True:
                await self._wait(due if watches.begun else min(due, begin))
                if watches.ended or absent.done():
                    return
                if loop.time() >= begin and not watches.begun:
                    if not watches.cut:
                        self._in_vain_again("some kinds are served, but not watched")
                        return
                    begin = loop.time() + _BEGIN * self._patience
                if watches.listed:
                    await asyncio.sleep(_SETTLE)
                    watches.listed = False
                    self.hearing.deaf = self.hearing.deaf and not watches.begun
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
                if await self._deaf(watches, self._clock() - (loop.time() - begun)):
                    return
        finally:
            self._watches = None
            absent.cancel()
            await watches.stop()

    async def _wait(self, due: float) -> None:
        """Until something stirs, or it is time for a look."""
        if (overdue := self._echo.due()) is not None:
            due = min(due, asyncio.get_running_loop().time() + max(0.0, overdue - self._clock()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._stirred.wait()
        self._stirred.clear()

    async def _appears(self, unserved: Sequence[Watched]) -> None:
        """Until one of these is served. Nobody tells of that: rights come and CRDs are made elsewhere."""
        if not unserved:
            await asyncio.Event().wait()
        while True:
            for watched in unserved:
                with contextlib.suppress(ApiError, Unavailable):
                    params = {"limit": "1", **watched.selectors}
                    await self._client.request("GET", watched.path, params=params)
                    log.info("%s is served again", watched.model.KIND)
                    return
            await asyncio.sleep(_RETRY)

    # -- events

    def event(self, type: str | None, raw: Raw) -> None:
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
            self._known[key] = Heard(uid, version)
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

    async def _deaf(self, watches: Watches, begun: float) -> bool:
        """Whether the API server has answered what the watches, ``begun`` then, don't tell of. Raises `Deaf`."""
        for key, since in self._echo.overdue().items():
            if self.hearing.last(key.kind) > since:
                self._echo.forget(key)  # the watch of this kind does tell
                continue
            watched = next(watched for watched in self._watched if watched.covers(key))
            opened = watches.opened.get(watched.path)
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
        self._known = {key: Heard(heard.uid, "0") for key, heard in self._known.items()}
        self._highest.clear()
        self._echo.clear()
        self.hearing.rewound += 1
        self._guard(self._rewound)

    # -- looking

    async def _look(self) -> Look:
        """Raises Unavailable."""
        self._doubted = False
        found = await look(self._client, self._watched, dict(self._known), dict(self._highest))
        self.hearing.unserved = dict(found.unserved)
        for kind, version in found.versions.items():
            self._highest[kind] = max(self._highest.get(kind, 0), version)
        return found

    async def _compare(self) -> bool:
        """The net below the notifications. False: something was not heard of, so the watch is not to be relied on."""
        before = dict(self._known)
        try:
            found = await self._look()
        except Unavailable:
            return True
        if not await self._believe(found, before):
            return False
        unheard = found.unheard(before)
        if not unheard:
            return True
        await asyncio.sleep(_RETRY)  # it may be on its way
        return all(self._known.get(key) != before.get(key) for key in unheard)

    async def _drop_vanished(self) -> bool:
        """Declares gone what vanished unheard. False: the watches are to be begun anew."""
        before = dict(self._known)
        try:
            found = await self._look()
        except Unavailable:
            await asyncio.sleep(_RETRY)
            self._doubted = True  # it is still to be looked at
            self._stirred.set()
            return True
        return await self._believe(found, before)

    async def _believe(self, found: Look, before: Mapping[Key, Heard]) -> bool:
        """Takes over what a look shows against what was known ``before`` it. False: it is an older state than that."""
        if found.back:
            self._rewind()
            return False
        if self._missing:  # of the first list: what was deleted before it was heard of won't come any more
            self._missing = {key for key in self._missing if not found.lacks(key)}
            self._check_listed()
        gone = [key for key in before if found.lacks(key) and self._known.get(key) == before[key]]
        if gone and (self._trusted is None or await self._trusted()):
            for key in gone:
                if (heard := self._known.pop(key, None)) is not None:
                    log.info("%s went unheard", key)
                    self._echo.forget(key)
                    self._guard(self._buried, heard.uid)
                    self._tell(key, None)
        return True
