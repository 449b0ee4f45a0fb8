"""A real agent with the rights of a real agent, against a real API server. Only its node is a dict."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nacl.public import PublicKey, SealedBox

from apiserver import ApiServer, running
from zos.agent.agent import Agent
from zos.agent.settings import Settings
from zos.agent.simulation import Node, digest_of, drivers
from zos.api import names
from zos.api.core import Lease
from zos.api.gridnode import GridNode
from zos.api.meta import AGENT_FINALIZER
from zos.api.nodeworkload import NodeWorkload
from zos.api.quarantine import Quarantined
from zos.api.resources import GUEST_OVERHEAD
from zos.drivers.keyring import Keyring
from zos.kinds.gridnode.rights import agent_objects
from zos.kinds.network.part import NetworkState
from zos.kinds.registry import KINDS
from zos.kinds.zmachine.part import MachineState
from zos.kinds.zmount.part import MountState
from zos.kube.client import Access, ApiError, Client
from zos.manifests.rbac import controller_objects
from zos.plan.items import Disk, Domain, Image


async def until(condition: Callable[[], object], seconds: float = 45) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "not within the time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@dataclass
class Grid:
    """One node of a grid: its objects made as the controller makes them, its agent to be started and stopped."""

    server: ApiServer
    name: str
    state: Path
    admin: Client
    node: Node = field(default_factory=Node)
    writes: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return names.node_namespace(self.name)

    async def join(self) -> None:
        """The GridNode and what the controller makes for it."""
        body = {"apiVersion": "zos.grid.tf/v1alpha1", "kind": "GridNode", "metadata": {"name": self.name}, "spec": {}}
        await self.admin.create(GridNode, "", body)
        manifests = {
            "apiVersion": "v1",
            "kind": "List",
            "items": [*controller_objects(), *agent_objects(self.name, self.namespace)],
        }
        await asyncio.to_thread(self.server.kubectl, "apply", "-f", "-", stdin=json.dumps(manifests))
        token = await asyncio.to_thread(self.server.kubectl, "create", "token", "agent", "-n", self.namespace)
        config = json.loads(Path(self.server.kubeconfig).read_text())
        config["users"][0]["user"] = {"token": token.strip()}
        (self.state / "kubeconfig").write_text(json.dumps(config))

    @contextlib.asynccontextmanager
    async def agent(
        self, *, server: ApiServer | None = None, resync: float = 60.0, wall: Callable[[], float] = time.time
    ) -> AsyncIterator[Agent]:
        settings = Settings(
            node=self.name, state=self.state, kubeconfig=str(self.state / "kubeconfig"), heartbeat=0.5, resync=resync,
            capacity_cpu=4, capacity_memory=8 * 2**30, capacity_storage=100 * 2**30,
        )  # fmt: skip
        access = await Access.load(server.kubeconfig if server is not None else settings.kubeconfig)
        client = Client(access, wrote=lambda *write: self.writes.append(write))
        served = drivers(self.node)
        keyring = Keyring(self.state / "keys")
        agent = Agent(
            settings, client, served, keyring=keyring,
            wall=wall,
        )  # fmt: skip
        task = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()

    async def make(self, kind: str, name: str, part: dict[str, Any], **more: Any) -> None:
        body = {
            "apiVersion": "zos.grid.tf/v1alpha1",
            "kind": "NodeWorkload",
            "metadata": {"name": name, "finalizers": [AGENT_FINALIZER]},
            "spec": {
                "owner": {"kind": kind, "namespace": "default", "name": name, "uid": f"uid-{name}"},
                "part": {kind.lower(): part},
                **more,
            },
        }
        await self.admin.create(NodeWorkload, self.namespace, body)

    async def mount(self, name: str, size: str = "1Gi", **more: Any) -> None:
        await self.make("ZMount", name, {"size": size, **more})

    async def machine(self, name: str, *mounts: str, secrets: Sequence[dict[str, str]] = (), **more: Any) -> None:
        disks = [{"name": mount, "mountUid": f"uid-{mount}", "mountPath": f"/{mount}"} for mount in mounts]
        machine = {"hostname": name, "image": "oci://r/i:1", "cpu": 2, "memory": "1Gi", "rootSize": "1Gi", "disks": disks}
        await self.make("ZMachine", name, machine | more, secrets=list(secrets))

    async def change(self, name: str, **spec: Any) -> None:
        await self.admin.patch(NodeWorkload, self.namespace, name, {"spec": spec})

    async def delete(self, name: str) -> None:
        await self.admin.delete(NodeWorkload, self.namespace, name)

    async def erase(self, name: str, **more: Any) -> None:
        """As the controller does for a user who deletes his object: first the word."""
        await self.change(name, erase=f"uid-{name}", **more)
        await self.delete(name)

    async def gone(self, name: str, seconds: float = 45) -> None:
        deadline = time.monotonic() + seconds
        while await self.workload(name) is not None:
            assert time.monotonic() < deadline, f"{name} is still there"
            await asyncio.sleep(0.05)

    async def says(self, name: str, words: str, seconds: float = 15) -> NodeWorkload:
        deadline = time.monotonic() + seconds
        while True:
            workload = await self.workload(name)
            condition = workload.status.condition("Ready") if workload is not None else None
            if workload is not None and condition is not None and words in condition.message:
                return workload
            assert time.monotonic() < deadline, f"{name} says {condition}"
            await asyncio.sleep(0.05)

    async def quarantine(self, *uids: str, seconds: float = 10) -> list[Quarantined]:
        """Waits until the node shows exactly these."""
        deadline = time.monotonic() + seconds
        while True:
            shown = [*(await self.gridnode()).status.quarantine]
            if {entry.uid for entry in shown} == set(uids):
                return shown
            assert time.monotonic() < deadline, shown
            await asyncio.sleep(0.05)

    async def order(self, *orders: dict[str, Any]) -> None:
        """An administrator's word."""
        await self.admin.patch(GridNode, "", self.name, {"spec": {"quarantine": list(orders)}})

    def guest(self, name: str) -> str:
        return names.domain(f"uid-{name}")

    async def workload(self, name: str) -> NodeWorkload | None:
        raw = await self.admin.get(NodeWorkload, self.namespace, name)
        return KINDS.workload.model_validate(raw) if raw is not None else None

    async def ready(self, name: str, seconds: float = 45) -> NodeWorkload:
        deadline = time.monotonic() + seconds
        while True:
            workload = await self.workload(name)
            condition = workload.status.condition("Ready") if workload is not None else None
            if workload is not None and condition is not None and condition.status == "True":
                return workload
            assert time.monotonic() < deadline, f"{name} is not ready: {condition}"
            await asyncio.sleep(0.05)

    async def gridnode(self) -> GridNode:
        return GridNode.model_validate(await self.admin.get(GridNode, "", self.name))

    def statuses(self) -> int:
        return sum(kind == "NodeWorkload" for kind, _, _ in self.writes)


