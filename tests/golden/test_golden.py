"""Objects in, resolution or plan out, as text to be reviewed.

A case is ``<kind>/<name>.yaml``: the objects of the world, the one in question first. Beside it ``<name>.out.yaml`` says what
follows.
ZOS_UPDATE_GOLDEN=1 writes the outputs anew: read the difference before you commit it.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cases import load, world_of
from fixpoint import carried_out, resolve
from gridkinds import GRID
from known import facts as known_facts
from zos.api.meta import Object, Reason
from zos.api.nodeworkload import NodeWorkload
from zos.kinds.kind import Here, OnNode
from zos.plan.facts import (
    DiskFact,
    DiskImage,
    DomainFact,
    Facts,
    FlistFact,
    ImageFact,
    ImageProblem,
    KernelFact,
    KernelProblem,
    ServiceEnd,
    ServiceFact,
    Unknown,
    VolumeFact,
    Written,
)
from zos.plan.items import Disk, Domain, GuestDisk, GuestNic, Item
from zos.plan.lowered import Lowered, Problem
from zos.plan.outcome import Outcome

HERE = Path(__file__).parent
CASES = sorted(path for path in HERE.glob("*/*.yaml") if not path.name.endswith(".out.yaml"))
#: Pools go on by what they themselves have written.
LOOKED_AT = {name.lower() for name, kind in GRID.items() if kind.finalized and kind.model.POOL is None}


def plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if hasattr(value, "wire"):
        return value.wire()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        shown = {name: plain(one) for name, one in fields.items() if name not in ("stalled", "older") or one}
        return {"is": type(value).__name__} | shown
    return value if isinstance(value, (int, float, bool, type(None))) else str(value)


def resolved(objects: list[Object]) -> dict[str, Any]:
    world = world_of(objects)
    subject = objects[0]
    resolution = resolve(subject, world)
    found = plain(resolution)
    # Of these, none at all is another thing than leaving them as they are.
    explicit = {name for name in ("claims", "secrets", "workloads") if getattr(resolution, name) == ()}
    empty = (None, [], False, "")
    return {name: value for name, value in found.items() if (value not in empty or name in explicit) and name != "is"}


def lowered(workload: NodeWorkload, facts: dict[str, Any]) -> dict[str, Any]:
    known = known_facts(
        node="n1",
        now=1000.0,
        nameservers=tuple(facts.get("nameservers", ())),
        prefixes=tuple(facts.get("prefixes", ())) if "connected" not in facts.get("unknown", {}) else None,
        egress_deny=tuple(facts.get("egress_deny", ())),
        images={ref: image(**fact) for ref, fact in facts.get("images", {}).items()},
        kernels={
            digest: KernelFact(release, frozenset(others)) for digest, (release, *others) in facts.get("kernels", {}).items()
        },
        kernel_problems={digest: KernelProblem(why) for digest, why in facts.get("kernel_problems", {}).items()},
        image_problems={ref: ImageProblem(**told) for ref, told in facts.get("image_problems", {}).items()},
        flists={ref: FlistFact(**fact) for ref, fact in facts.get("flists", {}).items()},
        domains={
            name: DomainFact(**{field: tuple(v) if isinstance(v, list) else v for field, v in fact.items() if field != "runs"})
            for name, fact in facts.get("domains", {}).items()
        },
        services={name: service(**fact) for name, fact in facts.get("services", {}).items()},
        disks={name: disk(**fact) for name, fact in facts.get("disks", {}).items()},
        volumes={name: VolumeFact(**fact) for name, fact in facts.get("volumes", {}).items()},
        secrets={tuple(name.split("/", 1)): value for name, value in facts.get("secrets", {}).items()},  # type: ignore[misc]
        disk_use=facts.get("disk_use", {}),
        lost_keys=frozenset(facts.get("lost_keys", ())),
        shut=facts.get("shut", {}),
        silent={name: frozenset(keys) for name, keys in facts.get("silent", {}).items()},
        unknown={family: why for family, why in facts.get("unknown", {}).items() if family != "connected"},
    )
    started = {name: fact["runs"] for name, fact in facts.get("domains", {}).items() if "runs" in fact}
    known = known_facts(
        known,
        domains={
            name: dataclasses.replace(fact, runs=runs(workload, known, started[name]) if name in started else None)
            for name, fact in known.known[DomainFact].items()
        },
    )
    try:
        made = served(workload).lower(here(workload, known))
    except Unknown as unknown:  # as the agent does
        made = Lowered(problem=Problem(Reason.PROGRESSING, str(unknown)), whole=False)
    found: dict[str, Any] = {} if made.whole else {"whole": False}
    found |= {"items": [brief(item) if facts.get("brief") else described(item) for item in made.items]}
    found |= {"problem": plain(made.problem), "wake_at": made.wake_at}
    if "outcome" in facts:
        found["report"] = reported(workload, known, made, Outcome(**facts["outcome"]))
    return found


def runs(workload: NodeWorkload, known: Facts, otherwise: dict[str, Any]) -> Domain:
    """What a guest was started with: what is wanted now, but for these fields of its Domain."""
    wanted = next(item for item in served(workload).lower(here(workload, known)).items if isinstance(item, Domain))
    fields = dict(otherwise)
    if "nics" in fields:
        fields["nics"] = tuple(GuestNic(**nic) for nic in fields["nics"])
    if "disks" in fields:
        fields["disks"] = tuple(GuestDisk(**disk) for disk in fields["disks"])
    boot = {name: fields.pop(name) for name in ("image", "kernel", "init", "config_digest", "fields") if name in fields}
    if "fields" in boot:
        boot["fields"] = tuple((dict(wanted.boot.fields) | boot["fields"]).items())
    return dataclasses.replace(wanted, running=True, boot=dataclasses.replace(wanted.boot, **boot), **fields)


def image(disk: dict[str, Any] | None = None, **fact: Any) -> ImageFact:
    return ImageFact(disk=DiskImage(**disk) if disk is not None else None, **fact)


def disk(written: dict[str, Any] | None = None, **fact: Any) -> DiskFact:
    return DiskFact(written=Written(**written) if written is not None else None, **fact)


def service(last_exit: dict[str, Any] | None = None, **fact: Any) -> ServiceFact:
    end = ServiceEnd(**last_exit) if last_exit is not None else None
    return ServiceFact(
        last_exit=end, **{name: tuple(value) if isinstance(value, list) else value for name, value in fact.items()}
    )


def here(workload: NodeWorkload, facts: Facts) -> Here[Any]:
    return Here.of(workload, workload.spec.part, facts)


def served(workload: NodeWorkload) -> OnNode:
    found = GRID.on_node(workload)
    assert found is not None
    return found


def brief(item: Item) -> str:
    shown = ("must_exist", "running", "bridge", "peer_netns")
    words = [word if value is True else f"{word}={value}" for word, value in described(item).items() if word in shown and value]
    return " ".join((item.key, *words, *([f"adopt={item.adopt}"] if isinstance(item, Disk) and item.adopt else [])))


def described(item: Item) -> dict[str, Any]:
    """Without what it doesn't say."""
    found = plain(item)
    if isinstance(item, Disk) and item.origin is not None:
        found["origin"] = "{kind} {namespace}/{name} {uid}".format(**item.origin.wire())
    unsaid = {"must_exist": False, "adopt": "", "source": "", "program": "", "group": "", "status": "", "resumes": False,
              "shared": False, "runs_on": ""}  # fmt: skip
    return {name: value for name, value in found.items() if value not in (None, []) and unsaid.get(name, ...) != value}


