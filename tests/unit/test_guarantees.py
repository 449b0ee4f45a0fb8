"""What the executor promises whatever happens: nothing goes without a word, nothing goes that was not meant, and what the API
server refuses is told, stops nothing else, and is tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory import MemoryClient, Request, Server
from wholegrid import Grid
from zos.api.contract import Claim, ClaimHolder, ClaimSpec, Contract, NameContract
from zos.api.core import CustomResourceDefinition, Secret
from zos.api.gridnode import GridNode
from zos.api.meta import ABANDON, AGENT_FINALIZER, CONTROLLER_FINALIZER, GROUP, Key, Meta, Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.controller.claims import Claims
from zos.controller.writing import Exchange, finalizers
from zos.kinds.network.part import NetworkOnNode
from zos.kinds.registry import KINDS
from zos.kube.client import Conflict, Raw, path_of
from zos.world.resolution import ClaimWanted
from zos.world.store import World

_CASES = Path(__file__).parent.parent / "golden"


@pytest.fixture
async def grid() -> Grid:
    made = Grid()
    made.load(_CASES / "vanished.yaml")
    await made.settle()
    return made


def shown(grid: Grid, model: type[Object], name: str) -> str:
    return grid.ready(model, "default", name)


def forced(grid: Grid, model: type[Object], namespace: str, name: str) -> None:
    """Gone without that anybody was asked, as from a database."""
    del grid.server.objects[path_of(model, namespace, name)]
    grid.changed(grid.world.remove(model.key_of(namespace, name)))


def leaves(grid: Grid, model: type[Object]) -> None:
    """A kind that is being taken out of the cluster, which takes its objects along."""
    name = f"{model.PLURAL}.{GROUP}"
    grid.put(CustomResourceDefinition, {"metadata": {"name": name, "finalizers": ["customresourcecleanup"]}})
    grid.delete(CustomResourceDefinition, "", name)


async def test_what_seems_to_have_no_owner_is_asked_about_before_it_is_dismissed(grid: Grid) -> None:
    workload = grid.workload("n1", "ZMount")
    grid.changed(grid.world.remove(ZMount.key_of("default", "data")))  # this controller alone does not know it
    await grid.settle()
    assert grid.workload("n1", "ZMount") == workload
    claims = {claim.name for claim in grid.of(Claim)}
    grid.changed(grid.world.remove(Contract.key_of("default", "contract")))
    await grid.settle()
    assert {claim.name for claim in grid.of(Claim)} == claims


async def test_what_has_no_owner_any_more_goes_and_leaves_the_data_where_it_is(grid: Grid) -> None:
    grid.agents["n1"].idle = True
    forced(grid, ZMount, "default", "data")
    await grid.settle()
    workload = grid.workload("n1", "ZMount")
    assert workload.deleting
    assert workload.spec.erase is None


async def test_who_is_deleted_stays_until_his_node_is_clean_or_he_gives_up_waiting(grid: Grid) -> None:
    held = {hold.owner for hold in grid.get(GridNode, "", "n1").status.holds}
    grid.agents["n1"].idle = True
    grid.delete(ZMachine, "default", "web")
    await grid.settle()
    assert shown(grid, ZMachine, "web").startswith("False Deleting: waiting for its nodes to be clean: zos-node-n1")
    assert {hold.owner for hold in grid.get(GridNode, "", "n1").status.holds} == held, "what is there still counts"
    machine = grid.get(ZMachine, "default", "web")
    grid.annotate(ZMachine, "default", "web", **{ABANDON: "another's uid"})
    await grid.settle()
    assert grid.raw(ZMachine, "default", "web") is not None
    grid.annotate(ZMachine, "default", "web", **{ABANDON: machine.uid})
    await grid.settle()
    assert grid.raw(ZMachine, "default", "web") is None
    assert grid.workload("n1", "ZMachine").spec.erase == machine.uid, "which its node will read when it is back"


async def test_of_objects_that_went_with_their_kind_claims_stay(grid: Grid) -> None:
    claims = {claim.name for claim in grid.of(Claim)}
    assert len(claims) == 3
    leaves(grid, NameContract)
    forced(grid, NameContract, "default", "shop")
    await grid.settle()
    assert {claim.name for claim in grid.of(Claim)} == claims
    del grid.server.objects[path_of(CustomResourceDefinition, "", f"{NameContract.PLURAL}.{GROUP}")]
    grid.resync()
    await grid.settle()
    assert {claim.name for claim in grid.of(Claim)} == claims, "nor when the kind is gone"
    grid.put(CustomResourceDefinition, {"metadata": {"name": f"{NameContract.PLURAL}.{GROUP}"}})
    grid.resync()
    await grid.settle()
    assert claims - {claim.name for claim in grid.of(Claim)} == {"name.shop"}, "the kind is there, and its object is not"


async def test_a_kind_that_leaves_is_nobodys_word_to_erase(grid: Grid) -> None:
    grid.agents["n1"].idle = True
    leaves(grid, ZMachine)
    leaves(grid, ZMount)
    for model, name in ((ZMachine, "web"), (ZMount, "data")):
        grid.delete(model, "default", name)
    grid.resync()
    await grid.settle()
    for kind in ("ZMachine", "ZMount"):
        assert grid.workload("n1", kind).deleting
        assert grid.workload("n1", kind).spec.erase is None
    grid.agents["n1"].idle = False
    await grid.settle()
    assert grid.raw(ZMount, "default", "data") is None
    node = grid.get(GridNode, "", "n1")
    assert {(one.kind, one.name) for one in node.status.quarantine} == {("ZMachine", "web"), ("ZMount", "data")}
    assert node.status.allocated.storage > 10 * 2**30, "nobody else gets the room of what is there"


async def test_an_agent_that_knows_no_words_is_not_told_that_something_is_deleted_without_one(grid: Grid) -> None:
    grid.agents["n1"].idle = True
    grid.put(GridNode, {"metadata": {"name": "n1"}, "status": {"agentVersion": "0.1.0"}})
    leaves(grid, ZMachine)
    grid.delete(ZMachine, "default", "web")
    await grid.settle()
    assert not grid.workload("n1", "ZMachine").deleting
    assert shown(grid, ZMachine, "web").startswith("False DeletionBlocked: waits: the agent of node n1 (0.1.0) would erase")
    grid.put(GridNode, {"metadata": {"name": "n1"}, "status": {"agentVersion": "9.9.9"}})
    grid.resync()
    await grid.settle()
    assert grid.workload("n1", "ZMachine").deleting


async def test_a_disk_whose_deletion_waits_for_its_machine_stays_as_it_is_on_its_node(grid: Grid) -> None:
    before = grid.workload("n1", "ZMount")
    grid.delete(ZMount, "default", "data")
    await grid.settle()
    assert shown(grid, ZMount, "data").startswith("False DeletionBlocked: waits for ZMachine web")
    now = grid.workload("n1", "ZMount")
    assert (now.spec, now.deleting) == (before.spec, False)
    grid.delete(ZMachine, "default", "web")
    await grid.settle()
    assert grid.raw(ZMount, "default", "data") is None


async def test_what_is_deleted_waits_for_its_part_on_a_node_that_can_not_be_read(grid: Grid) -> None:
    grid.agents["n1"].idle = True
    workload = grid.workload("n1", "ZMachine")
    grid.changed(grid.world.put_unreadable(workload.key, workload.metadata, "spec.tomorrow: not known"))
    grid.delete(ZMachine, "default", "web")
    await grid.settle()
    assert shown(grid, ZMachine, "web").startswith("False DeletionBlocked")
    assert "can't be read by this controller: upgrade it" in shown(grid, ZMachine, "web")
    assert grid.workload("n1", "ZMachine").spec == workload.spec


async def test_every_deletion_names_the_incarnation_that_it_was_decided_on(grid: Grid) -> None:
    """But of a node's namespace and rights, which are called by its name."""
    grid.edit(Network, "default", "net", access=[])
    grid.edit(Contract, "default", "contract", publicIPv4=1)
    grid.put(NameContract, {"metadata": {"name": "shop"}, "spec": {"name": "shop"}}, "default")
    await grid.settle()
    forced(grid, Network, "default", "net")
    grid.delete(ZMachine, "default", "web")
    grid.delete(ZMount, "default", "data")
    await grid.settle()
    forced(grid, NameContract, "default", "shop")
    await grid.settle()
    assert "shop" not in str([claim.name for claim in grid.of(Claim)])
    asked = [(one.path.split("/")[-2], one.body) for one in grid.server.requests if one.method == "DELETE"]
    by_their_user = {"zmachines", "zmounts"}
    assert {kind for kind, _ in asked} == {"nodeworkloads", "claims", "secrets"} | by_their_user
    assert {kind for kind, body in asked if not (body or {}).get("preconditions", {}).get("uid")} == by_their_user
    told = [one for one in grid.server.requests if one.method == "PATCH" and one.body and "erase" in one.body.get("spec", {})]
    assert told
    assert all(one.body["metadata"]["uid"] for one in told), "or a name that is free by now would be made anew, with the word"


