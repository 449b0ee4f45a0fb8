"""Drills: what a cluster and its nodes can lose without anybody having asked for anything to go. No byte is lost, no guest is
stopped, and status says what happened.

The real controller and real agents over a real API server; nodes are dicts that remember what was taken away from them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from apiserver import CRDS, ApiServer, running
from simulated import sweep, until
from torturelib.simulated import Journal
from zos.api.contract import Claim, Contract
from zos.api.core import Namespace, Secret
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import ABANDON, Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload, Part
from zos.api.publicip import PublicIP
from zos.api.resources import Resources
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kinds.kind import OnNode, Report
from zos.kinds.registry import KINDS
from zos.kube.client import ApiError, NotFound
from zos.manifests.crd import manifest as definition
from zos.plan.items import Disk, Domain, Firewall
from zos.plan.lowered import Lowered
from zos.simulation import Grid, manifest
from zos.simulation import grid as simulated
from zos.world.resolution import ready

OURS: tuple[type[Object], ...] = (Network, ZMount, ZMachine)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One whose namespaces really go when they are deleted."""
    with running(tmp_path_factory.mktemp("truth")) as made:
        made.kubectl("create", "namespace", "zos-system")
        made.start_controllers("namespace-controller", "garbage-collector-controller", "resourcequota-controller")
        yield made


@dataclass
class Standing:
    """A node with a network, a laptop, a disk and a machine that uses it; all of them Ready."""

    grid: Grid
    server: ApiServer
    journal: Journal
    namespace: str = "default"

    async def get(self, model: type[Object], name: str) -> Any:
        raw = await self.grid.client.get(model, self.namespace if model.NAMESPACED else "", name)
        return raw and model.model_validate(raw)

    async def make(self) -> None:
        await self.create(Network, "net", ipRange="10.20.0.0/16", nodes=[{"name": "n"}], access=[{"name": "laptop"}])
        await self.create(ZMount, "data", size="1Gi")
        disks = [{"name": "data", "mountPath": "/data"}]
        await self.create(ZMachine, "web", image="oci://r/i:t", network={"name": "net"}, disks=disks)
        for model, name in ((Network, "net"), (ZMount, "data"), (ZMachine, "web")):
            await self.ready(model, name)
        self.journal.removed.clear()

    async def create(self, model: type[Object], name: str, **spec: object) -> None:
        await self.grid.client.create(model, self.namespace, manifest(model.KIND, name, spec, self.namespace))

    async def ready(self, model: type[Object], name: str, seconds: float = 30) -> Any:
        last: Any = None

        async def look() -> bool:
            nonlocal last
            last = await self.get(model, name)
            condition = last and last.status.condition("Ready")
            return bool(condition and condition.status == "True")

        await until(look, seconds, lambda: f"{model.KIND} {name} is not ready: {last and last.status.conditions}")
        return last

    async def says(self, model: type[Object], name: str, reason: str, words: str = "", seconds: float = 30) -> Any:
        last: Any = None

        async def look() -> bool:
            nonlocal last
            last = await self.get(model, name)
            condition = last and last.status.condition("Ready")
            return bool(condition and condition.reason == reason and words in condition.message)

        await until(look, seconds, lambda: f"{model.KIND} {name} says: {last and last.status.conditions}")
        return last

    async def gone(self, model: type[Object], name: str, seconds: float = 30) -> None:
        async def look() -> bool:
            return await self.get(model, name) is None

        await until(look, seconds)

    def has(self, kind: type) -> set[str]:
        return {key for key, item in self.journal.items() if isinstance(item, kind)}

    def untouched(self) -> None:
        """Nothing that holds data went, and no guest was stopped."""
        taken = [key for key in self.journal.removed if not key.startswith("image/")]
        assert taken == [], "nobody has said that it may go"
        assert self.has(Disk)
        assert all(item.running for item in self.journal.values() if isinstance(item, Domain))

    async def allocated(self, right: Callable[[Resources], bool] = lambda _: True) -> Resources:
        """What the node's status sums up of what is held; it is written a moment after that."""
        node: Any = None

        async def look() -> bool:
            nonlocal node
            node = await self.get(GridNode, "n")
            told = node.status.allocated
            return bool(told == node.allocated(node.status.holds) and right(told))

        await until(look, told=lambda: f"{node.status.allocated} of {node.status.holds} and {node.status.quarantine}")
        return Resources.model_validate(node.status.allocated)

    async def quarantine(self) -> dict[str, Any]:
        node = await self.get(GridNode, "n")
        return {f"{left.kind} {left.name}": left for left in node.status.quarantine} if node is not None else {}

    async def quarantined(self, *wanted: str, seconds: float = 20) -> dict[str, Any]:
        left: dict[str, Any] = {}

        async def look() -> bool:
            nonlocal left
            left = await self.quarantine()
            return left.keys() >= set(wanted)

        await until(look, seconds, lambda: f"in quarantine: {left}, not {wanted}")
        return left


@pytest.fixture
async def standing(server: ApiServer, tmp_path: Path) -> AsyncIterator[Standing]:
    async with simulated(server.kubeconfig, tmp_path) as grid:
        grid.heartbeat, grid.lease = 0.5, 3
        async with grid.controller():
            await grid.node("n", ipv4="198.51.100.1")
            journal = grid.nodes["n"].things = Journal()
            made = Standing(grid, server, journal)
            await made.ready(GridNode, "n")
            await made.make()
            yield made
        await sweep(grid.client)


async def workloads(standing: Standing) -> list[NodeWorkload]:
    raw = await standing.grid.client.objects(NodeWorkload, "zos-node-n")
    return [KINDS.workload.model_validate(one) for one in raw]


