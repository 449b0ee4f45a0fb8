"""What is in an image decides how a machine of it runs, wherever the image comes from."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kernelimages
from guests import Guests
from harness import IMAGE, REGISTRY, Grid, obj
from publisher import publishing

MiB = 1 << 20
TOOLS = ("sh", "echo", "uname", "sleep", "cat", "modprobe", "grep")
SAYS = (
    "echo kernel $(uname -r); cat /data/word; modprobe dummy && echo dummy $(grep -c ^dummy /proc/modules); "
    "while :; do sleep 60; done"
)


@dataclass(frozen=True)
class Case:
    image: str
    mode: str
    #: The image's own kernel; None: the node's.
    kernel: str | None = None
    prints: str = "^kernel "
    #: What a disk of it begins as, which a container mounts and a virtual machine boots from.
    source: str = ""

    def spec(self, name: str) -> dict[str, Any]:
        """What a user writes for it."""
        if self.mode == "vm":
            return {"image": self.image, "disks": [{"name": name}]}
        disks = [{"name": name, "mountPath": "/data"}] if self.source else []
        return {"image": self.image, "disks": disks, "entrypoint": ["sh", "-c", SAYS]}

    def disk(self, name: str) -> list[dict[str, Any]]:
        if self.source:
            return [obj("ZMount", name, size="192Mi", source={"image": self.source})]
        return [obj("ZMount", name, size="16Mi")] if self.mode == "vm" else []


def _root(path: Path) -> Path:
    (path / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", path / "bin/busybox")
    for tool in TOOLS:
        (path / "bin" / tool).symlink_to("busybox")
    return path


#: A boot sector that writes to the first serial port by the BIOS' int 14h, and halts.
_SECTOR = (
    b"\x31\xc0\x8e\xd8"  # xor ax, ax; mov ds, ax
    b"\xbe\x18\x7c"  # mov si, text
    b"\xac\x84\xc0\x74\x08"  # next: lodsb; test al, al; jz done
    b"\xb4\x01\x31\xd2\xcd\x14\xeb\xf3"  # mov ah, 1; xor dx, dx; int 14h; jmp next
    b"\xfb\xf4\xeb\xfd"  # sti; done: hlt; jmp done
    b"booted from its disk\r\n\0"  # text
)


def _disk(path: Path) -> Path:
    """One with nothing but a boot sector, which any machine starts with."""
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        file.truncate(8 * MiB)
        file.write(_SECTOR.ljust(510, b"\0") + b"\x55\xaa")
    return path


def _pushed(grid: Grid, scratch: Path, layer: Path, name: str) -> str:
    """An image of one layer, in the grid's registry."""
    layout = scratch / f"layout-{name}"
    for words in (
        ["init", "--layout", layout],
        ["new", "--image", f"{layout}:x"],
        ["raw", "add-layer", "--image", f"{layout}:x", layer],
        ["config", "--image", f"{layout}:x", "--architecture=amd64"],
    ):
        subprocess.run(["umoci", *words], check=True)
    grid.run("cp", "skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:x", f"docker://{REGISTRY}/zos/{name}:1")
    return f"oci://{REGISTRY}/zos/{name}:1"


@contextlib.contextmanager
def cases(grid: Grid, namespace: str, scratch: Path) -> Iterator[dict[str, Case]]:
    """By the names of their machines."""
    here, there = grid.shelf
    place, shelf = here / namespace, there / namespace
    place.mkdir(parents=True)
    try:
        plain, own = _root(scratch / "plain"), _root(place / "own")
        kernelimages.put(own, "dummy")
        disk = _disk(scratch / "holding" / "image.raw")
        tar = ["tar", "-c", "-C"]
        subprocess.run([*tar, plain, "--zstd", "-f", place / "plain.tar.zst", "."], check=True)
        subprocess.run([*tar, disk.parent, "-f", place / "holding.tar", "."], check=True)
        with open(place / "disk.raw.gz", "wb") as packed:
            subprocess.run(["gzip", "-c", disk], stdout=packed, check=True)
        (scratch / "data").mkdir()
        (scratch / "data" / "word").write_text("from the image\n")
        with open(place / "data.raw", "wb") as data:
            data.truncate(128 * MiB)
        subprocess.run(["mkfs.btrfs", "-q", "--rootdir", scratch / "data", place / "data.raw"], check=True)
        release = kernelimages.release()
        with publishing(grid, scratch, "n1") as publisher:
            yield {
                "registry": Case(IMAGE, "container"),
                "archive": Case(f"file://{shelf}/plain.tar.zst", "container"),
                "with-data": Case(IMAGE, "container", prints="^from the image$", source=f"file://{shelf}/data.raw"),
                "flist": Case(publisher.publish(plain, "plain"), "container"),
                "kernel": Case(f"file://{shelf}/own", "container", release),
                "kernel-flist": Case(publisher.publish(own, "own"), "container", release),
                "disk": Case(f"file://{shelf}/disk.raw.gz", "vm", prints="^booted from its disk$"),
                "disk-within": Case(f"file://{shelf}/holding.tar", "vm", prints="^booted from its disk$"),
                "disk-in-layer": Case(
                    _pushed(grid, scratch, place / "holding.tar", "holding"), "vm", prints="^booted from its disk$"
                ),
            }
    finally:
        shutil.rmtree(place)


def run_as_what_they_are(grid: Grid, namespace: str, cases: Mapping[str, Case]) -> None:
    guests = Guests(grid, namespace)
    guests.network()
    grid.apply(namespace, *(disk for name, case in cases.items() for disk in case.disk(name)))
    for name, case in cases.items():
        guests.apply(name, **case.spec(name))
    guests.ready(*cases, seconds=400)
    for name, case in cases.items():
        said = guests.prints(name, case.prints)
        status = guests.status(name)
        assert (name, status["mode"], status.get("kernel")) == (name, case.mode, case.kernel)
        if case.kernel is not None:
            assert f"kernel {case.kernel}\n" in said
            guests.prints(name, "^dummy 1$")
        elif case.mode == "container":
            assert os.uname().release not in said
