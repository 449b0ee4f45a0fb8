"""What one change costs: as much as concerns it, however many objects look at the one that changed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import cases
from cases import world_of
from fixpoint import settle
from zos.api.gridnode import GridNode
from zos.api.meta import Object
from zos.world.store import World

CASES = Path(__file__).parent.parent / "golden"
#: What many objects look at, and what is put into it as somebody else takes a share or says something.
ORDER = ("Farm", "GridNode", "Network", "Contract", "PublicIP", "ZMount", "ZMachine")
#: Rooms whose functions are asked again when something changes; the World's own book-keeping grows with the readers.
ASKED = ("/zos/api/", "/zos/kinds/", "/zos/world/asking.py", "/zos/world/placement.py", "/zos/world/residents.py",
         "/zos/world/running.py", "/zos/world/shares.py", "/zos/world/quarantine.py", "/zos/world/heartbeat.py")  # fmt: skip


def many(objects: list[Object], kind: str, count: int) -> list[Object]:
    """So many more of the first of a kind, each by another name."""
    (first, *_) = [obj for obj in objects if kind == obj.KIND]
    for number in range(count):
        name = f"{first.name}-{number}"
        meta = first.metadata.model_copy(update={"name": name, "uid": f"uid-{name}"})
        objects.append(type(first).model_validate({**first.wire(), "metadata": meta.wire(), "status": {}}))
    return objects


def asked_again(world: World, changed: Object) -> int:
    """How many calls a change makes of what it is looked at by."""
    calls = 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call" and any(room in frame.f_code.co_filename for room in ASKED)

    sys.setprofile(count)
    try:
        world.put(changed)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("kind", ["ZMount", "ZMachine"])
def test_a_nodes_change_is_looked_at_once_however_many_objects_it_has(kind: str) -> None:
    costs = []
    for count in (2, 12):
        objects, _ = cases.load(CASES / "vanished.yaml")
        world = world_of(many(objects, kind, count))
        settle(world, ORDER, rounds=30)
        node: Any = world.peek(GridNode.key_of("", "n1"))
        status = node.status.model_copy(update={"nameservers": ("9.9.9.9",)})
        costs.append(asked_again(world, node.model_copy(update={"status": status})))
    few, more = costs
    assert more <= few + 10, costs
