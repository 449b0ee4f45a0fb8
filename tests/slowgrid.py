"""A grid whose nodes are slow, and whose users change things at random: what is Current then and is not done is found here."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wholegrid import Grid
from zos.api.contract import Claim, Contract
from zos.api.core import Secret
from zos.api.meta import Key, Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.publicip import PublicIP
from zos.api.zmachine import RunPolicy, ZMachine
from zos.api.zmount import ZMount
from zos.kinds.network.laptops import secret_name
from zos.kinds.network.part import NetworkOnNode, NetworkState
from zos.kinds.zmachine.part import MachineState
from zos.kube.client import Raw

_CASE = Path(__file__).parent / "golden" / "vanished.yaml"
MODELS: dict[str, type[Object]] = {model.KIND: model for model in (ZMachine, ZMount, Network, Contract, PublicIP)}
_IMAGES, _WORDS = ("oci://r/i:t", "oci://r/j:t"), (["/bin/sh"], ["/bin/sh", "-c", "true"])


def too_early(grid: Grid, obj: Any) -> str:
    """What a Current object has not got on its nodes; empty: all is there."""
    if isinstance(obj, Contract):
        claimed = {claim.spec.thing for claim in grid.of(Claim) if claim.spec.holder.uid == obj.uid}
        lacks = len(obj.status.reserved) != obj.spec.public_ipv4 or not claimed.issuperset(obj.status.reserved)
        return f"it has {obj.status.reserved} and claims on {claimed}" if lacks else ""
    if isinstance(obj, PublicIP):
        lacks = (obj.status.ipv4 is None) == obj.spec.ipv4 or (obj.status.ipv6 is None) == obj.spec.ipv6
        return f"it has {obj.status.ipv4} and {obj.status.ipv6}" if lacks else ""
    owned = [workload for workload in grid.of(NodeWorkload) if workload.spec.owner.uid == obj.uid]
    if isinstance(obj, ZMachine | ZMount) and not owned:
        return "no node was asked"
    for workload in owned:
        ready = workload.status.condition("Ready")
        part, state = workload.part(NetworkOnNode), workload.state(NetworkState)
        marked = part is not None and state is not None and state.done == part.mark  # whatever names are asked for beside
        current = marked or (ready is not None and ready.observed_generation == workload.metadata.generation)
        if ready is None or ready.status != "True" or not current:
            return f"{workload.namespace} has not said that it is done"
        if not _asked(obj, workload.spec.part):
            return f"{workload.namespace} is asked for something else"
        machine = workload.state(MachineState)
        if isinstance(obj, ZMachine) and (machine is not None and machine.runs is None) != (
            obj.spec.run_policy is RunPolicy.HALTED
        ):
            return f"{workload.namespace} has a guest that {'runs' if machine and machine.runs else 'does not run'}"
    return _cut_off(grid, obj, owned) if isinstance(obj, Network) else ""


def _cut_off(grid: Grid, network: Network, parts: list[NodeWorkload]) -> str:
    """What a laptop lacks: its file, or a node that lets it in."""
    callers = {
        peer.public_key for workload in parts if workload.part(NetworkOnNode) for peer in workload.part(NetworkOnNode).peers
    }
    for laptop in network.spec.access:
        secret = grid.raw(Secret, network.namespace, secret_name(network, laptop.name))
        if secret is None or "wg0.conf" not in secret["data"]:
            return f"laptop {laptop.name} has no file"
        if base64.b64decode(secret["data"]["publicKey"]).decode() not in callers:
            return f"no node knows laptop {laptop.name}"
    return ""


def _asked(obj: Any, part: Any) -> bool:
    if isinstance(obj, ZMachine):
        spec = obj.spec
        env = {variable.name: variable.value for variable in spec.env if variable.value is not None}
        scalars = (spec.cpu, spec.memory, spec.image, spec.entrypoint, spec.run_policy)
        return (
            (part.cpu, part.memory, part.image, part.entrypoint, part.run_policy, part.env) == (*scalars, env)
            and (part.public_nic is None) == (spec.public_ip is None)
            and len(part.disks) == len(spec.disks)
            and (spec.network.ip is None or spec.network.ip == part.nics[0].ip)
        )
    if isinstance(obj, ZMount):
        return bool(part.size == obj.spec.size)
    return bool(part.mtu == obj.spec.mtu)


_CHANGES = (
    "env", "cpu", "memory", "image", "entrypoint", "disks", "public", "ip", "contract", "families", "halt", "run", "size",
    "mtu", "laptops",
)  # fmt: skip


async def life(seed: int, look: Callable[[Grid, Key, Raw | None], None]) -> Grid:
    """Shows every change of every object, and the grid as it is then; in the end all is done."""
    chance = random.Random(seed)
    grid = Grid()
    grid.server.hears.append(lambda key, raw: look(grid, key, raw))
    grid.load(_CASE)
    await grid.settle()
    grid.put(ZMount, {"metadata": {"name": "more"}, "spec": {"size": "10Gi", "nodeName": "n1"}}, "default")
    await grid.settle()
    machines, mounts, networks = (grid.of(model) for model in (ZMachine, ZMount, Network))
    contracts, addresses = grid.of(Contract), grid.of(PublicIP)
    (web,) = (machine for machine in machines if machine.name == "web")
    subnet = web.status.ip.rpartition(".")[0]
    data = {"name": "data", "mountPath": "/data"}
    for number in range(25):
        for agent in grid.agents.values():
            agent.idle = chance.random() < 0.4
        for _ in range(chance.randint(1, 3)):
            match chance.choice(_CHANGES):
                case "env":
                    _change(grid, chance.choice(machines), env=[{"name": "ROUND", "value": str(number)}])
                case "cpu":
                    _change(grid, chance.choice(machines), cpu=chance.randint(1, 3))
                case "memory":
                    _change(grid, chance.choice(machines), memory=f"{chance.randint(1, 3)}Gi")
                case "image":
                    _change(grid, chance.choice(machines), image=chance.choice(_IMAGES))
                case "entrypoint":
                    _change(grid, chance.choice(machines), entrypoint=chance.choice(_WORDS))
                case "disks":
                    _change(grid, web, disks=chance.choice(([data], [data, {"name": "more", "mountPath": "/more"}])))
                case "public":
                    _change(grid, web, publicIP=chance.choice((None, "address")))
                case "ip":
                    _change(grid, web, network={"name": "net", "ip": f"{subnet}.{chance.randint(20, 24)}"})
                case "contract":
                    _change(grid, chance.choice(contracts), publicIPv4=chance.randint(1, 5))
                case "families":
                    _change(grid, chance.choice(addresses), ipv6=chance.random() < 0.5)
                case "halt":
                    _change(grid, chance.choice(machines), runPolicy="Halted")
                case "run":
                    _change(grid, chance.choice(machines), runPolicy="Always")
                case "size":
                    _change(grid, chance.choice(mounts), size=f"{12 + number}Gi")
                case "mtu":
                    _change(grid, chance.choice(networks), mtu=1300 + number)
                case "laptops":
                    _change(grid, chance.choice(networks), access=[{"name": f"l{n}"} for n in range(chance.randint(0, 3))])
        await grid.settle(chance.choice((0.0, 1.0, 4.0)))
    for agent in grid.agents.values():
        agent.idle = False
    await grid.settle(40.0)
    return grid


def _change(grid: Grid, obj: Any, **spec: Any) -> None:
    grid.edit(type(obj), obj.namespace, obj.name, **spec)