async def test_workloads_that_somebody_deletes_come_back_and_find_everything(standing: Standing) -> None:
    before = {workload.name: workload.uid for workload in await workloads(standing)}
    assert len(before) == 3
    for name in before:
        await standing.grid.client.delete(NodeWorkload, "zos-node-n", name)

    async def anew() -> bool:
        now = {workload.name: workload.uid for workload in await workloads(standing)}
        return now.keys() == before.keys() and not set(now.values()) & set(before.values())

    await until(anew)
    for model, name in ((Network, "net"), (ZMount, "data"), (ZMachine, "web")):
        await standing.ready(model, name)
    standing.untouched()

    async def empty() -> bool:
        return not await standing.quarantine()

    await until(empty)


async def test_what_its_user_deletes_is_erased(standing: Standing) -> None:
    for model, name in ((ZMachine, "web"), (ZMount, "data"), (Network, "net")):
        await standing.grid.client.delete(model, standing.namespace, name)
        await standing.gone(model, name)
    assert all(key.startswith(("sysctl/", "image/")) for key in standing.journal), standing.journal.keys()
    assert await standing.quarantine() == {}


async def test_a_tenant_who_deletes_his_namespace_has_spoken(standing: Standing) -> None:
    await standing.grid.client.request("POST", "/api/v1/namespaces", body={"metadata": {"name": "tenant"}})
    tenant = Standing(standing.grid, standing.server, standing.journal, "tenant")
    kept = standing.has(Disk)
    await tenant.make()
    assert len(standing.has(Disk)) == 2 * len(kept)
    await standing.grid.client.delete(Namespace, "", "tenant")
    await standing.gone(Namespace, "tenant", 60)
    assert standing.has(Disk) == kept
    assert await standing.quarantine() == {}


async def test_data_that_is_to_be_retained_waits_for_an_administrator(standing: Standing) -> None:
    client = standing.grid.client
    for model, name in ((ZMachine, "web"), (ZMount, "data")):
        await client.patch(model, standing.namespace, name, {"spec": {"deletionPolicy": "Retain"}})
    old = {name: (await standing.get(model, name)).uid for model, name in ((ZMachine, "web"), (ZMount, "data"))}
    for model, name in ((ZMachine, "web"), (ZMount, "data")):
        await client.delete(model, standing.namespace, name)
        await standing.gone(model, name)
    left = await standing.quarantined("ZMachine web", "ZMount data")
    assert {name.split()[1]: entry.uid for name, entry in left.items()} == old
    assert not standing.has(Domain), "the machine itself was deleted"
    assert standing.has(Disk) == {f"disk/root-{old['web']}", f"disk/mount-{old['data']}"}
    storage = left["ZMachine web"].storage + left["ZMount data"].storage
    await standing.allocated(lambda told: told.storage == storage)
    await standing.create(ZMount, "data", size="1Gi")
    await standing.says(ZMount, "data", "Quarantined", old["data"])
    assert (await standing.get(ZMount, "data")).status.condition("Stalled") is not None
    recipient = {"kind": "ZMount", "namespace": standing.namespace, "name": "data"}
    orders = [{"uid": old["data"], "giveTo": recipient}, {"uid": old["web"], "discard": True}]
    await client.patch(GridNode, "", "n", {"spec": {"quarantine": orders}})
    mount = await standing.ready(ZMount, "data")

    async def done() -> bool:
        return standing.has(Disk) == {f"disk/mount-{mount.uid}"} and not await standing.quarantine()

    await until(done)
    await client.patch(GridNode, "", "n", {"spec": {"quarantine": []}})
    await client.delete(ZMount, standing.namespace, "data")
    await standing.gone(ZMount, "data")
    assert not standing.has(Disk)


@pytest.mark.parametrize("how", ["deleted", "by force", "replaced"])
async def test_a_gridnode_that_goes_takes_nothing_along(standing: Standing, how: str) -> None:
    client = standing.grid.client
    old = await standing.get(GridNode, "n")
    key = (await standing.get(Secret, "net-laptop-wireguard")).text("privateKey")
    await client.delete(GridNode, "", "n")
    await standing.says(GridNode, "n", "DeletionBlocked", "ZMachine default/web")
    standing.untouched()
    if how == "deleted":
        await standing.ready(ZMachine, "web")
        await client.patch(GridNode, "", "n", {"metadata": {"finalizers": None}})
    else:
        await client.patch(GridNode, "", "n", {"metadata": {"finalizers": None}})
        if how == "by force":
            await standing.says(ZMachine, "web", "NodeRemoved", "apply its GridNode again")
            await standing.says(ZMount, "data", "NodeRemoved")
    await standing.gone(GridNode, "n")
    standing.untouched()
    spec = {"endpoint": {"ipv4": "198.51.100.1"}}
    await client.create(GridNode, "", manifest("GridNode", "n", spec))
    await standing.ready(GridNode, "n")
    for model, name in ((Network, "net"), (ZMount, "data"), (ZMachine, "web")):
        await standing.ready(model, name)
    standing.untouched()

    async def held() -> bool:
        node = await standing.get(GridNode, "n")
        return node.uid != old.uid and {h.owner for h in node.status.holds} == {h.owner for h in old.status.holds}

    await until(held)
    node = await standing.get(GridNode, "n")
    ports = {hold.listen_port for hold in node.status.holds if hold.listen_port}
    assert ports == {hold.listen_port for hold in old.status.holds if hold.listen_port}
    assert (await standing.get(Secret, "net-laptop-wireguard")).text("privateKey") == key

    async def taken_up() -> bool:
        return await standing.quarantine() == {}

    await until(taken_up)


