"""What is done to a cluster's release, pods and nodes."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Awaitable, Callable
from random import Random

from gridlib import chart
from gridlib.layout import GridError
from harness import until
from torturelib.chaos import Action, Broken, Refused, Unseen
from torturelib.clustered import LONG, NODES, PATIENCE, Clustered
from torturelib.release import PARTS, Values
from zos.api import names

Run = Callable[[Clustered, Random], Awaitable[str]]
#: Seconds without a heartbeat after which a node of a minigrid counts as lost (`gridlib.chart`), and some more to say so.
_LEASE = 20 + 25
_AGENT = "pgrep -f -o -- '-m zos[.]agent '"


def step(run: Run) -> Run:
    """What an action is refused by its tools must not be; whoever pings is listened to from its end on."""

    @functools.wraps(run)
    async def doing(world: Clustered, chance: Random) -> str:
        try:
            said = await run(world, chance)
            if "vm" in world.excused:
                until(world.vm_says_no_more, LONG, "the virtual machine's cloud-init is done")
            return said
        except (AssertionError, GridError, Unseen) as error:
            raise Broken(str(error)[-3000:]) from None
        finally:
            world.over()

    return doing


# -- the release


def changed(part: str) -> Run:
    """Another value of one part, by which its pods are others."""

    @step
    async def run(world: Clustered, chance: Random) -> str:
        values = world.release.values()
        told = {**values.get(part, {})}
        if part == "runtime":
            told["podAnnotations"] = {"example.org/round": str(chance.randrange(10**6))}
        else:
            told["logLevel"] = "DEBUG" if told.get("logLevel", "INFO") == "INFO" else "INFO"
        before = world.product.uids_of(part)
        world.release.upgrade({**values, part: told})
        if kept := before & world.product.uids_of(part):
            raise Broken(f"pods of {part} are as before: {kept}")
        return f"{part} has another value"

    return run


def _other(world: Clustered, chance: Random, values: Values, part: str, known: tuple[str, ...]) -> str:
    """A version that a part has not just now."""
    present = world.release.versions_in(values)[part]
    return chance.choice([name for name in known if name != present and name in world.release.versions])


@step
async def other_images(world: Clustered, chance: Random) -> str:
    values = world.release.values()
    version = _other(world, chance, values, "node", ("this", "later"))
    world.release.upgrade(world.release.with_images(values, **dict.fromkeys(PARTS, version)))
    return f"all images are of {version}"


def alone(*parts: str) -> Run:
    """Other images of these parts only: what others have is of another version then."""

    @step
    async def run(world: Clustered, chance: Random) -> str:
        values = world.release.values()
        version = _other(world, chance, values, parts[0], ("this", "later", "previous"))
        wanted = world.release.with_images(values, **dict.fromkeys(parts, version))
        world.release.upgrade(wanted)
        return ", ".join(f"{part} is of {version}" for part, version in world.release.versions_in(wanted).items())

    return run


@step
async def previous_and_back(world: Clustered, chance: Random) -> str:
    """The whole release before, its chart too."""
    if "previous" not in world.release.versions:
        raise Refused("this checkout has no history to take the release before from")
    values = world.release.values()
    world.release.upgrade(world.release.with_images(values, **dict.fromkeys(PARTS, "previous")), "previous")
    world.restarts = {pod.uid: pod.restarts for pod in world.pods()}
    world.until_ready(*world.objects)
    if chance.random() < 0.5:
        world.release.rollback(world.release.good()[-2])
        return "the release before, and back by a rollback"
    world.release.upgrade(values)
    return "the release before, and back by an upgrade"


@step
async def rollback(world: Clustered, chance: Random) -> str:
    if len(good := world.release.good()) < 2:
        raise Refused("there is no earlier revision")
    revision = chance.choice(good[-4:-1])
    world.release.rollback(revision)
    return f"rolled back to revision {revision}"


@step
async def killed_upgrade(world: Clustered, chance: Random) -> str:
    """Repaired as docs/troubleshooting.md says."""
    values = world.release.values()
    version = _other(world, chance, values, "node", ("this", "later"))
    wanted = world.release.with_images(values, **dict.fromkeys(PARTS, version))
    seconds = chance.choice((chance.uniform(0.2, 3), chance.uniform(3, 20)))
    stands = world.release.killed_upgrade(wanted, seconds)
    await asyncio.sleep(chance.uniform(0, 20))
    if stands != "deployed":
        world.release.rollback(world.release.good()[-1])
    if again := chance.random() < 0.5:
        world.release.upgrade(wanted)
    return f"an upgrade was killed after {seconds:.1f} s ({stands}), repaired{', and done again' if again else ''}"


@step
async def reinstall(world: Clustered, chance: Random) -> str:
    values, objects = world.release.values(), world.generations()
    world.release.uninstall()
    if world.generations() != objects:
        raise Broken("an uninstall changed objects")
    seconds = chance.uniform(0, 30)
    await asyncio.sleep(seconds)
    world.release.install(values)
    return f"uninstalled, installed {seconds:.0f} s later"


@step
async def helm_test(world: Clustered, chance: Random) -> str:
    said = world.release.test()
    if "Succeeded" not in said:
        raise Broken(f"helm test: {said[-1500:]}")
    return "it is whole"


# -- pods and processes


@step
async def drain(world: Clustered, chance: Random) -> str:
    """As docs/upgrade.md says, without maintenance: guests run on."""
    node, seconds = chance.choice(NODES), chance.uniform(0, 20)
    world.product.kubectl("drain", node, *_DRAIN, timeout=PATIENCE)
    await asyncio.sleep(seconds)
    world.product.kubectl("uncordon", node)
    return f"{node} drained, uncordoned {seconds:.0f} s later"


_DRAIN = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s")


@step
async def maintenance(world: Clustered, chance: Random) -> str:
    """As docs/upgrade.md says: its machines are stopped, it is drained, it boots."""
    node = chance.choice(NODES)
    _maintain(world, node, True)
    world.excuse(*world.on_node(node))
    until(lambda: not _runs(world, node), PATIENCE, f"nothing runs on {node}")
    world.product.kubectl("drain", node, *_DRAIN, timeout=PATIENCE)
    if boots := chance.random() < 0.5:
        world.product.minigrid("crash", node)
        world.product.minigrid("up", timeout=400)
    world.product.kubectl("uncordon", node)
    _maintain(world, node, False)
    world.until_ready(*(f"zmachine/{name}" for name in world.on_node(node)))
    world.learn_specs()
    return f"{node} in maintenance{', booted' if boots else ''}"


def _maintain(world: Clustered, node: str, on: bool) -> None:
    world.product.kubectl("patch", "gridnode", node, "--type=merge", "-p", json.dumps({"spec": {"maintenance": on}}))


def _runs(world: Clustered, node: str) -> bool:
    script = "pgrep -f '[q]emu-system'"
    return bool(world.on_host(node, script).strip())


@step
async def delete_pods(world: Clustered, chance: Random) -> str:
    part, force = chance.choice(PARTS), chance.random() < 0.5
    there = sorted((pod for pod in world.pods() if pod.part == part), key=lambda pod: pod.node)
    gone = chance.sample(there, chance.randint(1, len(there)))
    how = ("--grace-period=0", "--force") if force else ()
    world.product.kubectl("delete", "pod", *(pod.name for pod in gone), "-n", chart.NAMESPACE, "--wait=false", *how)
    _replaced(world, part, {pod.uid for pod in gone})
    return f"pods of {part} deleted{' by force' if force else ''} on {', '.join(sorted(pod.node for pod in gone))}"


def _replaced(world: Clustered, part: str, gone: set[str]) -> None:
    """So that a look at pods tells of the next ones."""
    until(lambda: not gone & {pod.uid for pod in world.pods() if pod.part == part}, 60, f"other pods of {part}")


@step
async def delete_leader(world: Clustered, chance: Random) -> str:
    lease = world.product.ask(f"/apis/coordination.k8s.io/v1/namespaces/{chart.NAMESPACE}/leases/zos-controller")
    leader = (lease or {}).get("spec", {}).get("holderIdentity") or ""
    found = [pod for pod in world.pods() if pod.name == leader]
    if not found:
        raise Refused(f"nobody leads just now ({leader or 'none'})")
    world.product.kubectl("delete", "pod", leader, "-n", chart.NAMESPACE, "--grace-period=0", "--force")
    _replaced(world, "controller", {found[0].uid})
    return f"{leader} deleted, which led"


@step
async def delete_controllers(world: Clustered, chance: Random) -> str:
    gone = [pod for pod in world.pods() if pod.part == "controller"]
    world.product.kubectl("delete", "pod", *(pod.name for pod in gone), "-n", chart.NAMESPACE, "--grace-period=0", "--force")
    _replaced(world, "controller", {pod.uid for pod in gone})
    return "both controllers deleted at once"


def killed(service: str) -> Run:
    """kill -9 of a supervised one: of the host, or in the node's tree."""

    @step
    async def run(world: Clustered, chance: Random) -> str:
        node = chance.choice(NODES)
        place = world.product.below if service in ("kubelet", "containerd") else world.product
        old = place.kill(node, service)
        place.service_returns(node, service, old)
        return f"{service} of {node} killed"

    return run


