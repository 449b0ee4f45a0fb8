"""A machine on its node, where golden cases would be too long or too many."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from known import facts
from zos.api import names
from zos.api.meta import Meta, Reason
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.api.zmachine import RunPolicy, minimum_root_size
from zos.kinds.kind import Here
from zos.kinds.registry import KINDS
from zos.kinds.zmachine.configuration import fields_of
from zos.kinds.zmachine.lower import lower
from zos.kinds.zmachine.part import DiskOnNode, ImagePull, MachineOnNode
from zos.kinds.zmachine.state import report
from zos.plan.crashes import LOOP
from zos.plan.facts import DiskFact, DomainFact, Facts, ImageFact, Pulled, Written
from zos.plan.guest import LIMIT, GuestConfig, GuestMount, GuestShareMount
from zos.plan.items import Disk, DiskBoot, Domain, File
from zos.plan.outcome import Outcome

GUEST = names.domain("uid-vm")
IMAGE = ImageFact(digest="sha256:1", entrypoint=("/bin/app",))
FACTS = facts(now=1000.0, images={"oci://r/i:1": IMAGE})


def machine(**more: object) -> NodeWorkload:
    part = MachineOnNode(hostname="vm", image="oci://r/i:1", cpu=1, memory=2**28, root_size=2**29, **more)  # type: ignore[arg-type]
    owner = Owner(kind="ZMachine", namespace="default", name="vm", uid="uid-vm")
    return KINDS.workload(metadata=Meta(name="w"), spec=KINDS.workload.asking(owner, part))


def here(workload: NodeWorkload, facts: Facts) -> Here[MachineOnNode]:
    part = workload.part(MachineOnNode)
    assert part is not None
    return Here.of(workload, part, facts)


def guest_of(workload: NodeWorkload, facts: Facts = FACTS) -> Domain:
    (found,) = [item for item in lower(here(workload, facts)).items if isinstance(item, Domain)]
    return found


def test_a_crash_loop_is_one_until_something_is_mended() -> None:
    ends = tuple(1000.0 - number for number in reversed(range(LOOP)))
    looping = DomainFact(running=False, ended="exit", exit_code=1, ended_at=1000.0, crashes=ends)
    same = replace(looping, recipe=guest_of(machine()).recipe)
    low = lower(here(machine(), facts(FACTS, domains={GUEST: same})))
    assert low.problem is not None
    assert low.problem.reason is Reason.CRASH_LOOP
    assert low.whole
    assert not guest_of(machine(), facts(FACTS, domains={GUEST: same})).running
    assert guest_of(machine(), facts(FACTS, domains={GUEST: replace(looping, recipe="another")})).running
    due = facts(FACTS, now=1100.0, domains={GUEST: same})
    assert guest_of(machine(), due).running, "it is tried again"
    again = replace(same, running=True, started_at=1100.0, runs=guest_of(machine(), due))
    low = lower(here(machine(), facts(due, now=1101.0, domains={GUEST: again})))
    assert low.problem is not None
    assert low.problem.reason is Reason.CRASH_LOOP
    assert guest_of(machine(), facts(due, now=1101.0, domains={GUEST: again})).running, "and is left running"


@pytest.mark.parametrize(("created", "told"), [("1970-01-01T00:10:00Z", True), ("1970-01-01T00:20:00Z", False), ("", True)])
def test_a_pull_is_told_to_machines_that_waited_for_it(created: str, told: bool) -> None:
    image = replace(IMAGE, pulled=Pulled(at=900.0, seconds=3.2, size=5 << 20))
    asked = machine()
    asked = asked.model_copy(update={"metadata": asked.metadata.model_copy(update={"creation_timestamp": created})})
    known = facts(FACTS, images={"oci://r/i:1": image}, domains={GUEST: DomainFact(running=True, because="a\x1b[31mb")})
    said = report(here(asked, known), lower(here(asked, known)), Outcome()).state
    assert said is not None
    assert said.image_pull == (ImagePull(seconds=4, size=5 << 20) if told else None)
    assert said.started_because == "a\ufffd[31mb"


def test_its_mode_is_that_of_what_runs() -> None:
    wanted = guest_of(machine())
    disk = DiskBoot(root=wanted.boot.root, config=wanted.boot.config, config_digest="d")
    for boot, mode, outdated in ((wanted.boot, "container", False), (disk, "vm", True)):
        runs = replace(wanted, running=True, boot=boot)
        known = facts(FACTS, domains={GUEST: DomainFact(running=True, booted=True, image="sha256:1", runs=runs)})
        said = report(here(machine(), known), lower(here(machine(), known)), Outcome())
        assert said.state is not None
        assert said.state.mode == mode
        assert [found.message.split(" changed")[0] for found in said.conditions if found.type == "RestartRequired"] == (
            ["image"] if outdated else []
        )


def test_shares_are_a_field_of_their_own() -> None:
    disks = (GuestMount(serial="a", path="/a"), GuestMount(serial="b", path="/s/b"))
    plain = GuestConfig(hostname="vm", argv=("x",), mounts=disks)
    given = replace(plain, mounts=(disks[0], GuestShareMount(tag="s", path="/s"), disks[1]))
    before, after = dict(fields_of(plain, ())), dict(fields_of(given, ()))
    assert set(after) == {*before, "filesystems"}
    assert {field: after[field] for field in before} == before
    lines = [line for line in given.render().splitlines() if line.startswith(("disk", "share"))]
    assert lines == ["disk a btrfs /a", "share s /s rw", "disk b btrfs /s/b"]


def test_a_configuration_that_is_too_large_touches_nothing() -> None:
    runs = facts(FACTS, domains={GUEST: DomainFact(running=True, booted=True, image="sha256:1")})
    low = lower(here(machine(env={"A": "x" * LIMIT}), runs))
    assert not low.whole
    assert [item.key for item in low.items] == ["image/oci://r/i:1"]
    said = report(here(machine(), runs), low, Outcome())
    assert said.verdict.reason is Reason.INVALID_SPEC
    assert said.verdict.message.endswith("make them smaller; the machine runs on with what it was started with")
    assert said.state is not None
    assert (said.state.state, said.state.image_digest) == ("Running", "sha256:1")


@pytest.mark.parametrize(
    ("asked", "reason", "said"),
    [
        ({"maintenance": True}, Reason.NODE_MAINTENANCE, "its node is under maintenance: it is being stopped"),
        ({"run_policy": RunPolicy.HALTED}, Reason.PROGRESSING, "the guest is being stopped"),
    ],
)
def test_to_stop_needs_nothing_that_can_be_missing(asked: dict[str, object], reason: Reason, said: str) -> None:
    runs = replace(guest_of(machine()), running=True, incarnation="earlier")
    up = DomainFact(running=True, booted=True, image="sha256:1", runs=runs)
    for known in (
        facts(now=1000.0, domains={GUEST: up}),  # no image, nor a word of one
        facts(FACTS, unknown={"image": "the image driver has not answered"}, domains={GUEST: up}),
        facts(FACTS, unknown={"disk": "not looked at yet"}, domains={GUEST: up}),
    ):
        low = lower(here(machine(disks=disks("/a"), **asked), known))
        (stopped,) = [item for item in low.items if isinstance(item, Domain)]
        if not low.whole:
            assert low.certain == {stopped.key}
            assert stopped == replace(runs, running=False)
        assert not stopped.running
        assert stopped.needs == ()
        verdict = report(here(machine(**asked), known), low, Outcome()).verdict
        assert (verdict.ready, verdict.reason) == (False, reason)
        assert verdict.message.startswith(said)
        off = facts(known, domains={GUEST: replace(up, running=False, booted=False, ended="stopped", runs=None)})
        assert not [item for item in lower(here(machine(**asked), off)).items if isinstance(item, Domain) and item.running]
    unseen = facts(unknown={"domain": "libvirt is away"}, now=1000.0)
    assert not lower(here(machine(**asked), unseen)).certain, "nobody knows whether it runs"


def test_a_root_that_was_written_to_is_never_made_empty() -> None:
    def root(facts: Facts) -> Disk:
        (found,) = [item for item in lower(here(machine(), facts)).items if isinstance(item, Disk)]
        return found

    assert not root(FACTS).must_exist
    for fact, written in (
        (DomainFact(running=False), False),  # it has a definition, and never ran
        (DomainFact(running=True, started_at=900.0), True),
        (DomainFact(running=False, started_at=900.0, ended="stopped"), True),
    ):
        assert root(facts(FACTS, domains={GUEST: fact})).must_exist == written


@pytest.mark.parametrize("character", ["x", " ", "é", "\n"])
def test_what_a_program_may_be_started_with_is_little_enough_for_the_guest(character: str) -> None:
    most = 2**19 // len(character.encode())
    words = tuple(character * (4096 // len(character.encode())) for _ in range(256))
    low = lower(here(machine(env={"A": character * most}, entrypoint=("/bin/app", *words[1:])), FACTS))
    assert low.whole


def disks(*paths: str) -> tuple[DiskOnNode, ...]:
    return tuple(DiskOnNode(name=f"d{n}", mount_uid=f"u{n}", mount_path=path) for n, path in enumerate(paths))


def mounted(*paths: str, facts: Facts = FACTS) -> list[str]:
    """The disks' paths as the guest is told them."""
    (config,) = [item for item in lower(here(machine(disks=disks(*paths)), facts)).items if isinstance(item, File)]
    return [unquote(line.split(" ")[3]) for line in config.content.splitlines() if line.startswith("disk ")]