async def test_a_node_that_is_given_up_leaves_and_its_users_are_told(standing: Standing) -> None:
    client = standing.grid.client
    node = await standing.get(GridNode, "n")
    await standing.grid.stop_agent("n")
    mount = await standing.get(ZMount, "data")
    await client.delete(ZMachine, standing.namespace, "web")
    await client.delete(GridNode, "", "n")
    await client.patch(GridNode, "", "n", {"metadata": {"annotations": {ABANDON: node.uid}}})
    await standing.gone(GridNode, "n")
    await standing.says(ZMount, "data", "NodeRemoved")
    # What was to be erased stays recorded for the node's return.
    left = {workload.spec.owner.name: workload.spec.erase for workload in await workloads(standing)}
    assert set(left) == {"web"}
    assert left["web"]
    standing.untouched()
    await client.create(GridNode, "", manifest("GridNode", "n", {"endpoint": {"ipv4": "198.51.100.1"}}))
    standing.grid.start_agent("n")
    await standing.gone(ZMachine, "web")
    await standing.ready(ZMount, "data")
    assert standing.has(Disk) == {f"disk/mount-{mount.uid}"}


async def test_what_comes_back_to_a_nearly_full_node_is_not_in_its_own_way(standing: Standing) -> None:
    client = standing.grid.client
    held = await standing.allocated()
    await standing.grid.stop_agent("n")
    node = await standing.get(GridNode, "n")
    await client.delete(GridNode, "", "n")
    await client.patch(GridNode, "", "n", {"metadata": {"annotations": {ABANDON: node.uid}}})
    await standing.gone(GridNode, "n")
    await standing.says(ZMachine, "web", "NodeRemoved")
    await client.create(GridNode, "", manifest("GridNode", "n", {"endpoint": {"ipv4": "198.51.100.1"}}))
    standing.grid.start_agent("n", cpu=held.cpu, memory=held.memory + 2**26, storage=held.storage + 2**26)
    for model, name in ((ZMount, "data"), (ZMachine, "web")):
        await standing.ready(model, name)
    await standing.allocated(lambda told: told == held)
    standing.untouched()


async def test_a_deletion_on_a_node_that_never_comes_back_can_be_given_up(standing: Standing) -> None:
    client = standing.grid.client
    await standing.grid.stop_agent("n")
    machine = await standing.get(ZMachine, "web")
    await client.delete(ZMachine, standing.namespace, "web")
    said = await standing.says(ZMachine, "web", "DeletionBlocked", f"{ABANDON}={machine.uid}", 60)
    assert "does not answer" in said.status.condition("Ready").message
    await client.patch(ZMachine, standing.namespace, "web", {"metadata": {"annotations": {ABANDON: machine.uid}}})
    await standing.gone(ZMachine, "web")
    standing.untouched()
    standing.grid.start_agent("n")

    async def erased() -> bool:
        return not standing.has(Domain) and f"disk/root-{machine.uid}" not in standing.journal

    await until(erased)


async def test_a_nodes_namespace_is_made_anew(standing: Standing) -> None:
    before = await standing.get(Namespace, "zos-node-n")
    await standing.grid.client.delete(Namespace, "", "zos-node-n")

    async def anew() -> bool:
        now = await standing.get(Namespace, "zos-node-n")
        return now is not None and now.uid != before.uid

    await until(anew, 60)
    for model, name in ((Network, "net"), (ZMount, "data"), (ZMachine, "web")):
        await standing.ready(model, name, 60)
    standing.untouched()
    accounts = await asyncio.to_thread(
        standing.server.kubectl, "get", "serviceaccount,rolebinding", "-n", "zos-node-n", "-o", "name"
    )
    assert {name.split("/")[1] for name in accounts.split()} >= {"agent", "zos-agent", "zos-agent-token"}


@pytest.mark.parametrize("model", list(KINDS.models), ids=lambda model: model.PLURAL)
async def test_a_kind_that_is_deleted_takes_nothing_along(standing: Standing, model: type[Object]) -> None:
    """Nobody's word: what it was about stays on the node, and an object of the same name does not come up empty."""
    key = (await standing.get(Secret, "net-laptop-wireguard")).text("privateKey")
    old = {one: (await standing.get(one, name)).uid for one, name in ((Network, "net"), (ZMount, "data"), (ZMachine, "web"))}
    await made_anew(standing, model)
    if model is GridNode:
        await persist(standing, GridNode, "n", endpoint={"ipv4": "198.51.100.1"})
    elif model is ZMount:
        await standing.quarantined("ZMount data")
        await persist(standing, ZMount, "data", size="1Gi")
        await standing.says(ZMount, "data", "Quarantined", old[ZMount])
    elif model is ZMachine:
        left = await standing.quarantined("ZMachine web")
        assert left["ZMachine web"].running
        await persist(standing, ZMachine, "web", image="oci://r/i:t", network={"name": "net"})
        await standing.says(ZMachine, "web", "Quarantined", old[ZMachine])
    elif model is Network:
        await persist(standing, Network, "net", ipRange="10.20.0.0/16", nodes=[{"name": "n"}], access=[{"name": "laptop"}])
        await standing.ready(Network, "net", 40)
    else:
        assert (await standing.get(Secret, "net-laptop-wireguard")).text("privateKey") == key
    if model not in OURS:
        for one, name in ((Network, "net"), (ZMount, "data"), (ZMachine, "web")):
            await standing.ready(one, name, 40)
            assert (await standing.get(one, name)).uid == old[one]
    standing.untouched()


async def made_anew(standing: Standing, model: type[Object]) -> None:
    """A kind is deleted, and applied again."""
    file, kubectl = CRDS / f"{model.PLURAL}.zos.grid.tf.yaml", standing.server.kubectl
    await asyncio.to_thread(kubectl, "delete", "-f", str(file), "--timeout=60s")
    standing.untouched()
    await asyncio.to_thread(standing.server.define, file)