@step
async def kill_virtlogd(world: Clustered, chance: Random) -> str:
    """What its guests say is lost then, until they are started anew, as docs/troubleshooting.md says; they run on."""
    node = chance.choice(NODES)
    old = world.product.kill(node, "virtlogd")
    world.product.service_returns(node, "virtlogd", old)
    before = {name: guest for name, (guest, _) in world.guests.items()}
    await asyncio.sleep(chance.uniform(0, 10))
    if ended := [name for name, guest in before.items() if guest not in world.processes().values()]:
        raise Broken(f"with virtlogd of {node}, guests ended: {ended}")
    for name in world.on_node(node):
        restart(world, name)
    world.learn_specs()
    return f"virtlogd of {node} killed, its guests restarted"


def restart(world: Clustered, name: str) -> None:
    """As a user does."""
    since = world.object(f"ZMachine/{name}")["status"]["startedAt"]
    world.excuse(name)
    told = f"zos.grid.tf/restartedAt=w{time.monotonic_ns()}"
    world.product.kubectl("annotate", "zmachine", name, "-n", world.namespace, "--overwrite", told)
    until(lambda: world.object(f"ZMachine/{name}")["status"].get("startedAt", since) != since, PATIENCE, f"{name} is restarted")
    world.until_ready(f"zmachine/{name}")


