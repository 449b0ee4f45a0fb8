"""Nothing is Current (kstatus) for a change that its nodes were not told or have not carried out, whoever is slow."""

from __future__ import annotations

import base64
import random
from pathlib import Path
from typing import Any

import pytest

from wholegrid import Grid
from zos.api.core import Secret
from zos.api.meta import Key, Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.zmachine import RunPolicy, ZMachine
from zos.api.zmount import ZMount
from zos.kinds.network.laptops import secret_name
from zos.kube.client import Raw

CASE = Path(__file__).parent.parent / "golden" / "vanished.yaml"
MODELS: dict[str, type[Object]] = {model.KIND: model for model in (ZMachine, ZMount, Network)}


def current(raw: Raw) -> bool:
    """As kstatus and ``kubectl wait`` judge it."""
    status = raw.get("status", {})
    conditions = {found["type"]: found for found in status.get("conditions", ())}
    generation = raw["metadata"]["generation"]
    if any(conditions.get(kind, {}).get("status") == "True" for kind in ("Reconciling", "Stalled")):
        return False
    ready = conditions.get("Ready", {})
    return ready.get("status") == "True" and generation == status.get("observedGeneration") == ready.get("observedGeneration")


def too_early(grid: Grid, obj: Any) -> str:
    """What a Current object has not got on its nodes; empty: all is there."""
    owned = [workload for workload in grid.of(NodeWorkload) if workload.spec.owner.uid == obj.uid]
    if isinstance(obj, ZMachine | ZMount) and not owned:
        return "no node was asked"
    for workload in owned:
        ready = workload.status.condition("Ready")
        if ready is None or ready.status != "True" or ready.observed_generation != workload.metadata.generation:
            return f"{workload.namespace} has not said that it is done"
        if not asked(obj, workload.spec.part):
            return f"{workload.namespace} is asked for something else"
        machine = workload.status.machine
        if isinstance(obj, ZMachine) and (machine is not None and machine.runs is None) != (
            obj.spec.run_policy is RunPolicy.HALTED
        ):
            return f"{workload.namespace} has a guest that {'runs' if machine and machine.runs else 'does not run'}"
    return cut_off(grid, obj, owned) if isinstance(obj, Network) else ""


def cut_off(grid: Grid, network: Network, parts: list[NodeWorkload]) -> str:
    """What a laptop lacks: its file, or a node that lets it in."""
    callers = {peer.public_key for workload in parts if workload.spec.network for peer in workload.spec.network.peers}
    for laptop in network.spec.access:
        secret = grid.raw(Secret, network.namespace, secret_name(network, laptop.name))
        if secret is None or "wg0.conf" not in secret["data"]:
            return f"laptop {laptop.name} has no file"
        if base64.b64decode(secret["data"]["publicKey"]).decode() not in callers:
            return f"no node knows laptop {laptop.name}"
    return ""


def asked(obj: Any, part: Any) -> bool:
    if isinstance(obj, ZMachine):
        env = {variable.name: variable.value for variable in obj.spec.env if variable.value is not None}
        return (part.cpu, part.env, part.run_policy) == (obj.spec.cpu, env, obj.spec.run_policy)
    if isinstance(obj, ZMount):
        return bool(part.size == obj.spec.size)
    return bool(part.mtu == obj.spec.mtu)


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_current_before_it_is_done(seed: int) -> None:
    chance = random.Random(seed)
    grid = Grid()
    seen: list[str] = []
    counted = dict.fromkeys(MODELS, 0)

    def look(key: Key, raw: Raw | None) -> None:
        if key.kind in MODELS and raw is not None and current(raw) and "deletionTimestamp" not in raw["metadata"]:
            counted[key.kind] += 1
            if why := too_early(grid, MODELS[key.kind].model_validate(raw)):
                seen.append(f"{key}: {why}")

    grid.server.hears.append(look)
    grid.load(CASE)
    await grid.settle()
    machines, mounts, networks = (grid.of(model) for model in (ZMachine, ZMount, Network))
    for number in range(25):
        for agent in grid.agents.values():
            agent.idle = chance.random() < 0.4
        for _ in range(chance.randint(1, 3)):
            match chance.choice(("env", "cpu", "halt", "run", "size", "mtu", "laptops")):
                case "env":
                    change(grid, chance.choice(machines), env=[{"name": "ROUND", "value": str(number)}])
                case "cpu":
                    change(grid, chance.choice(machines), cpu=chance.randint(1, 3))
                case "halt":
                    change(grid, chance.choice(machines), runPolicy="Halted")
                case "run":
                    change(grid, chance.choice(machines), runPolicy="Always")
                case "size":
                    change(grid, chance.choice(mounts), size=f"{12 + number}Gi")
                case "mtu":
                    change(grid, chance.choice(networks), mtu=1300 + number)
                case "laptops":
                    change(grid, chance.choice(networks), access=[{"name": f"l{n}"} for n in range(chance.randint(0, 3))])
        await grid.settle(chance.choice((0.0, 1.0, 4.0)))
    for agent in grid.agents.values():
        agent.idle = False
    await grid.settle(40.0)
    assert seen == []
    assert all(counted.values()), counted
    for obj in (*machines, *mounts, *networks):
        raw = grid.raw(type(obj), obj.namespace, obj.name)
        assert raw is not None
        assert current(raw), (obj.key, raw["status"]["conditions"])


def change(grid: Grid, obj: Any, **spec: Any) -> None:
    grid.edit(type(obj), obj.namespace, obj.name, **spec)
