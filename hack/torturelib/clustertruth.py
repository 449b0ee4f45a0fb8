"""What must hold of a cluster with the product and its guests, whatever is done to pods, kubelets and the release."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torturelib import pings
from torturelib.chaos import Invariant, Unseen
from torturelib.machines import lost
from zos.api import names
from zos.kinds.kind import Writer
from zos.kinds.registry import KINDS

if TYPE_CHECKING:
    from torturelib.clustered import Clustered

#: Copies of images on a node that nobody runs from: of what ended after the last runtime pod began.
_UNUSED = 2
#: How often a container is started anew by what one action does to its node.
_RESTARTS = 3
#: Pings that are answered after an action, before it is said that they go on.
_GO_ON = 30


async def guests(world: Clustered) -> list[str]:
    """Who was not ended on purpose is the same process, and is said to run since the same time."""
    there, found = world.processes(), []
    for name, (was, since) in list(world.guests.items()):
        now = there.get(names.ident(world.uids[f"ZMachine/{name}"]))
        if now != was:
            found.append(f"{name} on {world.machines[name]} was {was}, is {now}")
            world.excuse(name)
            continue
        told = world.object(f"ZMachine/{name}").get("status", {}).get("startedAt")
        if told != since:
            found.append(f"{name} is said to run since {told}, and runs since {since}")
            world.guests[name] = (was, told)
    return found


async def marks(world: Clustered) -> list[str]:
    """What a guest wrote is on its disk: as its node sees it, and as it says itself when it starts."""
    found = []
    for name, mark in world.marks.items():
        if others := set(world.said_marks(name)) - {mark}:
            found.append(f"{name} has written {mark}, and found {', '.join(sorted(others))}")
        if name == "vm":  # its disk is large
            continue
        path = f"/var/lib/zos/disks/mount-{world.uids[f'ZMount/d-{name}']}.raw"
        said = world.on_host(world.machines[name], f"if grep -qaF {mark} {path}; then echo there; else ls -l {path}; fi")
        if said.strip() != "there":
            found.append(f"the disk of {name} has lost what was written to it: {said.strip()}")
    return found


async def counts(world: Clustered) -> list[str]:
    return [f"{name} {what}" for name in world.machines if name != "vm" for what in lost(world.console(name))]


async def unanswered(world: Clustered) -> list[str]:
    found = []
    for name, upto in world.upto.items():
        if upto is None:
            continue
        missing, world.upto[name] = pings.lost(world.answers(name), upto)
        if missing:
            found.append(f"{name} lost {len(missing)} pings to {world.pinged(name)}: {missing[:5]} to {missing[-1]}")
    return found


async def places(world: Clustered) -> list[str]:
    """Node and address of a machine, once known, stay."""
    found = []
    for name, had in world.places.items():
        status = world.object(f"ZMachine/{name}").get("status", {})
        has = (status.get("nodeName", ""), status.get("ip", ""))
        if has != had and name not in world.excused:
            found.append(f"{name} had {had}, has {has}")
    return found


async def specs(world: Clustered) -> list[str]:
    """Nobody writes what was asked for but who asked."""
    now, found = world.generations(), []
    for what, was in world.specs.items():
        if (has := now.get(what)) != was:
            found.append(f"{what} was {was}, is {has}")
    world.specs = now
    return found


async def behind(world: Clustered) -> list[str]:
    """What actions have seen in passing."""
    found, world.wrong = world.wrong, []
    return found


async def copies(world: Clustered) -> list[str]:
    """Versions of the node's programs on its disk: those from which somebody runs, and hardly more."""
    found = []
    for node in {"n1", "n2"}:
        there = set(world.on_host(node, "cd /var/lib/zos/runtime && ls -d */complete 2>/dev/null | cut -d/ -f1").split())
        used = set(
            world.on_host(
                node, "for p in /proc/[0-9]*; do readlink $p/root; done | sed -n 's:^/roots/\\([^/]*\\).*:\\1:p' | sort -u"
            ).split()
        )
        if len(there - used) > _UNUSED:
            found.append(f"{node} has {sorted(there)}, and needs {sorted(used)}")
        if missing := used - there:
            found.append(f"{node} runs from {sorted(missing)}, which is gone")
    return found


async def looping(world: Clustered) -> list[str]:
    """No container is started again and again."""
    pods = world.pods()
    found = [
        f"{pod.name} was started anew {pod.restarts - before} times"
        for pod in pods
        if pod.restarts - (before := world.restarts.get(pod.uid, 0)) > _RESTARTS
    ]
    world.restarts = {pod.uid: pod.restarts for pod in pods}
    return found


# -- soon after each action


