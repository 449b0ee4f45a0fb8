"""hack/torture machines: many guests through the reboot of their node, and a node that crashes in the middle of what it makes.

What a machine was told is safe is found by its next start; what is unpacked, written or grown when everything dies is whole
afterwards, or begun anew, and all of it comes about by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import tarfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

from gridlib.layout import GridError
from harness import IMAGE, Grid, obj
from torturelib import chaos
from torturelib.chaos import Action, Invariant, Scenario, Step, Unseen
from torturelib.truth import say
from zos.api.zmount import ZMount
from zos.kinds.kind import Writer
from zos.kinds.registry import KINDS

MiB = 1 << 20
#: The node with many guests, and that which crashes in the middle of something.
MANY, FEW = "n1", "n2"
PATIENCE = 1200.0
_DISKS = "/var/lib/zos/disks"
_SYSTEM = 96 * MiB

#: Counts on its disk, says what it found at its start, and of each number that it is safe when it is.
_COUNTS = (
    "n=$(cat /data/count 2>/dev/null || echo 0); echo found $n; "
    "while :; do n=$((n+1)); echo $n >/data/new; sync; mv /data/new /data/count; sync; echo safe $n; sleep 3; done"
)
#: Says what it was made of.
_SUM = "echo sum $(busybox sha256sum /big | cut -d' ' -f1); while :; do sleep 60; done"


@dataclass
class Machines:
    """The world of this torture. Machines ``a…`` are on the node with many, ``b…`` on the other."""

    grid: Grid
    many: int = 30
    few: int = 2
    namespace: str = "torture"
    made: int = 0  # of what actions make, each called by its number
    systems: dict[str, str] = field(default_factory=dict)  # disk → digest of the image that it begins as
    sums: dict[str, str] = field(default_factory=dict)  # machine → digest of what is in its image
    whole: set[str] = field(default_factory=set)  # uids of disks that were looked at when they were Ready
    crashed: dict[str, str] = field(default_factory=dict)  # node → when it last did, as objects write it

    @property
    def counting(self) -> list[str]:
        return [*(f"a{n}" for n in range(self.many)), *(f"b{n}" for n in range(self.few))]

    async def begin(self) -> None:
        (self.grid.root / "images").mkdir(exist_ok=True)
        self.grid.kubectl("create", "namespace", self.namespace)
        nodes = [{"name": MANY}, {"name": FEW}]
        self.grid.apply(self.namespace, obj("Network", "lan", ipRange="10.78.0.0/16", nodes=nodes))
        for name in self.counting:
            node = MANY if name.startswith("a") else FEW
            self.grid.apply(
                self.namespace,
                obj("ZMount", f"d-{name}", size="256Mi", nodeName=node),
                obj(
                    "ZMachine", name, image=IMAGE, memory="250Mi", nodeName=node, network={"name": "lan"},
                    entrypoint=["sh", "-c", _COUNTS], disks=[{"name": f"d-{name}", "mountPath": "/data"}],
                ),
            )  # fmt: skip
        await self.until_ready(*(f"zmachine/{name}" for name in self.counting))

    async def calm(self) -> None:
        await asyncio.to_thread(self.grid.minigrid, "up", timeout=600)

    async def clear(self) -> None:
        theirs = ",".join(model.PLURAL for model in KINDS.written_by(Writer.TENANT))
        self.grid.kubectl("delete", theirs, "--all", "-n", self.namespace, "--wait=false")
        self.grid.kubectl("delete", "namespace", self.namespace, "--wait=false")

    async def until_ready(self, *what: str, size: int = 0) -> float:
        """Seconds that it took. ``size``: what disks are to have then."""
        begun = time.monotonic()
        while missing := [name for name in what if not await asyncio.to_thread(self._well, *name.split("/"), size)]:
            if time.monotonic() - begun > PATIENCE:
                raise AssertionError(f"not ready within {PATIENCE:.0f} s: {', '.join(missing)}")
            await asyncio.sleep(1.0)
        return time.monotonic() - begun

    def _well(self, kind: str, name: str, size: int) -> bool:
        try:
            item = self.grid.get(kind, name, self.namespace)
        except AssertionError:
            return False  # the API server is busy
        return item is not None and self.is_well(item) and (kind == "zmachine" or _size(item) >= size)

    def is_well(self, item: dict[str, Any]) -> bool:
        """Ready, and not as it was before its node crashed."""
        status = item.get("status", {})
        since = self.crashed.get(status.get("nodeName", ""), "")
        return _is_ready(status) and ("startedAt" not in status or status["startedAt"] >= since)

    async def crash(self, node: str, down: float) -> None:
        """Everything on it dies at once; it comes back, as a machine that is switched on."""
        self.crashed[node] = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        await asyncio.to_thread(self.grid.minigrid, "crash", node)
        await asyncio.sleep(down)
        await asyncio.to_thread(self.grid.minigrid, "up", timeout=600)

    def items(self, kind: str) -> list[dict[str, Any]]:
        """Raises Unseen."""
        try:
            return self.grid.items(kind, self.namespace)
        except AssertionError as error:
            raise Unseen(str(error)) from None

    def on(self, node: str, script: str) -> str:
        """Raises Unseen: the node is down."""
        try:
            return self.grid.run(node, "sh", "-c", script, check=False)
        except GridError as error:
            raise Unseen(str(error)) from None

    def consoles(self) -> dict[str, str]:
        """What machines have said, by their names."""
        found = {}
        for machine in self.items("zmachine"):
            status = machine.get("status", {})
            if status.get("console") and status.get("nodeName"):
                found[machine["metadata"]["name"]] = self.on(status["nodeName"], f"cat {status['console']}*")
        return found


# -- what is done ----------------------------------------------------------------------------------------------------------


async def reboot(world: Machines, chance: Random) -> str:
    """Of the node with many guests."""
    await world.crash(MANY, chance.uniform(0, 3))
    begun, most = time.monotonic(), 0
    names = [name for name in world.counting if name.startswith("a")]
    back = asyncio.create_task(world.until_ready(*(f"zmachine/{name}" for name in names)))
    while not back.done():
        most = max(most, _booting(world))
        await asyncio.wait([back], timeout=1.0)
    await back
    took = time.monotonic() - begun
    return f"{MANY} rebooted: all {len(names)} back after {took:.0f} s, at most {most} of them booting at once"


def _booting(world: Machines) -> int:
    """Guests that were started since the crash and are not ready."""
    try:
        found = [one.get("status", {}) for one in world.items("zmachine")]
    except Unseen:
        return 0
    since = world.crashed[MANY]
    return sum(status.get("startedAt", "") >= since and not _is_ready(status) for status in found)


def _size(mount: dict[str, Any]) -> int:
    return ZMount.model_validate(mount).status.size or 0


def _is_ready(status: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))


async def _interrupted(world: Machines, chance: Random, longest: float) -> str:
    """What happens meanwhile: the whole node dies, or its agent."""
    after = chance.uniform(0, longest)
    await asyncio.sleep(after)
    if chance.random() < 0.4:
        await asyncio.to_thread(world.grid.kill, FEW, "agent")
        return f"agent killed after {after:.2f} s"
    await world.crash(FEW, chance.uniform(0, 2))
    return f"node crashed after {after:.2f} s"


async def while_writing(world: Machines, chance: Random) -> str:
    """A disk that begins as an image."""
    name, digest = f"s{world.made}", _system(world, chance)
    source = {"image": f"file://{world.grid.root}/images/{name}.raw"}
    world.grid.apply(world.namespace, obj("ZMount", name, size="128Mi", nodeName=FEW, source=source))
    world.systems[name] = digest
    return await _made(world, chance, "zmount", name, world.systems)


async def while_unpacking(world: Machines, chance: Random) -> str:
    """An image of its own for a machine."""
    name, digest = f"m{world.made}", _tree(world, chance)
    spec = {"image": f"file://{world.grid.root}/images/m{world.made}.tar", "memory": "250Mi", "network": {"name": "lan"}}
    machine = obj("ZMachine", name, nodeName=FEW, entrypoint=["/bin/sh", "-c", _SUM], **spec)
    world.grid.apply(world.namespace, machine)
    world.sums[name] = digest
    return await _made(world, chance, "zmachine", name, world.sums)


async def _made(world: Machines, chance: Random, kind: str, name: str, known: dict[str, str]) -> str:
    world.made += 1
    how = await _interrupted(world, chance, 4.0)
    took = await world.until_ready(f"{kind}/{name}")
    wrong = await (systems(world) if kind == "zmount" else sums(world))
    for oldest in list(known)[:-2]:  # the node is not to get full
        world.grid.kubectl("delete", kind, oldest, "-n", world.namespace, "--wait=false")
        del known[oldest]
    return f"{name}: {how}, ready {took:.0f} s later{', WRONG' if wrong else ''}"


async def while_growing(world: Machines, chance: Random) -> str:
    """A disk to which its guest writes."""
    name = f"d-b{chance.randrange(world.few)}"
    mount = next(item for item in world.items("zmount") if item["metadata"]["name"] == name)
    after = _size(mount) // MiB + chance.randint(1, 64)
    patch = {"spec": {"size": f"{after}Mi"}}
    world.grid.kubectl("patch", "zmount", name, "-n", world.namespace, "--type=merge", "-p", json.dumps(patch))
    how = await _interrupted(world, chance, 1.0)
    machine = f"zmachine/{name.removeprefix('d-')}"
    took = await world.until_ready(f"zmount/{name}", machine, size=after * MiB)
    return f"{name} to {after}Mi: {how}, ready {took:.0f} s later"


def _system(world: Machines, chance: Random) -> str:
    path = world.grid.root / "images" / f"s{world.made}.raw"
    with open(path, "w+b") as file:
        file.truncate(_SYSTEM)
        file.write(bytes(510) + b"\x55\xaa")
        for at in range(MiB, _SYSTEM, 2 * MiB):
            file.seek(at)
            file.write(chance.randbytes(MiB))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tree(world: Machines, chance: Random) -> str:
    content = chance.randbytes(48 * MiB)
    with tarfile.open(world.grid.root / "images" / f"m{world.made}.tar", "w") as archive:
        archive.add("/bin/busybox", "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)
        big = tarfile.TarInfo("big")
        big.size = len(content)
        archive.addfile(big, io.BytesIO(content))
    return hashlib.sha256(content).hexdigest()


# -- what holds ------------------------------------------------------------------------------------------------------------


def lost(console: str) -> list[str]:
    """What a machine was told is safe, and did not find at a later start. A line may be cut off, or stand in the middle of the
    kernel's own words."""
    safe, found = 0, []
    for word, number in re.findall(r"\b(found|safe) (\d+)\r?\n", console):
        if word == "safe":
            safe = max(safe, int(number))
        elif int(number) < safe:
            found.append(f"found {number} after {safe} was safe")
    return found


