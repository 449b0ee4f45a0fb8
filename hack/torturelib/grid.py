"""hack/torture grid: many objects on simulated nodes, made, edited and deleted at random under restarts and drift."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from apiserver import running
from torturelib import chaos
from torturelib.chaos import Action, Invariant, Refused, Scenario, Step
from torturelib.simulated import NAMESPACE, USERS, Simulated, world
from zos.api import names
from zos.api.contract import Claim, Contract, NameContract
from zos.api.gridnode import GridNode
from zos.api.meta import Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.publicip import PublicIP
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kinds.network.part import NetworkOnNode
from zos.plan.items import WireGuard
from zos.simulation import grid as simulated

PATIENCE = 60.0
#: At most so many of each.
_MOST: dict[type[Object], int] = {ZMachine: 16, ZMount: 16, PublicIP: 16, Network: 4, Contract: 6, NameContract: 6}


def _room(world: Simulated, kind: type[Object]) -> None:
    if len(world.wanted.objects[kind]) >= _MOST[kind]:
        raise Refused(f"there are {_MOST[kind]} already")


def _one(world: Simulated, kind: type[Object], chance: Random, *, unused: bool = False) -> str:
    found = [name for name in world.wanted.objects[kind] if not unused or not world.wanted.used(kind, name)]
    if not found:
        raise Refused(f"there is no {'unused ' if unused else ''}{kind.KIND}")
    return chance.choice(found)


def _members(world: Simulated, chance: Random, before: list[dict[str, str]]) -> list[dict[str, str]]:
    """Some, among them one that can be reached from outside: hidden ones and laptops alone are no network. Those that laptops
    may connect to stay, as a laptop does not go to another one by itself."""
    chosen = set(chance.sample(world.names, chance.randint(0, len(world.names)))) | {chance.choice(world.names[:2])}
    chosen |= {member["name"] for member in before if not world.hidden(member["name"])}
    return [{"name": name} for name in sorted(chosen)]


def _laptops(chance: Random) -> list[dict[str, str]]:
    return [{"name": f"laptop-{number}"} for number in range(chance.randint(0, 3))]


async def make(world: Simulated, chance: Random) -> str:
    kind = chance.choice([ZMachine, ZMachine, ZMount, PublicIP, Network, Contract, NameContract])
    _room(world, kind)
    spec: dict[str, object]
    if kind is Network:
        spec = {"ipRange": f"10.{20 + world.wanted.number % 200}.0.0/16"}
        spec |= {"nodes": _members(world, chance, []), "access": _laptops(chance)}
    elif kind is ZMachine:
        spec = {"image": "oci://r/i:t", "memory": "256Mi", "network": {"name": _one(world, Network, chance)}}
        disks = [name for name in world.wanted.objects[ZMount] if not world.wanted.used(ZMount, name)]
        if disks and chance.random() < 0.6:  # the disk may have its node already
            spec["disks"] = [{"name": chance.choice(disks), "mountPath": "/data"}]
        elif chance.random() < 0.5:
            spec["nodeName"] = chance.choice(world.names)
    elif kind is ZMount:
        spec = {"size": f"{chance.randint(1, 9)}Gi"}
    elif kind is PublicIP:
        contract = _one(world, Contract, chance)
        users = sum(ip["contract"] == contract for ip in world.wanted.objects[PublicIP].values())
        if users >= int(str(world.wanted.objects[Contract][contract]["publicIPv4"])):
            raise Refused(f"{contract} is full")
        spec = {"contract": contract, "ipv6": False}
    elif kind is Contract:
        spec = {"farm": "farm", "publicIPv4": chance.randint(1, 4)}
    else:
        spec = {"name": f"name{world.wanted.number}"}
    name = await world.create(kind, kind.KIND.lower(), spec)
    return f"{kind.KIND} {name} {spec}"


async def edit(world: Simulated, chance: Random) -> str:
    kind = chance.choice([Network, ZMachine, ZMount, Contract])
    name = _one(world, kind, chance)
    now = world.wanted.objects[kind][name]
    changes: dict[str, object]
    if kind is Network:
        members = _members(world, chance, now["nodes"])  # type: ignore[arg-type]
        changes = chance.choice([{"nodes": members}, {"access": _laptops(chance)}])
    elif kind is ZMachine:
        changes = {"env": [{"name": "A", "value": str(chance.randrange(1000))}], "memory": f"{chance.randint(250, 900)}Mi"}
    elif kind is ZMount:
        changes = {"size": f"{int(str(now['size']).removesuffix('Gi')) + 1}Gi"}
    else:
        changes = {"publicIPv4": int(str(now["publicIPv4"])) + 1}
    await world.edit(kind, name, **changes)
    return f"{kind.KIND} {name} {changes}"


async def delete(world: Simulated, chance: Random) -> str:
    kind = chance.choice(USERS)
    name = _one(world, kind, chance, unused=True)
    await world.delete(kind, name)
    return f"{kind.KIND} {name}"


async def restart_controller(world: Simulated, chance: Random) -> str:
    old = chance.choice(world.controllers)
    await world.stop_controller(old)
    return f"{old} ended, {await world.start_controller()} began"


async def hand_over(world: Simulated, chance: Random) -> str:
    """A second one waits; the first goes."""
    new = await world.start_controller()
    await asyncio.sleep(chance.uniform(0, 2))
    old = world.controllers[0]
    await world.stop_controller(old)
    return f"{new} stood by, {old} ended"


async def restart_agent(world: Simulated, chance: Random) -> str:
    name, seconds = chance.choice(world.names), chance.uniform(0, 3)
    await world.grid.stop_agent(name)
    await asyncio.sleep(seconds)
    world.grid.start_agent(name)
    return f"agent of {name} away for {seconds:.1f} s"


async def lose(world: Simulated, chance: Random) -> str:
    """Something disappears behind the agent's back."""
    name = chance.choice(world.names)
    node = world.grid.nodes[name]
    keys = sorted(key for key, item in node.things.items() if not item.HOLDS_DATA and not key.startswith(("domain/", "image/")))
    if not keys:
        raise Refused(f"{name} has nothing")
    key = chance.choice(keys)
    node.lose(key)
    return f"{key} of {name}"