def reported(workload: NodeWorkload, known: Facts, made: Lowered, outcome: Outcome) -> Any:
    """What the node says of a workload; only what says something."""
    try:
        report = served(workload).report(here(workload, known), made, outcome)
    except Unknown as unknown:
        return {"unknown": str(unknown)}
    said = {name: value for name, value in plain(report).items() if value not in (None, []) and name != "is"}
    said["conditions"] = [f"{c.type}={c.status} {c.reason}: {c.message}".removesuffix(": ") for c in report.conditions]
    return said


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden(path: Path) -> None:
    objects, facts = load(path)
    subject = objects[0]
    found = lowered(subject, facts) if isinstance(subject, NodeWorkload) else resolved(objects)
    text = yaml.safe_dump(found, sort_keys=False, width=120, allow_unicode=True)
    expected = path.with_name(f"{path.stem}.out.yaml")
    if os.environ.get("ZOS_UPDATE_GOLDEN"):
        expected.write_text(text)
    assert expected.exists(), "no output yet: run with ZOS_UPDATE_GOLDEN=1 and review what it writes"
    assert yaml.safe_load(text) == yaml.safe_load(expected.read_text())


#: Reasons for which somebody has to do something.
REFUSALS = (
    "DependencyNotReady",
    "Conflict",
    "InvalidSpec",
    "InsufficientCapacity",
    "Quarantined",
    "NodeRemoved",
    "ImageInvalid",
)


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_who_is_refused_something_is_told_what_helps(path: Path) -> None:
    """Or how it stands with what it waits for: a message is what is wrong, and more."""
    found = yaml.safe_load(path.with_name(f"{path.stem}.out.yaml").read_text())
    verdict = found.get("verdict") or (found.get("report") or {}).get("verdict")
    if verdict is not None and verdict["reason"] in REFUSALS:
        assert any(sign in verdict["message"] for sign in (": ", "; ", " (")), verdict["message"]


@pytest.mark.parametrize(
    "path", [path for path in CASES if path.parent.name in LOOKED_AT], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_second_look_gives_the_same(path: Path) -> None:
    """The controller relies on it: what an object's own resolution wrote does not resolve it again, nor is it told again."""
    objects, _ = load(path)
    subject = objects[0]
    world = world_of(objects)
    first = resolve(subject, world)
    after = carried_out(world, subject, first, nodes=False)
    second = resolve(after, world)
    rest = {"status": None, "releases": (), "recorded": False, "notices": ()}
    assert second.notices == ()
    assert plain(dataclasses.replace(second, **rest)) == plain(dataclasses.replace(first, **rest))
    assert plain(carried_out(world, after, second, nodes=False)) == plain(after)


def test_there_are_cases_for_each_kind_of_work() -> None:
    assert {path.parent.name for path in CASES} >= {name.lower() for name, kind in GRID.items() if kind.finalized}
    assert {path.stem for path in HERE.glob("*/*.out.yaml")} == {f"{path.stem}.out" for path in CASES}
