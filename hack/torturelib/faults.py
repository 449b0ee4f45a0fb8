"""What is done to a minigrid: processes killed, hosts crashed, things deleted by hand, objects edited to and fro.

Each action tells what it did. One that ends a guest says whose, so that everything else that ends a guest is a violation.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Any

from gridlib.layout import GridError
from torturelib.chaos import Action, Refused
from zos.api import names

if TYPE_CHECKING:
    from torturelib.truth import Truth

Run = Callable[["Truth", Random], Awaitable[str]]
NODES = ("n1", "n2", "n3")


def _host(world: Truth, name: str) -> None:
    if world.grid.host(name).pid() is None:
        raise Refused(f"{name} is down")


def _kill(world: Truth, host: str, service: str) -> str:
    """kill -9; the supervisor starts it again."""
    _host(world, host)
    said = world.grid.run(host, "s6-svc", "-k", f"/run/service/{service}", check=False)
    if said.strip():
        raise Refused(said.strip())
    return f"{service} of {host} killed"


def on_node(service: str) -> Run:
    async def run(world: Truth, chance: Random) -> str:
        return _kill(world, chance.choice(NODES), service)

    return run


def on_control_plane(*services: str) -> Run:
    async def run(world: Truth, chance: Random) -> str:
        return _kill(world, "cp", chance.choice(services))

    return run


async def kill_wireguard(world: Truth, chance: Random) -> str:
    return _kill(world, chance.choice(NODES), f"zos-wg-{names.wireguard(world.uids['Network/lan'])}")


async def freeze_agent(world: Truth, chance: Random) -> str:
    """As on a machine that swaps: nothing runs for some seconds, then everything goes on."""
    node, seconds = chance.choice(NODES), chance.randint(1, 8)
    _host(world, node)
    service = "/run/service/agent"
    world.grid.run(node, "s6-svc", "-p", service)
    await asyncio.sleep(seconds)
    world.grid.run(node, "s6-svc", "-c", service)
    return f"agent of {node} stood still for {seconds} s"


async def stop_control_plane(world: Truth, chance: Random) -> str:
    service, seconds = chance.choice(("apiserver", "etcd", "controller-manager")), chance.randint(2, 15)
    _host(world, "cp")
    world.grid.run("cp", "s6-svc", "-wD", "-dk", f"/run/service/{service}")
    await asyncio.sleep(seconds)
    world.grid.run("cp", "s6-svc", "-u", f"/run/service/{service}")
    return f"{service} away for {seconds} s"


def heal_hosts(world: Truth) -> None:
    """Everything that is supervised runs, and hosts that are down come up."""
    if any(world.grid.host(name).pid() is None for name in ("cp", *NODES)):
        world.grid.minigrid("up")
    for host in ("cp", *NODES):
        world.grid.run(host, "sh", "-c", "for s in /run/service/*; do s6-svc -uc $s; done", check=False)


async def kill_guest(world: Truth, chance: Random) -> str:
    name = chance.choice(world.machines)
    node, guest = world.nodes[name], world.processes().get(names.ident(world.uids[f"ZMachine/{name}"]))
    if guest is None:
        raise Refused(f"{name} does not run just now")
    world.excuse(name)
    world.grid.run(node, "kill", "-9", str(guest.pid), check=False)
    return f"guest of {name} on {node} killed"


async def kill_virtiofsd(world: Truth, chance: Random) -> str:
    """Its guest can't go on without it."""
    name = chance.choice(world.machines)
    node, guest = world.nodes[name], f"zos-{names.ident(world.uids[f'ZMachine/{name}'])}"
    world.excuse(name)
    world.on(node, f"kill -9 $(cat /run/libvirt/qemu/*-{guest}-fs0-fs.pid)")
    return f"virtiofsd of {name} on {node} killed"


async def restart_guest(world: Truth, chance: Random) -> str:
    name, word = chance.choice(world.machines), f"w{chance.randrange(10**6)}"
    _kubectl(world, "annotate", "zmachine", name, "-n", world.namespace, "--overwrite", f"zos.grid.tf/restartedAt={word}")
    world.excuse(name)
    return f"{name} asked to restart"


