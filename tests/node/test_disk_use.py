"""What file systems say they use, of real ones."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from zos.api.nodeworkload import Owner
from zos.drivers.disk import DiskDriver
from zos.drivers.diskuse import Usage, used_of
from zos.plan.diff import diff
from zos.plan.facts import DiskUseFact
from zos.plan.items import Disk

MiB = 1 << 20


@pytest.mark.parametrize("size", [64 * MiB, 300 * MiB], ids=["mixed", "plain"])
async def test_what_is_written_is_used_and_what_goes_is_not(tmp_path: Path, size: int) -> None:
    driver = DiskDriver(tmp_path / "disks")
    origin = Owner(kind="ZMount", namespace="default", name="data", uid="a")
    disks = [
        Disk(name="mount-a", size=size, format="btrfs", owner="w", origin=origin),
        Disk(name="root-b", size=16 * MiB, format="ext4", owner="v"),
    ]
    for op in diff(disks, await driver.observe(disks)):
        await driver.apply(op)
    await driver.observe(disks)
    empty = driver.facts()[DiskUseFact]["mount-a"].used
    assert 0 < empty < MiB
    assert used_of(driver.path("root-b")) is None
    (tmp_path / "mounted").mkdir()
    subprocess.run(["mount", "-o", "loop", driver.path("mount-a"), tmp_path / "mounted"], check=True)
    try:
        (tmp_path / "mounted/file").write_bytes(os.urandom(20 * MiB))
    finally:
        subprocess.run(["umount", tmp_path / "mounted"], check=True)
    (usage,) = driver.usage()
    assert usage == Usage(origin, size, usage.used)
    assert 20 * MiB <= usage.used < 22 * MiB
    await driver.observe(disks)
    assert driver.facts()[DiskUseFact] == {"mount-a": DiskUseFact(empty)}, "what was just told stays so for a minute"
    again = DiskDriver(tmp_path / "disks")
    await again.observe(disks)
    assert again.facts()[DiskUseFact] == {"mount-a": DiskUseFact(usage.used)}
