"""A machine on its node, where golden cases would be too long or too many."""

from __future__ import annotations

from dataclasses import replace

from zos.api import names
from zos.api.meta import Meta, Reason
from zos.api.nodeworkload import MachineOnNode, NodeWorkload, NodeWorkloadSpec, Owner
from zos.kinds.zmachine.lifecycle import LOOP
from zos.kinds.zmachine.lower import lower, report
from zos.plan.facts import DomainFact, Facts, ImageFact
from zos.plan.items import Disk, Domain
from zos.plan.outcome import Outcome

GUEST = names.domain("uid-vm")
FACTS = Facts(node="n", now=1000.0, images={"oci://r/i:1": ImageFact(digest="sha256:1", entrypoint=("/bin/app",))})


def machine(**more: object) -> NodeWorkload:
    part = MachineOnNode(hostname="vm", image="oci://r/i:1", cpu=1, memory=2**28, root_size=2**29, **more)  # type: ignore[arg-type]
    owner = Owner(kind="ZMachine", namespace="default", name="vm", uid="uid-vm")
    return NodeWorkload(metadata=Meta(name="w"), spec=NodeWorkloadSpec(owner=owner, machine=part))


def guest_of(workload: NodeWorkload, facts: Facts = FACTS) -> Domain:
    (found,) = [item for item in lower(workload, facts).items if isinstance(item, Domain)]
    return found


def test_a_crash_loop_is_one_until_something_is_mended() -> None:
    ends = tuple(1000.0 - number for number in reversed(range(LOOP)))
    looping = DomainFact(running=False, ended="exit", exit_code=1, ended_at=1000.0, crashes=ends)
    same = replace(looping, recipe=guest_of(machine()).recipe)
    low = lower(machine(), replace(FACTS, domains={GUEST: same}))
    assert low.problem is not None
    assert low.problem.reason is Reason.CRASH_LOOP
    assert low.whole
    assert not guest_of(machine(), replace(FACTS, domains={GUEST: same})).running
    assert guest_of(machine(), replace(FACTS, domains={GUEST: replace(looping, recipe="another")})).running


def test_a_configuration_that_is_too_large_touches_nothing() -> None:
    runs = replace(FACTS, domains={GUEST: DomainFact(running=True, booted=True, image="sha256:1")})
    low = lower(machine(env={"A": "x" * 2**20}), runs)
    assert not low.whole
    assert [item.key for item in low.items] == ["image/oci://r/i:1"]
    said = report(machine(), runs, low, Outcome())
    assert said.verdict.reason is Reason.INVALID_SPEC
    assert said.verdict.message.endswith("make them smaller; the machine runs on with what it was started with")
    assert said.machine is not None
    assert (said.machine.state, said.machine.image_digest) == ("Running", "sha256:1")


def test_a_root_that_was_written_to_is_never_made_empty() -> None:
    def root(facts: Facts) -> Disk:
        (found,) = [item for item in lower(machine(), facts).items if isinstance(item, Disk)]
        return found

    assert not root(FACTS).must_exist
    for fact, written in (
        (DomainFact(running=False), False),  # it has a definition, and never ran
        (DomainFact(running=True, started_at=900.0), True),
        (DomainFact(running=False, started_at=900.0, ended="stopped"), True),
    ):
        assert root(replace(FACTS, domains={GUEST: fact})).must_exist == written


def test_anything_that_it_is_started_with_otherwise_is_another_chance_and_nothing_else_is() -> None:
    """Of a guest in a crash loop."""
    ends = tuple(1000.0 - number for number in reversed(range(LOOP)))
    looping = DomainFact(running=False, ended="exit", exit_code=1, ended_at=1000.0, crashes=ends)
    tried = replace(FACTS, domains={GUEST: replace(looping, recipe=guest_of(machine()).recipe)})
    part = machine().spec.machine
    assert part is not None
    for change in ({"cpu": 2}, {"memory": 2**29}, {"env": {"A": "b"}}, {"entrypoint": ("/bin/other",)}):
        other = machine().model_copy(
            update={"spec": machine().spec.model_copy(update={"machine": part.model_copy(update=change)})}
        )
        assert guest_of(other, tried).running, change
    assert not guest_of(machine(), tried).running
    unknown = replace(FACTS, domains={GUEST: replace(looping, recipe="")})  # what it was tried with last is not known
    assert not guest_of(machine(), unknown).running
