"""Disks that begin as an image, and what becomes of one that nobody knows any more."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from guests import Guests
from harness import Grid, obj, until

MiB = 1 << 20
SIZE = 48 * MiB


@dataclass(frozen=True)
class Written:
    """A disk that machine vm was booted from: what it is called on its node, and its ZMount's uid."""

    image: str
    disk: str
    uid: str


def image(grid: Grid, namespace: str) -> tuple[Path, str]:
    """A disk with a partition table and no system, which any machine starts with, and what its nodes call it."""
    here, there = grid.shelf
    path = here / f"{namespace}.raw"
    here.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(SIZE)
        file.write(bytes(510) + b"\x55\xaa")
        for at in (MiB, SIZE - MiB):
            file.seek(at)
            file.write(os.urandom(MiB))
    return path, f"file://{there}/{path.name}"


def digest(guests: Guests, disk: str) -> str:
    return guests.grid.run("n1", "sh", "-c", f"head -c {SIZE} /var/lib/zos/disks/{disk}.raw | sha256sum").split()[0]


def begins_as_an_image_and_is_booted_from(grid: Grid, namespace: str) -> Written:
    path, ref = image(grid, namespace)
    guests = Guests(grid, namespace)
    guests.network()
    grid.apply(
        namespace,
        obj("ZMount", "system", size="32Mi", nodeName="n1", source={"image": ref}),
        obj("ZMount", "none", size="32Mi", nodeName="n1", source={"image": f"file://{grid.shelf[1]}-is-not-there"}),
    )
    grid.says(namespace, "zmount", "system", "the disk has 32Mi, and the image needs 48Mi", "InvalidSpec")
    grid.says(namespace, "zmount", "none", "image", "ImageInvalid")
    guests.apply("vm", image=ref, disks=[{"name": "system"}])
    guests.says("vm", "disk system is not ready on node n1 yet", "DependencyNotReady")
    grid.kubectl("patch", "zmount", "system", "-n", namespace, "--type=merge", "-p", '{"spec": {"size": "256Mi"}}')
    guests.ready("vm")
    uid = (grid.get("zmount", "system", namespace) or {})["metadata"]["uid"]
    written = Written(ref, f"mount-{uid}", uid)
    assert digest(guests, written.disk) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert guests.status("vm")["mode"] == "vm"
    return written


def is_lost_and_booted_as_it_is(guests: Guests, written: Written) -> None:
    grid, image, disk, uid = guests.grid, written.image, written.disk, written.uid
    guests.apply("vm", image=image, disks=[{"name": "system"}], runPolicy="Halted", stopSeconds=1)
    until(lambda: guests.status("vm").get("state") == "Stopped", 60)
    grid.run("n1", "rm", f"/var/lib/zos/disks/{disk}.system")
    guests.apply("vm", image=image, disks=[{"name": "system"}], stopSeconds=1)
    said = guests.says("vm", f"boot-as-is={uid} has it booted as it is", "Conflict")
    before = digest(guests, disk)
    word = said["message"].partition("kubectl ")[2].partition(" has it booted")[0]
    grid.kubectl(*word.split())
    guests.ready("vm")
    assert digest(guests, disk) == before