def test_a_disk_inside_another_is_mounted_after_it() -> None:
    assert mounted("/data/sub/deep", "/z", "/data/sub", "/data") == ["/data", "/data/sub", "/data/sub/deep", "/z"]
    assert mounted("/b/long/one", "/a", "/bb", "/b") == ["/b", "/b/long/one", "/a", "/bb"]


LINKED = facts(
    FACTS,
    images={"oci://r/i:1": replace(IMAGE, links={"/var/run": "/run", "/loop": "loop", "/app": "usr/bin", "/up": ".."})},
)


def test_where_a_disk_is_goes_by_the_images_links() -> None:
    assert mounted("/var/run/app", "/run") == ["/var/run/app", "/run"]
    assert mounted("/var/run/app", "/run", facts=LINKED) == ["/run", "/var/run/app"]
    assert mounted("/loop/a", "/loop", facts=LINKED) == ["/loop", "/loop/a"]


@pytest.mark.parametrize(("path", "place"), [("/app", "/usr/bin"), ("/up", "/"), ("/up/proc/x", "/proc/x")])
def test_a_disk_that_would_hide_what_the_machine_needs_is_refused(path: str, place: str) -> None:
    low = lower(here(machine(disks=disks("/data", path)), LINKED))
    assert not low.whole
    assert low.problem is not None
    assert f"disk {path} can't be mounted: by the image's links it is {place};" in low.problem.message
    assert lower(here(machine(disks=disks("/data", path)), FACTS)).whole