async def persist(standing: Standing, model: type[Object], name: str, **spec: object) -> None:
    """Creates an object of a kind that may not be served yet."""
    place = standing.namespace if model.NAMESPACED else ""

    async def made() -> bool:
        with contextlib.suppress(NotFound):
            await standing.grid.client.create(model, place, manifest(model.KIND, name, spec, place))
            return True
        return False

    await until(made, 20)


@pytest.fixture
async def public(standing: Standing) -> str:
    """A farm of two addresses; machine ``pub`` has PublicIP ``ip`` of Contract ``c``. Gives its address."""
    taken = [f"203.0.113.{number}" for number in (20, 21, 22)]
    ranges = [{"range": "203.0.113.16/29", "gateway": "203.0.113.17", "exclude": taken}]
    await standing.create(Farm, "lab", publicIPv4=ranges, allowNonGlobal=True)
    await standing.grid.client.patch(GridNode, "", "n", {"spec": {"farm": "lab", "publicInterface": "br0"}})
    await standing.create(Contract, "c", farm="lab", publicIPv4=1)
    await standing.create(PublicIP, "ip", contract="c", ipv6=False)
    await standing.create(ZMachine, "pub", image="oci://r/i:t", network={"name": "net"}, publicIP="ip")
    machine = await standing.ready(ZMachine, "pub")
    standing.journal.removed.clear()
    return str(machine.status.public_ipv4)


def senders(standing: Standing, address: str) -> set[str]:
    """Whose packets may leave with an address."""
    guards = (item for item in standing.journal.values() if isinstance(item, Firewall) and item.family == "bridge")
    return {guard.owner for guard in guards if f"ip saddr != {address} drop" in guard.body}


async def test_guests_in_quarantine_keep_their_addresses(standing: Standing, public: str) -> None:
    """The next machines get others, or wait for an administrator."""
    client = standing.grid.client
    old = {name: await standing.get(ZMachine, name) for name in ("web", "pub")}
    (owner,) = senders(standing, public)
    await made_anew(standing, ZMachine)
    left = await standing.quarantined("ZMachine web", "ZMachine pub")
    net = await standing.get(Network, "net")
    (nic,) = left["ZMachine web"].nics
    assert (nic.network_uid, nic.ipv4) == (net.uid, old["web"].status.ip)
    assert {(nic.network_uid, nic.ipv4) for nic in left["ZMachine pub"].nics} == {
        (net.uid, old["pub"].status.ip),
        (None, public),
    }
    assert {entry.uid for entry in net.status.addresses} == {machine.uid for machine in old.values()}
    await persist(standing, ZMachine, "private", image="oci://r/i:t", network={"name": "net"})
    await persist(standing, ZMachine, "next", image="oci://r/i:t", network={"name": "net"}, publicIP="ip")
    private = await standing.ready(ZMachine, "private")
    assert private.status.ip not in {machine.status.ip for machine in old.values()}
    await standing.says(ZMachine, "next", "Conflict", "spec.quarantine of GridNode n")
    await standing.says(PublicIP, "ip", "Quarantined", left["ZMachine pub"].uid)
    standing.untouched()
    assert senders(standing, public) == {owner}
    orders = [{"uid": machine.uid, "discard": True} for machine in old.values()]
    await client.patch(GridNode, "", "n", {"spec": {"quarantine": orders}})
    assert (await standing.ready(ZMachine, "next")).status.public_ipv4 == public
    assert len(senders(standing, public)) == 1
    await standing.ready(PublicIP, "ip")

    async def dropped() -> bool:
        return not {entry.uid for entry in (await standing.get(Network, "net")).status.addresses} & {*orders[0].values()}

    await until(dropped)


async def test_a_machine_that_is_given_back_has_the_address_that_it_names(standing: Standing) -> None:
    """The guest that had it ends first; the root in quarantine is waiting for whoever waits for its address."""
    address = (await standing.get(ZMachine, "web")).status.ip
    await made_anew(standing, ZMachine)
    left = await standing.quarantined("ZMachine web")
    await persist(standing, ZMachine, "web", image="oci://r/i:t", network={"name": "net", "ip": address})
    await standing.says(ZMachine, "web", "Quarantined", left["ZMachine web"].uid)
    order = {
        "uid": left["ZMachine web"].uid,
        "giveTo": {"kind": "ZMachine", "namespace": standing.namespace, "name": "web"},
    }
    await standing.grid.client.patch(GridNode, "", "n", {"spec": {"quarantine": [order]}})
    assert (await standing.ready(ZMachine, "web", 40)).status.ip == address


async def test_kinds_of_public_addresses_that_are_deleted_give_none_away(standing: Standing, public: str) -> None:
    """Somebody else is first in line when they are back, and asks for all that there is."""
    client = standing.grid.client
    await client.request("POST", "/api/v1/namespaces", body={"metadata": {"name": "other"}})
    other = Standing(standing.grid, standing.server, standing.journal, "other")
    (owner,) = senders(standing, public)
    await made_anew(standing, Contract)
    await persist(other, Contract, "theirs", farm="lab", publicIPv4=2)
    await other.says(Contract, "theirs", "InsufficientCapacity")
    await persist(standing, Contract, "c", farm="lab", publicIPv4=1)
    assert (await standing.ready(Contract, "c")).status.reserved == (public,)
    await standing.ready(PublicIP, "ip")
    (claim,) = [found for found in await client.objects(Claim) if found["spec"]["thing"] == public]
    assert claim["spec"]["holder"]["uid"] == (await standing.get(Contract, "c")).uid
    await made_anew(standing, PublicIP)
    await persist(standing, PublicIP, "another", contract="c", ipv6=False)
    await standing.says(PublicIP, "another", "InsufficientCapacity")
    assert senders(standing, public) == {owner}
    await persist(standing, PublicIP, "ip", contract="c", ipv6=False)
    assert (await standing.ready(PublicIP, "ip")).status.ipv4.address == f"{public}/29"
    machine = await standing.ready(ZMachine, "pub")
    assert machine.status.public_ipv4 == public
    assert senders(standing, public) == {owner}
    assert {item.running for item in standing.journal.values() if isinstance(item, Domain)} == {True}
    assert (await other.get(Contract, "theirs")).status.reserved == ()