async def test_a_node_that_is_not_there_any_more_holds_nobody_up_and_what_others_put_on_its_parts_stays(grid: Grid) -> None:
    workload = grid.workload("n1", "ZMachine")
    body = {"metadata": {"finalizers": [AGENT_FINALIZER, "example.org/mine"]}}
    grid.ask("PATCH", path_of(NodeWorkload, workload.namespace, workload.name), body, "merge")
    del grid.agents["n1"]
    forced(grid, GridNode, "", "n1")
    grid.delete(NodeWorkload, workload.namespace, workload.name)
    await grid.settle()
    assert grid.workload("n1", "ZMachine").metadata.finalizers == ("example.org/mine",)


async def test_a_write_that_is_refused_is_told_stops_no_other_and_is_tried_until_it_is_taken(grid: Grid) -> None:
    grid.server.refuses = lambda one: (403, "no Secrets here") if one.method == "POST" and "/secrets" in one.path else None
    grid.edit(Network, "default", "net", access=[{"name": "laptop", "node": "n2"}, {"name": "phone", "node": "n2"}], mtu=1400)
    await grid.settle()
    assert "phone" in shown(grid, Network, "net")
    assert "the API server refuses it: no Secrets here" in shown(grid, Network, "net")
    assert shown(grid, Network, "net").startswith("False Refused")
    network = grid.workload("n2", "Network").part(NetworkOnNode)
    assert network is not None
    assert network.mtu == 1400
    assert Network.key_of("default", "net") in grid.problems
    grid.server.refuses = lambda _: None
    await grid.settle()  # nobody changes anything
    assert shown(grid, Network, "net").startswith("True")
    assert any("phone" in secret.name for secret in grid.of(Secret))