async def counts(world: Machines) -> list[str]:
    consoles = await asyncio.to_thread(world.consoles)
    return [f"{name} {what}" for name in world.counting for what in lost(consoles.get(name, ""))]


async def sums(world: Machines) -> list[str]:
    consoles = await asyncio.to_thread(world.consoles)
    return [
        f"{name} was unpacked as {said}, and is {digest}"
        for name, digest in world.sums.items()
        for said in re.findall(r"\bsum ([0-9a-f]{64})\b", consoles.get(name, ""))
        if said != digest
    ]


async def systems(world: Machines) -> list[str]:
    """Of disks that say they are Ready, once each: nobody writes to them."""
    found = []
    for mount in world.items("zmount"):
        name, uid = mount["metadata"]["name"], mount["metadata"]["uid"]
        if name not in world.systems or uid in world.whole or not _is_ready(mount.get("status", {})):
            continue
        digest = await asyncio.to_thread(world.on, FEW, f"head -c {_SYSTEM} {_DISKS}/mount-{uid}.raw | sha256sum")
        if not digest.startswith(world.systems[name]):
            found.append(f"{name} is Ready, and is not what its image is")
        world.whole.add(uid)
    return found


async def reserved(world: Machines) -> list[str]:
    found = []
    for node in (MANY, FEW):
        for line in world.on(node, f"stat -c '%b %B %s %n' {_DISKS}/[!.]*.raw").splitlines():
            blocks, unit, size, path = line.split(" ", 3)
            if int(blocks) * int(unit) < int(size):
                found.append(f"{os.path.basename(path)} on {node} has {size} bytes, and not all are reserved")
    return found


