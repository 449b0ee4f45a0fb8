"""Interfaces of the node's own opened for machines, in the real kernel, under names that only this test has."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator

import pytest

from silence import silent
from zos.api import names
from zos.drivers import DriverError
from zos.drivers.link import LinkDriver
from zos.drivers.segment import SegmentDriver
from zos.plan.diff import Op, diff
from zos.plan.items import Item, Segment, Tap
from zos.plan.order import schedule

NUMBER = os.getpid() % 10**6
NIC, FAR, BRIDGE = f"sn{NUMBER}", f"sf{NUMBER}", f"sb{NUMBER}"
OURS = names.segment(NIC)
TAPS = tuple(names.tap(f"test-segment-{NUMBER}", number) for number in range(2))
SEGMENT = Segment(interface=NIC, owner="w-vm")
PORT = Tap(name=TAPS[0], bridge=NIC, mtu=1500, owner="w-vm", needs=(SEGMENT.key,))
ON_BRIDGE = Segment(interface=BRIDGE, owner="w-vm")
PORT_ON_BRIDGE = Tap(name=TAPS[1], bridge=BRIDGE, mtu=1500, owner="w-vm", needs=(ON_BRIDGE.key,))
MINE = {SEGMENT.key, PORT.key, ON_BRIDGE.key, PORT_ON_BRIDGE.key, f"segment/{OURS}"}


def sh(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout


def master(link: str) -> str | None:
    return json.loads(sh(f"ip -json link show {link}"))[0].get("master")


@pytest.fixture
async def drivers() -> AsyncIterator[tuple[SegmentDriver, LinkDriver]]:
    sh(f"ip link add {NIC} type veth peer {FAR}; ip link add {BRIDGE} type bridge; ip link set {BRIDGE} up")
    found = (SegmentDriver(), LinkDriver())
    yield found
    for driver in found:
        await driver.close()
    for link in (*TAPS, NIC, BRIDGE, OURS):
        sh(f"ip link del {link} 2>/dev/null")


async def converge(drivers: tuple[SegmentDriver, LinkDriver], *wanted: Item) -> list[str]:
    """Only what belongs to this test is touched, whatever else is on the machine."""
    seen = {key: thing for driver in drivers for key, thing in (await driver.observe(wanted)).items() if key in MINE}
    ops = {op.key: op for op in diff(wanted, seen)}
    plan = schedule(ops.values(), {item.key: item for item in wanted}, seen)
    done: set[str] = set()
    while ready := [key for key, needs in plan.after.items() if key not in done and needs <= done]:
        for key in ready:
            await drivers[not key.startswith("segment/")].apply(ops[key])
        done |= set(ready)
    return sorted(f"{ops[key].verb} {key.split('/')[0]}" for key in ops)


async def test_a_name_that_no_interface_can_have_is_told_and_hides_nothing(drivers: tuple[SegmentDriver, LinkDriver]) -> None:
    await converge(drivers, SEGMENT, PORT)
    odd = Segment(interface="é" * 15)  # 15 letters, which is what admission counts, and 30 bytes
    seen = await drivers[0].observe([SEGMENT, odd])
    assert (seen[SEGMENT.key].item, odd.key in seen) == (SEGMENT, False)
    with pytest.raises(DriverError, match=r"no interface é+: GridNode\.spec\.publicInterface names it"):
        await drivers[0].apply(Op("create", odd.key, odd))


async def test_a_nic_becomes_a_port_and_is_let_go(drivers: tuple[SegmentDriver, LinkDriver]) -> None:
    assert await converge(drivers, SEGMENT, PORT) == ["create link", "create segment"]
    assert await converge(drivers, SEGMENT, PORT) == []
    assert master(NIC) == master(TAPS[0]) == OURS
    bridge = json.loads(sh(f"ip -d -json link show {OURS}"))[0]
    assert (bridge["ifalias"], bridge["linkinfo"]["info_data"]["mcast_snooping"]) == (f"zos:w-vm {NIC}", 0)
    assert "inet6" not in sh(f"ip address show {OURS}")
    assert (await drivers[0].observe([]))[SEGMENT.key].owner == "w-vm"
    assert await converge(drivers) == ["remove link", "remove segment"]
    assert master(NIC) is None
    assert OURS not in sh("ip link")
    await drivers[0].apply(Op("remove", SEGMENT.key))


async def test_a_bridge_is_used_as_it_is(drivers: tuple[SegmentDriver, LinkDriver]) -> None:
    sh(f"ip address add 203.0.113.1/28 dev {BRIDGE}")
    before = sh(f"ip -d address show {BRIDGE} | grep -v state")
    assert await converge(drivers, ON_BRIDGE, PORT_ON_BRIDGE) == ["create link"]
    assert await converge(drivers, ON_BRIDGE, PORT_ON_BRIDGE) == []
    assert master(TAPS[1]) == BRIDGE
    assert await converge(drivers) == ["remove link"]
    assert "203.0.113.1/28" in before
    assert "203.0.113.1/28" in sh(f"ip address show {BRIDGE}")


@pytest.mark.parametrize(
    "harm",
    [
        f"ip link set {NIC} nomaster",
        f"ip link set {NIC} down",
        f"ip link set {OURS} down",
        f"ip link del {OURS}",
        f"ip link set dev {OURS} alias ''",
        f"ip link del {NIC}; ip link add {NIC} type veth peer {FAR}",
    ],
)
async def test_drift_is_mended(drivers: tuple[SegmentDriver, LinkDriver], harm: str) -> None:
    await converge(drivers, SEGMENT, PORT)
    sh(harm)
    for _ in range(3):
        if not await converge(drivers, SEGMENT, PORT):
            break
    assert master(NIC) == master(TAPS[0]) == OURS
    assert await converge(drivers, SEGMENT, PORT) == []
    assert await converge(drivers) == ["remove link", "remove segment"]


async def test_half_made_ones_are_ours_by_name(drivers: tuple[SegmentDriver, LinkDriver]) -> None:
    sh(f"ip link add {OURS} type bridge")
    assert await converge(drivers) == ["remove segment"]
    assert OURS not in sh("ip link")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (f"ip link del {NIC}", f"no interface {NIC}"),
        (f"ip address add 203.0.113.5/28 dev {NIC}", f"has addresses \\(203.0.113.5/28\\).*bridge with {NIC} in it"),
        (f"ip link set {NIC} master {BRIDGE}", f"is a port of {BRIDGE}: name {BRIDGE}"),
    ],
)
async def test_what_is_in_use_is_left_alone(drivers: tuple[SegmentDriver, LinkDriver], harm: str, words: str) -> None:
    sh(harm)
    before = sh("ip -o link | grep -c .") + sh(f"ip -o address show {NIC}")
    with pytest.raises(DriverError, match=words):
        await converge(drivers, SEGMENT)
    assert sh("ip -o link | grep -c .") + sh(f"ip -o address show {NIC}") == before


async def test_changes_are_noticed(drivers: tuple[SegmentDriver, LinkDriver]) -> None:
    dirty = asyncio.Event()
    drivers[0].watch(dirty.set)
    await converge(drivers, SEGMENT)
    await drivers[0].observe([SEGMENT])
    # Nobody asks for a segment there:
    await silent(dirty, lambda: sh(f"ip link add {BRIDGE}x type bridge; ip link set {BRIDGE} down; ip link del {BRIDGE}x"))
    sh(f"ip link set {NIC} nomaster")
    await asyncio.wait_for(dirty.wait(), 1)
