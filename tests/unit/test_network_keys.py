"""Each WireGuard key of a network is one node's or one laptop's alone; who shares one is told, and all others are served."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PrivateKey

from cases import world_of
from fixpoint import resolve, settle
from zos.api.core import Secret
from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.network import Network, NetworkStatus
from zos.api.nodeworkload import NodeWorkload
from zos.api.text import is_half, is_key
from zos.kinds.network.part import NetworkOnNode
from zos.world.heartbeat import Heartbeat
from zos.world.resolution import Resolution
from zos.world.store import World

SMALL_ORDER = (
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
    "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
    "7P///////////////////////////////////////38=",
)


def key(number: int) -> str:
    return base64.b64encode(bytes(PrivateKey(number.to_bytes(32, "big")).public_key)).decode()


ALICE, N1, N2 = key(1), key(11), key(12)


def grid(access: list[dict[str, Any]], *, prekeys: dict[str, list[str]] | None = None) -> World:
    world = world_of(())
    offered = prekeys or {"n1": [N1, key(21)], "n2": [N2, key(22)]}
    for number, (name, keys) in enumerate(offered.items(), 1):
        status = {"prekeys": keys, "agentVersion": "0.2"}
        spec = {"endpoint": {"ipv4": f"198.51.100.{number}"}}
        world.put(GridNode.model_validate({"metadata": {"name": name, "uid": f"u-{name}"}, "spec": spec, "status": status}))
        world.put(Heartbeat.model_validate({"metadata": {"name": name}, "alive": True}))
    nodes = [{"name": name} for name in offered]
    put(world, {"ipRange": "10.20.0.0/16", "nodes": nodes, "access": access})
    settle(world, ("GridNode", "Network"))
    return world


def put(world: World, spec: dict[str, Any]) -> None:
    had: Any = world.peek(Network.key_of("d", "net"))
    meta = {"name": "net", "namespace": "d", "uid": "u-net", "generation": 1}
    status = had.status if had is not None else NetworkStatus()
    world.put(Network.model_validate({"metadata": meta, "spec": spec}).model_copy(update={"status": status}))


def look(world: World) -> tuple[Resolution, dict[str, Any]]:
    network: Any = world.peek(Network.key_of("d", "net"))
    resolution = resolve(network, world)
    assert isinstance(resolution.status, NetworkStatus)
    return resolution, {entry.name: entry for entry in resolution.status.access}


def peers(world: World) -> dict[str, list[str]]:
    found = {}
    for workload in world.all(NodeWorkload.KIND):
        part: Any = workload
        assert isinstance(part.part(NetworkOnNode), NetworkOnNode)
        found[part.namespace.removeprefix("zos-node-")] = [peer.public_key for peer in part.part(NetworkOnNode).peers]
    return found


def test_who_has_had_a_key_keeps_it_and_the_other_is_told() -> None:
    alice, bob = {"name": "alice", "publicKey": ALICE}, {"name": "bob", "publicKey": ALICE}
    world = grid([alice])
    network: Any = world.peek(Network.key_of("d", "net"))
    put(world, network.spec.model_copy(update={"access": ()}).wire() | {"access": [bob, alice, {"name": "carol"}]})
    settle(world, ("GridNode", "Network"))
    resolution, access = look(world)
    assert access["alice"].public_key == ALICE
    assert access["alice"].message is None
    assert access["bob"].public_key is None
    assert resolution.verdict.reason is Reason.CONFLICT
    assert "laptop bob: its public key is that of laptop alice as well: set another in access[].publicKey" in (
        resolution.verdict.message
    )
    assert sorted(peers(world)["n1"]) == sorted([N2, ALICE, access["carol"].public_key])


def test_a_laptop_has_no_nodes_key() -> None:
    world = grid([{"name": "bob", "publicKey": N2}, {"name": "carol"}])
    resolution, access = look(world)
    # Of what a node offers, what a laptop was first to name is not taken.
    assert (access["bob"].public_key, access["bob"].message) == (N2, None)
    assert isinstance(resolution.status, NetworkStatus)
    assert {entry.name: entry.public_key for entry in resolution.status.nodes}["n2"] == key(22)

    put(
        world,
        {"ipRange": "10.20.0.0/16", "nodes": [{"name": "n1"}, {"name": "n2"}], "access": [{"name": "eve", "publicKey": N1}]},
    )
    settle(world, ("GridNode", "Network"))
    resolution, access = look(world)
    assert access["eve"].public_key is None
    assert "laptop eve: its public key is that of node n1 as well" in resolution.verdict.message
    assert peers(world)["n2"] == [N1]


def test_a_pair_of_one_laptop_in_anothers_secret_is_told() -> None:
    world = grid([{"name": "alice"}])
    _, access = look(world)
    taken = world.peek(Secret.key_of("d", "net-alice-wireguard"))
    assert isinstance(taken, Secret)
    world.put(
        taken.model_copy(update={"metadata": taken.metadata.model_copy(update={"name": "net-bob-wireguard", "uid": "u-2"})})
    )
    put(world, {"ipRange": "10.20.0.0/16", "nodes": [{"name": "n1"}], "access": [{"name": "bob"}, {"name": "alice"}]})
    settle(world, ("GridNode", "Network"))
    resolution, after = look(world)
    assert after["alice"].public_key == access["alice"].public_key
    assert after["bob"].public_key is None
    assert "delete Secret net-bob-wireguard to have a new pair made" in resolution.verdict.message


@pytest.mark.parametrize("weak", SMALL_ORDER)
def test_a_key_that_no_pair_has_is_told(weak: str) -> None:
    world = grid([{"name": "zero", "publicKey": weak}, {"name": "carol"}])
    resolution, access = look(world)
    assert access["zero"].public_key is None
    assert resolution.verdict.reason is Reason.INVALID_SPEC
    assert f"no private key belongs to its public key {weak}" in resolution.verdict.message
    assert peers(world)["n1"] == sorted([N2, access["carol"].public_key])


def test_nodes_that_offer_one_key_get_different_ones() -> None:
    world = grid([], prekeys={"n1": [N1, key(21)], "n2": [N1, key(22)]})
    assert peers(world) == {"n1": [key(22)], "n2": [N1]}


def test_a_key_that_two_nodes_have_stays_with_the_first() -> None:
    world = grid([])
    node, network = world.peek(GridNode.key_of("", "n2")), world.peek(Network.key_of("d", "net"))
    assert isinstance(node, GridNode)
    assert isinstance(network, Network)
    holds = tuple(hold.model_copy(update={"public_key": N1}) for hold in node.status.holds)
    world.put(node.model_copy(update={"status": node.status.model_copy(update={"holds": holds})}))
    nodes = tuple(entry.model_copy(update={"public_key": N1}) for entry in network.status.nodes)
    world.put(network.model_copy(update={"status": network.status.model_copy(update={"nodes": nodes})}))
    resolution, _ = look(world)
    assert "node n2 had the WireGuard key of another node and got another" in {notice.message for notice in resolution.notices}
    settle(world, ("GridNode", "Network"))
    assert peers(world)["n2"] == [N1]
    assert peers(world)["n1"] in ([N2], [key(22)])


@given(st.integers(1, 2**250))
def test_the_public_half_of_every_pair_is_taken(number: int) -> None:
    assert is_key(key(number))
    assert is_half(key(number))


@given(st.integers(2**255 - 19, 2**256 - 1))
def test_what_is_no_number_of_the_curve_is_not_taken(number: int) -> None:
    assert not is_half(base64.b64encode(number.to_bytes(32, "little")).decode())
