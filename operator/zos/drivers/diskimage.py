"""A virtual machine's disk image: made raw, and judged by its own words. A stranger wrote it; only what stands by itself is
taken (a qcow2 may name other files of whoever opens it)."""

from __future__ import annotations

import json
import os
import re
import struct
import uuid
from pathlib import Path
from typing import Any, BinaryIO, Literal

from zos.drivers import DriverError
from zos.drivers.beside import beside
from zos.drivers.confined import unpacker
from zos.drivers.meter import Limits, Meter
from zos.drivers.process import ProcessError, run
from zos.drivers.thread import in_thread
from zos.drivers.unpacking import last_line
from zos.plan.facts import DiskImage

#: What the content of a virtual machine's image is called in its directory in the cache.
RAW = "disk.raw"

_SECTOR = 512
#: Seconds for a conversion, and for a look at a header.
_CONVERSION, _LOOK = 1800.0, 60.0
#: docs/interop/qcow2.txt of QEMU: magic, version, backing file (offset, length), cluster bits, size, encryption, …, features.
_QCOW2 = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQI")
_SNAPSHOTS = 60
_EXTERNAL_DATA = 1 << 2
_ENCRYPTION = "encryption"
#: Bytes of address space, of which a thread's stack alone takes eight MiB.
_MEMORY = 1 << 30
#: qemu-img check: only that it could be smaller.
_LEAKS = 3
_ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le
_BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649").bytes_le
_MBR_ESP = 0xEF
#: Bytes of boot code in the first sector, and entries of a partition table that are looked at (UEFI 2.10, 5.3).
_BOOT_CODE, _ENTRIES = 440, 128


async def take(room: Path, path: str, limits: Limits) -> DiskImage:
    """Makes `RAW` in ``room`` of the disk image at ``path`` in its ``rootfs``, of which then nothing is left. Raises
    DriverError."""
    source, raw = room / "rootfs" / path.lstrip("/"), room / RAW
    if await in_thread(_is_qcow2, source):
        await in_thread(_check_header, source)
        await _convert(room, source, raw, limits)
        await in_thread(source.unlink)
    else:
        await in_thread(source.rename, raw)
    size = await in_thread(_whole_sectors, raw)
    limits.check(size, 0, "its disk has")
    # An archive may have written its holes as zeroes.
    await run("fallocate", "--dig-holes", str(raw), timeout=_CONVERSION)
    return DiskImage(size=size, firmware=await in_thread(firmware_of, raw))


async def _convert(room: Path, source: Path, raw: Path, limits: Limits) -> None:
    """Raises DriverError for one that names other files, is damaged, or too much for the node."""
    info = await _qemu_img(room, limits, "info", "--output=json", "-f", "qcow2", str(source), timeout=_LOOK)
    try:
        said: dict[str, Any] = json.loads(info)
        specific = said.get("format-specific", {}).get("data", {})
        others = said.get("backing-filename") or specific.get("data-file")
        size, encrypted = int(said["virtual-size"]), bool(said.get("encrypted"))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DriverError("its qcow2 can't be understood") from error
    if others or encrypted:
        raise DriverError(_not_by_itself("backing or data file" if others else _ENCRYPTION))
    limits.check(size, 0, "its disk has")
    # What a file that was cut off lacks would be read as zeroes.
    done = await run(
        *unpacker(room, limits.size, "qemu-img", "check", "-q", "-f", "qcow2", str(source), memory=_MEMORY),
        timeout=_CONVERSION,
        check=False,
    )
    if done.code not in (0, _LEAKS):
        raise DriverError("its qcow2 is damaged or not complete: publish it again")
    meter = Meter(room, limits, "its disk has")
    await beside(
        lambda: _qemu_img(
            room, limits, "convert", "-f", "qcow2", "-O", "raw", "-S", "4k", str(source), str(raw), timeout=_CONVERSION
        ),
        meter.watch,
    )


async def _qemu_img(room: Path, limits: Limits, *argv: str, timeout: float) -> str:
    try:
        done = await run(*unpacker(room, limits.size, "qemu-img", *argv, memory=_MEMORY), timeout=timeout)
    except ProcessError as error:
        said = re.sub(r"'?/\S+'?:? ?", "", last_line(error).removeprefix("qemu-img: "))  # paths of the node's
        raise DriverError(f"its qcow2 can't be read: {said}") from error
    return done.stdout


def _is_qcow2(source: Path) -> bool:
    with _opened(source) as file:
        return file.read(4) == _QCOW2


def _check_header(source: Path) -> None:
    """Before any program of others opens it. Raises DriverError."""
    with _opened(source) as file:
        header = file.read(112)
    try:
        _, version, backing, _, _, _, encryption = _HEADER.unpack_from(header)
        (snapshots,) = struct.unpack_from(">I", header, _SNAPSHOTS)
        features = struct.unpack_from(">Q", header, 72)[0] if version >= 3 else 0
    except struct.error as error:
        raise DriverError("its qcow2 ends within its header") from error
    if version not in (2, 3):
        raise DriverError(f"its qcow2 is of version {version}: 2 and 3 are known")
    for found, what in (
        (backing, "backing file"),
        (features & _EXTERNAL_DATA, "external data file"),
        (encryption, _ENCRYPTION),
        (snapshots, "snapshots of other states"),
    ):
        if found:
            raise DriverError(_not_by_itself(what))


def _not_by_itself(what: str) -> str:
    how = "convert it where its key is" if what == _ENCRYPTION else "flatten it (qemu-img convert -O qcow2 OLD NEW)"
    return f"its qcow2 does not stand by itself ({what}): {how} and publish that"


def _whole_sectors(raw: Path) -> int:
    """Its size, made a multiple of what a disk consists of."""
    fd = os.open(raw, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size < _SECTOR:
            raise DriverError(f"its disk has {size} bytes: that is none")
        whole = -(-size // _SECTOR) * _SECTOR
        os.ftruncate(fd, whole)
        os.fchmod(fd, 0o600)
        os.fchown(fd, 0, 0)
        return whole
    finally:
        os.close(fd)


def firmware_of(raw: Path) -> Literal["bios", "uefi"]:
    """UEFI where the disk has an EFI system partition, and nothing that a BIOS would start."""
    with _opened(raw) as file:
        first = file.read(_SECTOR)
        types = [first[446 + 16 * number + 4] for number in range(4)] if first[510:512] == b"\x55\xaa" else []
        guids = _gpt_types(file)
    efi = _ESP in guids or _MBR_ESP in types
    return "uefi" if efi and not any(first[:_BOOT_CODE]) and _BIOS_BOOT not in guids else "bios"


def _gpt_types(file: BinaryIO) -> set[bytes]:
    file.seek(_SECTOR)
    header = file.read(92)
    if len(header) < 92 or header[:8] != b"EFI PART":
        return set()
    table, count, size = struct.unpack_from("<QII", header, 72)
    if not 128 <= size <= 4096 or table > 1 << 40:
        return set()
    file.seek(table * _SECTOR)
    entries = file.read(min(count, _ENTRIES) * size)
    return {entries[at : at + 16] for at in range(0, len(entries) - 15, size)}


def _opened(path: Path) -> BinaryIO:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.fdopen(fd, "rb")