async def trouble(world: Simulated, chance: Random) -> str:
    """What is operated on gives an error for a while."""
    name = chance.choice(world.names)
    node = world.grid.nodes[name]
    if not node.things:
        raise Refused(f"{name} has nothing")
    key, seconds = chance.choice(sorted(node.things)), chance.uniform(0.5, 3)
    node.faults[key] = "no such luck"
    if not node.things[key].HOLDS_DATA and not key.startswith(("domain/", "image/")):
        node.lose(key)
    await asyncio.sleep(seconds)
    node.faults.pop(key, None)
    return f"{key} of {name} can't be made for {seconds:.1f} s"


async def delete_workload(world: Simulated, chance: Random) -> str:
    found = sorted((w.namespace, w.name) for w in await world.listed(NodeWorkload))
    if not found:
        raise Refused("there is none")
    namespace, name = chance.choice(found)
    await world.grid.client.delete(NodeWorkload, namespace, name)
    return f"NodeWorkload {namespace}/{name} deleted by hand"


async def lose_endpoint(world: Simulated, chance: Random) -> str:
    name = chance.choice([name for name in world.names if not world.hidden(name)])
    seconds = chance.uniform(0.5, 4)
    await world.grid.client.patch(GridNode, "", name, {"spec": {"endpoint": None}})
    await asyncio.sleep(seconds)
    await world.grid.client.patch(GridNode, "", name, {"spec": {"endpoint": {"ipv4": world.endpoint(name)}}})
    return f"{name} without an endpoint for {seconds:.1f} s"