async def crash_node(world: Truth, chance: Random) -> str:
    node = chance.choice(NODES)
    _host(world, node)
    world.excuse(*(name for name in world.machines if world.nodes[name] == node))
    world.grid.minigrid("crash", node)
    await asyncio.sleep(chance.randint(0, 5))
    heal_hosts(world)
    return f"{node} crashed and came back"


async def crash_control_plane(world: Truth, chance: Random) -> str:
    world.grid.minigrid("crash", "cp")
    await asyncio.sleep(chance.randint(0, 5))
    try:
        heal_hosts(world)
    except AssertionError as error:
        raise Refused(str(error)[-300:]) from None
    return "the control plane's host crashed and came back"


async def delete_by_hand(world: Truth, chance: Random) -> str:
    """Interfaces, rules and namespaces of a network."""
    uid, node = world.uids["Network/lan"], chance.choice(NODES)
    _host(world, node)
    router = names.router(uid)
    words = chance.choice(
        (
            ("ip", "-n", router, "link", "delete", names.wireguard(uid)),
            ("ip", "-n", router, "route", "flush", "dev", names.wireguard(uid)),
            ("ip", "-n", router, "address", "flush", "dev", "lan"),
            ("ip", "-n", router, "route", "flush", "dev", "lan"),
            ("ip", "netns", "exec", router, "nft", "flush", "ruleset"),
            ("nft", "flush", "ruleset"),
            ("ip", "-n", router, "link", "delete", "lan"),
            ("ip", "link", "delete", names.uplink(uid)),
            ("ip", "netns", "delete", router),
        )
    )
    said = world.grid.run(node, *words, check=False).strip()
    return f"{' '.join(words)} on {node}{f' ({said})' if said else ''}"


async def apply_again(world: Truth, chance: Random) -> str:
    """What an administrator's or a user's continuous delivery does all day."""
    if chance.random() < 0.5:
        node = chance.choice(NODES)
        _kubectl(world, "label", "gridnode", node, "--overwrite", f"round=r{chance.randrange(100)}")
        return f"GridNode {node} labelled"
    name = chance.choice(world.machines)
    patch = {"metadata": {"annotations": {"example.com/round": str(chance.randrange(100))}}}
    _kubectl(world, "patch", "zmachine", name, "-n", world.namespace, "--type=merge", "-p", json.dumps(patch))
    return f"ZMachine {name} annotated"


async def laptops_come_and_go(world: Truth, chance: Random) -> str:
    count = chance.randint(0, 3)
    access = [{"name": "laptop"}, *({"name": f"guest-{number}"} for number in range(count))]
    _patch(world, "network/lan", {"spec": {"access": access}})
    world.undo["access"] = _words(world, "network/lan", {"spec": {"access": [{"name": "laptop"}]}})
    return f"{count} more laptops"


async def disks_come_and_go(world: Truth, chance: Random) -> str:
    name = f"spare-{chance.randrange(3)}"
    if _get(world, "zmount", name, world.namespace) is None:
        body = {
            "apiVersion": "zos.grid.tf/v1alpha1", "kind": "ZMount", "metadata": {"name": name},
            "spec": {"size": f"{chance.randint(64, 128)}Mi", "nodeName": chance.choice(NODES)},
        }  # fmt: skip
        _kubectl(world, "create", "-n", world.namespace, "-f", "-", input=json.dumps(body))
        return f"ZMount {name} created on {body['spec']['nodeName']}"
    _kubectl(world, "delete", "zmount", name, "-n", world.namespace, "--wait=false")
    return f"ZMount {name} deleted"


# What the product must have learned first.


async def delete_workload(world: Truth, chance: Random) -> str:
    uid = chance.choice(sorted(world.uids.values()))
    found = [item for item in world.seen().items.get("NodeWorkload", ()) if item["spec"]["owner"]["uid"] == uid]
    if not found:
        raise Refused("it has no NodeWorkload just now")
    meta = chance.choice(found)["metadata"]
    _kubectl(world, "delete", "nodeworkload", meta["name"], "-n", meta["namespace"], "--wait=false")
    return f"NodeWorkload {meta['namespace']}/{meta['name']} deleted by hand"


