"""What `hack/torture truth` looks at: every kind of the product, in the words in which nodes are asked today."""

from __future__ import annotations

from typing import Any

import pytest

from harness import Grid
from torturelib import invariants
from torturelib.truth import Seen, Truth
from zos.api.meta import Meta
from zos.api.nodeworkload import Owner
from zos.kinds.kind import Writer
from zos.kinds.network.part import NetworkOnNode
from zos.kinds.registry import KINDS

MESH = NetworkOnNode(
    ip_range="10.77.0.0/16", subnet="10.77.2.0/24", wireguard_address="100.64.77.2", listen_port=52000, mtu=1420,
    public_key="k" * 43 + "=", peers=(),
)  # fmt: skip


class Shown(Truth):
    """A world as it is said to be."""

    def __init__(self, *items: dict[str, Any]) -> None:
        super().__init__(Grid("none"))
        self.items = items

    def seen(self) -> Seen:
        found: dict[str, list[dict[str, Any]]] = {}
        for item in self.items:
            found.setdefault(item["kind"], []).append(item)
        return Seen(found)

    def on(self, node: str, script: str) -> str:
        return ""


def shown(kind: str, ready: str = "True") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready}]
    return {
        "kind": kind,
        "metadata": {"name": "one", "generation": 2},
        "status": {"observedGeneration": 2, "conditions": conditions},
    }


@pytest.mark.parametrize("kind", [model.KIND for model in KINDS.written_by(Writer.TENANT, Writer.ADMINISTRATOR)])
async def test_everything_that_somebody_writes_has_to_be_ready(kind: str) -> None:
    assert await invariants.ready(Shown(shown(kind))) == []
    assert await invariants.ready(Shown(shown(kind, "False"))) == [f"{kind} one: {{'type': 'Ready', 'status': 'False'}}"]
    late = shown(kind)
    late["metadata"]["generation"] = 3
    assert await invariants.ready(Shown(late))


@pytest.mark.parametrize("kind", [model.KIND for model in KINDS.written_by(Writer.TENANT)])
async def test_everything_that_tenants_write_has_to_go(kind: str) -> None:
    (left,) = await invariants.gone(Shown(shown(kind)))
    assert left.startswith(f"{kind} one is still there")


@pytest.mark.parametrize("older", [False, True], ids=["today", "older"])
async def test_what_nodes_are_asked_for_is_given_once(older: bool) -> None:
    def asked(node: str, uid: str) -> dict[str, Any]:
        owner = Owner(kind="Network", namespace="default", name="lan", uid=uid)
        spec = KINDS.workload.asking(owner, MESH, (), older=older)
        return KINDS.workload(metadata=Meta(name=f"network-{uid}", namespace=node), spec=spec).wire() | {"kind": "NodeWorkload"}

    assert await invariants.once(Shown(asked("zos-node-n1", "a"), asked("zos-node-n2", "b"))) == []
    port, key = await invariants.once(Shown(asked("zos-node-n1", "a"), asked("zos-node-n1", "b")))
    assert port == "port zos-node-n1 52000 is given 2 times"
    assert key.startswith("key zos-node-n1 ")