def test_two_disks_at_one_place_are_refused() -> None:
    low = lower(here(machine(disks=disks("/var/run/app", "/data", "/run/app")), LINKED))
    assert not low.whole
    assert low.problem is not None
    assert low.problem.reason is Reason.INVALID_SPEC
    assert (
        "disks /var/run/app and /run/app would hide each other: by the image's links both are /run/app" in low.problem.message
    )


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts)), unique=True))
def test_disks_are_mounted_each_once_and_outer_ones_first(paths: list[str]) -> None:
    found = mounted(*paths)
    assert sorted(found) == sorted(paths)
    for inner in paths:
        for outer in paths:
            if inner.startswith(f"{outer}/"):
                assert found.index(outer) < found.index(inner)
    if not any(inner.startswith(f"{outer}/") for inner in paths for outer in paths):
        assert found == paths


def test_anything_that_it_is_started_with_otherwise_is_another_chance_and_nothing_else_is() -> None:
    """Of a guest in a crash loop."""
    ends = tuple(1000.0 - number for number in reversed(range(LOOP)))
    looping = DomainFact(running=False, ended="exit", exit_code=1, ended_at=1000.0, crashes=ends)
    tried = facts(FACTS, domains={GUEST: replace(looping, recipe=guest_of(machine()).recipe)})
    part = machine().part(MachineOnNode)
    assert part is not None
    for change in ({"cpu": 2}, {"memory": 2**29}, {"env": {"A": "b"}}, {"entrypoint": ("/bin/other",)}):
        other = machine().model_copy(
            update={"spec": KINDS.workload.asking(machine().spec.owner, part.model_copy(update=change))}
        )
        assert guest_of(other, tried).running, change
    assert not guest_of(machine(), tried).running
    unknown = facts(FACTS, domains={GUEST: replace(looping, recipe="")})  # what it was tried with last is not known
    assert not guest_of(machine(), unknown).running


@pytest.mark.parametrize(
    ("cpu", "memory", "root"),
    [(1, 2**33 - 1, 500), (1, 2**33, 2048), (4, 2**31, 2048), (3, 2**31, 500)],
)
def test_the_smallest_root_is_larger_for_large_machines(cpu: int, memory: int, root: int) -> None:
    """As the CRD has it, which says so to users."""
    assert minimum_root_size(cpu, memory) == root * 2**20


def test_a_virtual_machine_that_crashes_is_in_a_loop_as_a_container_is() -> None:
    """One that was switched off from inside has ended well, with the exit code 0 that its node gives it."""
    boots = machine(disks=disks("/"))
    disk = DiskFact(size=2**30, written=Written(image="sha256:1", ref="oci://r/i:1", firmware="bios"))
    known = facts(FACTS, disks={names.kept("mount", "u0"): disk})
    guest = guest_of(boots, known)
    assert isinstance(guest.boot, DiskBoot)
    crashed = DomainFact(running=False, ended="crash", ended_at=1000.0, crashes=(1000.0,), recipe=guest.recipe)
    low = lower(here(boots, facts(known, domains={GUEST: crashed})))
    assert low.problem is not None
    assert low.problem.message.startswith("the guest died; starting again in")
    loop = replace(crashed, crashes=tuple(1000.0 - number for number in reversed(range(LOOP))))
    low = lower(here(boots, facts(known, domains={GUEST: loop})))
    assert low.problem is not None
    assert (low.problem.reason, low.wake_at is not None) == (Reason.CRASH_LOOP, True)
    off = replace(crashed, ended="exit", exit_code=0)
    for policy, runs in ((RunPolicy.ALWAYS, True), (RunPolicy.ON_FAILURE, False), (RunPolicy.ONCE, False)):
        asked = machine(disks=disks("/"), run_policy=policy)
        assert guest_of(asked, facts(known, now=1100.0, domains={GUEST: off})).running is runs
