"""What the informer makes of what watches tell, and of what they don't. kopf, beyond it, is one that can be made deaf."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from memory import MemoryClient, Request, Server
from virtual import clock, virtual
from zos.api.core import Lease
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import Key
from zos.api.zmount import ZMount
from zos.kube import informer as module
from zos.kube.client import Access, Raw, path_of
from zos.kube.informer import Deaf, Informer
from zos.kube.watches import Watched

KEY = ZMount.key_of("default", "d")
FARM = Farm.key_of("", "f")


class Kopf:
    """In the place of `Watches`. It lists, then it tells what changes, unless its kind is one of the ``deaf``; of the
    ``unknown`` it does not know that they are there."""

    server: ClassVar[Server]
    made: ClassVar[list[Kopf]]
    deaf: ClassVar[set[str]]
    unknown: ClassVar[set[str]]
    last: ClassVar[dict[Key, Raw]]

    def __init__(
        self,
        access: Access,
        served: Sequence[Watched],
        event: Callable[[str | None, Raw], None],
        stir: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.served, self.event, self.stir, self.clock = served, event, stir, clock
        self.opened: dict[str, float] = {}
        self.unseen = set(self.unknown)
        self.listed = self.ended = self.cut = self.stopped = False
        self.made.append(self)
        asyncio.get_running_loop().call_soon(self.begin)

    @property
    def begun(self) -> bool:
        return not any(watched.model.KIND in self.unseen for watched in self.served)

    def begin(self) -> None:
        """Lists, and watches on from there."""
        if self.hear not in self.server.hears:
            self.server.hears.append(self.hear)
        for watched in self.served:
            if watched.model.KIND not in self.unseen:
                self.opened[watched.path] = self.clock()
                for raw in list(self.server.of(watched.model)):
                    self.last[watched.model.key_of(raw["metadata"].get("namespace", ""), raw["metadata"]["name"])] = raw
                    self.tell(watched.model.KIND, None, raw)
        self.listed = True
        self.stir()

    def hear(self, key: Key, raw: Raw | None) -> None:
        known = self.last.get(key)
        if raw is not None:
            self.last[key] = raw
        if key.kind not in self.deaf and any(watched.covers(key) for watched in self.served):
            self.tell(key.kind, "DELETED" if raw is None else "MODIFIED", raw or known)

    def tell(self, kind: str, type: str | None, raw: Any) -> None:
        if not self.stopped and kind not in self.unseen:
            self.event(type, raw)

    async def stop(self) -> None:
        self.stopped = True
        self.server.hears.remove(self.hear)


class Informed:
    """``there`` is what the informer said that there is; ``told`` its words in order: a key with what became of it, and what
    else it tells."""

    def __init__(self, server: Server, *watched: Watched, **options: Any) -> None:
        self.server = server
        self.client = MemoryClient(server)
        self.there: dict[Key, Raw] = {}
        self.told: list[Any] = []
        self.informer = Informer(
            Access(None),  # type: ignore[arg-type]
            self.client,
            watched or (Watched(ZMount), Watched(Farm)),
            self.handle,
            clock=clock,
            buried=lambda uid: self.told.append(("buried", uid)),
            relisted=lambda: self.told.append("relisted"),
            rewound=lambda: self.told.append("rewound"),
            **options,
        )
        self.task = asyncio.create_task(self.informer.run())

    def handle(self, key: Key, raw: Raw | None) -> None:
        self.told.append((key, raw is not None))
        if raw is None:
            del self.there[key]
        else:
            self.there[key] = raw

    def put(self, key: Key, **spec: Any) -> None:
        model = {"ZMount": ZMount, "Farm": Farm, "GridNode": GridNode}[key.kind]
        path = path_of(model, key.namespace, key.name)
        body = {"metadata": {"name": key.name}, "spec": spec or ({"size": "1Gi"} if model is ZMount else {})}
        if path in self.server.objects:
            self.server.handle(Request("PATCH", path, body, "merge"))
        else:
            self.server.handle(Request("POST", path.rpartition("/")[0], body, ""))

    def delete(self, key: Key) -> None:
        model = {"ZMount": ZMount, "Farm": Farm}[key.kind]
        self.server.handle(Request("DELETE", path_of(model, key.namespace, key.name), {}, ""))


@pytest.fixture(autouse=True)
def kopf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Watches", Kopf)
    for name, value in {"made": [], "deaf": set(), "unknown": set(), "last": {}, "server": Server()}.items():
        monkeypatch.setattr(Kopf, name, value, raising=False)


@asynccontextmanager
async def informed(*watched: Watched, before: Sequence[Key] = (), **options: Any) -> AsyncIterator[Informed]:
    made = Informed(Kopf.server, *watched, **options)
    for key in before:
        made.put(key)
    try:
        yield made
    finally:
        made.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await made.task


@virtual
async def test_everything_that_was_there_has_been_told_when_all_is_listed_and_what_comes_is_told_at_once() -> None:
    async with informed(before=[KEY, FARM]) as made:
        await made.informer.listed.wait()
        assert set(made.there) == {KEY, FARM}
        made.put(KEY, size="2Gi")
        assert made.there[KEY]["spec"]["size"] == "2Gi"
        made.delete(KEY)
        assert set(made.there) == {FARM}
        await asyncio.sleep(3600)
        assert len(Kopf.made) == 1, "what hears is not begun anew"
        assert "rewound" not in made.told
        assert made.informer.hearing.deafened == 0


@virtual
async def test_nothing_is_listed_before_all_of_it_was_told_but_for_what_went_meanwhile() -> None:
    Kopf.unknown.add("ZMount")
    async with informed(before=[KEY, FARM]) as made:
        await asyncio.sleep(5)
        assert not made.informer.listed.is_set()
        made.delete(KEY)  # and nobody tells
        Kopf.made[-1].begin()
        await asyncio.sleep(5)
        assert made.informer.listed.is_set()
        assert set(made.there) == {FARM}


@virtual
async def test_nothing_is_listed_as_long_as_a_kind_is_not_served_but_for_a_probe() -> None:
    Kopf.server.refuses = lambda asked: (404, "no such kind") if "/zmounts" in asked.path else None
    async with informed(Watched(ZMount), Watched(Farm), before=[FARM]) as made:
        await asyncio.sleep(60)
        assert not made.informer.listed.is_set()
        assert made.informer.hearing.unserved == {"ZMount": "its CRD is not there"}
        Kopf.server.refuses = lambda _: None
        await asyncio.wait_for(made.informer.listed.wait(), 5)
        assert made.informer.hearing.unserved == {}
    Kopf.server.refuses = lambda asked: (403, "no right") if "/leases" in asked.path else None
    async with informed(Watched(Farm), Watched(Lease, "zos-system", probe=True)) as made:
        await asyncio.wait_for(made.informer.listed.wait(), 5)
        assert set(made.there) == {FARM}
        assert made.informer.hearing.unserved == {"Lease": "no right"}


@virtual
async def test_a_kind_that_goes_is_watched_again_when_it_is_back_and_what_is_known_of_it_stays() -> None:
    async with informed(before=[KEY, FARM]) as made:
        await made.informer.listed.wait()
        Kopf.server.refuses = lambda asked: (404, "no such kind") if "/zmounts" in asked.path else None
        Kopf.made[-1].ended = True
        Kopf.made[-1].stir()
        await asyncio.sleep(30)
        assert set(made.there) == {KEY, FARM}
        assert [each.model for each in Kopf.made[-1].served] == [Farm]
        made.put(FARM, publicIPv4=[])
        assert made.there[FARM]["spec"] == {"publicIPv4": []}
        watches = len(Kopf.made)
        await asyncio.sleep(600)
        assert len(Kopf.made) == watches, "nothing is begun anew for what is not there"
        Kopf.server.refuses = lambda _: None
        made.put(KEY, size="2Gi")
        await asyncio.sleep(10)
        assert made.there[KEY]["spec"]["size"] == "2Gi"


@virtual
async def test_an_api_server_that_is_away_is_waited_for_and_nothing_is_declared_gone() -> None:
    async with informed(before=[KEY]) as made:
        await made.informer.listed.wait()
        made.client.away = True
        Kopf.made[-1].listed = True
        Kopf.made[-1].stir()
        await asyncio.sleep(1200)
        assert set(made.there) == {KEY}
        Kopf.deaf.add("ZMount")
        made.delete(KEY)
        made.client.away = False
        await asyncio.sleep(10)
        assert made.there == {}
        assert len(Kopf.made) == 1, "which heard all the time"


@virtual
async def test_what_a_list_has_no_more_is_gone_and_was_told_of_nowhere_else() -> None:
    async with informed(before=[KEY, FARM]) as made:
        await made.informer.listed.wait()
        Kopf.deaf.add("ZMount")
        uid = made.there[KEY]["metadata"]["uid"]
        made.delete(KEY)
        made.told.clear()
        Kopf.made[-1].begin()
        await asyncio.sleep(1)
        assert set(made.there) == {FARM}
        assert made.told[-2:] == [("buried", uid), (KEY, False)]
        assert "relisted" in made.told, "before anything of it was told"


@virtual
async def test_what_only_seems_to_be_gone_stays_where_the_list_is_not_to_be_trusted() -> None:
    trusted = False

    async def ask() -> bool:
        return trusted

    async with informed(before=[KEY], trusted=ask) as made:
        await made.informer.listed.wait()
        Kopf.deaf.add("ZMount")
        made.delete(KEY)
        Kopf.made[-1].begin()
        await asyncio.sleep(5)
        assert set(made.there) == {KEY}
        trusted = True
        Kopf.made[-1].begin()
        await asyncio.sleep(5)
        assert made.there == {}


@virtual
async def test_what_nobody_told_of_is_found_by_the_look_that_comes_every_few_minutes() -> None:
    async with informed(before=[FARM], relist=300.0) as made:
        await made.informer.listed.wait()
        Kopf.deaf.add("ZMount")
        made.put(KEY)
        await asyncio.sleep(299)
        assert set(made.there) == {FARM}
        Kopf.deaf.clear()
        await asyncio.sleep(6)
        assert len(Kopf.made) == 2
        assert set(made.there) == {FARM, KEY}


@virtual
async def test_what_was_on_its_way_when_it_was_looked_is_no_cause_to_begin_anew() -> None:
    async with informed(before=[FARM], relist=300.0) as made:
        await made.informer.listed.wait()
        await asyncio.sleep(290)
        Kopf.deaf.add("ZMount")
        made.put(KEY)
        await asyncio.sleep(11)
        Kopf.made[-1].event("ADDED", next(Kopf.server.of(ZMount)))
        await asyncio.sleep(60)
        assert len(Kopf.made) == 1
        assert set(made.there) == {FARM, KEY}


# -- whether the watches hear


@virtual
async def test_watches_that_do_not_tell_what_was_answered_are_begun_anew_within_seconds() -> None:
    async with informed(before=[KEY]) as made:
        await made.informer.listed.wait()
        await asyncio.sleep(30)
        assert made.informer.hears(ZMount, 5)
        Kopf.deaf.add("ZMount")
        await made.client.patch(ZMount, "default", "d", {"spec": {"size": "2Gi"}})
        await asyncio.sleep(8)
        assert not made.informer.hears(ZMount, 5)
        assert made.informer.hears(Farm, 5), "of which nothing was answered"
        assert made.informer.hearing.problem() is None
        await asyncio.sleep(2.1)
        assert made.informer.hearing.problem() is not None
        Kopf.deaf.clear()
        await asyncio.sleep(3)
        assert len(Kopf.made) == 2
        assert made.there[KEY]["spec"]["size"] == "2Gi"
        assert made.informer.hearing.problem() is None
        assert made.informer.hearing.deafened == 1
        assert made.informer.hears(ZMount, 5)


@virtual
async def test_who_hears_no_better_however_often_it_begins_anew_ends_so_that_it_is_started_again() -> None:
    async with informed(before=[KEY]) as made:
        await made.informer.listed.wait()
        await asyncio.sleep(200)
        Kopf.deaf.add("ZMount")
        for number in range(1000):
            if made.task.done():
                break
            with contextlib.suppress(AssertionError):
                await made.client.patch(ZMount, "default", "d", {"spec": {"size": f"{number + 2}Gi"}})
            await asyncio.sleep(5)
        assert isinstance(made.task.exception(), Deaf)
        assert made.informer.hearing.deafened == 4, "begun anew three times, and that was no better"
        with contextlib.suppress(Deaf):
            await made.task
        made.task = asyncio.create_task(asyncio.sleep(0))


@virtual
async def test_one_that_hears_again_may_be_deaf_as_often_again() -> None:
    async with informed(before=[KEY]) as made:
        await made.informer.listed.wait()
        for round in range(8):
            await asyncio.sleep(200)
            Kopf.deaf.add("ZMount")
            await made.client.patch(ZMount, "default", "d", {"spec": {"size": f"{round + 2}Gi"}})
            await asyncio.sleep(20)
            Kopf.deaf.clear()
            made.put(KEY, size=f"{round + 2}Mi")
        assert made.informer.hearing.deafened == 8
        assert not made.task.done()


@virtual
async def test_what_was_answered_and_is_gone_by_now_is_no_cause_for_doubt() -> None:
    async with informed(before=[KEY]) as made:
        await made.informer.listed.wait()
        await asyncio.sleep(200)
        Kopf.deaf.add("ZMount")
        await made.client.patch(ZMount, "default", "d", {"spec": {"size": "2Gi"}})
        made.delete(KEY)
        await asyncio.sleep(30)
        assert made.informer.hearing.deafened == 0


@virtual
async def test_a_watch_that_has_just_been_opened_gets_its_time() -> None:
    async with informed(before=[KEY]) as made:
        await made.informer.listed.wait()
        Kopf.deaf.add("ZMount")
        await asyncio.sleep(30)
        await made.client.patch(ZMount, "default", "d", {"spec": {"size": "2Gi"}})
        await asyncio.sleep(5)
        Kopf.made[-1].opened[path_of(ZMount)] = clock()  # kopf connected anew
        await asyncio.sleep(7)
        assert made.informer.hearing.deafened == 0
        await asyncio.sleep(10)
        assert made.informer.hearing.deafened == 1


@virtual
async def test_a_kind_of_which_the_watch_tells_other_things_is_not_deaf() -> None:
    async with informed(before=[KEY]) as made:
        await made.informer.listed.wait()
        await asyncio.sleep(200)
        Kopf.deaf.add("ZMount")
        await made.client.patch(ZMount, "default", "d", {"spec": {"size": "2Gi"}})
        await asyncio.sleep(1)
        Kopf.deaf.clear()
        made.put(ZMount.key_of("default", "other"))
        await asyncio.sleep(30)
        assert made.informer.hearing.deafened == 0


@virtual
async def test_kinds_that_are_served_and_not_watched_are_told_to_kopf_once_more() -> None:
    Kopf.unknown.add("ZMount")
    async with informed(before=[KEY]) as made:
        await asyncio.sleep(15)
        assert len(Kopf.made) == 1
        Kopf.unknown.clear()
        await asyncio.sleep(10)
        assert len(Kopf.made) == 2
        assert set(made.there) == {KEY}


@virtual
async def test_watches_that_were_cut_off_before_they_began_have_more_time() -> None:
    Kopf.unknown.add("ZMount")
    async with informed(before=[KEY]) as made:
        await asyncio.sleep(5)
        Kopf.made[-1].cut = True
        await asyncio.sleep(120)
        assert len(Kopf.made) == 1
        assert made.informer.hearing.deafened == 0


# -- versions that went back


@virtual
async def test_an_older_state_is_told_anew_before_anything_else_is() -> None:
    async with informed(before=[KEY, FARM]) as made:
        await made.informer.listed.wait()
        made.put(KEY, size="2Gi")
        made.put(KEY, size="3Gi")
        old = {**next(Kopf.server.of(ZMount)), "spec": {"size": "1Gi"}}
        old["metadata"] = {**old["metadata"], "resourceVersion": "5"}
        Kopf.server.objects[path_of(ZMount, "default", "d")] = old
        made.told.clear()
        Kopf.made[-1].listed = True
        Kopf.made[-1].stir()
        await asyncio.sleep(5)
        assert made.told.index("rewound") < made.told.index((KEY, True))
        assert made.told.count("rewound") == 1
        assert made.there[KEY]["spec"]["size"] == "1Gi"
        assert made.informer.hearing.rewound == 1
        made.put(KEY, size="4Gi")
        assert made.there[KEY]["spec"]["size"] == "4Gi"
        await asyncio.sleep(3600)
        assert made.informer.hearing.rewound == 1


@virtual
async def test_an_older_state_is_known_by_the_version_of_its_list_where_no_object_shows_it() -> None:
    async with informed(before=[KEY]) as made:
        await made.informer.listed.wait()
        await asyncio.sleep(5)
        restored = itertools.count(next(Kopf.server.versions) + 1)
        made.put(FARM)
        made.put(FARM, publicIPv4=[])
        made.put(FARM, publicIPv4=[], publicIPv6=[])
        Kopf.server.versions = restored
        del Kopf.server.objects[path_of(Farm, "", "f")]
        Kopf.made[-1].listed = True
        Kopf.made[-1].stir()
        await asyncio.sleep(5)
        assert made.informer.hearing.rewound == 1
        assert set(made.there) == {KEY}


@virtual
async def test_a_lease_of_our_own_that_is_older_than_what_was_answered_makes_everybody_look() -> None:
    async with informed(before=[KEY]) as made:
        await made.informer.listed.wait()
        await asyncio.sleep(5)
        await made.client.create(Lease, "zos-system", {"metadata": {"name": "lead"}, "kind": "Lease"})
        for duration in range(1, 5):
            await made.client.patch(Lease, "zos-system", "lead", {"spec": {"leaseDurationSeconds": duration}})
        old = next(Kopf.server.of(ZMount))
        old["metadata"] = {**old["metadata"], "resourceVersion": "1"}
        lease = next(Kopf.server.of(Lease))
        lease["metadata"] = {**lease["metadata"], "resourceVersion": "1"}
        await asyncio.sleep(5)
        assert made.informer.hearing.rewound == 0
        await made.client.get(Lease, "zos-system", "lead")
        await asyncio.sleep(5)
        assert made.informer.hearing.rewound == 1


@virtual
async def test_only_what_a_watch_covers_is_expected_from_it() -> None:
    async with informed(Watched(ZMount, "default"), Watched(GridNode, name="n1"), before=[KEY]) as made:
        made.put(GridNode.key_of("", "n2"))
        made.put(GridNode.key_of("", "n1"))
        await made.informer.listed.wait()
        await asyncio.sleep(200)
        Kopf.deaf.update(("GridNode", "Farm"))
        await made.client.patch(GridNode, "", "n2", {"spec": {"unschedulable": True}})
        await made.client.create(Farm, "", {"kind": "Farm", "metadata": {"name": "f"}, "spec": {}})
        await asyncio.sleep(60)
        assert made.informer.hearing.deafened == 0
        await made.client.patch(GridNode, "", "n1", {"spec": {"unschedulable": True}})
        await asyncio.sleep(15)
        assert made.informer.hearing.deafened == 1