async def test_a_laptops_key_pair_that_somebody_spoilt_is_left_alone_and_a_configuration_is_made_anew(grid: Grid) -> None:
    (secret,) = [secret for secret in grid.of(Secret) if secret.metadata.owner_references]
    assert secret.metadata.owner_references[0].name == "net"
    path = path_of(Secret, "default", secret.name)
    body = {"data": {**secret.data, **{name: "" for name in secret.data if name != "privateKey"}}}
    grid.ask("PATCH", path, body, "merge")
    grid.resync()
    await grid.settle()
    assert grid.get(Secret, "default", secret.name).data == secret.data
    grid.ask("PATCH", path, {"data": {"privateKey": "aHVzaA=="}}, "merge")
    await grid.settle()
    assert grid.get(Secret, "default", secret.name).data["privateKey"] == "aHVzaA=="
    assert not shown(grid, Network, "net").startswith("True")


# -- claims, and finalizers

HOLDER = ClaimHolder(kind="Contract", namespace="default", name="c", uid="new")
WISH = ClaimWanted("ipv4.203.0.113.18", "203.0.113.18", "lab")


class Claiming:
    """``told`` is what was absorbed: a version, or None."""

    def __init__(self) -> None:
        self.server = Server()
        self.client = MemoryClient(self.server)
        self.world = World(KINDS.indexes())
        self.told: list[str | None] = []
        self.exchange = Exchange(self.client, self.world, self.absorb, lambda _: None, lambda *_: None)
        self.claims = Claims(self.exchange)
        self.contract = Contract.model_validate(
            {"metadata": {"name": "c", "namespace": "default", "uid": "new"}, "spec": {"farm": "lab", "publicIPv4": 1}}
        )

    def absorb(self, key: Key, raw: Raw | None, foreseen: Object | None = None) -> None:
        self.told.append(raw["metadata"]["resourceVersion"] if raw is not None else None)
        if raw is None:
            self.world.remove(key)
        else:
            self.world.put(Claim.model_validate(raw))

    def held(self, uid: str) -> Claim:
        """By an earlier contract of the name."""
        spec = ClaimSpec(holder=HOLDER.model_copy(update={"uid": uid}), thing=WISH.thing, farm="lab")
        body = {"metadata": {"name": WISH.name}, "spec": spec.wire()}
        _, raw = self.server.handle(Request("POST", path_of(Claim), body, ""))
        claim = Claim.model_validate(raw)
        self.world.put(claim)
        return claim

    @property
    def known(self) -> Any:
        return self.world.peek(Claim.key_of("", WISH.name))


