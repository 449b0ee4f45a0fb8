"""The drills of docs/backup.md on a cluster, as they are written there."""

from __future__ import annotations

import asyncio
import json
import time
from random import Random
from typing import Any

from harness import until
from torturelib.chaos import Action, Broken
from torturelib.clustered import NODES, PATIENCE, Clustered
from torturelib.clusterfaults import Run, restart, step
from zos.api import names

_POLICIES = (
    "validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingadmissionpolicies,mutatingadmissionpolicybindings"
)
#: What somebody notices who looks at the installation.
_ROLES = (
    "clusterrole/zos-controller", "clusterrolebinding/zos-controller", "clusterrole/zos-agent", "clusterrole/zos-installcheck",
)  # fmt: skip
#: Seconds until it is told that nobody leads, or that an agent is not heard of.
_NOTICED = 60
#: Seconds without a change after which nothing is expected to change any more.
_STILL = 4.0


def _put_back(world: Clustered, chance: Random) -> str:
    """The same release once more."""
    if chance.random() < 0.5:
        world.release.rollback(world.release.good()[-1])
        return "a rollback to the present revision"
    world.release.upgrade(world.release.values())
    return "an upgrade"


def lost_kind(plural: str, kind: str = "") -> Run:
    """A CRD, with all objects. ``kind``: users' own, which have to be applied again."""

    @step
    async def run(world: Clustered, chance: Random) -> str:
        crd = f"{plural}.zos.grid.tf"
        world.product.kubectl("delete", "crd", crd, "--wait=false")
        world.product.kubectl("wait", "--for=delete", f"crd/{crd}", "--timeout=90s")
        await asyncio.sleep(chance.uniform(0, 20))
        _undisturbed(world, f"{plural} are deleted")
        how = _put_back(world, chance)
        _undisturbed(world, f"{plural} are put back")
        if kind:
            _given_back(world, kind)
        elif plural == "gridnodes":
            _nodes_return(world)
        world.until_ready(*world.objects)
        for what in world.objects:
            world.uids[what] = world.object(what)["metadata"]["uid"]
        _settled(world)
        return f"{plural} deleted, and put back by {how}"

    return run


def _settled(world: Clustered) -> None:
    """Objects are still made for a moment, and followed by what knows of them: for some seconds none has changed."""
    before: dict[str, tuple[str, int]] = {}
    since = time.monotonic()

    def same() -> bool:
        nonlocal before, since
        was, before = before, world.generations()
        if was != before:
            since = time.monotonic()
        return time.monotonic() - since > _STILL

    until(same, 60, "no object changes any more")
    world.learn_specs()


def _undisturbed(world: Clustered, when: str) -> None:
    there = set(world.processes().values())
    if ended := [name for name, (guest, _) in world.guests.items() if guest not in there]:
        raise Broken(f"when {when}, guests of {', '.join(ended)} have ended")


def _given_back(world: Clustered, kind: str) -> None:
    """Applied again, and what is in quarantine given to them."""
    wanted = [one for what, one in world.objects.items() if what.startswith(f"{kind}/")]
    if kind == "Network":  # guests run on in the old one, until they are restarted
        _applied(world, wanted)
        world.until_ready(*(f"Network/{one['metadata']['name']}" for one in wanted))
        for name in world.machines:
            restart(world, name)
        for node in NODES:
            left = world.gridnode(node)["status"].get("quarantine", ())
            _order(world, node, [{"uid": one["uid"], "discard": True} for one in left if one["kind"] == kind])
        until(lambda: _quarantine(world, kind, 0) is not None, PATIENCE, "nothing is left of the old ones")
        for node in NODES:
            _order(world, node, [])
        return
    left = until(lambda: _quarantine(world, kind, len(wanted)), PATIENCE, f"all of {kind} in quarantine")
    _applied(world, wanted)
    for one in wanted:
        name = one["metadata"]["name"]
        until(lambda one=one: _reason(world, one) in ("Quarantined", "Conflict"), PATIENCE, f"{name} waits for what is left")
    if kind == "ZMount":  # a disk is not taken from who runs with it
        _run_policy(world, "Halted")
    world.excuse(*world.machines)
    for node, entries in left.items():
        orders = [
            {"uid": one["uid"], "giveTo": {"kind": kind, "namespace": world.namespace, "name": one["name"]}} for one in entries
        ]
        _order(world, node, orders)
    if kind == "ZMount":
        world.until_ready(*(what for what in world.objects if what.startswith("ZMount/")))
        _run_policy(world, None)
    world.until_ready(*world.objects)
    for node in left:
        _order(world, node, [])


def _applied(world: Clustered, wanted: list[dict[str, Any]]) -> None:
    """As soon as the kind is served again."""

    def apply() -> bool:
        world.product.apply(world.namespace, *wanted)
        return True

    until(apply, 60, "objects are taken again")


def _quarantine(world: Clustered, kind: str, count: int) -> dict[str, list[dict[str, Any]]] | None:
    """Node → what it has there; None: not yet all of it."""
    found = {
        node: [one for one in world.gridnode(node).get("status", {}).get("quarantine", ()) if one["kind"] == kind]
        for node in NODES
    }
    return found if sum(map(len, found.values())) == count else None


