"""What is written of a resolution while the world goes on: another leader may know more by then."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cases import load, world_of
from fixpoint import resolve, settle
from zos.api.contract import Claim, Contract
from zos.api.core import Secret
from zos.api.meta import Key, Meta, Object
from zos.api.names import OWNER_UID
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.publicip import PublicIP
from zos.api.zmount import ZMount
from zos.controller.executor import Executor
from zos.controller.ledger import Ledger
from zos.controller.writing import Exchange
from zos.kinds.registry import KINDS
from zos.kube.client import Raw
from zos.world.store import World

_CASES = Path(__file__).parent.parent / "golden" / "vanished.yaml"
_HALF_WAY = _CASES.parent / "contract" / "shrinks-under-users.yaml"
_ORDER = ("Farm", "GridNode", "Network", "Contract", "PublicIP", "NameContract", "ZMount", "ZMachine")


class Server:
    """Takes every write and remembers what was deleted."""

    def __init__(self) -> None:
        self.deleted: list[Key] = []
        self.statuses: list[Raw] = []
        self.there: dict[str, Raw] = {}  # metadata, by name
        self.whole: dict[str, Raw] = {}  # objects, by name

    async def delete(self, model: type[Object], namespace: str, name: str, *, uid: str) -> None:
        self.deleted.append(model.key_of(namespace, name))

    async def patch(self, model: type[Object], namespace: str, name: str, body: Raw, **_: object) -> Raw:
        self.statuses.append(body.get("status"))
        whole = self.whole.get(name, {})
        return {**whole, **body, "metadata": {**whole.get("metadata", {}), **body.get("metadata", {})}}

    async def get(self, model: type[Object], namespace: str, name: str) -> Raw:
        return {"metadata": self.there[name]}

    async def request(self, method: str, path: str, **_: object) -> Raw:
        return {"metadata": self.there.get(path.rpartition("/")[2], {})}


def executor(server: Any, world: World, secrets_of: Callable[[str], tuple[Secret, ...]] = lambda _: ()) -> Executor:
    exchange = Exchange(server, world, lambda *_: None, lambda _: None, lambda *_: None)
    return Executor(exchange, KINDS, Ledger(exchange, lambda: 0.0), secrets_of, lambda: 0.0)


async def test_what_came_while_a_resolution_was_written_is_not_taken_for_left_over() -> None:
    world = world_of(load(_CASES)[0])
    settle(world, _ORDER)
    network = finalized(world, Network.key_of("default", "net"))
    secret, workload = more(world, network)
    assert await deleted(world, network, during=(secret, workload)) == []
    assert await deleted(world, network, before=(secret, workload)) == [secret.key, workload.key]


def finalized(world: World, key: Key) -> Any:
    obj: Any = world.peek(key)
    obj = obj.model_copy(update={"metadata": obj.metadata.model_copy(update={"finalizers": ("zos.grid.tf/controller",)})})
    world.put(obj)
    return obj


def more(world: World, network: Any) -> tuple[Any, Any]:
    """A laptop's Secret and a part on a further node, as another leader makes them."""
    owner = {"apiVersion": network.API_VERSION, "kind": "Network", "name": network.name, "uid": network.uid}
    meta = {"name": "new", "namespace": "default", "uid": "uid-new", "labels": {OWNER_UID: network.uid}}
    secret = Secret.model_validate({"metadata": meta | {"ownerReferences": [owner]}})
    some = next(w for w in world.all("NodeWorkload") if w.spec.owner.uid == network.uid)  # type: ignore[attr-defined]
    elsewhere = {"name": "new", "namespace": "zos-node-elsewhere", "uid": "uid-elsewhere"}
    return secret, some.model_copy(update={"metadata": some.metadata.model_copy(update=elsewhere)})


async def deleted(world: World, network: Any, before: tuple[Any, ...] = (), during: tuple[Any, ...] = ()) -> list[Key]:
    """What goes, of what came before a resolution was carried out, and while it was."""
    for obj in before:
        world.put(obj)
    server: Any = Server()

    def secrets_of(uid: str) -> tuple[Any, ...]:
        return tuple(secret for secret in world.all("Secret") if secret.metadata.labels.get(OWNER_UID) == uid)

    writing = executor(server, world, secrets_of).carry_out(network, resolve(network, world))
    for obj in during:
        world.put(obj)
    await writing
    for obj in (*before, *during):
        world.remove(obj.key)
    return list(server.deleted)


class Thinking(Server):
    """Takes a turn of the loop over each write."""

    async def patch(self, model: type[Object], namespace: str, name: str, body: Raw, **more: object) -> Raw:
        await asyncio.sleep(0)
        return await super().patch(model, namespace, name, body, **more)


@pytest.mark.filterwarnings("always::RuntimeWarning")
def test_wherever_a_resolution_is_cut_short_nothing_is_left_that_nobody_awaits(recwarn: pytest.WarningsRecorder) -> None:
    async def cut_short(turns: int) -> bool:
        """Whether it was done by then."""
        world = world_of(load(_CASES)[0])
        settle(world, _ORDER)
        disk = finalized(world, ZMount.key_of("default", "data"))
        (workload,) = world.find(NodeWorkload, owner=disk.uid)
        world.remove(workload.key)  # so that its node is to be asked
        server: Any = Thinking()
        task = asyncio.ensure_future(executor(server, world).carry_out(disk, resolve(disk, world)))
        for _ in range(turns):
            await asyncio.sleep(0)
        done = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=not done)
        return done

    turns = next(turns for turns in range(100) if asyncio.run(cut_short(turns)))
    gc.collect()
    assert turns > 3
    assert [str(warning.message) for warning in recwarn if "never awaited" in str(warning.message)] == []


async def test_a_contract_that_is_deleted_half_way_lets_go_of_what_it_was_taking_and_says_how_it_stands() -> None:
    world = world_of(load(_HALF_WAY)[0])
    contract: Any = world.peek(Contract.key_of("default", "c"))
    meta = {"finalizers": ("zos.grid.tf/controller",), "deletion_timestamp": "2026-01-02T00:00:00Z"}
    status = {"taking": ("203.0.113.20", "203.0.113.21"), "in_use": contract.status.in_use[:1], "free": 0}
    contract = contract.model_copy(
        update={"metadata": contract.metadata.model_copy(update=meta), "status": contract.status.model_copy(update=status)}
    )
    world.put(contract)
    for ip in contract.status.taking:
        held: Any = world.peek(Claim.key_of("", "ipv4.203.0.113.18"))
        made = {"metadata": Meta(name=f"ipv4.{ip}", uid=f"claim-{ip}"), "spec": held.spec.model_copy(update={"thing": ip})}
        world.put(held.model_copy(update=made))
    world.remove(PublicIP.key_of("default", "b"))
    server: Any = Server()
    server.there["c"] = {"uid": contract.uid, "deletionTimestamp": "now", "resourceVersion": contract.metadata.resource_version}
    server.whole["c"] = contract.model_dump(mode="json", by_alias=True, exclude_none=True)
    await executor(server, world).carry_out(contract, resolve(contract, world))
    assert server.deleted == [Claim.key_of("", f"ipv4.{ip}") for ip in contract.status.taking]
    (written,) = server.statuses
    assert (written["free"], written["taking"], "inUse" in written) == (1, [], False)
    assert written["conditions"][0]["message"] == "waits for PublicIP a"