async def test_a_claim_is_held_at_once_and_there_when_it_is_written() -> None:
    made = Claiming()
    (claim,) = made.claims.take(made.contract, (WISH,))
    assert made.claims.of(made.contract) == [claim]
    assert made.claims.take(made.contract, (WISH,)) == [], "it has it"
    await made.claims.write(claim)
    assert made.known.uid
    assert made.known.spec.holder.uid == "new"


async def test_a_claim_that_another_was_first_to_is_known_as_his() -> None:
    made = Claiming()
    (claim,) = made.claims.take(made.contract, (WISH,))
    other = Claiming()
    other.server, other.client.memory = made.server, made.server
    before = other.held("others")
    with pytest.raises(Conflict):
        await made.claims.write(claim)
    assert made.known == before


async def test_a_claim_of_an_earlier_one_of_the_name_is_taken_over_or_stays_as_it_was() -> None:
    made = Claiming()
    before = made.held("old")
    (claim,) = made.claims.take(made.contract, (WISH,))
    assert made.known.spec.holder.uid == "new"
    made.server.refuses = lambda one: (409, "it changed") if one.method == "PATCH" else None
    with pytest.raises(Conflict):
        await made.claims.write(claim)
    assert made.known == before
    made.server.refuses = lambda _: None
    (claim,) = made.claims.take(made.contract, (WISH,))
    await made.claims.write(claim)
    (there,) = made.server.of(Claim)
    assert there["spec"]["holder"]["uid"] == "new"
    assert made.known.metadata.resource_version == there["metadata"]["resourceVersion"]


async def test_the_last_finalizer_of_what_is_being_deleted_is_its_end_and_of_nothing_else() -> None:
    made = Claiming()
    mine, path = [CONTROLLER_FINALIZER], path_of(Claim, "", WISH.name)
    claim = made.held("old")
    await finalizers(made.exchange, claim, mine)
    await finalizers(made.exchange, made.known, ())
    assert None not in made.told
    await finalizers(made.exchange, made.known, mine)
    made.server.handle(Request("DELETE", path, {}, ""))
    made.world.put(Claim.model_validate(made.server.objects[path]))
    await finalizers(made.exchange, made.known, ())
    assert made.told[-1] is None
    gone = claim.model_copy(update={"metadata": Meta(name=claim.name, resource_version="9")})
    await finalizers(made.exchange, gone, mine)
    assert path not in made.server.objects
