"""Everything was Ready, then something was gone, or could not be read: for every kind of object and every other object.

Whatever it is, nothing is taken away: no workload, no share, no claim, no Secret, no place and no address. What each object
says then is in ``vanished.out.yaml``, to be reviewed; ZOS_UPDATE_GOLDEN=1 writes it anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cases import load, world_of
from fixpoint import carried_out, resolve, settle
from gridkinds import GRID
from zos.api.core import Namespace, Secret
from zos.api.meta import Condition, Key, Meta, Object, Reason
from zos.api.nodeworkload import NodeWorkload
from zos.controller.resolving import resolved
from zos.kinds.registry import KINDS
from zos.world.heartbeat import Heartbeat
from zos.world.resolution import Resolution, Verdict
from zos.world.store import World

HERE = Path(__file__).parent
PARTS = ("vanished.yaml", "vanished-resident.yaml", "vanished-virtual.yaml")
ORDER = ("Farm", "GridNode", "Quota", "Network", "Contract", "PublicIP", "NameContract", "ZMount", "Ping", "ZMachine")
SUBJECTS = (*ORDER, "Claim", "NodeWorkload")
#: What a status says of what its object has; it must not change because something else is gone.
HAS = {
    "ZMachine": ("node_name", "ip", "public_ipv4", "public_ipv6"),
    "ZMount": ("node_name", "size", "used"),
    "PublicIP": ("mac", "ipv4", "ipv6", "farm"),
    "Contract": ("reserved",),
    "NameContract": (),
    "Ping": ("node_name", "ip", "used"),
}


def ready() -> tuple[World, list[Object]]:
    world = world_of(obj for part in PARTS for obj in load(HERE / part)[0])
    settle(world, ORDER)
    return world, everything(world)


def everything(world: World) -> list[Object]:
    kinds = (*GRID, "Secret", "Namespace", "Heartbeat")
    return [obj for kind in kinds for obj in world.all(kind)]


READY, OBJECTS = ready()


def leaving(world: World, key: Key) -> Any:
    """The object as it is after its deletion was asked for."""
    obj: Any = world.peek(key)
    return obj.model_copy(update={"metadata": obj.metadata.model_copy(update={"deletion_timestamp": "2026-01-02T00:00:00Z"})})


def without(key: Key, how: str) -> World:
    """The same grid, in which one object is gone, or there and not understood."""
    world = world_of(obj for obj in OBJECTS if obj.key != key)
    if how == "unreadable":
        gone = next(obj for obj in OBJECTS if obj.key == key)
        world.put_unreadable(key, gone.metadata, "spec.tomorrow: not known")
    return world


CASES = [
    pytest.param(obj.key, how, id=f"{obj.key}-{how}".replace(" ", "-"))
    for obj in OBJECTS
    for how in (("gone", "unreadable") if obj.KIND != "Heartbeat" else ("gone",))
]


def test_everything_is_ready_before() -> None:
    for obj in OBJECTS:
        if obj.KIND in ORDER:
            condition: Any = obj.status.condition("Ready")  # type: ignore[attr-defined]
            assert condition.status == "True", (obj.key, condition.message)


@pytest.mark.parametrize(("key", "how"), CASES)
def test_nothing_is_taken_away(key: Key, how: str) -> None:
    world = without(key, how)
    for subject in everything(world):
        if subject.KIND not in SUBJECTS:
            continue
        for obj, resolution in looks(world, subject):
            owner = key in (_owner(obj), obj.key)
            assert not resolution.let_go
            assert not resolution.obsolete or (owner and how == "gone"), "only what belonged to it goes with it"
            assert resolution.releases == (), obj.key
            assert kept(obj, resolution, world, key) == [], obj.key


def test_a_controller_that_does_not_know_a_kind_takes_nothing_away() -> None:
    """It was rolled back: no Ping is served to it, and what nodes are asked for one reads as a part that it does not know."""
    models = {**{name: kind.model for name, kind in KINDS.items()}, "Secret": Secret, "Namespace": Namespace}
    world = World(KINDS.indexes())
    for obj in OBJECTS:
        if obj.KIND != "Ping":
            world.put(models.get(obj.KIND, type(obj)).model_validate(obj.wire()))
    others = [obj for name in models if name in SUBJECTS for obj in world.all(name)]
    assert [obj.name for obj in others if isinstance(obj, NodeWorkload) and obj.spec.part is None], "there is one of a Ping"
    for subject in others:
        found = resolved(KINDS[subject.KIND], subject, world.reader(subject.key))
        assert not found.let_go
        assert not found.obsolete, subject.key
        assert found.releases == (), subject.key
        assert kept(subject, found, world, subject.key) == [], subject.key


@pytest.mark.parametrize("name", [name for name, kind in GRID.items() if kind.node is not None])
def test_an_agent_that_is_too_old_for_a_part_is_not_asked_for_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was rolled back under what its node was asked for before. That stays, and the object says what helps."""
    on_node = GRID[name].node
    assert on_node is not None
    monkeypatch.setattr(on_node.part, "SINCE", (7, 0))
    world = world_of(OBJECTS)
    for node in world.all("GridNode"):
        status = node.status.model_copy(update={"agent_version": "0.3.0"})
        world.put(node.model_copy(update={"status": status}))
    subjects: list[Any] = [*world.all(name)]
    assert subjects
    if name == "ZMachine":  # to stop one needs nothing but its node
        subjects += [one.model_copy(update={"spec": one.spec.model_copy(update={"run_policy": "Halted"})}) for one in subjects]
    for subject in subjects:
        found = resolve(subject, world)
        assert not [workload for workload in found.workloads or () if workload.part is not None]
        assert kept(subject, found, world, subject.key) == []
        assert "is too old for this: upgrade it to 7.0 or later" in found.verdict.message