async def rolled_out(world: Clustered) -> list[str]:
    """Two pods of each part, on each node one of its own, all well."""
    pods = world.pods()
    found = [f"pod {pod.name} is not Ready" for pod in pods if not pod.well]
    for part in ("node", "runtime", "controller"):
        places = sorted(pod.node for pod in pods if pod.part == part)
        if len(places) != 2 or (part != "controller" and places != ["n1", "n2"]):
            found.append(f"pods of {part} are on {places}")
    return found


async def ready(world: Clustered) -> list[str]:
    """Everything that users made, every node, and every Node, as what they are now."""
    found = [f"Node {node} is not Ready" for node in ("n1", "n2") if world.product.node_ready(node) != "True"]
    for model in KINDS.written_by(Writer.TENANT, Writer.ADMINISTRATOR):
        try:
            items = world.product.items(model.KIND)
        except AssertionError as error:
            raise Unseen(str(error)) from None
        for item in items:
            status = item.get("status", {})
            condition = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {"status": "?"})
            current = status.get("observedGeneration") == item["metadata"]["generation"]
            if condition["status"] != "True" or not current:
                found.append(f"{model.KIND} {item['metadata']['name']}: {condition}")
    there = {f"{kind}/{name}" for kind, name in (what.split("/") for what in world.objects)}
    return found + [f"{what} is not there" for what in sorted(there) if not _is_there(world, what)]


def _is_there(world: Clustered, what: str) -> bool:
    try:
        return bool(world.object(what))
    except Unseen:
        return False


async def services(world: Clustered) -> list[str]:
    """What the node runs for guests beside them: WireGuard, networks' name servers, libvirt."""
    script = "cd /; for s in /run/service/*; do echo $s $(s6-svstat -o up,wantedup $s); done"
    found = []
    for node in ("n1", "n2"):
        lines = [line.split() for line in world.in_tree(node, script).splitlines() if line.startswith("/run/service/")]
        found += [f"{words[0]} of {node} is not up" for words in lines if words[1:] != ["true", "true"]]
        if len(lines) < 4:
            found.append(f"{node} has no services but {lines}")
    return found


async def running(world: Clustered) -> list[str]:
    """Every guest has a process; who was ended on purpose is known anew."""
    return [] if world.learn_guests() else [f"{name} does not run" for name in sorted(world.excused)]


async def go_on(world: Clustered) -> list[str]:
    found = []
    for name in world.pingers():
        answers, last = world.answers(name), world.ended.get(name, -1)
        if answers and world.upto[name] is None and answers[-1] < last:
            last = -1  # its guest was started anew, and counts from the beginning
        if not answers or answers[-1] <= last + _GO_ON:
            found.append(f"{name} is not answered by {world.pinged(name)}: {answers[-1:]} after {last}")
        elif world.upto[name] is None:
            world.upto[name] = answers[-1]
    return found


# -- when it is over


async def whole(world: Clustered) -> list[str]:
    """What the installation says of itself."""
    said = world.release.test()
    return [] if "Phase:          Succeeded" in said or "Succeeded" in said else [said[-1500:]]


async def gone(world: Clustered) -> list[str]:
    """No object of ours, nothing held for them, nothing of them on a node."""
    found = [f"{what} is still there" for what in world.generations() if f"/{world.namespace}/" in what]
    for node in ("n1", "n2"):
        told = world.gridnode(node).get("status", {})
        found += [f"{node} still holds for {hold['owner']}" for hold in told.get("holds", ())]
        found += [f"{node} has {left['kind']} {left['name']} in quarantine" for left in told.get("quarantine", ())]
        idents = {names.ident(uid) for uid in world.uids.values()} | set(world.uids.values())
        said = world.in_tree(
            node, "ip -o link; nft list tables; ls /run/netns /run/service /run/libvirt/qemu /var/lib/zos/disks"
        )
        found += [f"{node} still has {line.strip()}" for line in said.splitlines() if any(ident in line for ident in idents)]
    return found


ALWAYS = (
    Invariant("no guest ends that was not ended on purpose", guests),
    Invariant("what was written is on the disks", marks),
    Invariant("what a guest was told is safe is found by it", counts),
    Invariant("no ping is lost", unanswered),
    Invariant("a machine keeps node and address", places),
    Invariant("nobody writes what users have asked for", specs),
    Invariant("versions of the node's programs are few", copies),
    Invariant("no container is started again and again", looping),
    Invariant("nothing else was seen", behind),
)
AFTER = (
    Invariant("all pods are well", rolled_out),
    Invariant("everything is Ready", ready),
    Invariant("guests run", running),
    Invariant("services run", services),
    Invariant("pings go on", go_on),
)
REST = (*AFTER, Invariant("helm test says that it is whole", whole))
END = (Invariant("nothing is left", gone),)
