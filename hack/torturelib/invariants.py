"""What must hold of a grid with real disks and guests: read from the API and the nodes, not from the product's memory."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from torturelib.chaos import Invariant
from zos.api import names
from zos.kinds.kind import Writer
from zos.kinds.network.part import NetworkOnNode
from zos.kinds.registry import KINDS

if TYPE_CHECKING:
    from torturelib.truth import Truth

#: Seconds after which a guest that was ended on purpose has its next process, and is to keep it.
_ENDED = 45.0


async def marks(world: Truth) -> list[str]:
    """What a guest wrote is on its disk."""
    found = []
    for name in world.machines:
        disk = f"d-{name}"
        path = f"/var/lib/zos/disks/mount-{world.uids[f'ZMount/{disk}']}.raw"
        said = world.on(world.nodes[name], f"if grep -qaF {world.marks[disk]} {path}; then echo there; else ls -l {path}; fi")
        if said.strip() != "there":
            found.append(f"{disk} on {world.nodes[name]} has lost what was written to it: {said.strip()}")
    return found


async def guests(world: Truth) -> list[str]:
    """Who was not ended on purpose is the same process."""
    there, found = world.processes(), []
    for name in world.machines:
        if (was := world.guests.get(name)) is None:
            continue
        now = there.get(names.ident(world.uids[f"ZMachine/{name}"]))
        if now != was:
            found.append(f"{name} on {world.nodes[name]} was {was}, is {now}")
            world.guests.pop(name)
    return found


async def keys(world: Truth) -> list[str]:
    """A laptop's private key has no other copy."""
    seen, found = world.seen(), []
    for laptop, key in world.keys.items():
        secret = seen.named("Secret", f"lan-{laptop}-wireguard")
        if secret is None:
            found.append(f"the Secret of {laptop} is gone")
        elif secret["data"].get("privateKey") != key:
            found.append(f"the Secret of {laptop} has another private key")
        elif not secret["data"].get("wg0.conf"):
            found.append(f"the Secret of {laptop} has no wg0.conf")
    return found


async def places(world: Truth) -> list[str]:
    """Node and address of a machine, once known, stay."""
    seen, found = world.seen(), []
    for name, had in world.places.items():
        status = (seen.named("ZMachine", name) or {}).get("status", {})
        has = (status.get("nodeName", ""), status.get("ip", ""))
        if has != had:
            found.append(f"{name} had {had}, has {has}")
    return found


async def once(world: Truth) -> list[str]:
    """Nothing is given twice."""
    seen = world.seen()
    given: list[tuple[str, ...]] = []
    for machine in seen.items.get("ZMachine", ()):
        if ip := machine.get("status", {}).get("ip"):
            given.append(("address", machine["spec"]["network"]["name"], ip))
    for workload in seen.items.get("NodeWorkload", ()):
        part = KINDS.workload.model_validate(workload).part(NetworkOnNode)
        if part is not None:
            node = workload["metadata"]["namespace"]
            given += [("port", node, str(part.listen_port)), ("key", node, part.public_key)]
    for network in seen.items.get("Network", ()):
        status = network.get("status", {})
        for member in (*status.get("nodes", ()), *status.get("access", ())):
            given.append(("sub-range", network["metadata"]["name"], member.get("subnet", member["name"])))
    return [f"{' '.join(what)} is given {count} times" for what, count in Counter(given).items() if count > 1]


async def ready(world: Truth) -> list[str]:
    """Everything that users made, and every node, is Ready as what it is now."""
    seen, found = world.seen(), []
    for model in KINDS.written_by(Writer.TENANT, Writer.ADMINISTRATOR):
        for item in seen.items.get(model.KIND, ()):
            status = item.get("status", {})
            condition = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {"status": "?"})
            current = status.get("observedGeneration") == item["metadata"]["generation"]
            if condition["status"] != "True" or not current:
                found.append(f"{model.KIND} {item['metadata']['name']}: {condition}")
    return found


async def running(world: Truth) -> list[str]:
    """Every guest has a process, and whoever was ended on purpose has got over it."""
    there, found = world.processes(), []
    for name in world.machines:
        if names.ident(world.uids[f"ZMachine/{name}"]) not in there:
            found.append(f"{name} does not run on {world.nodes[name]}")
        elif name not in world.guests and time.monotonic() - world.excused.get(name, 0) > _ENDED:
            world.learn()
    return found


async def mesh(world: Truth) -> list[str]:
    """Every node's router reaches every machine."""
    router, found = names.router(world.uids["Network/lan"]), []
    for node in dict.fromkeys(world.nodes.values()):
        for name, (_, ip) in world.places.items():
            said = world.on(node, f"ip netns exec {router} ping -c1 -W1 {ip}")
            if "1 received" not in said:
                found.append(f"{node} does not reach {name} at {ip}")
    return found


async def gone(world: Truth) -> list[str]:
    """No object of ours, nothing held for them, nothing of them on a node."""
    seen = world.seen()
    found = [
        f"{model.KIND} {item['metadata']['name']} is still there: {item.get('status', {}).get('conditions')}"
        for model in KINDS.written_by(Writer.TENANT)
        for item in seen.items.get(model.KIND, ())
    ]
    uids = set(world.uids.values())
    for workload in seen.items.get("NodeWorkload", ()):
        if workload["spec"]["owner"]["uid"] in uids:
            found.append(f"NodeWorkload {workload['metadata']['namespace']}/{workload['metadata']['name']} is still there")
    for node in seen.items.get("GridNode", ()):
        held = [hold["owner"] for hold in node.get("status", {}).get("holds", ()) if hold["uid"] in uids]
        found += [f"{node['metadata']['name']} still holds for {owner}" for owner in held]
    idents = {names.ident(uid) for uid in uids} | uids
    places = "/run/netns /run/service /run/libvirt/qemu /var/lib/zos/disks /var/lib/zos/machines"
    script = f"ip -o link; nft list tables; ls {places}"
    for name in ("n1", "n2", "n3"):
        lines = world.on(name, script).splitlines()
        found += [f"{name} still has {line.strip()}" for line in lines if any(ident in line for ident in idents)]
    return found


ALWAYS = (
    Invariant("what was written is on the disks", marks),
    Invariant("no guest ends that was not ended on purpose", guests),
    Invariant("private keys stay", keys),
    Invariant("a machine keeps node and address", places),
    Invariant("nothing is given twice", once),
)
REST = (
    Invariant("everything is Ready", ready),
    Invariant("guests run", running),
    Invariant("the mesh is whole", mesh),
)
END = (Invariant("nothing is left", gone),)