@pytest.mark.parametrize("name", [name for name, kind in GRID.items() if kind.node is not None and name != "Network"])
def test_whatever_is_on_one_node_stands_as_that_answers(name: str) -> None:
    subject = next(iter(READY.all(name)))
    (asked,) = READY.find(GRID.workload, owner=subject.uid)
    node: str = subject.status.node_name  # type: ignore[attr-defined]

    def says(reason: str = "Failed", generation: int = 1, alive: bool = True) -> Resolution:
        world = world_of(OBJECTS)
        told = Condition(type="Ready", status="False", reason=reason, message="no space left", observed_generation=generation)
        beside = Condition(type="Worn", status="True", reason="Other", message="soon", observed_generation=generation)
        status: Any = asked.status.model_copy(update={"conditions": (told, beside)})
        world.put(asked.model_copy(update={"status": status}))
        world.put(Heartbeat(metadata=Meta(name=node, uid="b"), alive=alive))
        return resolve(subject, world)

    assert says().verdict == Verdict(False, Reason.FAILED, f"node {node}: no space left")
    assert says("Progressing").verdict.message == "no space left"
    assert says(generation=0).verdict.message == f"node {node} is making it"
    assert says(alive=False).verdict.message.startswith(f"the agent of node {node} does not answer; ")
    assert [(found.type, found.message) for found in says().conditions if found.type == "Worn"] == [("Worn", "soon")]


WAITING = [
    pytest.param(obj.key, key, id=f"{obj.key}-for-{key}".replace(" ", "-"))
    for obj in OBJECTS
    if obj.KIND in ORDER and resolve(leaving(READY, obj.key), READY).waits_for
    for key in (other.key for other in OBJECTS if other.key != obj.key and other.KIND != "Heartbeat")
]


@pytest.mark.parametrize(("leaver", "unread"), WAITING)
def test_a_deletion_waits_as_well_for_what_it_cannot_read(leaver: Key, unread: Key) -> None:
    world = without(unread, "unreadable")
    subject = leaving(world, leaver)
    world.put(subject)
    found = resolve(subject, world)
    assert found.waits_for
    assert not found.let_go
    world.put(next(obj for obj in OBJECTS if obj.key == unread))
    assert resolve(subject, world).waits_for == resolve(leaving(READY, leaver), READY).waits_for


#: Whom a deletion may have to wait for.
USERS = {
    "Network": ("ZMachine", "Ping"),
    "ZMount": ("ZMachine",),
    "PublicIP": ("ZMachine",),
    "Ping": ("ZMachine",),
    "Contract": ("PublicIP",),
    "Farm": ("Claim",),
}


@pytest.mark.parametrize(("used", "user"), [(used, user) for used, users in USERS.items() for user in users])
def test_a_deletion_waits_for_a_user_of_whom_nothing_but_the_name_is_known(used: str, user: str) -> None:
    leaver = next(iter(READY.all(used)))
    world = world_of(obj for obj in OBJECTS if obj.KIND not in {*USERS[used], "NodeWorkload"})
    subject = leaving(READY, leaver.key)
    world.put(subject)
    model, namespace = GRID[user].model, leaver.namespace if GRID[user].model.NAMESPACED else ""
    world.put_unreadable(model.key_of(namespace, "other"), Meta(name="other", namespace=namespace, uid="u"), "spec.tomorrow")
    found = resolve(subject, world)
    assert "other, which may use it and can't be read" in found.verdict.message


#: What becomes of who gives a file system, and of what his node is asked for; what the machine then says that was given it.
GIVEN = {
    ("there", "there"): "",
    ("gone", "there"): "",
    ("unreadable", "there"): "",
    ("there", "leaving"): "Ping answers is being deleted: apply it again when it is gone, or take it out of filesystems",
    ("gone", "leaving"): "Ping answers is being deleted: apply it again when it is gone, or take it out of filesystems",
    ("there", "failing"): "Ping answers is not ready: no space left",
    ("there", "gone"): "Ping answers gives no file system yet: its own conditions say why",
    ("there", "unreadable"): "Ping answers gives no file system yet: its own conditions say why",
    ("gone", "gone"): "Ping answers does not exist in this namespace: apply it",
    ("gone", "unreadable"): "Ping answers does not exist in this namespace: apply it",
    ("unreadable", "gone"): "Ping default/answers can't be read by this controller",
    ("unreadable", "unreadable"): "Ping default/answers can't be read by this controller",
}


