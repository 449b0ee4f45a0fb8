"""Twenty container machines at once on three nodes, over a shell loop of ``virsh create`` of the same twenty.

The loop gets what the product had to make: taps, empty disks, configurations, and the image on each node. One loop runs on each
node, all three at once, as whoever has three machines would do it. XML, nodes and libvirt are the same; only name, uuid and the
paths of what is written differ.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

from benchlib.consoles import all_said
from benchlib.grid import IMAGE, Minigrid, obj
from benchlib.progress import Progress
from benchlib.table import Row, ratio

ROUNDS = 2
MACHINES = 20
NODES = ("n1", "n2", "n3")
_WORD = b"the entrypoint runs"
_LONG = 900.0
_VIRSH = "virsh -q -c qemu:///system"
_INSIDE = Path("/var/lib/zos")
_ROOM = "bench-crowd"


def measure(grid: Minigrid, network: str, progress: Progress) -> Row:
    """``network``: one that is Ready on all nodes, which have the image."""
    ours: list[float] = []
    theirs: list[float] = []
    last: list[str] = []
    loop: _Loop | None = None
    try:
        for number in range(ROUNDS):
            progress(f"{MACHINES} machines at once, by turns with a loop of virsh, round {number + 1} of {ROUNDS}")
            # The loop needs the XML of ours; so its turn comes first in every second round.
            if loop is not None and number % 2:
                theirs.append(loop.run())
            consoles, seconds = _applied(grid, network, number)
            ours.append(seconds)
            if loop is None:
                loop = _Loop(grid, consoles)
            last = [name for name, _, _ in consoles]
            grid.kubectl("delete", *(f"zmachine/{name}" for name in last), "--timeout=300s")
            if not number % 2:
                theirs.append(loop.run())
    finally:
        if loop is not None:
            loop.erase()
    what = f"{MACHINES} machines at once on {len(NODES)} nodes → last first output / virsh create of the same"
    return ratio(what, ours, theirs, "<=", 1.3, accelerator="tcg", machines_per_second=MACHINES / median(ours))


def _applied(grid: Minigrid, network: str, number: int) -> tuple[list[tuple[str, str, Path]], float]:
    """Name, node and console of each, and the seconds until the last has spoken."""
    spec = {"image": IMAGE, "memory": "256Mi", "network": {"name": network}}
    spec["entrypoint"] = ["sh", "-c", f"echo {_WORD.decode()}; exec sleep 100000"]
    placed = {f"crowd-{number}-{count}": NODES[count % len(NODES)] for count in range(MACHINES)}
    began = time.monotonic()
    grid.apply(*(obj("ZMachine", name, **spec, nodeName=node) for name, node in placed.items()))
    listed: list[dict[str, Any]] = json.loads(grid.kubectl("get", "zmachines", "-o", "json"))["items"]
    uids = {one["metadata"]["name"]: one["metadata"]["uid"] for one in listed}
    found = [
        (name, node, grid.grid.directory(node) / "zos" / "machines" / uids[name] / "console.log")
        for name, node in placed.items()
    ]
    return found, all_said((console for _, _, console in found), _WORD, _LONG) - began


@dataclass(frozen=True)
class Guest:
    """As the loop starts it: ``xml``, and what is copied for it, by where it is on the node and what it is called."""

    xml: str
    files: dict[str, str]
    taps: tuple[str, ...]


def of_a_person(xml: str, name: str, uuid: str, room: str) -> Guest:
    """A guest's XML as libvirt has it, made another's: with a name, a uuid, taps and a room of its own, and nothing by which
    the agent would take it for one of its own. What is written to goes into the room; kernel and image stay shared."""
    domain = ElementTree.fromstring(xml)
    domain.attrib.pop("id", None)
    for tag in ("metadata", "seclabel"):
        for found in domain.findall(tag):
            domain.remove(found)
    _the(domain, "name").text = name
    _the(domain, "uuid").text = uuid
    files: dict[str, str] = {}
    for disk in domain.iterfind("devices/disk"):
        source, serial = _the(disk, "source"), _the(disk, "serial").text or ""
        files[source.attrib["file"]] = serial
        source.attrib.pop("index", None)
        source.attrib["file"] = f"{room}/{serial}"
    taps = []
    for number, target in enumerate(domain.iterfind("devices/interface/target")):
        taps.append(f"{name}-{number}")
        target.attrib["dev"] = taps[-1]
    for log in domain.iter("log"):
        log.attrib["file"] = f"{room}/console.log"
    for console in (*domain.iterfind("devices/serial"), *domain.iterfind("devices/console")):
        for source in console.findall("source"):
            console.remove(source)
        console.attrib.pop("tty", None)
    return Guest(ElementTree.tostring(domain, encoding="unicode"), files, tuple(taps))


def _the(parent: ElementTree.Element, tag: str) -> ElementTree.Element:
    found = parent.find(tag)
    if found is None:
        raise ValueError(f"no {tag} in {parent.tag}")
    return found


class _Loop:
    """Made of machines that run. What it copies for each start is ready before the clock runs."""

    def __init__(self, grid: Minigrid, machines: list[tuple[str, str, Path]]) -> None:
        self._grid = grid
        self._guests: dict[str, list[Guest]] = {node: [] for node in NODES}
        self._rooms: list[Path] = []
        for count, (_, node, console) in enumerate(machines):
            room = self._room(node) / f"bare{count}"
            room.mkdir(parents=True)
            self._rooms.append(room)
            xml = self._xml(node, console.parent.name)
            uuid = re.sub(r"^.{8}", f"{count:08x}", console.parent.name)
            guest = of_a_person(xml, f"bare{count}", uuid, str(_INSIDE / _ROOM / f"bare{count}"))
            for source, name in guest.files.items():
                outside = grid.grid.directory(node) / "zos" / Path(source).relative_to(_INSIDE)
                if name == "zos-root":  # empty, as a new one is: a guest has begun to fill the other
                    with open(room / "root.empty", "wb") as disk:
                        disk.truncate(outside.stat().st_size)
                    grid.host(node).run("mkfs.ext4", "-q", "-F", str(_INSIDE / _ROOM / room.name / "root.empty"))
                elif name == "zos-config":
                    shutil.copyfile(outside, room / name)
            (self._room(node) / f"{room.name}.xml").write_text(guest.xml)
            for tap in guest.taps:
                grid.host(node).run("ip", "tuntap", "add", tap, "mode", "tap")
                grid.host(node).run("ip", "link", "set", tap, "up")
            self._guests[node].append(guest)

    def run(self) -> float:
        """Seconds until the last has spoken."""
        for room in self._rooms:
            (room / "console.log").unlink(missing_ok=True)
            (room / "zos-status").write_bytes(bytes(512))
            shutil.copyfile(room / "root.empty", room / "zos-root")
        loop = f"cd {_INSIDE / _ROOM} && for xml in *.xml; do {_VIRSH} create $xml >/dev/null || exit 1; done"
        began = time.monotonic()
        loops = [self._grid.popen(node, "sh", "-c", loop) for node in NODES]
        try:
            if any(one.wait(_LONG) != 0 for one in loops):
                raise RuntimeError("virsh create failed")
            return all_said([room / "console.log" for room in self._rooms], _WORD, _LONG) - began
        finally:
            self._stop()

    def erase(self) -> None:
        self._stop()
        for node, guests in self._guests.items():
            for guest in guests:
                for tap in guest.taps:
                    self._grid.host(node).run("ip", "link", "del", tap, check=False)
            shutil.rmtree(self._room(node), ignore_errors=True)

    def _stop(self) -> None:
        for node in NODES:
            ours = f"{_VIRSH} list --name | grep ^bare | xargs -r -n1 {_VIRSH} destroy"
            self._grid.host(node).run("sh", "-c", ours, check=False)

    def _room(self, node: str) -> Path:
        return self._grid.grid.directory(node) / "zos" / _ROOM

    def _xml(self, node: str, uid: str) -> str:
        return self._grid.host(node).run("sh", "-c", f"{_VIRSH} dumpxml {uid}")
