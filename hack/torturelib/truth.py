"""hack/torture truth: a minigrid with real disks and guests, and everything that can die or be away for a while."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

from harness import IMAGE, Grid, obj
from torturelib import chaos, faults, invariants
from torturelib.chaos import Scenario, Step, Unseen
from zos.api import names
from zos.kinds.kind import Writer
from zos.kinds.registry import KINDS

NODES = ("n1", "n2", "n3")
PATIENCE = 120.0  # seconds in which everything is well again

#: Writes a mark of its own on an empty disk, and says at every start what is on it.
_SCRIPT = (
    "[ -e /data/mark ] || cat /proc/sys/kernel/random/uuid >/data/mark; sync; echo mark $(cat /data/mark); "
    "while :; do sleep 1; done"
)


@dataclass(frozen=True)
class Guest:
    """A guest's process: pid as its node sees it, and when that began."""

    pid: int
    since: int


@dataclass(frozen=True)
class Seen:
    """What the API server says at one moment: kind → objects."""

    items: dict[str, list[dict[str, Any]]]

    def named(self, kind: str, name: str) -> dict[str, Any] | None:
        return next((item for item in self.items.get(kind, ()) if item["metadata"]["name"] == name), None)


@dataclass
class Truth:
    """The world of this torture. What it remembers was seen when all was well; actions say whose guest they have ended."""

    grid: Grid
    namespace: str = "torture"
    machines: tuple[str, ...] = ("m1", "m2", "m3")
    nodes: dict[str, str] = field(default_factory=lambda: {"m1": "n1", "m2": "n2", "m3": "n3"})
    uids: dict[str, str] = field(default_factory=dict)  # kind/name → uid
    marks: dict[str, str] = field(default_factory=dict)  # disk → what its guest wrote
    guests: dict[str, Guest] = field(default_factory=dict)  # machine → its process; none: it may be another one
    places: dict[str, tuple[str, str]] = field(default_factory=dict)  # machine → node, address
    keys: dict[str, str] = field(default_factory=dict)  # laptop → private key
    excused: dict[str, float] = field(default_factory=dict)  # machine → when its guest was last ended on purpose
    undo: dict[str, list[str]] = field(default_factory=dict)  # what is out of place → words for kubectl that put it back

    async def begin(self) -> None:
        self.grid.kubectl("create", "namespace", self.namespace)
        disks = [obj("ZMount", f"d-{name}", size="64Mi", nodeName=self.nodes[name]) for name in self.machines]
        network = obj(
            "Network", "lan", ipRange="10.77.0.0/16", nodes=[{"name": node} for node in NODES], access=[{"name": "laptop"}]
        )
        machines = [
            obj(
                "ZMachine", name, image=IMAGE, memory="256Mi", nodeName=self.nodes[name], network={"name": "lan"},
                entrypoint=["sh", "-c", _SCRIPT], disks=[{"name": f"d-{name}", "mountPath": "/data"}],
            )
            for name in self.machines
        ]  # fmt: skip
        self.grid.apply(self.namespace, network, *disks, *machines)
        self.grid.ready(self.namespace, "network/lan", *(f"zmachine/{name}" for name in self.machines), seconds=PATIENCE)
        seen = self.seen()
        for kind in ("Network", "ZMount", "ZMachine"):
            self.uids |= {f"{kind}/{item['metadata']['name']}": item["metadata"]["uid"] for item in seen.items[kind]}
        for name in self.machines:
            status = (seen.named("ZMachine", name) or {})["status"]
            self.places[name] = (status["nodeName"], status["ip"])
            self.marks[f"d-{name}"] = await self._mark(status["nodeName"], status["console"])
        self.keys["laptop"] = (seen.named("Secret", "lan-laptop-wireguard") or {})["data"]["privateKey"]
        self.learn()

    async def _mark(self, node: str, console: str) -> str:
        """What a guest says that it has written."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for line in self.grid.run(node, "cat", console, check=False).splitlines():
                if line.startswith("mark ") and len(line.split()) == 2:
                    return line.split()[1]
            await asyncio.sleep(0.2)
        raise AssertionError(f"no mark on {console} of {node}")

    async def calm(self) -> None:
        faults.heal_hosts(self)
        await until_answers(self)
        for words in self.undo.values():
            self.grid.kubectl(*words)
        self.undo.clear()

    async def clear(self) -> None:
        theirs = ",".join(model.PLURAL for model in KINDS.written_by(Writer.TENANT))
        self.grid.kubectl("delete", theirs, "--all", "-n", self.namespace, "--wait=false")
        self.grid.kubectl("delete", "namespace", self.namespace, "--wait=false")

    def excuse(self, *machines: str) -> None:
        """These guests end now, because that is what is asked or done."""
        for name in machines:
            self.guests.pop(name, None)
            self.excused[name] = time.monotonic()

    def learn(self) -> None:
        """Which process each guest is."""
        found = self.processes()
        for name in self.machines:
            if (guest := found.get(names.ident(self.uids[f"ZMachine/{name}"]))) is not None:
                self.guests[name] = guest

    def seen(self) -> Seen:
        """Raises Unseen."""
        what = ",".join([*(model.PLURAL for model in KINDS.models), "secrets"])
        said = self.grid.kubectl("get", what, "-A", "-o", "json", "--request-timeout=10s", check=False)
        try:
            items = json.loads(said)["items"]
        except ValueError:
            raise Unseen(said[-200:]) from None
        found: dict[str, list[dict[str, Any]]] = {}
        for item in items:
            if item["metadata"].get("namespace") in (self.namespace, None) or item["kind"] == "NodeWorkload":
                found.setdefault(item["kind"], []).append(item)
        return Seen(found)

    def on(self, node: str, script: str) -> str:
        """Raises Unseen: the node is down."""
        from gridlib.layout import GridError

        try:
            return self.grid.run(node, "sh", "-c", script, check=False)
        except GridError as error:
            raise Unseen(str(error)) from None

    def processes(self) -> dict[str, Guest]:
        """Ident of a machine's uid → its guest, on the nodes that are up."""
        script = (
            "for f in /run/libvirt/qemu/zos-*.pid; do p=$(cat $f 2>/dev/null) && s=$(cut -d' ' -f22 /proc/$p/stat 2>/dev/null) "
            "&& echo $(basename $f .pid) $p $s; done"
        )
        found = {}
        for node in NODES:
            for line in self.on(node, script).splitlines():
                name, pid, since = line.split()
                found[name.removeprefix("zos-")] = Guest(int(pid), int(since))
        return found


async def until_answers(world: Truth) -> None:
    deadline = time.monotonic() + PATIENCE
    while world.grid.kubectl("get", "--raw", "/readyz", check=False).strip() != "ok":
        if time.monotonic() > deadline:
            raise AssertionError("the API server does not come back")
        await asyncio.sleep(0.2)


SCENARIO = Scenario(
    actions=faults.ACTIONS, always=invariants.ALWAYS, rest=invariants.REST, end=invariants.END, pause=4.0, patience=PATIENCE
)


async def run(seed: int, seconds: float, asked: list[str], steps: list[Step]) -> int:
    """On a minigrid of its own."""
    actions = chaos.choose(SCENARIO.actions, asked, short=False)
    grid = Grid(f"tr{os.getpid() % 100000}")
    try:
        print(grid.minigrid("up", "--nodes", "3", "--controllers", "2", "--owner", str(os.getpid())), end="", flush=True)
        grid.push_image()
        report = await chaos.torture(Truth(grid), SCENARIO, actions, seed=seed, seconds=seconds, say=say, steps=steps)
        if report.violations:
            print(grid.describe(), flush=True)
        return 1 if report.violations else 0
    finally:
        grid.minigrid("down", check=False)


def say(text: str) -> None:
    print(text, flush=True)