async def test_an_address_stays_whose_guest_may_have_it(standing: Standing, public: str) -> None:
    """A machine that waits keeps what it runs with; one that was deleted does until its node has said that it is gone."""
    client = standing.grid.client
    (owner,) = senders(standing, public)
    await client.patch(ZMachine, "default", "pub", {"spec": {"publicIP": "mistyped"}})
    await standing.says(ZMachine, "pub", "DependencyNotReady", "mistyped")
    for model, name in ((PublicIP, "ip"), (Contract, "c")):
        await client.delete(model, "default", name)
    await standing.says(PublicIP, "ip", "DeletionBlocked", "remove publicIP from its spec")
    await standing.says(Contract, "c", "DeletionBlocked", "PublicIP ip")
    assert senders(standing, public) == {owner}
    await standing.grid.stop_agent("n")
    await client.patch(ZMachine, "default", "pub", {"spec": {"publicIP": None, "network": {"name": "mistyped"}}})
    await standing.says(PublicIP, "ip", "DeletionBlocked", "runs with it until it is restarted")
    machine = await standing.get(ZMachine, "pub")
    await client.patch(ZMachine, "default", "pub", {"metadata": {"annotations": {ABANDON: machine.uid}}})
    await client.delete(ZMachine, "default", "pub")
    await standing.gone(ZMachine, "pub")
    await asyncio.sleep(1)
    await standing.says(PublicIP, "ip", "DeletionBlocked")
    assert senders(standing, public) == {owner}
    standing.grid.start_agent("n")
    for model, name in ((PublicIP, "ip"), (Contract, "c")):
        await standing.gone(model, name)
    assert senders(standing, public) == set()


class Soon(Part):
    word: str


class Tomorrow(ZMount):
    KIND: ClassVar[str] = "Tomorrow"


async def test_objects_of_tomorrow_are_left_alone(standing: Standing) -> None:
    """A controller and definitions that were rolled back: what is not known is neither absent nor unwanted."""
    client, server = standing.grid.client, standing.server
    nobody = OnNode(Soon, None, lambda here: Lowered(), lambda *_: Report(ready()))
    newer = KINDS.plus(dataclasses.replace(KINDS["ZMount"], model=Tomorrow, node=nobody))
    await asyncio.to_thread(server.kubectl, "apply", "--server-side", "-f", "-", stdin=definition(newer.workload))
    owner = {"kind": "Tomorrow", "namespace": "default", "name": "thing", "uid": "uid-tomorrow"}
    body = {
        "apiVersion": "zos.grid.tf/v1alpha1",
        "kind": "NodeWorkload",
        "metadata": {"name": "tomorrow", "namespace": "zos-node-n"},
        "spec": {"owner": owner, "part": {"tomorrow": {"word": "later"}}},
    }

    async def taken() -> bool:
        try:
            return await client.create(NodeWorkload, "zos-node-n", body) is not None
        except ApiError:
            return False  # the new definition is not in effect yet

    await until(taken)

    async def said() -> bool:
        raw = await client.get(NodeWorkload, "zos-node-n", "tomorrow")
        return "does not know Tomorrow" in json.dumps(raw)

    await until(said)
    await asyncio.to_thread(server.kubectl, "apply", "--server-side", "-f", "-", stdin=definition(KINDS.workload))
    claim = {
        "apiVersion": "zos.grid.tf/v1alpha1",
        "kind": "Claim",
        "metadata": {"name": "tomorrow"},
        "spec": {"holder": owner, "thing": "something"},
    }
    await client.request("POST", "/apis/zos.grid.tf/v1alpha1/claims", body=claim)
    node = await standing.get(GridNode, "n")
    hold = {"uid": "uid-tomorrow", "owner": "Tomorrow default/thing", "storage": "1Gi"}
    holds = [*(json.loads(entry.model_dump_json(by_alias=True, exclude_none=True)) for entry in node.status.holds), hold]
    await client.patch(GridNode, "", "n", {"status": {"holds": holds}}, subresource="status")
    await standing.create(ZMount, "another", size="1Gi")
    await standing.ready(ZMount, "another")
    async with standing.grid.controller("another life"):
        pass
    node = await standing.get(GridNode, "n")
    assert "uid-tomorrow" in {entry.uid for entry in node.status.holds}
    workload = await client.get(NodeWorkload, "zos-node-n", "tomorrow")
    assert workload is not None
    assert "deletionTimestamp" not in workload["metadata"]
    assert workload["spec"]["owner"] == owner
    assert await client.request("GET", "/apis/zos.grid.tf/v1alpha1/claims/tomorrow")
    standing.untouched()


