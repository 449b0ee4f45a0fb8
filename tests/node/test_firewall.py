"""nftables tables in the real kernel, in a namespace and under names that only this test has."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from silence import silent
from zos.api import names
from zos.drivers import DriverError
from zos.drivers.firewall import FirewallDriver
from zos.plan.diff import Op, diff
from zos.plan.items import Firewall

UID = f"test-firewall-{os.getpid()}"
NETNS, TABLE = names.router(UID), names.table(UID)
BODY = """
chain input {
  type filter hook input priority filter; policy drop;
  iifname "lo" accept
  ct state established,related accept
  iifname { "lan", "w-1" } icmp type { echo-request, time-exceeded } accept
}"""
INSIDE = Firewall(netns=NETNS, name=TABLE, body=BODY, owner="w-1")
BRIDGE = Firewall(
    netns=NETNS, family="bridge", name=f"{TABLE}-0", body="chain c { type filter hook prerouting priority 0; policy accept; }"
)
MINE = {INSIDE.key, BRIDGE.key}


def sh(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout


def nft(command: str) -> str:
    return sh(f"ip netns exec {NETNS} nft {command}")


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[FirewallDriver]:
    sh(f"ip netns add {NETNS}")
    driver = FirewallDriver(tmp_path)
    yield driver
    await driver.close()
    sh(f"ip netns del {NETNS}")


async def converge(driver: FirewallDriver, *wanted: Firewall) -> list[str]:
    seen = {key: thing for key, thing in (await driver.observe(wanted)).items() if key in MINE}
    ops = diff(wanted, seen)
    for op in ops:
        await driver.apply(op)
    return sorted(f"{op.verb} {op.key.split('/')[2]}" for op in ops)


async def test_tables_are_made_marked_and_left_alone(driver: FirewallDriver, tmp_path: Path) -> None:
    assert await converge(driver, INSIDE, BRIDGE) == ["create bridge", "create inet"]
    handle = nft("-a list tables")
    assert await converge(driver, INSIDE, BRIDGE) == []
    assert await converge(FirewallDriver(tmp_path), INSIDE, BRIDGE) == []
    assert nft("-a list tables") == handle
    assert (await driver.observe([INSIDE]))[INSIDE.key].owner == "w-1"


@pytest.mark.parametrize("name", ["zos-aaaaaaaaaa-x/y", "zos-aaaaaaaaaa-0.x", "zos-aaaaaaaaaa/inet/x", "zosaaaaaaaaaa"])
async def test_tables_that_others_named_like_ours_hide_nothing(driver: FirewallDriver, name: str) -> None:
    await converge(driver, INSIDE, BRIDGE)
    driver.watch(lambda: None)
    for family in ("inet", "bridge"):
        nft(f"add table {family} {name}")
    assert nft("list tables").count(name) == 2
    assert await converge(driver, INSIDE, BRIDGE) == []
    nft(f"delete table inet {TABLE}")
    await asyncio.sleep(0.1)
    assert await converge(driver, INSIDE, BRIDGE) == ["create inet"]


async def test_a_namespace_that_goes_while_it_is_looked_at_hides_nothing(driver: FirewallDriver) -> None:
    other = names.router(f"{UID}-other")
    for _ in range(5):
        sh(f"ip netns add {other}; for n in $(seq 30); do ip netns exec {other} nft add table inet zos-aaaaaaaaaa-$n; done")
        await converge(driver, INSIDE)
        look = asyncio.create_task(driver.observe([INSIDE]))
        await asyncio.sleep(0.02)
        sh(f"ip netns del {other}")
        assert (await look)[INSIDE.key].item == INSIDE


@pytest.mark.parametrize(
    "harm",
    [
        f"delete table inet {TABLE}",
        f"flush chain inet {TABLE} input",
        f"add rule inet {TABLE} input accept",
        f"add chain inet {TABLE} hole '{{ type filter hook input priority -10; policy accept; }}'",
        f"'add chain inet {TABLE} input {{ policy accept; }}'",
    ],
)
async def test_every_change_by_hand_is_undone(driver: FirewallDriver, harm: str) -> None:
    await converge(driver, INSIDE, BRIDGE)
    right = nft("list ruleset")
    nft(harm)
    assert nft("list ruleset") != right
    assert len(await converge(driver, INSIDE, BRIDGE)) == 1
    assert sorted(nft("list ruleset").splitlines()) == sorted(right.splitlines())
    assert await converge(driver, INSIDE, BRIDGE) == []


async def test_what_was_remembered_of_tables_may_be_lost(driver: FirewallDriver, tmp_path: Path) -> None:
    await converge(driver, INSIDE, BRIDGE)
    right = nft("list ruleset")
    for memory in (tmp_path / "firewall").iterdir():
        memory.unlink()
    again = FirewallDriver(tmp_path)
    assert {key for key in await again.observe([]) if key in MINE} == {INSIDE.key, BRIDGE.key}
    assert await converge(again, INSIDE, BRIDGE) == ["update bridge", "update inet"]
    assert sorted(nft("list ruleset").splitlines()) == sorted(right.splitlines())
    assert await converge(again, INSIDE, BRIDGE) == []


async def test_a_changed_body_replaces_and_a_refused_one_leaves_the_old(driver: FirewallDriver) -> None:
    await converge(driver, INSIDE)
    stricter = replace(INSIDE, body=BODY.replace('iifname "lo" accept', ""))
    assert await converge(driver, stricter) == ["update inet"]
    assert '"lo"' not in nft("list ruleset")
    before = nft("list ruleset")
    with pytest.raises(DriverError, match="syntax error"):
        await converge(driver, replace(INSIDE, body="chain input { nonsense }"))
    assert nft("list ruleset") == before


async def test_removal(driver: FirewallDriver, tmp_path: Path) -> None:
    await converge(driver, INSIDE, BRIDGE)
    assert await converge(driver) == ["remove bridge", "remove inet"]
    assert nft("list ruleset") == ""
    assert list((tmp_path / "firewall").iterdir()) == []
    await driver.apply(Op("remove", INSIDE.key))
    sh(f"ip netns del {NETNS}")
    await driver.apply(Op("remove", INSIDE.key))


async def test_tables_of_others_are_not_ours(driver: FirewallDriver) -> None:
    nft("add table inet filter")
    seen = await driver.observe([])
    assert not any(key.startswith(f"firewall/{NETNS}") for key in seen)


async def test_changes_are_noticed(driver: FirewallDriver) -> None:
    dirty = asyncio.Event()
    driver.watch(dirty.set)
    await converge(driver, INSIDE)
    await driver.observe([INSIDE])
    await silent(dirty, lambda: nft("'add table inet stranger; delete table inet stranger'"))
    nft(f"delete table inet {TABLE}")
    await asyncio.wait_for(dirty.wait(), 1)