@contextlib.asynccontextmanager
async def grid_on(server: ApiServer, name: str, state: Path) -> AsyncIterator[Grid]:
    admin = Client(await Access.load(server.kubeconfig))
    grid = Grid(server, name, state, admin)
    try:
        await grid.join()
        yield grid
    finally:
        await admin.close()


@pytest.fixture
async def grid(apiserver: ApiServer, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Grid]:
    name = "agent-" + names.ident(request.node.name)
    async with grid_on(apiserver, name, tmp_path) as made:
        yield made


async def test_a_workload_from_birth_to_death(grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("a")
        workload = await grid.ready("a")
        assert workload.state(MountState) is not None
        assert workload.state(MountState).size == 2**30
        assert workload.status.observed_generation == 1
        await until(grid.statuses)
        assert grid.statuses() == 1  # ready at the first word
        assert set(grid.node.things) == {"disk/mount-uid-a"}
        await grid.admin.patch(NodeWorkload, grid.namespace, "a", {"spec": {"part": {"zmount": {"size": "2Gi"}}}})
        await until(lambda: grid.node.things["disk/mount-uid-a"].size == 2 * 2**30)  # type: ignore[attr-defined]
        await grid.erase("a")
        await until(lambda: not grid.node.things)
        await grid.gone("a")


async def test_what_the_node_says_of_itself(grid: Grid) -> None:
    async with grid.agent():
        began = time.monotonic()
        while not (status := (await grid.gridnode()).status).prekeys:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.05)
        assert (status.capacity.cpu, status.capacity.memory, status.capacity.storage) == (4, 8 * 2**30, 100 * 2**30)
        keyring = Keyring(grid.state / "keys")
        assert set(status.prekeys) == keyring.publics()
        assert len(status.prekeys) == 8
        assert status.sealing_key == keyring.sealing_key()
        while (lease := await grid.admin.get(Lease, grid.namespace, "agent")) is None:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.05)
        while (again := await grid.admin.get(Lease, grid.namespace, "agent")) is None or again["spec"] == lease["spec"]:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.05)
        assert again["spec"]["renewTime"] > lease["spec"]["renewTime"]
        assert again["spec"]["leaseDurationSeconds"] == 40