async def delete_workloads_kind(world: Truth, chance: Random) -> str:
    """With all objects of it; then it is made again."""
    name = "nodeworkloads.zos.grid.tf"
    _kubectl(world, "delete", "crd", name, "--wait=false")
    await asyncio.sleep(chance.randint(1, 10))
    _kubectl(world, "wait", "--for=delete", f"crd/{name}", "--timeout=60s", refusable=True)  # or it is that one that is applied
    _again(world)
    return "CRD nodeworkloads deleted and made again"


async def lose_gridnode(world: Truth, chance: Random) -> str:
    """It vanishes without a deletion that anybody could have waited for, and is applied again."""
    node = chance.choice(NODES)
    _kubectl(world, "patch", "gridnode", node, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    _kubectl(world, "delete", "gridnode", node, "--wait=false")
    _kubectl(world, "patch", "gridnode", node, "--type=merge", "-p", '{"metadata":{"finalizers":null}}', refusable=True)
    await asyncio.sleep(chance.randint(0, 5))
    _again(world)
    return f"GridNode {node} lost and made again"


async def delete_node_namespace(world: Truth, chance: Random) -> str:
    node = chance.choice(NODES)
    _kubectl(world, "delete", "namespace", names.node_namespace(node), "--wait=false")
    _kubectl(world, "wait", "--for=delete", f"namespace/{names.node_namespace(node)}", "--timeout=60s", refusable=True)
    _again(world)  # its agent needs new credentials
    return f"namespace of {node} deleted, and its agent given new credentials"


async def mistype_image(world: Truth, chance: Random) -> str:
    name = chance.choice(world.machines)
    machine = _get(world, "zmachine", name, world.namespace)
    assert machine is not None
    right = machine["spec"]["image"].removesuffix("nope")
    world.undo[f"image {name}"] = _words(world, f"zmachine/{name}", {"spec": {"image": right}})
    _patch(world, f"zmachine/{name}", {"spec": {"image": right + "nope"}})
    await asyncio.sleep(chance.randint(1, 10))
    _patch(world, f"zmachine/{name}", {"spec": {"image": right}})
    return f"image of {name} mistyped and put right"


async def lose_endpoint(world: Truth, chance: Random) -> str:
    node = chance.choice(NODES[:2])
    found = _get(world, "gridnode", node)
    assert found is not None
    right = found["spec"].get("endpoint") or {}
    if not right:
        raise Refused(f"{node} has none just now")
    patch = ("patch", "gridnode", node, "--type=merge", "-p")
    back = [*patch, json.dumps({"spec": {"endpoint": right}})]
    world.undo[f"endpoint {node}"] = back
    _kubectl(world, *patch, json.dumps({"spec": {"endpoint": dict.fromkeys(right)}}))
    await asyncio.sleep(chance.randint(1, 8))
    _kubectl(world, *back)
    return f"{node} without an endpoint for a while"


async def leave_network(world: Truth, chance: Random) -> str:
    """A node is taken out of spec.nodes and put back; its machine keeps it in the network."""
    everybody = {"spec": {"nodes": [{"name": name} for name in NODES]}}
    node = chance.choice(NODES)
    world.undo["nodes"] = _words(world, "network/lan", everybody)
    _patch(world, "network/lan", {"spec": {"nodes": [{"name": name} for name in NODES if name != node]}})
    await asyncio.sleep(chance.randint(1, 8))
    _patch(world, "network/lan", everybody)
    return f"{node} out of spec.nodes for a while"


async def confuse_by_files(world: Truth, chance: Random) -> str:
    """Files of others where drivers look: one that is no namespace, one that a dead process has left, one that is missing."""
    node = chance.choice(NODES)
    _host(world, node)
    script = chance.choice(("touch /run/netns/zos-stray", "rm -f /run/libvirt/qemu/*-fs0-fs.pid"))
    world.on(node, script)
    _kill(world, node, "agent")
    return f"{script} on {node}, agent killed"


async def roll_back_etcd(world: Truth, chance: Random) -> str:
    """The database of some seconds ago: versions go back, nothing that came since is known."""
    _host(world, "cp")
    data = world.grid.root / "hosts" / "cp" / "etcd"
    kept = data.with_name("etcd.kept")
    seconds = chance.randint(3, 15)
    for service in ("apiserver", "etcd"):
        world.grid.run("cp", "s6-svc", "-wD", "-dk", f"/run/service/{service}")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(data, kept)
    for service in ("etcd", "apiserver"):
        world.grid.run("cp", "s6-svc", "-u", f"/run/service/{service}")
    await asyncio.sleep(seconds)
    for service in ("apiserver", "etcd"):
        world.grid.run("cp", "s6-svc", "-wD", "-dk", f"/run/service/{service}")
    shutil.rmtree(data)
    kept.rename(data)
    for service in ("etcd", "apiserver"):
        world.grid.run("cp", "s6-svc", "-u", f"/run/service/{service}")
    return f"etcd of {seconds} s ago restored"


async def second_agent(world: Truth, chance: Random) -> str:
    """Two agents on one state directory, as after a mistake with a supervisor."""
    node = chance.choice(NODES)
    _host(world, node)
    script = (
        "p=/proc/$(s6-svstat -o pid /run/service/agent); "
        "export $(tr '\\0' '\\n' <$p/environ | grep ^PYTHONPATH=); "
        f"timeout {chance.randint(4, 12)} $(tr '\\0' ' ' <$p/cmdline | sed s/:9442/:0/) 2>&1 | tail -n 1"
    )
    said = world.on(node, script)
    return f"a second agent on {node}: {said.strip()[:150]}"


def _again(world: Truth) -> None:
    try:
        world.grid.minigrid("up")
    except AssertionError as error:
        raise Refused(str(error)[-300:]) from None


def _words(world: Truth, what: str, patch: object) -> list[str]:
    return ["patch", what, "-n", world.namespace, "--type=merge", "-p", json.dumps(patch)]


def _patch(world: Truth, what: str, patch: object) -> None:
    _kubectl(world, *_words(world, what, patch))


def _get(world: Truth, kind: str, name: str, namespace: str = "") -> dict[str, Any] | None:
    """Raises Refused: the API server is away."""
    try:
        return world.grid.get(kind, name, namespace)
    except (AssertionError, GridError) as error:
        raise Refused(str(error).strip().splitlines()[-1]) from None


def _kubectl(world: Truth, *words: str, input: str | None = None, refusable: bool = False) -> None:
    """Raises Refused: the API server is away, or it does not want."""
    try:
        world.grid.kubectl(*words, "--request-timeout=10s", input=input)
    except (AssertionError, GridError) as error:
        if not refusable:
            raise Refused(str(error).strip().splitlines()[-1]) from None


ACTIONS = (
    Action("kill-agent", on_node("agent"), weight=8),
    Action("kill-controller", on_control_plane("controller-1", "controller-2"), weight=6),
    Action("kill-apiserver", on_control_plane("apiserver")),
    Action("kill-etcd", on_control_plane("etcd")),
    Action("kill-controller-manager", on_control_plane("controller-manager"), weight=1),
    Action("kill-libvirtd", on_node("libvirtd")),
    Action("kill-virtlogd", on_node("virtlogd"), weight=2),
    Action("kill-wireguard", kill_wireguard),
    Action("kill-virtiofsd", kill_virtiofsd, weight=2),
    Action("kill-guest", kill_guest, weight=3),
    Action("restart-guest", restart_guest, weight=2),
    Action("freeze-agent", freeze_agent, slow=True),
    Action("stop-control-plane", stop_control_plane, slow=True),
    Action("crash-node", crash_node, weight=2, slow=True),
    Action("crash-control-plane", crash_control_plane, weight=1, slow=True),
    Action("delete-by-hand", delete_by_hand, weight=8),
    Action("apply-again", apply_again),
    Action("laptops-come-and-go", laptops_come_and_go),
    Action("disks-come-and-go", disks_come_and_go),
    Action("delete-workload", delete_workload),
    Action("delete-workloads-kind", delete_workloads_kind, slow=True),
    Action("lose-gridnode", lose_gridnode, slow=True),
    Action("delete-node-namespace", delete_node_namespace, slow=True),
    Action("mistype-image", mistype_image, slow=True),
    Action("lose-endpoint", lose_endpoint, slow=True),
    Action("leave-network", leave_network, slow=True),
    Action("confuse-by-files", confuse_by_files),
    Action("roll-back-etcd", roll_back_etcd, slow=True),
    Action("second-agent", second_agent, slow=True),
)