async def test_what_a_machine_of_tomorrow_uses_is_not_deleted_under_it(standing: Standing) -> None:
    """After an upgrade was rolled back: its runPolicy is a word that this controller does not know."""
    client, kubectl = standing.grid.client, standing.server.kubectl
    crd = json.loads(await asyncio.to_thread(kubectl, "get", "crd", "zmachines.zos.grid.tf", "-o", "json"))
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/runPolicy/enum"
    words = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["runPolicy"]["enum"]
    newer = json.dumps([{"op": "replace", "path": path, "value": [*words, "Tomorrow"]}])
    await asyncio.to_thread(kubectl, "patch", "crd", "zmachines.zos.grid.tf", "--type=json", "-p", newer)

    async def taken() -> bool:
        with contextlib.suppress(ApiError):
            await client.patch(ZMachine, "default", "web", {"spec": {"runPolicy": "Tomorrow"}})
            return True
        return False

    async def told() -> bool:
        web = await client.get(ZMachine, "default", "web")
        return "not understood: spec.runPolicy" in json.dumps(web)

    await until(taken, 20)
    await until(told, 20)
    await client.delete(ZMount, "default", "data")
    await standing.says(ZMount, "data", "DeletionBlocked", "can't be read")
    (guest,) = standing.has(Domain)
    standing.grid.nodes["n"].lose(guest)  # it crashed, and is started again

    async def again() -> bool:
        return standing.has(Domain) == {guest}

    await until(again, 20)
    standing.untouched()
    assert [workload.spec.erase for workload in await workloads(standing) if workload.spec.owner.kind == "ZMount"] == [None]
    await client.patch(ZMachine, "default", "web", {"spec": {"runPolicy": "Always"}})
    await asyncio.to_thread(
        kubectl, "apply", "--server-side", "--force-conflicts", "-f", str(CRDS / "zmachines.zos.grid.tf.yaml")
    )
    await standing.says(ZMount, "data", "DeletionBlocked", "ZMachine web")
    standing.untouched()


async def test_a_dead_node_with_an_old_agent_can_be_given_up(standing: Standing) -> None:
    client = standing.grid.client
    await standing.grid.stop_agent("n")
    await client.patch(GridNode, "", "n", {"status": {"agentVersion": "0.1.0"}}, subresource="status")
    node = await standing.get(GridNode, "n")
    await client.delete(GridNode, "", "n")
    await standing.says(GridNode, "n", "DeletionBlocked", "gives up what is there")
    await client.patch(GridNode, "", "n", {"metadata": {"annotations": {ABANDON: node.uid}}})
    await standing.gone(GridNode, "n")
    standing.untouched()


async def test_a_deletion_that_must_keep_data_waits_for_an_agent_that_can(standing: Standing) -> None:
    client = standing.grid.client
    await standing.grid.stop_agent("n")
    await client.patch(GridNode, "", "n", {"status": {"agentVersion": "0.1.0"}}, subresource="status")

    async def told() -> bool:
        node = await standing.get(GridNode, "n")
        return node.status.condition("AgentOutdated") is not None

    await until(told)
    file = CRDS / "zmounts.zos.grid.tf.yaml"
    await asyncio.to_thread(standing.server.kubectl, "delete", "-f", str(file), "--wait=false")
    await asyncio.sleep(1)
    assert {workload.spec.owner.kind for workload in await workloads(standing) if not workload.deleting} >= {"ZMount"}
    standing.untouched()
    standing.grid.start_agent("n")
    await standing.quarantined("ZMount data", seconds=40)
    await asyncio.to_thread(standing.server.kubectl, "wait", "--for=delete", "--timeout=60s", "-f", str(file))
    await asyncio.to_thread(standing.server.define, file)
    standing.untouched()


async def test_what_the_api_server_refuses_is_told_and_holds_up_nothing_else(standing: Standing) -> None:
    client = standing.grid.client
    await client.request("POST", "/api/v1/namespaces", body={"metadata": {"name": "poor"}})
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"count/secrets": "0", "count/events.events.k8s.io": "0"}}}
    await client.request("POST", "/api/v1/namespaces/poor/resourcequotas", body=quota)

    async def in_force() -> bool:
        found = await client.request("GET", "/api/v1/namespaces/poor/resourcequotas/q")
        return bool(found.get("status", {}).get("hard"))

    await until(in_force)
    poor = Standing(standing.grid, standing.server, standing.journal, "poor")
    await poor.create(Network, "net", ipRange="10.30.0.0/16", nodes=[{"name": "n"}], access=[{"name": "laptop"}])
    said = await poor.says(Network, "net", "Refused", "exceeded quota")
    assert "Secret net-laptop-wireguard" in said.status.condition("Stalled").message

    async def joined() -> bool:
        network = await poor.get(Network, "net")
        return [node.ready for node in network.status.nodes] == [True]

    await until(joined)
    await client.request("DELETE", "/api/v1/namespaces/poor/resourcequotas/q")
    await poor.ready(Network, "net", 70)
    assert await poor.get(Secret, "net-laptop-wireguard") is not None
    await client.delete(Network, "poor", "net")
    await poor.gone(Network, "net")
    await client.delete(Namespace, "", "poor")


@contextlib.asynccontextmanager
async def forbidden(standing: Standing, *expressions: str) -> AsyncIterator[None]:
    """A policy that takes statuses of Networks and GridNodes only where all ``expressions`` hold."""
    rule = {
        "apiGroups": ["zos.grid.tf"], "apiVersions": ["v1alpha1"], "operations": ["UPDATE"],
        "resources": ["networks/status", "gridnodes/status"],
    }  # fmt: skip
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": expression, "message": "not here"} for expression in expressions],
    }
    path, meta = "/apis/admissionregistration.k8s.io/v1", {"name": "picky"}
    client = standing.grid.client
    await client.request("POST", f"{path}/validatingadmissionpolicies", body={"metadata": meta, "spec": spec})
    binding = {"metadata": meta, "spec": {"policyName": "picky", "validationActions": ["Deny"]}}
    await client.request("POST", f"{path}/validatingadmissionpolicybindings", body=binding)

    async def in_force(wanted: bool) -> bool:
        try:
            await client.patch(Network, "default", "canary", {"status": {"relay": "unwelcome"}}, subresource="status")
        except ApiError as error:
            return wanted and error.permanent
        return not wanted

    try:
        await until(lambda: in_force(True))
        yield
    finally:
        for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            await client.request("DELETE", f"{path}/{kind}/picky")
        await until(lambda: in_force(False))