def _reason(world: Clustered, one: dict[str, Any]) -> str:
    return str(world.product.condition(one["kind"], one["metadata"]["name"], world.namespace)["reason"])


def _order(world: Clustered, node: str, orders: list[dict[str, Any]]) -> None:
    world.product.kubectl("patch", "gridnode", node, "--type=merge", "-p", json.dumps({"spec": {"quarantine": orders}}))


def _run_policy(world: Clustered, policy: str | None) -> None:
    for name in world.machines:
        patch = json.dumps({"spec": {"runPolicy": policy}})
        world.product.kubectl("patch", "zmachine", name, "-n", world.namespace, "--type=merge", "-p", patch)
    if policy == "Halted":
        until(lambda: not world.processes(), PATIENCE, "all guests have ended")


def _nodes_return(world: Clustered) -> None:
    """By the label of their Nodes."""
    for node in NODES:
        until(lambda node=node: world.product.condition("gridnode", node, "")["status"] == "True", PATIENCE, f"{node} is Ready")


@step
async def lose_policies(world: Clustered, chance: Random) -> str:
    known = world.product.kubectl("get", _POLICIES, "-l", "app.kubernetes.io/name=zos", "-o", "name").split()
    gone = chance.sample(known, chance.choice((1, 3, len(known))))
    world.product.kubectl("delete", *gone)
    if "is missing" not in (said := world.release.test()):
        raise Broken(f"helm test does not miss {gone}: {said[-1500:]}")
    world.release.upgrade(world.release.values())
    if "Succeeded" not in (said := world.release.test()):
        raise Broken(f"helm test, when policies are put back: {said[-1500:]}")
    return f"{len(gone)} of {len(known)} policies and their bindings deleted, told by helm test, and put back by an upgrade"


@step
async def lose_roles(world: Clustered, chance: Random) -> str:
    gone = chance.choice(_ROLES)
    world.product.kubectl("delete", gone)
    deadline = time.monotonic() + _NOTICED
    while "Succeeded" in (said := world.release.test()):
        if time.monotonic() > deadline:
            raise Broken(f"helm test does not miss {gone}: {said[-1500:]}")
        await asyncio.sleep(5)
    told = next((line for line in said.splitlines() if line.startswith("wrong:")), "it fails")
    world.release.upgrade(world.release.values())
    return f"{gone} deleted ({told.strip()[:120]}), and put back by an upgrade"


@step
async def lose_node_namespace(world: Clustered, chance: Random) -> str:
    node = chance.choice(NODES)
    namespace = names.node_namespace(node)
    world.product.kubectl("delete", "namespace", namespace, "--wait=false")
    world.product.kubectl("wait", "--for=delete", f"namespace/{namespace}", "--timeout=120s")
    _undisturbed(world, "a node's namespace is gone")
    until(lambda: world.product.ask(f"/api/v1/namespaces/{namespace}"), PATIENCE, f"{namespace} is made anew")
    _told_and_well(world, node)
    return f"namespace of {node} deleted"


@step
async def lose_node_account(world: Clustered, chance: Random) -> str:
    node = chance.choice(NODES)
    namespace = names.node_namespace(node)
    world.product.kubectl("delete", "serviceaccount", "agent", "-n", namespace)
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/agent"
    until(lambda: world.product.ask(path), PATIENCE, f"the account of {node} is made anew")
    _told_and_well(world, node)
    return f"account of {node} deleted"


def _told_and_well(world: Clustered, node: str) -> None:
    """Its agent has reported since: what it said before stands for a while."""
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{names.node_namespace(node)}/leases"

    def renewed() -> str:
        items = (world.product.ask(lease) or {"items": []})["items"]
        return max((str(one["spec"].get("renewTime", "")) for one in items), default="")

    before = renewed()
    until(lambda: renewed() > before, PATIENCE, f"the agent of {node} is heard of")
    world.until_ready(*world.objects)
    _settled(world)


@step
async def lose_gridnode(world: Clustered, chance: Random) -> str:
    """By force. It is made again, as its Node has the label."""
    node = chance.choice(NODES)
    old = world.gridnode(node)["metadata"]["uid"]
    free = ("patch", "gridnode", node, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    world.product.kubectl("delete", "gridnode", node, "--wait=false")
    until(lambda: world.product.kubectl(*free, check=False) and world.gridnode(node).get("metadata", {}).get("uid") != old, 30)
    _undisturbed(world, "a GridNode is gone")
    _nodes_return(world)
    world.until_ready(*world.objects)
    _settled(world)
    return f"GridNode {node} deleted by force"


ACTIONS = (
    Action("lose-zmounts", lost_kind("zmounts", "ZMount")),
    Action("lose-zmachines", lost_kind("zmachines", "ZMachine")),
    Action("lose-networks", lost_kind("networks", "Network")),
    Action("lose-nodeworkloads", lost_kind("nodeworkloads")),
    Action("lose-gridnodes", lost_kind("gridnodes")),
    Action("lose-policies", lose_policies),
    Action("lose-roles", lose_roles),
    Action("lose-node-namespace", lose_node_namespace),
    Action("lose-node-account", lose_node_account),
    Action("lose-gridnode", lose_gridnode),
)