ACTIONS = (
    Action("make", make, weight=24),
    Action("edit", edit, weight=12),
    Action("delete", delete, weight=8),
    Action("lose", lose, weight=6),
    Action("trouble", trouble, weight=2),
    Action("restart-controller", restart_controller, weight=2),
    Action("hand-over", hand_over, weight=2),
    Action("restart-agent", restart_agent, weight=3),
    Action("delete-workload", delete_workload, weight=3),
    Action("lose-endpoint", lose_endpoint, weight=2, slow=True),
)


async def data(world: Simulated) -> list[str]:
    """What a machine that was Ready has on its node stays until its user deletes it: guest, root, disks. (A disk that no
    machine has had yet may go to the node of its first one.)"""
    found = []
    for node, journal in world.journals.items():
        for key in journal.removed:
            if (uid := world.precious.get((node, key))) and uid not in world.deleted:
                found.append(f"{key} of {node} is gone, and nobody has deleted {uid}")
    disks = {mount.name: mount.uid for mount in await world.listed(ZMount)}
    for machine in await world.listed(ZMachine):
        condition, node = machine.status.condition("Ready"), machine.status.node_name
        if node and condition and condition.status == "True":
            world.precious[node, f"domain/zos-{names.ident(machine.uid)}"] = machine.uid
            world.precious[node, f"disk/root-{machine.uid}"] = machine.uid
            for disk in machine.spec.disks:
                if uid := disks.get(disk.name):
                    world.precious[node, f"disk/mount-{uid}"] = uid
    return found


async def once(world: Simulated) -> list[str]:
    given: list[tuple[object, ...]] = []
    for machine in await world.listed(ZMachine):
        if machine.status.ip:
            given.append(("address", machine.spec.network.name, machine.status.ip))
    for network in await world.listed(Network):
        given += [("sub-range", network.name, member.subnet) for member in (*network.status.nodes, *network.status.access)]
    for workload in await world.listed(NodeWorkload):
        if spec := workload.part(NetworkOnNode):
            given += [("port", workload.namespace, spec.listen_port), ("key", workload.namespace, spec.public_key)]
    for contract in await world.listed(Contract):
        given += [("reserved", address) for address in contract.status.reserved]
    given += [("public", ip.status.ipv4.address) for ip in await world.listed(PublicIP) if ip.status.ipv4]
    given += [("name", name.status.name) for name in await world.listed(NameContract) if getattr(name.status, "name", None)]
    for name, node in world.grid.nodes.items():
        given += [("port on the node", name, item.listen_port) for item in node.things.values() if isinstance(item, WireGuard)]
    return [f"{what} is given {count} times" for what, count in Counter(given).items() if count > 1]


async def sticky(world: Simulated) -> list[str]:
    """What an object has, it keeps: between two looks nothing moves. (A member that left and came back may have another.)"""
    has: dict[object, object] = {}
    for machine in await world.listed(ZMachine):
        if not machine.deleting:
            has["node", machine.name] = machine.status.node_name
            has["address", machine.name] = machine.status.ip
    for mount in await world.listed(ZMount):
        if not mount.deleting and (mount.status.node_name, f"disk/mount-{mount.uid}") in world.precious:
            has["node", mount.name] = mount.status.node_name
    for network in await world.listed(Network):
        if not network.deleting:
            for member in (*network.status.nodes, *network.status.access):
                has["sub-range", network.name, member.name] = member.subnet
    for ip in await world.listed(PublicIP):
        if not ip.deleting:
            has["public", ip.name] = ip.status.ipv4 and ip.status.ipv4.address
    members = {
        ("sub-range", name, member["name"])
        for name, spec in world.wanted.objects[Network].items()
        for what in ("nodes", "access")
        for member in spec[what]  # type: ignore[attr-defined]
    }
    found = []
    for what, was in world.had.items():
        if was and what in has and has[what] != was and (what[0] != "sub-range" or what in members):  # type: ignore[index]
            found.append(f"{what} was {was}, is {has[what]}")
    world.had = has
    return found


