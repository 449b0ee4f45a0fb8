"""A process without a free descriptor knows nothing, and forgets nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import resource
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from imageworks import driver_of
from zos.drivers import servicedir, unused
from zos.drivers.accounts import Accounts
from zos.drivers.disk import DiskDriver
from zos.drivers.domainrun import Machine, Run
from zos.drivers.file import FileDriver
from zos.drivers.imagecache import directory_of
from zos.drivers.imagecards import Card, Cards
from zos.drivers.means import raise_descriptors, raise_inotify, short_of_means
from zos.drivers.process import ProcessError, run
from zos.drivers.service import ServiceDriver
from zos.drivers.sysctl import SysctlDriver
from zos.plan.diff import Op
from zos.plan.facts import ImageFact
from zos.plan.items import Disk, File, Image, Service, Sysctl

DIGEST = "sha256:" + "0" * 64


_short = False


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook, which stays for ever: files can't be opened while the process is short of descriptors. Directories can,
    as if somebody else had taken the last one in between."""
    if _short and event == "open":
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), arguments[0])


sys.addaudithook(_refuse)


@contextlib.contextmanager
def no_files() -> Iterator[None]:
    global _short
    _short = True
    try:
        yield
    finally:
        _short = False


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def image(state: Path) -> Callable[[], Awaitable[object]]:
    driver = driver_of(state / "images")
    ref = "oci://registry.example/base:1"
    place = directory_of(state / "images", DIGEST)
    (place / "rootfs").mkdir(parents=True)
    fact = {"digest": DIGEST, "entrypoint": [], "command": [], "environment": [], "executables": None}
    (place / "image.json").write_text(json.dumps(fact))
    Cards(state / "images" / "refs").remember(Card(ref, DIGEST, ""))

    async def look() -> object:
        return await driver.observe([Image(ref=ref)]), driver.facts()[ImageFact][ref]

    return look


async def disk(state: Path) -> Callable[[], Awaitable[object]]:
    driver = DiskDriver(state / "disks")
    item = Disk(name="mount-x", size=16 << 20, format="ext4", owner="w")
    await driver.apply(Op("create", item.key, item))

    async def look() -> object:
        return await driver.observe([item]), unused.is_unused(driver.path(item.name))

    return look


async def file(state: Path) -> Callable[[], Awaitable[object]]:
    driver = FileDriver(state)
    item = File(path="a/b", content="x", owner="w")
    await driver.apply(Op("create", item.key, item))
    return lambda: driver.observe([item])


async def guest(state: Path) -> Callable[[], Awaitable[object]]:
    machine = Machine(state / "machine")
    machine.directory.mkdir()
    machine.write_run(dataclasses.replace(Run(), started_at=1.0, restarts=3))
    machine.status_file.write_text("running")

    async def look() -> object:
        return machine.run(), machine.status()

    return look


async def setting(state: Path) -> Callable[[], Awaitable[object]]:
    item = Sysctl(path="net/ipv4/ip_forward", value=Path("/proc/sys/net/ipv4/ip_forward").read_text().strip())
    return lambda: SysctlDriver().observe([item])


async def service(state: Path) -> Callable[[], Awaitable[object]]:
    accounts = Accounts(state / "accounts")
    (state / "accounts").mkdir()
    item = Service(name="x", argv=("true",), owner="w")
    (state / "zos-svc-x").mkdir()
    servicedir.fill(state / "zos-svc-x", state / "zos-svc-x", item, servicedir.Identity(accounts.uid("x")), "group", "")
    driver = ServiceDriver(state, state / "logs", accounts)
    return lambda: driver.observe([item])


@pytest.mark.parametrize("made", [image, disk, file, guest, setting, service])
async def test_what_can_not_be_opened_is_not_known(
    made: Callable[[Path], Awaitable[Callable[[], Awaitable[object]]]], tmp_path: Path
) -> None:
    look = await made(tmp_path)
    there = await look()
    assert there
    kept = sorted(tmp_path.rglob("*"))
    for short in (no_descriptors, no_files):
        with short(), pytest.raises(OSError, match="Too many open files"):
            await look()
    assert sorted(tmp_path.rglob("*")) == kept
    assert await look() == there


async def test_a_program_that_could_not_be_started_says_nothing() -> None:
    with no_descriptors(), pytest.raises(ProcessError) as raised:
        await run("true")
    assert short_of_means(raised.value)
    with pytest.raises(ProcessError) as raised:
        await run("false")
    assert not short_of_means(raised.value)
    assert not short_of_means(FileNotFoundError(2, "no such file"))


def test_a_node_gets_room_for_many_userspace_wireguards(tmp_path: Path) -> None:
    setting = tmp_path / "max_user_instances"
    for found, wanted in (("128", 8192), ("8192", 8192), ("100000", 100_000)):
        setting.write_text(found)
        assert raise_inotify(setting) == int(setting.read_text()) == wanted
    setting.unlink()
    with pytest.raises(FileNotFoundError):
        raise_inotify(setting)


def test_an_agent_takes_what_it_may() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert raise_descriptors() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(before[1], 65_536)
        assert raise_descriptors() == min(before[1], 65_536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
