"""A virtual machine until its cloud-init is done, over QEMU started by hand with the same disk and seed.

Both begin from the image as it was published, on a disk that is there already: before each start its content is put back, which
is not measured. Writing the image to a new disk is a matter of the node's disk, and the same for who does it by hand.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchlib.consoles import said
from benchlib.grid import Minigrid, end, obj
from benchlib.progress import Progress
from benchlib.table import Row, ratio

ROUNDS = 2
IMAGE = "oci://198.51.100.2:5000/zos/debian:latest"
#: What cloud-init says on the console when all its stages are done (its final-message).
_WORD = b" finished at "
_MEMORY = "512M"
#: Seconds for a boot under emulation on a busy machine.
_LONG = 900.0
_NODE, _DISK = "n1", "system"


def measure(grid: Minigrid, network: str, progress: Progress) -> Row:
    """``network``: one that is Ready on the node."""
    state = grid.grid.directory(_NODE) / "zos"
    progress("a virtual machine's disk is written")
    grid.apply(obj("ZMount", _DISK, size="1536Mi"), _machine("model", network))
    disk = _written(state)
    seed = (state / "machines" / _uid(grid, "model") / "seed.iso").read_bytes()
    _delete(grid, "model")
    pristine = state / "bench-pristine"
    shutil.copyfile(_image(state), pristine)
    ours: list[float] = []
    theirs: list[float] = []
    try:
        with _bare(grid, state, disk.stat().st_size, pristine, seed) as bare:
            for number in range(ROUNDS):
                progress(f"a virtual machine until cloud-init is done, by turns with bare QEMU, round {number + 1} of {ROUNDS}")
                for turn in (number % 2, 1 - number % 2):
                    theirs.append(bare()) if turn == 0 else ours.append(_applied(grid, state, disk, pristine, network, number))
    finally:
        pristine.unlink()
    grid.kubectl("delete", "zmount", _DISK, "--timeout=60s")
    return ratio("VM, apply → cloud-init done / bare QEMU, same disk and seed", ours, theirs, "<=", 1.1, accelerator="tcg")


def _machine(name: str, network: str) -> dict[str, Any]:
    spec = {"image": IMAGE, "memory": f"{_MEMORY}i", "nodeName": _NODE, "network": {"name": network}}
    return obj("ZMachine", name, **spec, disks=[{"name": _DISK}])


def _applied(grid: Minigrid, state: Path, disk: Path, pristine: Path, network: str, number: int) -> float:
    _put_back(pristine, disk)
    name = f"vm-{number}"
    began = time.monotonic()
    grid.apply(_machine(name, network))
    seconds = said(state / "machines" / _uid(grid, name) / "console.log", _WORD, _LONG) - began
    _delete(grid, name)
    return seconds


def _uid(grid: Minigrid, name: str) -> str:
    return str(grid.get("zmachine", name)["metadata"]["uid"])


def _delete(grid: Minigrid, name: str) -> None:
    grid.kubectl("delete", "zmachine", name, "--timeout=180s")


def _written(state: Path) -> Path:
    """The boot disk, once a guest has it: its card, and the guest's console, are there."""
    deadline = time.monotonic() + _LONG
    while time.monotonic() < deadline:
        if list((state / "machines").glob("*/console.log")) and (cards := list((state / "disks").glob("*.system"))):
            return cards[0].with_suffix(".raw")
        time.sleep(0.2)
    raise TimeoutError("the boot disk is not written")


def _image(state: Path) -> Path:
    return next((state / "images").glob("sha256-*/disk.raw"))


def _put_back(pristine: Path, disk: Path) -> None:
    """The image's content into a disk that may be larger, which stays as it is otherwise: reserved, and with zeros behind."""
    size = disk.stat().st_size
    subprocess.run(["fallocate", "--zero-range", "--length", str(size), str(disk)], check=True)
    copy = ["dd", f"if={pristine}", f"of={disk}", "bs=1M", "conv=notrunc,sparse,fsync", "status=none"]
    subprocess.run(copy, check=True)


@contextlib.contextmanager
def _bare(grid: Minigrid, state: Path, size: int, pristine: Path, seed: bytes) -> Iterator[Callable[[], float]]:
    """What a person would do who knows QEMU, with the same devices on the same node. Gives a function that starts a guest and
    returns the seconds until its cloud-init is done."""
    node, room, inside = grid.host(_NODE), state / "bare-vm", Path("/var/lib/zos/bare-vm")
    room.mkdir()
    (room / "seed").write_bytes(seed)
    disk = room / "system"
    with open(disk, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    node.run("ip", "tuntap", "add", "bare-vm", "mode", "tap")
    node.run("ip", "link", "set", "bare-vm", "up")
    mac = _mac(seed)

    def drive(name: str, serial: str, function: int, more: str = "", told: str = "") -> list[str]:
        file = f"driver=raw,node-name={name},discard=ignore{more},file.driver=file,file.filename={inside / name}"
        return ["-blockdev", file, "-device", f"virtio-blk-pci,drive={name},serial={serial},addr=1.{function}{told}"]

    guest = [
        "qemu-system-x86_64", "-machine", "q35,accel=tcg,memory-backend=ram", "-cpu", "max", "-m", _MEMORY, "-smp", "1",
        "-object", f"memory-backend-memfd,id=ram,size={_MEMORY},share=on", "-nodefaults", "-no-user-config", "-display", "none",
        *drive("system", "zos-system", 0, told=",bootindex=1,multifunction=on"), *drive("status", "zos-status", 1),
        *drive("seed", "zos-seed", 2, ",read-only=on"),
        "-netdev", "tap,id=net,ifname=bare-vm,script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=net,mac={mac},romfile=,addr=1.3",
        "-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random,addr=1.4",
        "-serial", f"file:{inside}/console",
    ]  # fmt: skip

    def start() -> float:
        (room / "console").unlink(missing_ok=True)
        (room / "status").write_bytes(bytes(512))
        _put_back(pristine, disk)
        began = time.monotonic()
        runs = grid.popen(_NODE, *guest, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return said(room / "console", _WORD, _LONG) - began
        finally:
            end(runs)

    try:
        yield start
    finally:
        node.run("ip", "link", "del", "bare-vm")
        shutil.rmtree(room)


def _mac(seed: bytes) -> str:
    """Of the network card that the seed is written for."""
    at = seed.index(b'"macaddress": "') + len(b'"macaddress": "')
    return seed[at : at + 17].decode()
