"""The smallest and the greatest that admission takes is decided upon, carried out and said, like anything else."""

from __future__ import annotations

import itertools
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cases import MODELS, load, world_of
from fixpoint import resolve, settle
from gridkinds import GRID
from known import facts
from limits import LABEL, LIMITS, NAME, Limit
from zos.api import names
from zos.api.gridnode import GridNode
from zos.api.meta import Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.text import is_name
from zos.kinds.kind import Here
from zos.kinds.network.laptops import secret_name
from zos.kinds.network.part import NetworkOnNode
from zos.kinds.zmachine.part import MachineOnNode
from zos.plan.facts import ImageFact
from zos.plan.items import Bridge, Domain, Tap, Veth, WireGuard
from zos.world.store import World

ORDER = ("Farm", "GridNode", "Network", "Contract", "PublicIP", "NameContract", "ZMount", "ZMachine")
IMAGE = ImageFact(digest="sha256:abc", entrypoint=("/bin/start",))
OBJECTS = Path(__file__).parent.parent / "golden" / "vanished.yaml"


@cache
def whole() -> tuple[Object, ...]:
    """Objects of each kind that get on with each other."""
    objects, _ = load(OBJECTS)
    return tuple(objects)


def grid(*further: Object) -> World:
    return world_of([*whole(), *further])


def made(kind: str, spec: dict[str, Any], name: str, **status: Any) -> Object:
    model = MODELS[kind]
    meta = {"name": name, "uid": f"uid-{name}", "generation": 1, "creationTimestamp": "2027-01-01T00:00:00Z"}
    meta |= {"namespace": "default"} if model.NAMESPACED else {}
    return model.model_validate({"metadata": meta, "spec": spec, "status": status})


def lowered(workload: NodeWorkload) -> list[Any]:
    kind = GRID.on_node(workload)
    assert kind is not None
    part, network = workload.part(MachineOnNode), workload.part(NetworkOnNode)
    image = part.image if part is not None else ""
    known = {(workload.name, sealed.name): "x" for sealed in workload.spec.secrets}
    known_of = facts(node="n1", nameservers=("9.9.9.9",), prefixes=(), images={image: IMAGE}, secrets=known)
    found = kind.lower(Here.of(workload, workload.spec.part, known_of))
    assert network is None or found.items
    return [*found.items]


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_what_admission_takes_is_decided_upon_and_carried_out(limit: Limit) -> None:
    for spec, name in zip(limit.taken, itertools.chain([NAME], itertools.repeat("x")), strict=False):
        subject = made(limit.kind, spec, name)
        world = grid(subject)
        settle(world, ORDER)
        told = world.peek(subject.key).status.condition("Ready")  # type: ignore[union-attr]
        assert told.status == "True" or told.message, spec
        assert len(told.message) <= 4096
        for workload in world.all(NodeWorkload.KIND):
            assert isinstance(workload, NodeWorkload)
            assert is_name(workload.name)
            assert re.fullmatch("[a-z0-9-]{1,63}", workload.namespace)
            assert GRID.workload.model_validate(workload.wire()) == workload
            for item in lowered(workload):
                if isinstance(item, (Tap, Veth, Bridge, WireGuard)):
                    assert len(item.name) <= 15
                if isinstance(item, Domain):
                    assert len(item.name) <= 63


@pytest.mark.parametrize("kind", ["ZMount", "ZMachine"])
def test_what_no_node_can_have_waits_and_says_what_is_lacking(kind: str) -> None:
    base = {"image": "oci://r/i:1", "network": {"name": "net"}} if kind == "ZMachine" else {}
    for field in ("memory", "rootSize") if kind == "ZMachine" else ("size",):
        for most in ("1Ei", "9223372036854775807", "9999999999999999999Ei"):
            subject = made(kind, base | {field: most}, "x")
            world = grid(subject)
            settle(world, ORDER)
            verdict = resolve(world.peek(subject.key), world).verdict
            assert not verdict.ready
            assert re.search(r"lacks (memory|storage): .* asked, .* free", verdict.message), verdict.message


def test_names_that_are_made_of_the_longest_fit_where_they_go() -> None:
    network = made("Network", {"ipRange": "10.20.0.0/16"}, NAME)
    assert isinstance(network, Network)
    secrets = {secret_name(network, laptop) for laptop in (LABEL, LABEL[:-1] + "c", "l")}
    assert len(secrets) == 3
    assert all(is_name(secret) for secret in secrets)
    short = made("Network", {"ipRange": "10.20.0.0/16"}, "a" * 63 + "." + "b" * (253 - 64 - len("-l-wireguard")))
    assert isinstance(short, Network)
    assert len(secret_name(short, "l")) <= 253
    assert re.fullmatch("[a-z0-9-]{1,63}", names.node_namespace(NAME))
    assert re.fullmatch("[a-z0-9-]{1,63}", names.hostname(NAME))


@pytest.mark.parametrize(("low", "high", "joined"), [(1024, 1024, 1), (65535, 65535, 1), (65534, 65535, 2)])
def test_a_node_with_few_ports_has_that_many_networks_and_says_so(low: int, high: int, joined: int) -> None:
    objects = [obj for obj in whole() if obj.KIND != "Network"]
    node = next(obj for obj in objects if isinstance(obj, GridNode) and obj.name == "n2")
    ports = {"wireguardPorts": {"from": low, "to": high}}
    few = GridNode.model_validate(node.wire() | {"spec": node.spec.wire() | ports})
    networks = [
        made("Network", {"ipRange": f"10.{number}.0.0/16", "nodes": [{"name": "n2"}]}, f"net{number}")
        for number in range(joined + 1)
    ]
    world = world_of([*(obj for obj in objects if obj is not node), few, *networks])
    settle(world, ("Farm", "GridNode", "Network"))
    ports_had = [hold.listen_port for hold in world.peek(few.key).status.holds if hold.listen_port]  # type: ignore[union-attr]
    assert sorted(ports_had) == list(range(low, low + joined))
    last = resolve(world.peek(networks[-1].key), world).verdict
    assert not last.ready
    assert "port" in last.message