@pytest.mark.parametrize(("giver", "asked"), GIVEN, ids=lambda how: how)
def test_a_machine_keeps_what_it_runs_with_whatever_becomes_of_who_gave_it(giver: str, asked: str) -> None:
    (ping,), (machine,) = READY.all("Ping"), (one for one in READY.all("ZMachine") if one.name == "reader")
    (workload,) = READY.find(GRID.workload, owner=ping.uid)
    world = world_of(obj for obj in OBJECTS if obj.key not in (ping.key, workload.key))
    told = Condition(type="Ready", status="False", reason="Failed", message="no space left", observed_generation=1)
    failing = workload.model_copy(update={"status": workload.status.model_copy(update={"conditions": (told,)})})
    for obj, how in ((ping, giver), (workload, asked)):
        if how == "unreadable":
            world.put_unreadable(obj.key, obj.metadata, "spec.tomorrow: not known")
        elif how != "gone":
            world.put({"there": obj, "leaving": leaving(READY, obj.key), "failing": failing}[how])
    for subject, found in looks(world, machine):
        assert kept(subject, found, world, ping.key) == []
        assert found.releases == ()
        assert found.workloads is None or found.verdict.ready, "what waits asks nothing else of its node"
        said = "" if found.verdict.ready else found.verdict.message
        assert said.startswith(GIVEN[giver, asked])
        assert bool(said) == bool(GIVEN[giver, asked])


def test_nothing_else_is_used_by_anything() -> None:
    grid = world_of(())
    used = {
        name: grid.reader(GRID[name].model.key_of("", "x")).indexed_by(kind.used_by)
        for name, kind in GRID.items()
        if kind.used_by
    }
    assert {name: tuple(model.KIND for model in models) for name, models in used.items()} == USERS


def looks(world: World, subject: Object) -> Iterator[tuple[Any, Any]]:
    """Twice: what the first look made of it must not take anything away at the second."""
    first = resolve(subject, world)
    yield subject, first
    again = carried_out(world, subject, first)
    if again is not None:
        yield again, resolve(again, world)


def kept(obj: Any, resolution: Any, world: World, missing: Key) -> list[str]:
    """What it would lose."""
    lost: list[str] = []
    if resolution.workloads is not None:
        wanted = {f"zos-node-{workload.node}" for workload in resolution.workloads}
        lost += [str(w.key) for w in READY.find(_model("NodeWorkload"), owner=obj.uid) if w.namespace not in wanted]
    if resolution.claims is not None:
        wanted = {wish.name for wish in resolution.claims}
        lost += [str(c.key) for c in READY.find(_model("Claim"), holder=obj.uid) if c.name not in wanted]
    if resolution.secrets is not None:
        wanted = {secret.name for secret in resolution.secrets}
        owned = [s for s in READY.all("Secret") if any(owner.uid == obj.uid for owner in s.metadata.owner_references)]
        lost += [str(s.key) for s in owned if s.name not in wanted]
    was: Any = READY.peek(obj.key)
    if resolution.status is not None and was is not None:
        lost += [name for name in HAS.get(obj.KIND, ()) if getattr(resolution.status, name) != getattr(was.status, name)]
        pool = obj.POOL
        if pool is not None:
            held = {entry.uid for entry in getattr(resolution.status, pool)}
            gone = next(one.uid for one in OBJECTS if one.key == missing)
            lost += [f"{pool} of {e.uid}" for e in getattr(was.status, pool) if e.uid not in held and e.uid != gone]
        if obj.KIND == "Network":
            lost += [n.name for n in was.status.nodes if n.name not in {entry.name for entry in resolution.status.nodes}]
            lost += [n.name for n in was.status.access if n.name not in {entry.name for entry in resolution.status.access}]
    return lost


def test_what_everything_says_then() -> None:
    told: dict[str, dict[str, str]] = {}
    for case in CASES:
        key, how = case.values
        world = without(key, how)
        said: dict[str, str] = {}
        for subject in everything(world):
            if subject.KIND not in ORDER:
                continue
            verdict = resolve(subject, world).verdict
            if not verdict.ready:
                said[str(subject.key)] = f"{verdict.reason}: {verdict.message}"
        told[f"{key} is {how}"] = said
    text = yaml.safe_dump(told, sort_keys=False, width=120, allow_unicode=True)
    expected = HERE / "vanished.out.yaml"
    if os.environ.get("ZOS_UPDATE_GOLDEN"):
        expected.write_text(text)
    assert yaml.safe_load(expected.read_text()) == told


def _owner(obj: Any) -> Key | None:
    owner = getattr(obj.spec, "owner", None) or getattr(obj.spec, "holder", None) if hasattr(obj, "spec") else None
    return Key(owner.kind, owner.namespace, owner.name) if owner is not None else None


def _model(kind: str) -> type[Object]:
    return Secret if kind == "Secret" else GRID[kind].model
