"""The world of hack/torture helm: guests on a cluster, what was seen of them when all was well, who may be another since."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cluster import Product
from gridlib import chart
from gridlib.layout import GridError
from harness import IMAGE, REGISTRY, obj, until
from torturelib import pings
from torturelib.chaos import Unseen
from torturelib.release import Release
from torturelib.truth import Guest
from zos.api import names
from zos.kinds.kind import Writer
from zos.kinds.registry import KINDS

NODES = ("n1", "n2")
PATIENCE = 180.0  # seconds in which everything is well again
#: For a virtual machine's first boot, emulated on a busy machine.
LONG = 600.0
#: Of a console, what is read: half an hour of pings.
_TAIL = 1 << 20
_COMPONENTS = {"agent": "node", "runtime": "runtime", "controller": "controller"}

#: Says what is on its disk, and counts there: of each number it says that it is safe when it is.
_COUNTS = (
    "[ -e /data/mark ] || cat /proc/sys/kernel/random/uuid >/data/mark; sync; echo mark $(cat /data/mark); "
    "n=$(cat /data/count 2>/dev/null || echo 0); echo found $n; "
    "while :; do n=$((n+1)); echo $n >/data/new; sync; mv /data/new /data/count; sync; echo safe $n; sleep 10; done"
)
_PINGS = "until ping -c1 -W1 {to} >/dev/null; do sleep 1; done; exec ping -i 0.1 {to}"
#: The console has no login: it would hang up whoever has it open.
_USER_DATA = """#cloud-config
bootcmd:
  - - sh
    - -c
    - |
      systemctl mask -q --runtime serial-getty@ttyS0.service
      [ -e /srv/mark ] || cat /proc/sys/kernel/random/uuid >/srv/mark; sync; echo mark $(cat /srv/mark) >/dev/ttyS0
      (until busybox ping -c1 -W1 {to}; do sleep 1; done >/dev/null 2>&1
      exec busybox ping -i 0.1 {to} >/dev/ttyS0 2>&1) </dev/null &
