"""Virtual machines' disk images: which there are, what is made of them, what is refused."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import pytest

from imageworks import converge, driver_of, fact, leftovers, problem
from zos.drivers.imagecache import directory_of
from zos.drivers.meter import Limits
from zos.plan.facts import DiskImage

MIB = 2**20


def disk(path: Path, size: int = 4 * MIB, *, code: bytes = b"", table: str = "") -> Path:
    """A raw disk, with something in its second half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)
    if table:
        subprocess.run(["/usr/sbin/sfdisk", "-q", path], input=table, text=True, check=True)
    with open(path, "r+b") as file:
        file.write(code)
        file.seek(size // 2)
        file.write(b"content")
    return path


def qcow2(raw: Path, to: Path, *options: str) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["qemu-img", "convert", "-q", "-O", "qcow2", *options, raw, to], check=True)
    return to


GPT_ESP = "label: gpt\nsize=1M, type=uefi\n"


@pytest.mark.parametrize(
    ("code", "table", "firmware"),
    [
        (b"", "", "bios"),
        (b"\xeb\x63", "", "bios"),
        (b"", GPT_ESP, "uefi"),
        (b"\xeb\x63", GPT_ESP, "bios"),
        (b"", "label: dos\nsize=1M, type=ef\n", "uefi"),
        (b"", f"{GPT_ESP}size=1M, type=21686148-6449-6E6F-744E-656564454649\n", "bios"),
        (b"", "label: gpt\nsize=1M\n", "bios"),
    ],
)
async def test_its_firmware_is_what_can_start_it(tmp_path: Path, code: bytes, table: str, firmware: str) -> None:
    driver = driver_of(tmp_path / "images")
    disk(tmp_path / "vm" / "image.raw", code=code, table=table)
    await converge(driver, ref := f"file://{tmp_path}/vm")
    found = fact(driver, ref)
    assert found.disk == DiskImage(size=4 * MIB, firmware=firmware)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["image.raw", "image.qcow2", "disk/debian.img", "disk/debian.qcow2", "disk/a.img"])
async def test_all_that_is_kept_is_a_raw_disk_with_its_holes(tmp_path: Path, name: str) -> None:
    driver, images = driver_of(tmp_path / "images"), tmp_path / "images"
    raw = disk(tmp_path / "raw", 64 * MIB)
    place = tmp_path / "vm" / name
    if name in ("image.raw", "disk/debian.img"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(raw.read_bytes())  # without its holes, as archives have them
    else:  # also under a name that says otherwise
        qcow2(raw, place, "-c")
    await converge(driver, ref := f"file://{tmp_path}/vm")
    made = directory_of(images, fact(driver, ref).digest)
    assert sorted(path.name for path in made.iterdir()) == ["disk.raw", "image.json", "size"]
    kept = made / "disk.raw"
    assert kept.read_bytes() == raw.read_bytes()
    assert kept.stat().st_blocks * 512 < MIB
    assert kept.stat().st_mode & 0o777 == 0o600
    again = driver_of(images)
    await converge(again, ref)
    assert fact(again, ref).disk == DiskImage(size=64 * MIB)


@pytest.mark.parametrize("names", [("image.img",), ("disk/x/a.img",)])
async def test_anything_else_is_a_containers(tmp_path: Path, names: tuple[str, ...]) -> None:
    driver = driver_of(tmp_path / "images")
    for name in names:
        disk(tmp_path / "vm" / name)
    await converge(driver, ref := f"file://{tmp_path}/vm")
    assert fact(driver, ref).disk is None
    assert (directory_of(tmp_path / "images", fact(driver, ref).digest) / "rootfs").is_dir()


def backed(path: Path, base: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", base, path, "4M"], check=True)
    return path


async def test_what_does_not_stand_by_itself_is_refused(tmp_path: Path) -> None:
    images = tmp_path / "images"
    driver = driver_of(images, Limits(64 * MIB))
    place = tmp_path / "vm" / "image.qcow2"
    place.parent.mkdir()
    ref = f"file://{tmp_path}/vm"
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * MIB)

    backed(place, str(secret))
    assert "does not stand by itself (backing file): flatten it" in await problem(driver, ref)
    place.unlink()
    outside = f"data_file={tmp_path}/data,data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", outside, place, "4M"], check=True)
    assert "does not stand by itself (external data file)" in await problem(driver, ref)
    place.unlink()
    whole = qcow2(disk(tmp_path / "raw"), place).read_bytes()
    place.write_bytes(whole[:32] + struct.pack(">I", 1) + whole[36:])
    assert "does not stand by itself (encryption)" in await problem(driver, ref)
    place.write_bytes(whole)
    subprocess.run(["qemu-img", "snapshot", "-c", "before", place], check=True)
    assert "does not stand by itself (snapshots of other states): flatten it" in await problem(driver, ref)
    place.write_bytes(whole[:30])
    assert "its qcow2 ends within its header" in await problem(driver, ref)
    place.write_bytes(whole[:4] + struct.pack(">I", 9) + whole[8:])
    assert "its qcow2 is of version 9" in await problem(driver, ref)
    place.write_bytes(whole[: -(64 << 10)])
    assert "its qcow2 is damaged or not complete: publish it again" in await problem(driver, ref)
    place.write_bytes(whole[:36] + b"\xff" * 12 + whole[48:])
    said = await problem(driver, ref)
    assert "its qcow2 can't be read" in said
    assert str(images) not in said
    (tmp_path / "vm" / "image.qcow2").unlink()
    (tmp_path / "vm" / "image.raw").touch()
    assert "its disk has 0 bytes: that is none" in await problem(driver, ref)
    assert leftovers(images) == []


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
async def test_one_that_is_larger_than_the_node_takes_is_refused(tmp_path: Path, kind: str) -> None:
    images = tmp_path / "images"
    place = tmp_path / "vm" / f"image.{kind}"
    place.parent.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, place, "65M"], check=True)
    said = await problem(driver_of(images, Limits(64 * MIB)), f"file://{tmp_path}/vm")
    assert "more than the 64.0 MiB that this node takes" in said
    assert leftovers(images) == []


async def test_one_that_an_older_agent_unpacked_is_fetched_again(tmp_path: Path) -> None:
    driver, images = driver_of(tmp_path / "images"), tmp_path / "images"
    disk(tmp_path / "vm" / "image.raw")
    await converge(driver, ref := f"file://{tmp_path}/vm")
    (known,) = images.glob("sha256-*/image.json")
    text = json.loads(known.read_text())
    del text["disk"]
    known.write_text(json.dumps(text | {"has_disk_image": False}))
    assert await converge(driver_of(images), ref) == [], "nothing is done again that is right"
    known.write_text(json.dumps(text | {"has_disk_image": True}))
    again = driver_of(images)
    assert await converge(again, ref) == [f"create image/{ref}"]
    assert fact(again, ref).disk is not None
