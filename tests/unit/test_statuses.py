"""When a node writes what it says of a workload, and how it goes on when that is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from memory import MemoryClient, Request, Server
from zos.agent.statuses import Statuses, replacing
from zos.api.core import Namespace
from zos.api.meta import AGENT_FINALIZER, Reason
from zos.api.nodeworkload import NodeWorkload
from zos.kinds.kind import Report
from zos.kinds.network.part import NetworkState
from zos.kinds.registry import KINDS
from zos.kinds.zmount.part import MountState
from zos.kube.client import path_of
from zos.world.resolution import ready, waiting

SPACE = "zos-node-n"
WORKING = Report(waiting(Reason.PROGRESSING, "1 %"))
NEXT = Report(waiting(Reason.PROGRESSING, "2 %"), state=MountState(size=1))
ENDING = Report(waiting(Reason.DELETING, "going"))
DONE = Report(ready(), state=MountState(size=1))


def failed(words: str = "no room") -> Report:
    return Report(waiting(Reason.INVALID_SPEC, words))


@dataclass
class Desk:
    """A writer of statuses, its API server, and a clock that only the test moves."""

    server: Server = field(default_factory=Server)
    time: float = 100.0

    def __post_init__(self) -> None:
        self.ask("POST", path_of(Namespace), {"metadata": {"name": SPACE}})
        self.client = MemoryClient(self.server)
        self.statuses = Statuses(self.client, self.shown, lambda: self.time, lambda: f"2026-01-01T00:00:{self.time:06.3f}Z")
        self.made("w")

    def made(self, name: str) -> None:
        owner = {"kind": "ZMount", "namespace": "default", "name": name, "uid": f"uid-{name}"}
        meta = {"name": name, "finalizers": [AGENT_FINALIZER, "other/one"]}
        body = {"metadata": meta, "spec": {"owner": owner, "mount": {"size": "1Gi"}}}
        self.ask("POST", path_of(NodeWorkload, SPACE), body)

    def shown(self, name: str) -> NodeWorkload | None:
        raw = self.server.objects.get(path_of(NodeWorkload, SPACE, name))
        return KINDS.workload.model_validate(raw) if raw is not None else None

    def offer(self, report: Report | None = None, *, clean: bool = False) -> None:
        workload = self.shown("w")
        assert workload is not None
        reports = {"w": report} if report is not None else {}
        self.statuses.offer({"w": workload}, reports, frozenset({"w"} if clean else ()))

    async def write(self, report: Report | None = None, *, clean: bool = False) -> float | None:
        if report is not None or clean:
            self.offer(report, clean=clean)
        return await self.statuses.write()

    @property
    def said(self) -> str:
        workload = self.shown("w")
        assert workload is not None
        condition = workload.status.condition("Ready")
        return f"{condition.status} {condition.message}" if condition is not None else ""

    @property
    def tries(self) -> int:
        return len([one for one in self.server.requests if one.method == "PATCH"])

    def refuse(self, status: int, words: str = "no") -> None:
        self.server.refuses = lambda request: (status, words) if request.method == "PATCH" else None

    def ask(self, method: str, path: str, body: Any) -> None:
        assert self.server.handle(Request(method, path, body, ""))[0] < 400


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_what_is_ready_or_needs_a_person_is_said_at_once(desk: Desk) -> None:
    assert await desk.write(DONE) is None
    assert desk.said == "True "
    assert desk.shown("w").state(MountState) == MountState(size=1)  # type: ignore[union-attr]
    assert await desk.write(failed()) is None
    assert desk.said == "False no room"
    assert desk.shown("w").state(MountState) is None  # type: ignore[union-attr]
    tries = desk.tries
    desk.time += 100
    assert await desk.write(failed()) is None
    assert desk.tries == tries


async def test_what_is_under_way_is_said_after_a_moment_if_it_still_is(desk: Desk) -> None:
    assert await desk.write(WORKING) == pytest.approx(0.7)
    desk.time += 0.5
    assert await desk.write(WORKING) == pytest.approx(0.2)
    assert desk.said == ""
    desk.time += 0.2001
    assert await desk.write(WORKING) is None
    assert desk.said == "False 1 %"
    # Its next phase may be over before anybody has read of it; another reason is news.
    assert await desk.write(NEXT) == pytest.approx(6.0)
    assert await desk.write(Report(waiting(Reason.IMAGE_UNAVAILABLE, "no"))) == pytest.approx(0.7)
    desk.time += 6.1
    assert await desk.write(NEXT) is None
    assert desk.said == "False 2 %"
    # Ready in between, it has the moment again.
    await desk.write(DONE)
    assert await desk.write(WORKING) == pytest.approx(0.7)
    desk.time += 0.6
    await desk.write(DONE)
    assert await desk.write(WORKING) == pytest.approx(0.7)


async def test_words_alone_are_written_every_three_seconds(desk: Desk) -> None:
    await desk.write(WORKING)
    desk.time += 1
    await desk.write(WORKING)
    tries = desk.tries
    for percent in range(2, 62):
        desk.time += 0.5
        await desk.write(Report(waiting(Reason.PROGRESSING, f"{percent} %")))
    assert desk.tries - tries == 10
    assert desk.said == "False 61 %"


async def test_what_may_pass_by_itself_is_tried_more_and_more_slowly(desk: Desk) -> None:
    desk.client.away = True
    assert [await desk.write(DONE) for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]
    desk.client.away = False
    assert await desk.write() is None
    desk.client.away = True
    assert await desk.write(failed()) == 0.5, "a success ends the row"
    assert desk.statuses.refused == 0


async def test_what_is_refused_for_good_is_tried_less_and_less_often_until_it_is_another(desk: Desk) -> None:
    desk.refuse(422)
    pauses = []
    for _ in range(11):
        await desk.write(DONE)
        assert desk.statuses.refused == 1
        tries, pause = desk.tries, await desk.write()
        assert pause is not None
        desk.time += pause - 0.001
        assert await desk.write() == pytest.approx(0.001)
        assert desk.tries == tries  # not before its time
        desk.time += 0.002
        pauses.append(round(pause))
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    tries = desk.tries
    await desk.write(DONE)
    await desk.write(failed())  # that is something else
    assert desk.tries == tries + 2
    assert await desk.write() == pytest.approx(1)
    desk.server.refuses = lambda _: None
    desk.time += 1
    assert await desk.write() is None
    assert (desk.said, desk.statuses.refused) == ("False no room", 0)


async def test_one_that_is_refused_holds_up_nobody_and_is_forgotten_when_it_goes(desk: Desk) -> None:
    desk.made("other")
    desk.server.refuses = lambda request: (403, "no") if "/w/" in request.path else None
    shown = {name: desk.shown(name) for name in ("w", "other")}
    desk.statuses.offer({n: w for n, w in shown.items() if w is not None}, {"w": DONE, "other": DONE}, frozenset())
    await desk.statuses.write()
    assert desk.shown("other").status.condition("Ready") is not None  # type: ignore[union-attr]
    assert desk.statuses.refused == 1
    desk.statuses.offer({}, {}, frozenset())
    await desk.statuses.write()
    assert desk.statuses.refused == 0


async def test_another_of_the_same_name_is_told_for_itself(desk: Desk) -> None:
    await desk.write(DONE)
    del desk.server.objects[path_of(NodeWorkload, SPACE, "w")]
    await desk.statuses.write()  # of what is offered nothing is left
    desk.made("w")
    await desk.write(DONE)
    assert desk.said == "True "


async def test_what_another_wrote_over_it_is_seen_when_it_is_not_trusted(desk: Desk) -> None:
    await desk.write(DONE)
    desk.ask("PATCH", path_of(NodeWorkload, SPACE, "w", "status"), {"status": {"conditions": []}})
    await desk.write(DONE)
    assert desk.said == ""
    desk.statuses.distrust()
    await desk.write(DONE)
    assert desk.said == "True "


async def test_letting_go_takes_its_own_finalizer_from_what_was_shown(desk: Desk) -> None:
    desk.ask("DELETE", path_of(NodeWorkload, SPACE, "w"), {})
    assert await desk.write(clean=True) is None
    assert desk.shown("w").metadata.finalizers == ("other/one",)  # type: ignore[union-attr]
    request = desk.server.requests[-1]
    assert request.body["metadata"]["resourceVersion"]
    assert request.body["metadata"]["uid"]
    tries = desk.tries
    await desk.write()
    assert desk.tries == tries
    desk.server.objects[path_of(NodeWorkload, SPACE, "w")]["metadata"]["finalizers"] = [AGENT_FINALIZER]
    await desk.write(clean=True)
    assert desk.tries == tries, "it is not asked for twice, whatever is shown late"
    desk.statuses.rewound()
    await desk.write(clean=True)
    assert desk.shown("w") is None


async def test_letting_go_of_what_changed_meanwhile_waits_until_that_is_shown(desk: Desk) -> None:
    desk.ask("DELETE", path_of(NodeWorkload, SPACE, "w"), {})
    desk.offer(clean=True)
    desk.refuse(409)
    assert await desk.write() == 0.5
    assert await desk.write() == 1
    desk.server.refuses = lambda _: None
    assert await desk.write() is None
    assert desk.shown("w").metadata.finalizers == ("other/one",)  # type: ignore[union-attr]


@pytest.mark.parametrize(("status", "pauses"), [(403, [1, 2]), (503, [0.5, 1])])
async def test_letting_go_that_is_refused_is_tried_again(desk: Desk, status: int, pauses: list[float]) -> None:
    desk.ask("DELETE", path_of(NodeWorkload, SPACE, "w"), {})
    desk.refuse(status)
    for pause in pauses:
        told = await desk.write(clean=True)
        again = await desk.write() if told is None else told
        assert again == pytest.approx(pause)
        desk.time += pause
    assert desk.statuses.refused == (1 if status == 403 else 0)
    desk.server.refuses = lambda _: None
    assert await desk.write() is None
    assert desk.shown("w").metadata.finalizers == ("other/one",)  # type: ignore[union-attr]
    assert desk.statuses.refused == 0


async def test_what_ends_is_said_when_it_takes_its_time_and_what_hinders_it_soon(desk: Desk) -> None:
    await desk.write(DONE)
    desk.ask("DELETE", path_of(NodeWorkload, SPACE, "w"), {})
    assert await desk.write(DONE) == pytest.approx(3.0)  # nobody has begun, and the generation is another
    desk.time += 1.0
    assert await desk.write(ENDING) == pytest.approx(2.0)
    tries = desk.tries
    desk.time += 2.0
    assert await desk.write(ENDING) is None
    assert (desk.tries, desk.said) == (tries + 1, "False going")
    assert await desk.write(Report(waiting(Reason.DELETION_BLOCKED, "in use"))) == pytest.approx(0.7)


async def test_that_what_is_marked_stands_as_it_stood_can_wait(desk: Desk) -> None:
    stands = Report(ready(), state=NetworkState(done="0" * 16))
    await desk.write(stands)
    path = path_of(NodeWorkload, SPACE, "w")
    desk.ask("PATCH", path, {"spec": {"mount": {"size": "2Gi"}}})
    assert await desk.write(stands) == pytest.approx(30.0)
    desk.time += 30.1
    assert await desk.write(stands) is None
    workload = desk.shown("w")
    assert workload is not None
    assert workload.status.observed_generation == workload.metadata.generation
    desk.ask("PATCH", path, {"spec": {"mount": {"size": "3Gi"}}})
    assert await desk.write(Report(ready(), state=NetworkState(done="1" * 16))) is None  # another one is done
    desk.ask("PATCH", path, {"spec": {"mount": {"size": "4Gi"}}})
    assert await desk.write(DONE) is None  # of what is not marked, everybody waits for the generation


@pytest.mark.parametrize("report", [DONE, None])
async def test_what_is_gone_is_no_failure(desk: Desk, report: Report | None) -> None:
    desk.ask("DELETE", path_of(NodeWorkload, SPACE, "w"), {})
    desk.offer(report, clean=report is None)
    desk.refuse(404)
    await desk.write()
    desk.time += 10  # what something gets to end in
    assert await desk.write() is None


def test_a_patch_leaves_what_is_new_and_nothing_else() -> None:
    old = {"a": 1, "b": {"c": 2, "d": 3}, "e": {"f": 4}, "g": [1]}
    new = {"a": 1, "b": {"c": 5}, "e": 6, "g": [2]}
    assert replacing(new, old) == {"a": 1, "b": {"c": 5, "d": None}, "e": 6, "g": [2]}
    assert replacing({}, old) == dict.fromkeys(old)
