"""A machine until its entrypoint says something, over QEMU started by hand; what its life costs the API server; and what twenty
of them cost their node."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from benchlib import footprint, lives, process
from benchlib.consoles import said
from benchlib.grid import IMAGE, Minigrid, end, minigrid, obj, push_image
from benchlib.progress import Progress
from benchlib.table import Row, ratio
from gridlib.tools import Tools
from zos.api.zmachine import ZMachine
from zos.drivers.domainxml import KERNEL_ARGUMENTS, TRANSLATED
from zos.drivers.image import directory_of
from zos.kube.client import Access, Client
from zos.plan.items import ContainerBoot

ROUNDS = 7
MACHINES = 20
IDLE = 30.0
_WORD = b"the entrypoint runs"
_MEMORY = "256M"


def measure(progress: Progress) -> Generator[Row, None, None]:
    progress("a minigrid of one node")
    with minigrid(1) as grid:
        push_image()
        grid.apply(obj("Network", "net", ipRange="10.80.0.0/16", nodes=[{"name": "n1"}]))
        grid.kubectl("wait", "network/net", "--for=condition=Ready", "--timeout=60s")
        yield from asyncio.run(_starts(grid, progress))
        yield from lives.measure(grid, lambda name: _machine(name, "exec sleep 100000"), progress)
        yield from _many(grid, progress)


def _machine(name: str, script: str, **more: Any) -> dict[str, Any]:
    spec = {"image": IMAGE, "memory": f"{_MEMORY}i", "nodeName": "n1", "network": {"name": "net"}}
    return obj("ZMachine", name, **spec, entrypoint=["sh", "-c", script], **more)


async def _starts(grid: Minigrid, progress: Progress) -> tuple[Row, Row]:
    client = Client(await Access.load(str(grid.grid.kubeconfig)))
    state = grid.grid.directory("n1") / "zos"
    script = f"echo {_WORD.decode()}; exec sleep 100000"
    ours, same, unbound = [], [], []
    try:
        progress("the image comes into the cache")
        grid.apply(_machine("model", script))
        grid.kubectl("wait", "zmachine/model", "--for=condition=Ready", "--timeout=120s")
        model = grid.get("zmachine", "model")
        uid, digest = model["metadata"]["uid"], model["status"]["imageDigest"]
        with _bare(grid, state, uid, digest) as bare:
            grid.kubectl("delete", "zmachine", "model", "--timeout=60s")
            for number in range(ROUNDS):
                progress(f"first output of a machine, by turns with bare QEMU, round {number + 1} of {ROUNDS}")
                for turn in range(number, number + 3):
                    if turn % 3 == 0:
                        same.append(bare(f"tcg,tb-size={TRANSLATED[ContainerBoot]}"))
                        continue
                    if turn % 3 == 1:
                        unbound.append(bare("tcg"))
                        continue
                    began = time.monotonic()
                    raw = await client.create(ZMachine, "default", _machine(f"m-{number}", script))
                    console = state / "machines" / raw["metadata"]["uid"] / "console.log"
                    ours.append(said(console, _WORD) - began)
                    grid.kubectl("delete", "zmachine", f"m-{number}", "--timeout=60s")
    finally:
        await client.close()
    what = "apply → first output of the entrypoint / bare QEMU"
    return (
        ratio(f"{what} with the same room for translated code", ours, same, "<=", 1.15, accelerator="tcg"),
        ratio(f"{what} that takes a GiB for it", ours, unbound, "", 0, accelerator="tcg"),
    )


@contextlib.contextmanager
def _bare(grid: Minigrid, state: Path, uid: str, digest: str) -> Iterator[Callable[[str], float]]:
    """What a person would do who knows QEMU: the same kernel, initramfs, image, configuration and empty disks, ready made,
    on the same node. Gives a function that starts a guest, with what QEMU is told of its accelerator, and returns the seconds
    until its entrypoint speaks."""
    node, tools = grid.host("n1"), Tools.find()
    room = state / "bare"
    room.mkdir()
    inside = Path("/var/lib/zos/bare")
    shutil.copy(state / "machines" / uid / "config", room / "config")
    interface = next(line for line in (room / "config").read_text().splitlines() if line.startswith("interface "))
    mac = unquote(interface.split()[1])
    with open(room / "root.empty", "wb") as disk:
        disk.truncate(500 << 20)
    node.run("mkfs.ext4", "-q", "-F", str(inside / "root.empty"))
    node.run("ip", "tuntap", "add", "bare", "mode", "tap")
    node.run("ip", "link", "set", "bare", "up")
    image = directory_of(Path("/var/lib/zos/images"), digest) / "rootfs"
    share = ["/usr/lib/qemu/virtiofsd", f"--socket-path={inside}/share", "-o", f"source={image},cache=always,xattr"]

    def disk(name: str, serial: str, slot: int) -> list[str]:
        file = f"driver=raw,node-name={name},file.driver=file,file.filename={inside / name}"
        return ["-blockdev", file, "-device", f"virtio-blk-pci,drive={name},serial={serial},addr=1.{slot}"]

    guest = [
        "qemu-system-x86_64", "-machine", "q35,memory-backend=ram", "-cpu", "max", "-m", _MEMORY, "-smp", "1",
        "-object", f"memory-backend-memfd,id=ram,size={_MEMORY},share=on", "-nodefaults", "-no-user-config", "-display", "none",
        "-kernel", str(tools.guest / "vmlinuz"), "-initrd", str(tools.guest / "initramfs"), "-append", KERNEL_ARGUMENTS,
        "-serial", f"file:{inside}/console", "-no-reboot",
        "-chardev", f"socket,id=share,path={inside}/share",
        "-device", "vhost-user-fs-pci,chardev=share,tag=zos-image,addr=1.4,multifunction=on",
        "-netdev", "tap,id=net,ifname=bare,script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=net,mac={mac},romfile=,addr=1.5",
        "-device", "virtio-blk-pci,drive=config,serial=zos-config,addr=1.0,multifunction=on",
        "-blockdev", f"driver=raw,node-name=config,read-only=on,file.driver=file,file.filename={inside}/config",
        *disk("status", "zos-status", 1), *disk("root", "zos-root", 2),
    ]  # fmt: skip

    def start(accelerator: str) -> float:
        for name in ("console", "share"):
            (room / name).unlink(missing_ok=True)
        (room / "status").write_bytes(bytes(512))
        shutil.copy(room / "root.empty", room / "root")
        began = time.monotonic()
        daemon = grid.popen("n1", *share, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (room / "share").exists():
            time.sleep(0.005)
        runs = grid.popen("n1", *guest, "-accel", accelerator, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            if runs.poll() is not None:
                raise RuntimeError(runs.stderr.read() if runs.stderr else "")
            return said(room / "console", _WORD) - began
        finally:
            for started in (runs, daemon):
                end(started)

    try:
        yield start
    finally:
        node.run("ip", "link", "del", "bare")
        shutil.rmtree(room)


def _many(grid: Minigrid, progress: Progress) -> list[Row]:
    progress(f"{MACHINES} machines on one node")
    grid.apply(*(_machine(f"many-{number}", "exec sleep 100000") for number in range(MACHINES)))
    began = time.monotonic()
    grid.kubectl("wait", "zmachines", "--all", "--for=condition=Ready", "--timeout=420s")
    seconds = time.monotonic() - began
    progress("an idle agent")
    time.sleep(10)
    agent = grid.agent("n1")
    detail = {"seconds until all were Ready": seconds}
    return [
        footprint.measure(agent, MACHINES),
        Row(f"memory of an agent with {MACHINES} machines", process.resident(agent), "<=", 120, "MiB", detail),
        Row(f"idle agent with {MACHINES} machines", process.share(agent, IDLE), "<", 1, "% of a core"),
    ]