@step
async def kill_agent(world: Clustered, chance: Random) -> str:
    node = _node_to_kill_on(world, chance)
    old = world.on_host(node, _AGENT).strip()
    if not old:
        raise Refused(f"no agent runs on {node} just now")
    world.on_host(node, f"kill -9 {old}")
    until(lambda: (now := world.on_host(node, _AGENT).strip()) and now != old, PATIENCE, f"another agent on {node}")
    return f"agent of {node} killed"


@step
async def kill_first(world: Clustered, chance: Random) -> str:
    """The s6-svscan of the node's tree."""
    node = _node_to_kill_on(world, chance)
    first = "cut -d' ' -f1 /var/lib/zos/runtime/first"
    old, agent = world.on_host(node, first).strip(), world.on_host(node, _AGENT).strip()
    world.on_host(node, f"kill -9 {old}")
    until(lambda: (now := world.on_host(node, first).strip()) and now != old, PATIENCE, f"another first process on {node}")
    until(lambda: (now := world.on_host(node, _AGENT).strip()) and now != agent, PATIENCE, f"another agent on {node}")
    return f"first process of the tree on {node} killed"


def _node_to_kill_on(world: Clustered, chance: Random) -> str:
    if not (nodes := world.kills_left(NODES)):
        raise Refused("the kubelets would wait for minutes by now before they start agents again")
    node = chance.choice(nodes)
    world.killed.setdefault(node, []).append(time.monotonic())
    return node


@step
async def crash_node(world: Clustered, chance: Random) -> str:
    """Everything on it dies at once. That is told in time, and the other node goes on."""
    node = chance.choice(NODES)
    (other,) = set(NODES) - {node}
    world.excuse(*world.on_node(node))
    world.killed.setdefault(node, []).append(time.monotonic())
    world.product.minigrid("crash", node)
    seconds = chance.choice((0.0, chance.uniform(5, 60)))
    told = ""
    if seconds:
        began = time.monotonic()
        until(
            lambda: world.product.condition("gridnode", node, "")["status"] == "False",
            _LEASE,
            f"it is told that {node} is lost",
        )
        told = f", told after {time.monotonic() - began:.0f} s"
        if world.product.condition("gridnode", other, "")["status"] != "True":
            world.wrong.append(f"{other} is not Ready while {node} is down")
        await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
    world.product.minigrid("up", timeout=400)
    began = time.monotonic()
    _started_anew(world, node)
    return f"{node} crashed{told}; its machines are back {time.monotonic() - began:.0f} s after it"


def _started_anew(world: Clustered, node: str) -> None:
    """What was said before a crash stands for a while."""
    theirs = world.on_node(node)
    until(lambda: all(_process(world, name) for name in theirs), PATIENCE, f"guests of {node}")
    world.until_ready(*(f"zmachine/{name}" for name in theirs))


def _process(world: Clustered, name: str) -> bool:
    return names.ident(world.uids[f"ZMachine/{name}"]) in world.processes()


ACTIONS = (
    Action("change-controller", changed("controller")),
    Action("change-node", changed("node")),
    Action("change-runtime", changed("runtime")),
    Action("other-images", other_images),
    Action("controller-first", alone("controller")),
    Action("agents-first", alone("node")),
    Action("runtime-first", alone("runtime")),
    Action("rollback", rollback),
    Action("killed-upgrade", killed_upgrade),
    Action("previous-and-back", previous_and_back),
    Action("reinstall", reinstall),
    Action("helm-test", helm_test),
    Action("drain", drain),
    Action("maintenance", maintenance),
    Action("delete-pods", delete_pods),
    Action("delete-leader", delete_leader),
    Action("delete-controllers", delete_controllers),
    Action("kill-kubelet", killed("kubelet")),
    Action("kill-containerd", killed("containerd")),
    Action("kill-libvirtd", killed("libvirtd")),
    Action("kill-virtlogd", kill_virtlogd),
    Action("kill-agent", kill_agent),
    Action("kill-first", kill_first),
    Action("crash-node", crash_node),
)
