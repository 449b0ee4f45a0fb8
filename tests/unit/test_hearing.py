"""What a process does so that it hears: a guard per event, the proof that watches tell, versions that went back."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from zos.agent.workloads import Workloads
from zos.api.core import Lease
from zos.api.meta import Key
from zos.api.zmount import ZMount
from zos.controller.health import Health
from zos.controller.liveness import Liveness
from zos.controller.versions import Versions
from zos.kinds.registry import KINDS
from zos.kube.client import Access, Client, Raw
from zos.kube.echo import PATIENCE, Echo
from zos.kube.hearing import Hearing
from zos.kube.informer import Informer
from zos.kube.watches import Watched


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


KEY, OTHER = Key("Lease", "n", "a"), Key("Lease", "n", "b")


def test_an_answer_that_the_watch_tells_is_no_cause_for_doubt() -> None:
    clock = Clock()
    echo = Echo(clock)
    assert echo.due() is None
    echo.expects(KEY, 7)
    assert echo.due() == clock.now + PATIENCE
    clock.now += PATIENCE - 1
    echo.heard(KEY, 8)
    clock.now += 100
    assert echo.overdue() == {}
    assert echo.due() is None


def test_what_is_answered_again_and_again_and_never_told_is_overdue_since_the_first_answer() -> None:
    clock = Clock()
    echo = Echo(clock)
    for version in range(10, 15):
        echo.expects(KEY, version)
        clock.now += 2.5
    assert echo.overdue() == {KEY: 1000.0}
    assert echo.waits("Lease") == 12.5
    assert echo.waits("ZMount") == 0.0


def test_a_watch_that_lags_is_not_deaf() -> None:
    clock = Clock()
    echo = Echo(clock)
    for version in range(10, 30):
        echo.expects(KEY, version)
        clock.now += 2.5
        echo.heard(KEY, version - 1)
        assert echo.overdue() == {}
    echo.forget(KEY)
    assert echo.due() is None


def test_an_older_answer_does_not_do_for_a_newer_one_and_who_is_postponed_gets_his_time_once_more() -> None:
    clock = Clock()
    echo = Echo(clock, patience=3.0)
    echo.expects(KEY, 9)
    echo.expects(KEY, 8)
    echo.heard(KEY, 8)
    assert echo.waiting
    clock.now += 3
    assert list(echo.overdue()) == [KEY]
    echo.postpone(KEY)
    assert echo.overdue() == {}
    assert echo.due() == clock.now + 3
    echo.expects(KEY, 12)
    echo.heard(KEY, 9)
    assert echo.waiting, "of the newest nothing was heard"
    echo.heard(KEY, 12)
    assert not echo.waiting


def test_each_object_is_expected_for_itself() -> None:
    clock = Clock()
    echo = Echo(clock)
    echo.expects(KEY, 1)
    clock.now += PATIENCE
    echo.expects(OTHER, 2)
    echo.heard(OTHER, 2)
    assert list(echo.overdue()) == [KEY]
    echo.clear()
    assert echo.overdue() == {}


def mount(name: str, version: int, uid: str = "") -> Raw:
    meta = {"name": name, "namespace": "n", "uid": uid or name, "resourceVersion": str(version)}
    return {"apiVersion": ZMount.API_VERSION, "kind": "ZMount", "metadata": meta}


class Poisoned:
    """Whose handling of some objects fails, as a bug would make it."""

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)
        self.there: dict[Key, Raw] = {}
        self.aside: list[tuple[Key, Raw, Exception]] = []
        access = Access(None)  # type: ignore[arg-type]
        self.informer = Informer(
            access, Client(access), [Watched(ZMount)], self.handle,
            unreadable=self.unreadable, buried=self.bury,
        )  # fmt: skip

    def handle(self, key: Key, raw: Raw | None) -> None:
        if key.name in self.bad:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        if raw is None:
            del self.there[key]
        else:
            self.there[key] = raw

    def unreadable(self, key: Key, raw: Raw, error: Exception) -> None:
        self.aside.append((key, raw, error))
        raise RuntimeError("and who is told of it fails as well")

    def bury(self, uid: str) -> None:
        if uid == "bad":
            raise RuntimeError("no grave")


@pytest.mark.parametrize("type", [None, "ADDED", "MODIFIED"])
def test_one_events_failure_is_its_own(type: str | None) -> None:
    told = Poisoned("bad")
    for name in ("before", "bad", "after"):
        told.informer.event(type, mount(name, 1))
    assert [key.name for key in told.there] == ["before", "after"]
    assert [(key.name, error.__class__) for key, _, error in told.aside] == [("bad", UnicodeDecodeError)]
    registry = CollectorRegistry()
    registry.register(told.informer.hearing)
    assert b'zos_unreadable_events_total{kind="ZMount"} 1.0' in generate_latest(registry)
    told.bad.clear()
    told.informer.event("MODIFIED", mount("bad", 2))
    assert len(told.there) == 3


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"kind": "Status"},
        {"apiVersion": ZMount.API_VERSION, "kind": "ZMount"},
        {"apiVersion": ZMount.API_VERSION, "kind": "ZMount", "metadata": None},
        {"apiVersion": ZMount.API_VERSION, "kind": "ZMount", "metadata": {"name": "x"}},
        {"apiVersion": ZMount.API_VERSION, "kind": ["ZMount"], "metadata": {}},
    ],
)
def test_an_event_that_is_none_is_passed_over(raw: Raw) -> None:
    told = Poisoned()
    told.informer.event("ADDED", raw)
    told.informer.event("ADDED", mount("after", 1))
    assert [key.name for key in told.there] == ["after"]


def test_the_end_of_something_unreadable_is_its_own_too() -> None:
    told = Poisoned("bad")
    told.informer.event("ADDED", mount("bad", 1))
    told.informer.event("ADDED", mount("good", 2))
    told.informer.event("DELETED", mount("bad", 3))
    told.informer.event("DELETED", mount("good", 4))
    assert told.there == {}


def lease(time: str) -> Lease:
    return Lease.model_validate(
        {"metadata": {"name": "agent", "namespace": "n"}, "spec": {"renewTime": time, "leaseDurationSeconds": 40}}
    )


def test_nobody_is_declared_dead_while_nothing_is_heard() -> None:
    clock = Clock()
    liveness = Liveness(clock)
    liveness.heard(lease("1"))
    assert liveness.judge() == {"n": True}
    liveness.hears(False)
    clock.now += 100
    assert liveness.judge() == {}
    liveness.hears(True)
    assert liveness.judge() == {"n": True}  # it gets its whole time again
    clock.now += 39
    assert liveness.judge() == {"n": True}
    clock.now += 2
    assert liveness.judge() == {"n": False}


def test_a_deaf_process_says_so() -> None:
    clock = Clock()
    hearing = Hearing(["Lease", "ZMount"], clock)
    registry = CollectorRegistry()
    registry.register(hearing)
    assert hearing.problem() is None
    clock.now += 5
    hearing.heard("Lease")
    clock.now += 2
    hearing.deaf = True
    hearing.unserved = {"ZMount": "its CRD is not there"}
    assert "begun anew" in (hearing.problem() or "")
    said = generate_latest(registry).decode()
    for line in (
        "zos_deaf 1.0",
        'zos_hearing_seconds{kind="Lease"} 2.0',
        'zos_hearing_seconds{kind="ZMount"} 7.0',
        'zos_kind_served{kind="ZMount"} 0.0',
        'zos_kind_served{kind="Lease"} 1.0',
    ):
        assert line in said


def test_a_leader_that_does_not_work_is_ill() -> None:
    clock = Clock()
    health = Health(clock)
    clock.now += 1000
    assert health.problem(listed=False, waiting=5) is None  # it does not lead
    health.leads(True)
    clock.now += 50
    assert health.problem(listed=False, waiting=0) is None
    clock.now += 20
    assert "heard of everything" in (health.problem(listed=False, waiting=0) or "")
    assert "3 objects wait" in (health.problem(listed=True, waiting=3) or "")
    assert health.problem(listed=True, waiting=0) is None
    health.worked()
    assert health.problem(listed=True, waiting=3) is None
    clock.now += 100
    health.leads(False)
    clock.now += 100
    assert health.problem(listed=False, waiting=3) is None


def stored(name: str, version: int) -> ZMount:
    return ZMount.model_validate({**mount(name, version), "spec": {"size": "1Gi"}})


def test_after_versions_went_back_each_object_is_believed_once() -> None:
    versions = Versions()
    known = stored("d", 100)
    assert not versions.news(mount("d", 99), known)
    assert not versions.news(mount("d", 100), known)
    assert versions.news(mount("d", 101), known)
    assert versions.news(mount("e", 1), None)
    versions.rewound([known.key])
    assert versions.news(mount("d", 7), known)
    assert not versions.news(mount("d", 6), stored("d", 7))
    assert versions.news(mount("d", 8), stored("d", 7))


def workload(version: int, generation: int) -> Raw:
    owner = {"kind": "ZMount", "namespace": "n", "name": "d", "uid": "u"}
    meta = {"name": "w", "uid": "w", "resourceVersion": str(version), "generation": generation}
    return {"metadata": meta, "spec": {"owner": owner, "part": {"zmount": {"size": "1Gi"}}}}


def test_an_agent_takes_an_older_generation_with_an_older_version_only_after_versions_went_back() -> None:
    workloads = Workloads(KINDS.workload)
    assert workloads.put(workload(100, 5))
    assert not workloads.put(workload(50, 4))
    workloads.doubt()
    assert workloads.get("w") is not None
    assert workloads.put(workload(50, 4))
    assert not workloads.put(workload(49, 3))
    assert workloads.put(workload(51, 5))
    workloads.doubt()
    assert not workloads.put(workload(40, 5))  # the same said: nothing to do, and it is known
    assert not workloads.put(workload(40, 6))


def test_bodies_read_the_same_as_json_and_as_yaml() -> None:
    import json

    from zos.kube.client import ApiError, _encoded

    text = "𝒳 é \x7f\x85\x9f\u2028\u2029\ufeff\uffff\x00\n\t\"'\\"
    sent = _encoded({"a": text})
    assert json.loads(sent) == {"a": text}
    assert "𝒳 é".encode() in sent
    for escaped in (b"\\u2028", b"\\ufeff", b"\\u0085", b"\\u007f"):
        assert escaped in sent
    with pytest.raises(ApiError) as caught:
        _encoded({"a": "half \ud835"})
    assert caught.value.permanent