async def test_what_is_refused_of_a_pool_is_told_to_those_whose_it_is_and_holds_up_nobody_else(standing: Standing) -> None:
    """A network whose own status is refused, and a disk whose share of the node is, beside others that come with them."""
    client, writes = standing.grid.client, standing.grid.writes
    await standing.create(Network, "canary", ipRange="10.40.0.0/16")
    await standing.ready(Network, "canary")
    no_node = "object.metadata.name != 'unlucky' || object.status.?nodes.orValue([]).size() == 0"
    no_share = "object.kind != 'GridNode' || !object.status.?holds.orValue([]).exists(h, h.owner == 'ZMount default/unlucky')"
    no_relay = "object.kind != 'Network' || object.status.?relay.orValue('') != 'unwelcome'"
    async with forbidden(standing, no_node, no_share, no_relay):
        before = len(writes)
        await standing.create(Network, "unlucky", ipRange="10.41.0.0/16", nodes=[{"name": "n"}])
        disks = [standing.create(ZMount, name, size="256Mi", nodeName="n") for name in ("a", "unlucky", "b", "c")]
        await asyncio.gather(*disks, standing.create(ZMachine, "m", image="oci://r/i:t", network={"name": "unlucky"}))
        for name in "abc":
            await standing.ready(ZMount, name)
        for model in (Network, ZMount):
            said = await standing.says(model, "unlucky", "Refused", "not here")
            assert said.status.observed_generation == said.metadata.generation
            assert said.status.condition("Stalled")
        await standing.says(ZMachine, "m", "DependencyNotReady", "unlucky")
        await asyncio.sleep(4)
        refused = [kind for _, kind, _, status in writes[before:] if status == 422]
        assert 1 <= refused.count("Network") <= 6, refused
        assert 1 <= refused.count("GridNode") <= 12, refused
        assert (await standing.get(GridNode, "n")).status.condition("Ready").status == "True"
    for model, change in ((Network, {"mtu": 1400}), (ZMount, {"size": "257Mi"})):  # somebody's doing: tried at once
        await client.patch(model, "default", "unlucky", {"spec": change})
        await standing.ready(model, "unlucky")
    await standing.ready(ZMachine, "m")


async def test_names_that_nothing_can_have_are_told(standing: Standing) -> None:
    """They are in the cluster from before admission looked at them. Names that are too long for one are shortened."""
    server, client = standing.server, standing.grid.client
    file = CRDS / "networks.zos.grid.tf.yaml"
    lenient = yaml.safe_load(file.read_text())
    spec = lenient["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    for of, field in (("nodes", "name"), ("access", "node")):
        del spec[of]["items"]["properties"][field]["x-kubernetes-validations"]
    apply = ("apply", "--server-side", "--force-conflicts", "-f")
    await asyncio.to_thread(server.kubectl, *apply, "-", stdin=json.dumps(lenient))

    async def written() -> bool:
        access = [{"name": "laptop"}, {"name": "second", "node": "Node_1"}]
        with contextlib.suppress(ApiError):
            await client.patch(Network, "default", "net", {"spec": {"access": access}})
            await standing.create(Network, "typo", ipRange="10.42.0.0/16", nodes=[{"name": "n"}, {"name": "N2_typo"}])
            return True
        return False

    try:
        await until(written)
    finally:
        await asyncio.to_thread(server.kubectl, *apply, str(file))
    said = await standing.says(Network, "typo", "InvalidSpec", "N2_typo")
    assert [node.name for node in said.status.nodes] == ["n"]
    said = await standing.says(Network, "net", "InvalidSpec", "Node_1")
    assert [(entry.name, entry.node) for entry in said.status.access] == [("laptop", "n"), ("second", "n")]

    async def strict() -> bool:
        try:
            await client.patch(Network, "default", "typo", {"spec": {"relay": "N_3"}})
        except ApiError:
            return True
        return False

    async def said_anew() -> bool:
        network = await standing.get(Network, "typo")
        return bool(network.status.observed_generation == network.metadata.generation > before)

    await until(strict)
    before = (await standing.get(Network, "typo")).metadata.generation
    await client.patch(Network, "default", "typo", {"spec": {"mtu": 1400}})  # statuses are taken still, and other changes
    await until(said_anew)
    await standing.create(ZMachine, "m", image="oci://r/i:t", network={"name": "net"})
    await standing.ready(ZMachine, "m")
    long = "n" * 200
    await standing.create(Network, long, ipRange="10.43.0.0/16", nodes=[{"name": "n"}], access=[{"name": "l" * 60}])
    network = await standing.ready(Network, long)
    (laptop,) = network.status.access
    assert len(laptop.secret) == 253
    assert await standing.get(Secret, laptop.secret)


async def test_what_an_agent_says_is_left_over_keeps_nobody_from_what_is_his(standing: Standing) -> None:
    """A thief of the node's token shows more in quarantine than can be added up."""
    client = standing.grid.client
    await standing.grid.stop_agent("n")
    most = [{"uid": f"u{number}", "cpu": 2**31 - 1, "memory": "9999999999999999999Ei"} for number in range(2)]
    await client.patch(GridNode, "", "n", {"status": {"quarantine": most}}, subresource="status")
    await standing.says(GridNode, "n", "NodeUnreachable")
    before = len(standing.grid.writes)
    await standing.create(Network, "both", ipRange="10.50.0.0/16", nodes=[{"name": "n"}])

    async def seated() -> bool:
        network = await standing.get(Network, "both")
        return any(entry.public_key for entry in network.status.nodes)

    await until(seated)
    assert not [write for write in standing.grid.writes[before:] if write[3] == 422]
    await standing.allocated(lambda told: told.cpu == 2**31 - 1)


async def test_a_node_that_lost_its_keys_gets_others_by_itself(standing: Standing) -> None:
    client = standing.grid.client
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"word": "hush"}}
    await client.create(Secret, standing.namespace, secret)
    variable = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "word"}}}
    await standing.create(ZMachine, "other", image="oci://r/i:t", network={"name": "net"}, env=[variable])
    await standing.ready(ZMachine, "other")
    old = (await standing.get(Network, "net")).status.nodes[0].public_key
    sealed = (await standing.get(GridNode, "n")).status.sealing_key
    await standing.grid.stop_agent("n")
    keys = next(standing.grid.directory.glob("*/keys"))
    await asyncio.to_thread(shutil.rmtree, keys)
    standing.grid.start_agent("n")

    async def replaced() -> bool:
        network, node = await standing.get(Network, "net"), await standing.get(GridNode, "n")
        return network.status.nodes[0].public_key not in (old, None) and node.status.sealing_key != sealed

    await until(replaced)
    network = await standing.ready(Network, "net")
    await standing.ready(ZMachine, "other")
    new = network.status.nodes[0].public_key
    assert f"PublicKey = {new}" in (await standing.get(Secret, "net-laptop-wireguard")).text("wg0.conf")
    (machine,) = [w for w in await workloads(standing) if w.spec.owner.name == "other"]
    key = (await standing.get(GridNode, "n")).status.sealing_key
    assert machine.spec.secrets[0].source.endswith(f"@{key[:12]}")
    events = await client.request("GET", f"/api/v1/namespaces/{standing.namespace}/events")
    assert [event["reason"] for event in events["items"]].count("KeyReplaced") == 1
    standing.untouched()
    await client.delete(Secret, standing.namespace, "s")


