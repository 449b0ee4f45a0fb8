"""Disks that begin as an image, and what becomes of one that nobody knows any more."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from guests import Guests
from harness import Grid, obj, until

MiB = 1 << 20
SIZE = 48 * MiB


@pytest.fixture
def image(grid: Grid, namespace: str) -> str:
    """A disk with a partition table and no system, which any machine starts with; its nodes take it from a directory."""
    path = grid.root / "images" / f"{namespace}.raw"
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(SIZE)
        file.write(bytes(510) + b"\x55\xaa")
        for at in (MiB, SIZE - MiB):
            file.seek(at)
            file.write(os.urandom(MiB))
    return f"file://{path}"


def digest(guests: Guests, disk: str) -> str:
    return guests.grid.run("n1", "sh", "-c", f"head -c {SIZE} /var/lib/zos/disks/{disk}.raw | sha256sum").split()[0]


def test_a_disk_begins_as_an_image_and_is_booted_from(grid: Grid, namespace: str, image: str) -> None:
    guests = Guests(grid, namespace)
    guests.network()
    files = image.removesuffix(f"{namespace}.raw").rstrip("/") + "-is-not-there"
    grid.apply(
        namespace,
        obj("ZMount", "system", size="32Mi", nodeName="n1", source={"image": image}),
        obj("ZMount", "none", size="32Mi", nodeName="n1", source={"image": files}),
    )
    grid.says(namespace, "zmount", "system", "the disk has 32Mi, and the image needs 48Mi", "InvalidSpec")
    grid.says(namespace, "zmount", "none", "image", "ImageInvalid")
    guests.apply("vm", image=image, disks=[{"name": "system"}])
    guests.says("vm", "disk system is not ready on node n1 yet", "DependencyNotReady")
    grid.kubectl("patch", "zmount", "system", "-n", namespace, "--type=merge", "-p", '{"spec": {"size": "256Mi"}}')
    guests.ready("vm")
    uid = (grid.get("zmount", "system", namespace) or {})["metadata"]["uid"]
    disk, content = f"mount-{uid}", Path(image.removeprefix("file://")).read_bytes()
    assert digest(guests, disk) == hashlib.sha256(content).hexdigest()
    assert guests.status("vm")["mode"] == "vm"
    _is_lost_and_booted_as_it_is(guests, image, disk, uid)


def _is_lost_and_booted_as_it_is(guests: Guests, image: str, disk: str, uid: str) -> None:
    grid = guests.grid
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
