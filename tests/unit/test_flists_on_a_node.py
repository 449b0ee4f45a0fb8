"""What machines that share an flist want of their node, and what goes when they do."""

from __future__ import annotations

from dataclasses import replace

from known import facts
from zos.agent.lowering import Lowering
from zos.api import names
from zos.api.meta import Meta
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.kinds.registry import KINDS
from zos.kinds.zmachine.flist import without_credentials
from zos.kinds.zmachine.part import MachineOnNode
from zos.plan.diff import Observed, Op, diff
from zos.plan.facts import FlistFact, ImageFact, ServiceFact
from zos.plan.items import Domain, Fence, Item, Service
from zos.plan.order import schedule
from zos.plan.ownership import spared

FLIST = FlistFact(digest="sha256:1", file="/i/image.fl", mount="/i/rootfs", blocks="/b", size=1)
#: One flist by two names, and another one.
IMAGES = ("https://a/1.fl", "https://b/1.fl", "https://a/2.fl")
SERVICE = names.flist("sha256:1")
FACTS = facts(
    now=1000.0,
    images={
        image: ImageFact(digest=f"sha256:{number}", entrypoint=("/bin/app",))
        for image, number in zip(IMAGES, "112", strict=True)
    },
    flists={IMAGES[0]: FLIST, IMAGES[1]: FLIST, IMAGES[2]: replace(FLIST, digest="sha256:2", mount="/j/rootfs")},
    services={names.flist(f"sha256:{number}"): ServiceFact(up=True, ready=True, since=1.0) for number in "12"},
)


def machine(name: str, image: str) -> NodeWorkload:
    part = MachineOnNode(hostname=name, image=image, cpu=1, memory=2**28, root_size=2**29)
    owner = Owner(kind="ZMachine", namespace="default", name=name, uid=f"uid-{name}")
    return KINDS.workload(metadata=Meta(name=name, uid=f"w-{name}"), spec=KINDS.workload.asking(owner, part))


def wanted(*machines: NodeWorkload) -> dict[str, Item]:
    plan = Lowering(KINDS.on_node).lower({one.name: one for one in machines}, FACTS)
    assert plan.refused == {}
    assert plan.whole == {one.name for one in machines}
    return dict(plan.wanted)


def seen(items: dict[str, Item]) -> dict[str, Observed]:
    return {key: Observed(key, item, item.owner, shared=item.shared) for key, item in items.items()}


def removed(there: dict[str, Observed], *machines: NodeWorkload) -> dict[str, Op]:
    ops, _ = spared(diff(wanted(*machines).values(), there), there)
    return {op.key: op for op in ops if op.verb == "remove"}


def test_machines_with_the_same_flist_share_who_mounts_it() -> None:
    one, two, other = (machine(name, image) for name, image in zip(("a", "b", "other"), IMAGES, strict=True))
    items = wanted(one, two, other)
    assert sum(isinstance(item, Service) for item in items.values()) == 2
    assert sum(isinstance(item, Fence) for item in items.values()) == 1
    domains = [item for item in items.values() if isinstance(item, Domain)]
    assert [f"service/{SERVICE}" in domain.needs for domain in domains] == [True, True, False]
    # The last one takes it along, after its guest, and the fence after all.
    there = seen(items)
    assert f"service/{SERVICE}" not in removed(there, two, other)
    gone = removed(there, other)
    assert f"service/{SERVICE}" in gone
    assert "fence/flists" not in gone
    order = schedule(gone.values(), {}, there).after
    assert domains[0].key in order[f"service/{SERVICE}"]
    order = schedule(removed(there).values(), {}, there).after
    assert f"service/{SERVICE}" in order["fence/flists"]


def test_it_stays_as_long_as_a_guest_has_it_whatever_is_wanted() -> None:
    items = wanted(machine("one", IMAGES[0]))
    there = seen(items)
    (domain,) = [item for item in items.values() if isinstance(item, Domain)]
    # Its NodeWorkload went without a word: what it has stays, and nothing of it is wanted.
    ops, kept = spared(diff([], there, kept=lambda owner: bool(owner)), there)
    assert not ops
    assert kept == {f"service/{SERVICE}": domain.key, "fence/flists": f"service/{SERVICE}"}
    # It is to run with another image when it is started again.
    changed = wanted(machine("one", IMAGES[2]))
    runs = changed[domain.key]
    assert isinstance(runs, Domain)
    there[domain.key] = Observed(domain.key, replace(runs, runs_on="sha256:1"), "one")
    assert f"service/{SERVICE}" not in removed(there, machine("one", IMAGES[2]))
    there[domain.key] = Observed(domain.key, runs, "one")
    assert f"service/{SERVICE}" in removed(there, machine("one", IMAGES[2]))


def test_nobody_reads_credentials_in_a_condition() -> None:
    assert without_credentials("https://who:secret@hub:8443/a.fl#sha256:1") == "https://hub:8443/a.fl#sha256:1"
    assert without_credentials("https://[") == "the image"