async def keys(world: Simulated) -> list[str]:
    """A laptop's key stays as long as the laptop is in the spec."""
    wanted = {
        f"{name}-{laptop['name']}-wireguard"
        for name, spec in world.wanted.objects[Network].items()
        for laptop in spec["access"]  # type: ignore[attr-defined]
    }
    has = await world.keys()
    found = []
    for secret, was in world.laptops.items():
        if secret in wanted and has.get(secret) != was:
            found.append(f"{secret} {'is gone' if secret not in has else 'has another private key'}")
    world.laptops = {secret: key for secret, key in has.items() if secret in wanted}
    return found


async def ready(world: Simulated) -> list[str]:
    found = []
    for kind in (*USERS, GridNode):
        for thing in await world.listed(kind):
            condition = thing.status.condition("Ready")  # type: ignore[attr-defined]
            current = thing.status.observed_generation == thing.metadata.generation  # type: ignore[attr-defined]
            if thing.deleting:
                found.append(f"{kind.KIND} {thing.name} is still being deleted: {condition and condition.message}")
            elif condition is None or condition.status != "True" or not current:
                found.append(f"{kind.KIND} {thing.name}: {condition and (condition.reason, condition.message)}")
    return found


async def held(world: Simulated) -> list[str]:
    """Holds and Claims are of what there is, no more."""
    living = {thing.uid for kind in USERS for thing in await world.listed(kind)}
    found = [
        f"{node.name} holds for {hold.owner}, which is gone"
        for node in await world.listed(GridNode)
        for hold in node.status.holds
        if hold.uid not in living
    ]
    return found + [
        f"{claim.name} is of {claim.spec.holder.name}, which is gone"
        for claim in await world.listed(Claim)
        if claim.spec.holder.uid not in living
    ]


async def gone(world: Simulated) -> list[str]:
    found = await held(world)
    for kind in USERS:
        found += [
            f"{kind.KIND} {thing.name} is still there: {thing.status.condition('Ready')}"  # type: ignore[attr-defined]
            for thing in await world.listed(kind, NAMESPACE)
        ]
    found += [f"NodeWorkload {w.namespace}/{w.name} is still there" for w in await world.listed(NodeWorkload)]
    for name, node in world.grid.nodes.items():
        found += [f"{name} still has {key}" for key in node.things if not key.startswith(("sysctl/", "image/"))]
    return found


ALWAYS = (
    Invariant("nothing is taken away that nobody has deleted", data),
    Invariant("nothing is given twice", once),
    Invariant("what is given stays", sticky),
    Invariant("private keys stay", keys),
)
SCENARIO = Scenario(
    actions=ACTIONS,
    always=ALWAYS,
    rest=(Invariant("everything is Ready", ready), Invariant("nothing is held for what is gone", held)),
    end=(Invariant("nothing is left", gone),),
    pause=0.4,
    patience=PATIENCE,
)


async def run(seed: int, seconds: float, asked: list[str], steps: list[Step]) -> int:
    """On an API server of its own."""
    actions = chaos.choose(SCENARIO.actions, asked, short=False)
    with tempfile.TemporaryDirectory(prefix="zos-torture-") as scratch, running(Path(scratch) / "api") as server:
        server.kubectl("create", "namespace", "zos-system")
        report = await over(server.kubeconfig, Path(scratch), actions, seed=seed, seconds=seconds, say=say, steps=steps)
    return 1 if report.violations else 0


async def over(
    kubeconfig: str,
    scratch: Path,
    actions: list[Action[Simulated]],
    *,
    seed: int,
    seconds: float,
    say: chaos.Say,
    steps: Sequence[Step] = (),
    least: int = 0,
) -> chaos.Report:
    """On an API server that is there and that nobody else uses."""
    async with simulated(kubeconfig, scratch / "nodes") as made, world(made) as tortured:
        return await chaos.torture(tortured, SCENARIO, actions, seed=seed, seconds=seconds, say=say, steps=steps, least=least)


def say(text: str) -> None:
    print(text, flush=True)