async def ready(world: Machines) -> list[str]:
    return [
        f"{item['kind']} {item['metadata']['name']}: {item.get('status', {}).get('conditions')}"
        for item in world.items("zmachine,zmount,network")
        if not world.is_well(item)
    ]


async def nothing_half(world: Machines) -> list[str]:
    places = f"{_DISKS} /var/lib/zos/images"
    return [f"{node} has {path}" for node in (MANY, FEW) for path in world.on(node, f"ls -d {_half(places)}").split()]


def _half(places: str) -> str:
    return " ".join(f"{place}/.new-* {place}/.gone-*" for place in places.split()) + " 2>/dev/null"


async def gone(world: Machines) -> list[str]:
    found = [f"{node} still has {path}" for node in (MANY, FEW) for path in world.on(node, f"ls {_DISKS}").split()]
    return found + [f"{item['kind']} {item['metadata']['name']} is there" for item in world.items("zmachine,zmount,network")]


SCENARIO = Scenario(
    actions=(
        Action("reboot-node", reboot, weight=1, slow=True),
        Action("crash-while-unpacking", while_unpacking),
        Action("crash-while-writing", while_writing),
        Action("crash-while-growing", while_growing),
    ),
    always=(
        Invariant("what a guest was told is safe is found by it", counts),
        Invariant("an image is unpacked whole", sums),
        Invariant("a disk that is Ready is what its image is", systems),
        Invariant("what a disk has is reserved", reserved),
    ),
    rest=(Invariant("everything is Ready", ready), Invariant("nothing half made stays", nothing_half)),
    end=(Invariant("nothing is left", gone),),
    pause=2.0,
    patience=PATIENCE,
)


async def run(seed: int, seconds: float, asked: list[str], steps: list[Step]) -> int:
    """On a minigrid of its own. ZOS_TORTURE_MACHINES: how many are on the node that is rebooted, instead of 30."""
    actions = chaos.choose(SCENARIO.actions, asked, short=False)
    grid = Grid(f"tm{os.getpid() % 100000}")
    many = int(os.environ.get("ZOS_TORTURE_MACHINES", "30"))
    try:
        print(grid.minigrid("up", "--nodes", "2", "--hidden", "0", "--owner", str(os.getpid())), end="", flush=True)
        grid.push_image()
        report = await chaos.torture(Machines(grid, many), SCENARIO, actions, seed=seed, seconds=seconds, say=say, steps=steps)
        if report.violations:
            print(grid.describe(), flush=True)
        return 1 if report.violations else 0
    finally:
        grid.minigrid("down", check=False)