"""


@dataclass(frozen=True)
class Pod:
    """``restarts`` of its container; ``well``: Ready and not on its way out."""

    name: str
    uid: str
    part: str  # of the chart's values
    node: str
    restarts: int
    well: bool


@dataclass
class Clustered:
    """What it remembers was seen when all was well; actions say whose guests end, who is unheard for a while, what is made
    anew."""

    product: Product
    release: Release
    virtual: bool = True
    namespace: str = "torture"
    #: Machine → node; each but the first pings the one before, on the other node.
    machines: dict[str, str] = field(default_factory=lambda: {"three": "n1", "two": "n2", "one": "n1"})
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)  # kind/name → as it was applied
    uids: dict[str, str] = field(default_factory=dict)  # kind/name → uid
    marks: dict[str, str] = field(default_factory=dict)  # machine → what it wrote
    guests: dict[str, tuple[Guest, str]] = field(
        default_factory=dict
    )  # machine → its process, and since when it is said to run
    places: dict[str, tuple[str, str]] = field(default_factory=dict)  # machine → node, address
    consoles: dict[str, Path] = field(default_factory=dict)  # machine → where all that it says is written
    specs: dict[str, tuple[str, int]] = field(default_factory=dict)  # object → uid, generation
    restarts: dict[str, int] = field(default_factory=dict)  # uid of a pod → how often its container was started anew
    upto: dict[str, int | None] = field(default_factory=dict)  # machine → up to which ping all is known; None: it may lose some
    ended: dict[str, int] = field(default_factory=dict)  # machine → its last answer when the last action was over
    excused: set[str] = field(default_factory=set)  # machines whose guest may be another one
    killed: dict[str, list[float]] = field(default_factory=dict)  # node → when its agent was made to end
    wrong: list[str] = field(default_factory=list)  # what happened behind an action

    def __post_init__(self) -> None:
        if self.virtual:
            self.machines = {**self.machines, "vm": "n2"}

    # -- what is made

    async def begin(self) -> None:
        self.product.kubectl("create", "namespace", self.namespace)
        self.make(obj("Network", "lan", ipRange="10.77.0.0/16", nodes=[{"name": node} for node in NODES]))
        to = ""
        for name, node in self.machines.items():
            size = "1536Mi" if name == "vm" else "64Mi"
            self.make(obj("ZMount", f"d-{name}", size=size, nodeName=node))
            self.make(self._machine(name, node, to))
            self.product.ready(self.namespace, f"zmachine/{name}", seconds=LONG if name == "vm" else PATIENCE)
            to = str((self.product.get("zmachine", name, self.namespace) or {})["status"]["ip"])
            self._keep_address(name, to)
        for name in self.machines:
            self.marks[name] = until(partial(self._mark, name), LONG, f"{name} says what it wrote")
        for name in self.pingers():
            until(lambda name=name: len(self.answers(name)) > 50, LONG, f"{name} is answered")
        if self.virtual:
            until(self.vm_says_no_more, LONG, "the virtual machine's cloud-init is done")
        self.learn()

    def _keep_address(self, name: str, address: str) -> None:
        """So that whoever pings it finds it where it was, if it has to be made anew."""
        machine = self.objects[f"ZMachine/{name}"]
        self.make({**machine, "spec": {**machine["spec"], "network": {"name": "lan", "ip": address}}})

    def vm_says_no_more(self) -> bool:
        """On its console, where else words of its boot stand among its pings."""
        return self.product.condition("zmachine", "vm", self.namespace, "GuestReady")["status"] == "True"

    def make(self, one: dict[str, Any]) -> None:
        self.objects[f"{one['kind']}/{one['metadata']['name']}"] = one
        self.product.apply(self.namespace, one)

    def _machine(self, name: str, node: str, to: str) -> dict[str, Any]:
        spec: dict[str, Any] = {"nodeName": node, "network": {"name": "lan"}}
        if name == "vm":
            spec |= {"image": f"oci://{REGISTRY}/zos/debian:latest", "memory": "512Mi", "disks": [{"name": "d-vm"}]}
            return obj("ZMachine", name, **spec, userData=_USER_DATA.format(to=to))
        script = f"({_COUNTS}) & {_PINGS.format(to=to)}" if to else _COUNTS
        disks = [{"name": f"d-{name}", "mountPath": "/data"}]
        return obj("ZMachine", name, **spec, image=IMAGE, memory="256Mi", entrypoint=["sh", "-c", script], disks=disks)

    async def calm(self) -> None:
        self.product.minigrid("up", timeout=400)
        for node in NODES:
            self.product.kubectl("uncordon", node)
        if not self.release.history():
            self.release.install(self.release.first_values())
        if self.release.history()[-1]["status"] != "deployed":
            self.release.rollback(self.release.good()[-1])

    async def clear(self) -> None:
        theirs = ",".join(model.PLURAL for model in KINDS.written_by(Writer.TENANT))
        self.product.kubectl("delete", theirs, "--all", "-n", self.namespace, "--wait=false")
        self.product.kubectl("delete", "namespace", self.namespace, "--wait=false")

    # -- what is remembered

    def learn(self) -> None:
        """Everything as it is now. Raises Unseen."""
        for what in self.objects:
            self.uids[what] = self.object(what)["metadata"]["uid"]
        self.restarts = {pod.uid: pod.restarts for pod in self.pods()}
        self.learn_specs()
        self.excused = set(self.machines)
        self.learn_guests()
        for name in self.pingers():
            self.upto[name] = max(self.answers(name), default=None)

    def learn_specs(self) -> None:
        self.specs = self.generations()

    def learn_guests(self) -> bool:
        """Of those that were excused; gives whether that is all."""
        there = self.processes()
        for name in sorted(self.excused):
            status = self.object(f"ZMachine/{name}").get("status", {})
            guest = there.get(names.ident(self.object(f"ZMachine/{name}")["metadata"]["uid"]))
            if guest is not None and status.get("startedAt"):
                self.guests[name] = (guest, status["startedAt"])
                self.consoles[name] = self._console(name)
                self.places.setdefault(name, (status["nodeName"], status["ip"]))
                self.excused.discard(name)
        return not self.excused

    def excuse(self, *machines: str) -> None:
        """Their guests end now, because that is what is asked or done; who pings them is not answered."""
        self.excused |= set(machines)
        for name in machines:
            self.guests.pop(name, None)
        self.unheard(*machines, *(name for name in self.pingers() if self.pinged(name) in machines))

    def unheard(self, *machines: str) -> None:
        """They may lose pings until all is well again."""
        self.upto |= {name: None for name in machines if name in self.upto}

    def on_node(self, node: str) -> list[str]:
        return [name for name, place in self.machines.items() if place == node]

    # -- what is seen

    def object(self, what: str) -> dict[str, Any]:
        """``what``: kind/name. Raises Unseen: it is not there."""
        kind, name = what.split("/")
        try:
            found = self.product.get(kind, name, self.namespace)
        except AssertionError as error:
            raise Unseen(str(error)) from None
        if found is None:
            raise Unseen(f"{what} is not there")
        return found

    def on_host(self, node: str, script: str) -> str:
        """Raises Unseen: the node is down."""
        try:
            return self.product.run_on_host(node, "sh", "-c", script, check=False)
        except GridError as error:
            raise Unseen(str(error)) from None

    def in_tree(self, node: str, script: str) -> str:
        """The same where guests are."""
        try:
            return self.product.run(node, "sh", "-c", script, check=False)
        except GridError as error:
            raise Unseen(str(error)) from None

    def processes(self) -> dict[str, Guest]:
        """Ident of a machine's uid → its guest. As the host sees them: QEMUs say whose they are, and the tree may be away."""
        script = (
            "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline 2>/dev/null) in *qemu-system*guest=zos-*) "
            "echo ${p#/proc/} $(cut -d' ' -f22 $p/stat) "
            "$(tr '\\0' '\\n' <$p/cmdline | sed -n 's/^guest=\\([^,]*\\).*/\\1/p');; esac; done"
        )
        found = {}
        for node in NODES:
            for line in self.on_host(node, script).splitlines():
                words = line.split()
                if len(words) == 3 and words[0].isdecimal():
                    found[words[2].removeprefix("zos-")] = Guest(int(words[0]), int(words[1]))
        return found

    def pods(self) -> list[Pod]:
        """Of the product. Raises Unseen."""
        try:
            items = (self.product.ask(f"/api/v1/namespaces/{chart.NAMESPACE}/pods") or {"items": []})["items"]
        except AssertionError as error:
            raise Unseen(str(error)) from None
        return [
            Pod(
                item["metadata"]["name"],
                item["metadata"]["uid"],
                _COMPONENTS[part],
                item["spec"].get("nodeName", ""),
                sum(one["restartCount"] for one in item["status"].get("containerStatuses", ())),
                "deletionTimestamp" not in item["metadata"]
                and any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", ())),
            )
            for item in items
            if (part := item["metadata"].get("labels", {}).get("app.kubernetes.io/component")) in _COMPONENTS
        ]

    def generations(self) -> dict[str, tuple[str, int]]:
        """Of every object of ours. Raises Unseen."""
        kinds = ",".join(f"{model.PLURAL}.zos.grid.tf" for model in KINDS.models)
        said = self.product.kubectl("get", kinds, "-A", "-o", "json", "--request-timeout=20s", check=False)
        try:
            items = json.loads(said)["items"]
        except ValueError:
            raise Unseen(said[-200:]) from None
        return {
            "/".join(filter(None, (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]))): (
                one["metadata"]["uid"],
                one["metadata"]["generation"],
            )
            for one in items
        }

    def console(self, name: str) -> str:
        """The end of what a machine has said. (Read from outside its node: that may be down.)"""
        path = self.consoles.get(name) or self._console(name)
        text = b""
        for place in (path.with_name(path.name + ".0"), path):
            if place.exists():
                with open(place, "rb") as file:
                    file.seek(max(0, place.stat().st_size - _TAIL))
                    text += file.read()
        return text[-_TAIL:].decode(errors="replace").replace("\r\n", "\n")

    def _console(self, name: str) -> Path:
        status = self.object(f"ZMachine/{name}").get("status", {})
        if not status.get("console"):
            raise Unseen(f"{name} has no console yet")
        below = Path(status["console"]).relative_to("/var/lib/zos")
        return self.product.root / "hosts" / self.machines[name] / "zos" / below

    def _mark(self, name: str) -> str:
        try:
            said = self.said_marks(name)
        except Unseen:
            return ""
        return said[-1] if said else ""

    def said_marks(self, name: str) -> list[str]:
        """At each of its starts."""
        lines = (line.split() for line in self.console(name).splitlines() if line.startswith("mark "))
        return [words[1] for words in lines if len(words) == 2 and len(words[1]) == 36]

    # -- pings

    def pingers(self) -> list[str]:
        return list(self.machines)[1:]

    def pinged(self, name: str) -> str:
        known = list(self.machines)
        return known[known.index(name) - 1]

    def answers(self, name: str) -> list[int]:
        """Numbers of its pings that were. Raises Unseen."""
        return pings.counted(pings.answered(self.console(name)), self.upto.get(name))

    def over(self) -> None:
        """An action is: whoever pings goes on from here."""
        for name in self.pingers():
            try:
                self.ended[name] = self.answers(name)[-1] if self.answers(name) else -1
            except Unseen:
                self.ended[name] = -1

    # -- waiting, as actions do

    def gridnode(self, node: str) -> dict[str, Any]:
        return self.product.get("gridnode", node) or {}

    def until_ready(self, *what: str, seconds: float = PATIENCE) -> None:
        self.product.ready(self.namespace, *what, seconds=seconds)

    def kills_left(self, nodes: Iterable[str]) -> list[str]:
        """Nodes whose kubelet starts their agent's container soon, however often it has ended."""
        recent = time.monotonic() - 600
        return [node for node in nodes if sum(when > recent for when in self.killed.get(node, ())) < 3]