@contextlib.asynccontextmanager
async def restorable(tmp_path: Path) -> AsyncIterator[tuple[ApiServer, Grid]]:
    """An API server of its own, whose state can be set back, and a grid on it."""
    with running(tmp_path / "restored") as server:
        server.kubectl("create", "namespace", "zos-system")
        async with simulated(server.kubeconfig, tmp_path) as grid:
            grid.heartbeat = 0.5
            yield server, grid


async def test_an_older_state_of_the_cluster_takes_nothing_along(tmp_path: Path) -> None:
    """What was made since is quarantined and runs on; what was there is Ready again."""
    async with restorable(tmp_path) as (server, grid), grid.supervised():
        await grid.node("n", ipv4="198.51.100.1")
        standing = Standing(grid, server, Journal())
        grid.nodes["n"].things = standing.journal
        await standing.ready(GridNode, "n")
        await standing.make()
        await asyncio.to_thread(server.snapshot, "before")
        await standing.create(ZMount, "later", size="1Gi")
        disks = [{"name": "later", "mountPath": "/data"}]
        await standing.create(ZMachine, "newer", image="oci://r/i:t", network={"name": "net"}, disks=disks)
        await standing.ready(ZMachine, "newer")
        await asyncio.to_thread(server.restore, "before")
        left = await standing.quarantined("ZMount later", "ZMachine newer", seconds=60)
        assert left["ZMachine newer"].running
        for model, name in ((Network, "net"), (ZMount, "data"), (ZMachine, "web")):
            await standing.ready(model, name, 60)
        await standing.create(ZMount, "later", size="1Gi")
        await standing.says(ZMount, "later", "Quarantined", left["ZMount later"].uid)
        await standing.create(ZMachine, "third", image="oci://r/i:t", network={"name": "net"})
        assert (await standing.ready(ZMachine, "third")).status.ip not in {nic.ipv4 for nic in left["ZMachine newer"].nics}
        standing.untouched()


async def test_a_disk_that_an_older_state_says_was_never_used_stays_where_its_data_is(tmp_path: Path) -> None:
    """The snapshot is from before its first machine, and the controller remembers nothing. Its node knows better."""
    async with restorable(tmp_path) as (server, grid):
        async with grid.supervised():
            await grid.node("n", ipv4="198.51.100.1")
            await grid.node("other", ipv4="198.51.100.2", memory=2**30)
            standing = Standing(grid, server, Journal())
            grid.nodes["n"].things = standing.journal
            for name in ("n", "other"):
                await standing.ready(GridNode, name)
            await standing.create(Network, "net", ipRange="10.20.0.0/16", nodes=[{"name": "n"}, {"name": "other"}])
            await standing.create(ZMount, "late", size="1Gi")
            disk = f"disk/mount-{(await standing.ready(ZMount, 'late')).uid}"
            await asyncio.to_thread(server.snapshot, "before")
            machine = {"image": "oci://r/i:t", "network": {"name": "net"}, "disks": [{"name": "late", "mountPath": "/d"}]}
            await standing.create(ZMachine, "first", **machine)
            await standing.ready(ZMachine, "first")
            assert (await standing.get(ZMount, "late")).status.node_name == "n"
        await asyncio.to_thread(server.restore, "before")
        assert not (await standing.get(ZMount, "late")).status.used
        async with grid.supervised():  # another life of the same
            await standing.create(ZMachine, "second", nodeName="other", **machine)
            left = await standing.quarantined("ZMachine first", seconds=60)
            await standing.says(ZMachine, "second", "Conflict", "disk late is on node n, the machine on other")
            mount = await standing.ready(ZMount, "late")
            assert (mount.status.node_name, mount.status.used) == ("n", True)
            # The guest that nobody knows any more may go; of the disk nobody has said anything.
            order = [{"uid": left["ZMachine first"].uid, "discard": True}]
            await grid.client.patch(GridNode, "", "n", {"spec": {"quarantine": order}})

            async def ended() -> bool:
                return not standing.has(Domain)

            await until(ended)
            await asyncio.sleep(1)
            assert standing.has(Disk) == {disk}
            assert disk not in grid.nodes["other"].things