async def test_a_key_that_is_held_is_replaced_and_kept(grid: Grid) -> None:
    async with grid.agent():
        began = time.monotonic()
        while not (node := await grid.gridnode()).status.prekeys:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.05)
        taken = node.status.prekeys[0]
        hold = {"uid": "u", "owner": "Network default/n", "listenPort": 52000, "publicKey": taken}
        await grid.admin.patch(GridNode, "", grid.name, {"status": {"holds": [hold]}}, subresource="status")
        while taken in (node := await grid.gridnode()).status.prekeys:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.05)
        assert len(node.status.prekeys) == 8
        assert node.status.holds[0].public_key == taken
        assert Keyring(grid.state / "keys").private(taken) is not None


async def test_when_nothing_happens_nothing_is_written(grid: Grid) -> None:
    async with grid.agent(resync=0.3):
        for name in ("a", "b", "c"):
            await grid.mount(name)
        for name in ("a", "b", "c"):
            await grid.ready(name)
        await asyncio.sleep(1)
        writes = [write for write in grid.writes if write[0] != "Lease"]
        touched = grid.node.writes
        await asyncio.sleep(2)
        assert [write for write in grid.writes if write[0] != "Lease"] == writes
        assert grid.node.writes == touched


async def test_a_restart_touches_nothing_and_catches_up(grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("a")
        await grid.mount("b")
        await grid.ready("a")
        await grid.ready("b")
        while len((await grid.gridnode()).status.prekeys) < 8:
            await asyncio.sleep(0.05)
    touched = grid.node.writes
    grid.writes.clear()
    await grid.erase("b")
    await grid.mount("c")
    async with grid.agent():
        await grid.ready("c")
        await until(lambda: set(grid.node.things) == {"disk/mount-uid-a", "disk/mount-uid-c"})
    assert grid.node.writes == touched + 2
    assert [write for write in grid.writes if write[:2] == ("GridNode", "merge")] == []


async def test_its_credentials_open_nothing_else(grid: Grid) -> None:
    client = Client(await Access.load(str(grid.state / "kubeconfig")))
    for attempt in (
        client.get(NodeWorkload, "zos-node-other", "x"),
        client.objects(NodeWorkload),
        client.request("GET", "/api/v1/namespaces/default/secrets"),
        client.request("GET", f"/api/v1/namespaces/{grid.namespace}/secrets"),
        client.patch(GridNode, "", grid.name, {"spec": {"unschedulable": True}}),
        client.patch(GridNode, "", "other", {"status": {}}, subresource="status"),
        client.create(NodeWorkload, grid.namespace, {}),
        client.patch(Lease, grid.namespace, "other", {"spec": {}}),
    ):
        with pytest.raises(ApiError) as caught:
            await attempt
        assert caught.value.status == 403
    await client.close()


async def test_the_api_server_is_away_the_node_heals_and_boots(tmp_path: Path) -> None:
    with running(tmp_path / "cluster") as server:
        async with grid_on(server, "alone", tmp_path) as grid:
            async with grid.agent():
                await grid.mount("a")
                await grid.ready("a")
                await asyncio.to_thread(server.kill, "kube-apiserver")
                grid.node.lose("disk/mount-uid-a")
                assert await until(lambda: "disk/mount-uid-a" in grid.node.things) < 4  # told, not found at the next look
            grid.node.things.clear()  # the node crashed; what was in memory is gone
            async with grid.agent():
                await until(lambda: "disk/mount-uid-a" in grid.node.things)
                await asyncio.to_thread(server.start_api)
                await grid.mount("b")
                await grid.ready("b", 40)


async def test_another_clusters_server_moves_nothing(apiserver: ApiServer, tmp_path: Path, grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("a")
        await grid.ready("a")
    touched = dict(grid.node.things)
    with running(tmp_path / "other") as other:
        stranger = Grid(other, grid.name, tmp_path, Client(await Access.load(other.kubeconfig)))
        other.kubectl("create", "namespace", grid.namespace)
        await stranger.mount("b")
        async with grid.agent(server=other, resync=0.2) as agent:
            await until(lambda: agent.cluster.foreign)
            await asyncio.sleep(1)
            assert grid.node.things == touched
            workload = await stranger.workload("b")
            assert workload is not None
            assert workload.status.conditions == ()
        await stranger.admin.close()


async def test_an_empty_list_from_our_own_cluster_erases_no_data(grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("a")
        await grid.ready("a")
        body: dict[str, Any] = {"metadata": {"finalizers": []}}
        await grid.admin.patch(NodeWorkload, grid.namespace, "a", body)
        await grid.admin.delete(NodeWorkload, grid.namespace, "a")  # by force, past the agent
        await grid.quarantine("uid-a")
        assert "disk/mount-uid-a" in grid.node.things


async def test_deleted_by_hand_it_runs_on_and_comes_back_as_if_nothing_happened(grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("data")
        await grid.machine("vm", "data")
        await grid.ready("vm")
        things, writes = dict(grid.node.things), grid.node.writes
        for name in ("vm", "data"):
            await grid.delete(name)
            await grid.gone(name)
        entries = {entry.uid: entry for entry in await grid.quarantine("uid-vm", "uid-data")}
        guest, disk = entries["uid-vm"], entries["uid-data"]
        assert (guest.kind, guest.namespace, guest.name) == ("ZMachine", "default", "vm")
        assert (guest.running, guest.cpu, guest.memory, guest.storage) == (True, 2, 2**30 + GUEST_OVERHEAD, 2**30)
        assert (disk.kind, disk.namespace, disk.name, disk.running, disk.storage) == ("ZMount", "default", "data", False, 2**30)
        assert (grid.node.things, grid.node.writes) == (things, writes)
    async with grid.agent():  # a new one knows them as well
        assert {entry.name for entry in await grid.quarantine("uid-vm", "uid-data")} == {"vm", "data"}
        await grid.mount("data")
        await grid.machine("vm", "data")
        await grid.ready("vm")
        await grid.quarantine()
    assert (grid.node.things, grid.node.writes) == (things, writes)
    assert grid.node.starts == {grid.guest("vm"): 1}


async def test_a_user_who_retains_loses_all_but_his_data(grid: Grid) -> None:
    async with grid.agent():
        await grid.machine("vm")
        await grid.ready("vm")
        await grid.erase("vm", retain=True)
        await grid.gone("vm")
        assert [key for key in grid.node.things if not key.startswith("image/")] == ["disk/root-uid-vm"]
        (entry,) = await grid.quarantine("uid-vm")
        assert (entry.kind, entry.name, entry.running, entry.storage) == ("ZMachine", "vm", False, 2**30)
        await grid.order({"uid": "uid-vm", "discard": True})
        await grid.quarantine()
        assert "disk/root-uid-vm" not in grid.node.things


def no_quarantine(node: str) -> list[dict[str, Any]]:
    """A policy, and its binding, by which the API server refuses that a node shows anything in quarantine."""
    kind = {"apiGroups": ["zos.grid.tf"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["gridnodes/status"]}
    expression = f"object.metadata.name != '{node}' || size(object.?status.quarantine.orValue([])) == 0"
    matching = {"resourceRules": [kind]}
    policy = {"failurePolicy": "Fail", "matchConstraints": matching, "validations": [{"expression": expression}]}
    binding = {"policyName": node, "validationActions": ["Deny"]}
    return [
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": f"ValidatingAdmissionPolicy{kind}",
         "metadata": {"name": node}, "spec": spec}
        for kind, spec in (("", policy), ("Binding", binding))
    ]  # fmt: skip


async def test_what_stays_is_said_before_it_is_let_go(grid: Grid) -> None:
    policy = json.dumps({"apiVersion": "v1", "kind": "List", "items": no_quarantine(grid.name)})
    asked = json.dumps({"status": {"quarantine": [{"uid": "x"}]}})
    attempt = ("patch", "gridnode", grid.name, "--subresource=status", "--type=merge", "--dry-run=server", "-p", asked)
    async with grid.agent():
        for name in ("released", "retained", "last"):
            await grid.mount(name)
            await grid.ready(name)
        grid.node.unused.clear()  # guests have had them
        grid.node.stir()
        await asyncio.to_thread(grid.server.kubectl, "apply", "-f", "-", stdin=policy)
        deadline = time.monotonic() + 10
        while "patched" in await asyncio.to_thread(grid.server.kubectl, *attempt, check=False):
            assert time.monotonic() < deadline
        await grid.delete("released")
        await grid.erase("retained", retain=True)
        for name in ("released", "retained"):
            await grid.says(name, "which status.quarantine of its GridNode has to say first, and can't")
        assert (await grid.gridnode()).status.quarantine == ()
        await asyncio.to_thread(grid.server.kubectl, "delete", "-f", "-", stdin=policy)
        for name in ("released", "retained"):
            await grid.gone(name, 15)
        await grid.quarantine("uid-released", "uid-retained")
        # Where there is no GridNode any more nobody is to be told.
        await grid.admin.delete(GridNode, "", grid.name)
        await grid.delete("last")
        await grid.gone("last")
        assert grid.node.things.keys() == {f"disk/mount-uid-{name}" for name in ("released", "retained", "last")}


async def test_an_order_for_what_lives_is_void_until_it_is_given_anew(grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("a")
        await grid.ready("a")
        await grid.order({"uid": "uid-a", "discard": True})
        await until(lambda: (grid.state / "orders.json").exists())
    async with grid.agent():  # a new one knows it as well
        await grid.delete("a")
        await grid.gone("a")
        await grid.quarantine("uid-a")
        await asyncio.sleep(0.5)
        assert "disk/mount-uid-a" in grid.node.things
        await grid.order()
        await until(lambda: json.loads((grid.state / "orders.json").read_text()) == {})
        await grid.order({"uid": "uid-a", "discard": True})
        await grid.quarantine()
        assert grid.node.things == {}


async def test_an_administrator_gives_back(grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("data", "2Gi")
        await grid.machine("vm", "data")
        await grid.ready("vm")
        await grid.delete("vm")
        await grid.delete("data")
        await grid.quarantine("uid-vm", "uid-data")
        await grid.mount("new", "2Gi", holdsData=True, adopt="uid-data")
        await grid.says("new", "guest zos-")
        to = {"kind": "ZMachine", "namespace": "default", "name": "again"}
        await grid.order({"uid": "uid-vm", "giveTo": to})
        await grid.ready("new")
        await grid.machine("again", "new", adopt="uid-vm")
        await grid.ready("again")
        await grid.quarantine()
        disks = {key for key in grid.node.things if key.startswith("disk/")}
        assert disks == {"disk/mount-uid-new", "disk/root-uid-again"}
        assert grid.node.starts == {grid.guest("vm"): 1, grid.guest("again"): 1}


async def test_what_holds_data_never_comes_up_empty(grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("used", holdsData=True)
        workload = await grid.says("used", "holds data and is not on this node; an empty one is not made in its place")
        assert workload.status.condition("Stalled") is not None
        assert grid.node.things == {}


async def test_a_guest_runs_on_whatever_its_image_becomes(grid: Grid) -> None:
    async with grid.agent():
        await grid.machine("vm")
        ready = (await grid.ready("vm")).state(MachineState)
        assert ready is not None
        assert ready.image_digest == digest_of("oci://r/i:1")
        grid.node.faults["image/oci://r/typo:1"] = "image oci://r/typo:1: not found"
        await grid.change("vm", part={"zmachine": {"image": "oci://r/typo:1"}})
        status = (await grid.says("vm", "not found; the machine runs on with what it was started with")).status
        words = {c.type: (c.status, c.reason) for c in status.conditions}
        assert words["Ready"] == ("False", "ImageInvalid")
        assert words["Running"] == ("True", "Succeeded")
        assert words["ImageReady"] == ("False", "ImageInvalid")
        assert status.state == ready.model_copy(update={"root_size": None})  # which is not looked at
        await grid.change("vm", part={"zmachine": {"entrypoint": ["/bin/other"], "image": "oci://r/other:1"}})
        status = (await grid.ready("vm")).status
        restart = status.condition("RestartRequired")
        assert restart is not None
        assert "image, entrypoint changed" in restart.message
        assert status.state == ready  # it tells what runs
        await grid.change("vm", part={"zmachine": {"entrypoint": None, "image": "oci://r/i:1"}})
        deadline = time.monotonic() + 10
        while (await grid.ready("vm")).status.condition("RestartRequired") is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        grid.node.lose("image/oci://r/i:1")
        await until(lambda: "image/oci://r/i:1" in grid.node.things)
        assert grid.node.starts == {grid.guest("vm"): 1}


async def test_a_secret_for_another_key_starts_nothing_and_stops_nothing(grid: Grid) -> None:
    keyring = Keyring(grid.state / "keys")

    def sealed(value: str) -> list[dict[str, str]]:
        box = SealedBox(PublicKey(base64.b64decode(keyring.sealing_key())))
        return [{"name": "env/PASSWORD", "source": value, "value": base64.b64encode(box.encrypt(value.encode())).decode()}]

    async with grid.agent():
        await grid.machine("vm", secrets=sealed("first"))
        await grid.ready("vm")
    (grid.state / "keys" / "sealing.key").write_text("garbage")
    async with grid.agent():
        await grid.says("vm", "PASSWORD can't be opened with this node's key")
        await grid.machine("other", secrets=[{"name": "env/PASSWORD", "source": "s", "value": "bm9uZQ=="}])
        await grid.says("other", "the controller seals it anew")
        assert grid.node.starts == {grid.guest("vm"): 1}
        again = Keyring(grid.state / "keys")
        deadline = time.monotonic() + 10
        while (await grid.gridnode()).status.sealing_key != again.sealing_key():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        keyring = again
        await grid.change("vm", secrets=sealed("first"))
        await grid.ready("vm")
        await grid.change("other", secrets=sealed("second"))
        await grid.ready("other")
    assert grid.node.starts == {grid.guest("vm"): 1, grid.guest("other"): 1}


async def test_drivers_that_can_not_look_at_the_start_take_nothing_down(grid: Grid) -> None:
    async with grid.agent():
        await grid.machine("vm")
        await grid.ready("vm")
    things = dict(grid.node.things)
    for blind in (Image, Domain, Disk):
        grid.node.blind[blind] = "it does not answer"
        async with grid.agent(resync=0.3):
            if blind is not Disk:
                workload = await grid.says("vm", "it does not answer")
                assert workload.state(MachineState) is not None
                assert workload.state(MachineState).state == "Running"
            await grid.delete("vm")
            await grid.gone("vm")
            await grid.machine("vm")
            grid.node.blind.clear()
            await grid.ready("vm")
        assert grid.node.things == things
    assert grid.node.starts == {grid.guest("vm"): 1}


#: Below the state directory, all that an agent remembers. What is beside an agent's drivers has its own tests.
STATE = ("cluster-uid", "workloads.json", "owners.json", "keys/sealing.key", "keys/wireguard")


@pytest.mark.parametrize("how", ["lost", "empty", "garbage"])
async def test_state_files_may_be_lost_one_by_one(grid: Grid, how: str) -> None:
    async with grid.agent():
        await grid.mount("data")
        await grid.machine("vm", "data")
        await grid.mount("orphan")
        await grid.ready("vm")
        await grid.ready("orphan")
        await grid.delete("orphan")
        await grid.quarantine("uid-orphan")
    things, writes = dict(grid.node.things), grid.node.writes
    for name in STATE:
        path = grid.state / name
        files = [*path.iterdir()] if path.is_dir() else [path]
        assert files
        for file in files:
            if how == "lost":
                file.unlink()
            else:
                file.write_bytes(b"" if how == "empty" else b"\xff\x00 neither JSON nor a key")
        async with grid.agent(resync=0.3):
            if (how, name) != ("garbage", "cluster-uid"):  # that is another cluster's: nothing is touched, nothing told
                await grid.ready("vm")
                await grid.quarantine("uid-orphan")
                assert len((await grid.gridnode()).status.prekeys) == 8
                await until(lambda: (grid.state / "cluster-uid").exists() and (grid.state / "cluster-uid").read_text().strip())
            else:
                await asyncio.sleep(1)
                file.unlink()
        assert (grid.node.things, grid.node.writes) == (things, writes), name
    assert grid.node.starts == {grid.guest("vm"): 1}


async def test_a_network_whose_key_is_lost_says_so(grid: Grid) -> None:
    network = {"ipRange": "10.20.0.0/16", "mtu": 1420, "subnet": "10.20.4.0/24", "wireguardAddress": "100.64.20.4",
               "listenPort": 52007}  # fmt: skip
    async with grid.agent(resync=0.3):
        deadline = time.monotonic() + 10
        while not (prekeys := (await grid.gridnode()).status.prekeys):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await grid.make("Network", "net", network | {"publicKey": prekeys[0]})
        await grid.ready("net")
        await grid.delete("net")
        await grid.gone("net")
        (entry,) = await grid.quarantine("uid-net")
        assert (entry.kind, entry.name, entry.running, entry.listen_port) == ("Network", "net", True, 52007)
        assert prekeys[0] not in (await grid.gridnode()).status.prekeys  # it is in use, whoever's it is
        await grid.make("Network", "net", network | {"publicKey": prekeys[0]})
        await grid.ready("net")
        things = dict(grid.node.things)
        Keyring(grid.state / "keys").forget(prekeys[0])
        workload = await grid.says("net", f"the private half of {prekeys[0]} is not on this node any more")
        assert workload.state(NetworkState) is not None
        assert workload.state(NetworkState).lost_key == prekeys[0]
        assert grid.node.things == things
        fresh = next(key for key in (await grid.gridnode()).status.prekeys if key != prekeys[0])
        await grid.change("net", part={"network": {"publicKey": fresh}})
        workload = await grid.ready("net")
        assert workload.state(NetworkState).lost_key is None
