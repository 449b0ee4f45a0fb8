"""Namespaces, bridges, pairs, taps and routes in the real kernel, under names that only this test has."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from silence import silent
from zos.api import names
from zos.drivers import DriverError, netns
from zos.drivers.devices import find
from zos.drivers.link import LinkDriver
from zos.drivers.sysctl import SysctlDriver
from zos.plan.diff import Op, diff
from zos.plan.items import Bridge, Item, Netns, Route, Sysctl, Tap, Veth
from zos.plan.order import schedule

UID = f"test-link-{os.getpid()}"
ROUTER, WAN, TAP, WIRE = names.router(UID), names.uplink(UID), names.tap(UID), names.wire(UID)

NETNS = Netns(name=ROUTER, owner="w-net")
SWITCH = Bridge(
    netns=ROUTER,
    name="lan",
    mtu=1420,
    addresses=("10.99.4.1/24",),
    mac="02:00:00:00:04:01",
    owner="w-net",
    needs=(NETNS.key,),
)
PAIR = Veth(
    name=WIRE, peer_netns=ROUTER, peer_name=TAP, peer_bridge="lan", mtu=1420, owner="w-vm", needs=(NETNS.key, SWITCH.key)
)
UPLINK = Veth(
    name=WAN,
    peer_netns=ROUTER,
    peer_name="wan",
    mtu=1500,
    addresses=("100.126.255.0/31",),
    peer_addresses=("100.126.255.1/31",),
    owner="w-net",
    needs=(NETNS.key,),
)
DEFAULT = Route(
    netns=ROUTER, destination="0.0.0.0/0", device="wan", gateway="100.126.255.0", owner="w-net", needs=(UPLINK.key,)
)
PORT = Tap(name=TAP, wired_to=WIRE, mtu=1420, owner="w-vm", needs=(PAIR.key,))
ALL: tuple[Item, ...] = (NETNS, SWITCH, PAIR, UPLINK, DEFAULT, PORT)
MINE = {item.key for item in ALL}


def sh(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout


@pytest.fixture
async def driver() -> AsyncIterator[LinkDriver]:
    driver = LinkDriver()
    yield driver
    await driver.close()
    for link in (WAN, TAP, WIRE, f"{WAN}b"):
        sh(f"ip link del {link} 2>/dev/null")
    sh(f"ip netns del {ROUTER} 2>/dev/null")


async def converge(driver: LinkDriver, *wanted: Item) -> list[str]:
    """Only what belongs to this test is touched, whatever else is on the machine."""
    seen = {key: thing for key, thing in (await driver.observe(wanted)).items() if key in MINE}
    ops = {op.key: op for op in diff(wanted, seen)}
    plan = schedule(ops.values(), {item.key: item for item in wanted}, seen)
    done: set[str] = set()
    while ready := [key for key, needs in plan.after.items() if key not in done and needs <= done]:
        await asyncio.gather(*(driver.apply(ops[key]) for key in ready))
        done |= set(ready)
    return sorted(f"{ops[key].verb} {key.split('/')[0]}" for key in ops)


async def test_a_router_is_made_works_and_is_left_alone(driver: LinkDriver) -> None:
    assert len(await converge(driver, *ALL)) == 6
    assert await converge(driver, *ALL) == []
    assert await converge(LinkDriver(), *ALL) == []  # another agent sees the same
    assert "1 received" in sh(f"ip netns exec {ROUTER} ping -c1 -W1 100.126.255.0")
    assert "via 100.126.255.0 dev wan proto 122" in sh(f"ip -n {ROUTER} route show default")
    link = json.loads(sh(f"ip -d -json link show {TAP}"))[0]
    assert (link.get("master"), link["mtu"], link["ifalias"]) == (None, 1420, "zos:w-vm")
    for near, far in ((TAP, WIRE), (WIRE, TAP)):
        assert f"Egress Redirect to device {far}" in sh(f"tc filter show dev {near} ingress")
        assert "inet6" not in sh(f"ip address show {near}")
    inside = {one["ifname"]: one for one in json.loads(sh(f"ip -n {ROUTER} -d -json link show"))}
    assert inside[TAP]["master"] == "lan"
    assert inside["lan"]["address"] == SWITCH.mac
    assert link["linkinfo"]["info_data"]["persist"]
    assert sh(f"ip netns exec {ROUTER} cat /proc/sys/net/ipv4/ip_forward").strip() == "1"
    owners = {key: thing.owner for key, thing in (await driver.observe(ALL)).items() if key in MINE}
    assert owners[NETNS.key] == owners[SWITCH.key] == "w-net"
    assert owners[PORT.key] == owners[PAIR.key] == "w-vm"


@pytest.mark.parametrize(
    ("harm", "mends"),
    [
        (f"ip -n {ROUTER} link del lan", {"create link", "update link"}),
        (f"ip -n {ROUTER} link set lan down", {"update link"}),
        (f"ip -n {ROUTER} link set lan mtu 1300", {"update link"}),
        (f"ip -n {ROUTER} link del lan; ip -n {ROUTER} tuntap add lan mode tap", {"create link", "update link"}),
        (f"ip link del {WIRE}", {"create link", "update link"}),
        (f"ip -n {ROUTER} link del wan", {"create link", "create route"}),
        (f"ip -n {ROUTER} route del default", {"create route"}),
        (f"ip -n {ROUTER} route replace default dev wan proto 122", {"update route"}),
        (f"ip -n {ROUTER} address del 10.99.4.1/24 dev lan", {"update link"}),
        (f"ip -n {ROUTER} address add 10.99.5.1/24 dev lan", {"update link"}),
        (f"ip -n {ROUTER} route flush dev lan", {"update link"}),
        (f"ip -n {ROUTER} route flush dev wan", {"update link", "create route"}),
        (f"ip route flush dev {WAN}", {"update link"}),
        (f"ip -n {ROUTER} link set {TAP} nomaster", {"update link"}),
        (f"ip -n {ROUTER} link set {TAP} type bridge_slave group_fwd_mask 0", {"update link"}),
        (f"ip link set {WIRE} down", {"update link"}),
        (f"ip link set {WIRE} mtu 1300", {"update link"}),
        (f"ip -n {ROUTER} link set wan mtu 1300", {"update link"}),
        (f"ip -n {ROUTER} link set {TAP} down", {"update link"}),
        (f"ip -n {ROUTER} link set dev {TAP} alias ''", {"update link"}),
        (f"ip link set dev {WIRE} alias ''", {"update link"}),
        (f"ip link set {TAP} down", {"update link"}),
        (f"ip link set {TAP} mtu 1300", {"update link"}),
        (f"ip link add {WAN}b type bridge; ip link set {TAP} master {WAN}b", {"update link"}),
        (f"tc qdisc del dev {TAP} ingress", {"update link"}),
        (f"tc qdisc del dev {WIRE} ingress", {"update link"}),
        (f"ip link del {TAP}; ip link add {TAP} type bridge", {"update link"}),
        (f"ip netns del {ROUTER}", {"create netns", "create link", "update link", "create route"}),
    ],
)
async def test_drift_of_every_kind_is_mended_and_nothing_else_touched(driver: LinkDriver, harm: str, mends: set[str]) -> None:
    await converge(driver, *ALL)
    sh(harm)
    for _ in range(200):  # a deleted namespace dies a moment later, and its pairs with it
        if not harm.startswith("ip netns del") or not {WIRE, WAN} & {name for _, name in socket.if_nameindex()}:
            break
        await asyncio.sleep(0.05)
    done = await converge(driver, *ALL)
    for _ in range(3):  # what fell with what was harmed is seen on the next look
        more = await converge(driver, *ALL)
        done += more
        if not more:
            break
    assert await converge(driver, *ALL) == []
    assert set(done) == mends
    connected = sh(f"ip -n {ROUTER} route show proto kernel")
    assert "10.99.4.0/24 dev lan" in connected
    assert "100.126.255.0/31 dev wan" in connected
    assert SWITCH.mac in sh(f"ip -n {ROUTER} link show lan")
    assert "1 received" in sh(f"ip netns exec {ROUTER} ping -c1 -W1 100.126.255.0")


async def test_changed_addresses_change_in_place(driver: LinkDriver) -> None:
    await converge(driver, *ALL)
    index = json.loads(sh(f"ip -json link show {WAN}"))[0]["ifindex"]
    moved = replace(UPLINK, addresses=("100.126.255.2/31",), peer_addresses=("100.126.255.3/31",))
    wanted = tuple(moved if item is UPLINK else item for item in ALL if item is not DEFAULT)
    await converge(driver, *wanted)
    assert json.loads(sh(f"ip -json link show {WAN}"))[0]["ifindex"] == index
    assert await converge(driver, *wanted) == []


async def test_removal_leaves_nothing(driver: LinkDriver) -> None:
    await converge(driver, *ALL)
    driver.watch(lambda: None)
    await driver.observe(ALL)  # with sockets open in the namespace
    assert len(await converge(driver)) == 6
    assert await converge(driver) == []
    for name in (ROUTER, WIRE, WAN, TAP):
        assert name not in sh("ip link; ip netns")
    for op in (Op("remove", item.key) for item in ALL):
        await driver.apply(op)  # gone already: fine


async def test_half_made_things_without_a_mark_are_ours_by_name(driver: LinkDriver) -> None:
    sh(f"ip netns add {ROUTER}; ip tuntap add {TAP} mode tap; ip link add {WIRE} type veth peer name {TAP} netns {ROUTER}")
    seen = await driver.observe(())
    for item in (PAIR, NETNS, PORT):
        assert seen[item.key].item is None
    assert len(await converge(driver)) == 3
    for name in (TAP, WIRE):
        assert name not in sh("ip link")


async def test_one_among_many_is_found_again_and_again(driver: LinkDriver) -> None:
    await converge(driver, NETNS)
    batch = "".join(f"link add d{number} type bridge\n" for number in range(200))
    subprocess.run(["ip", "-n", ROUTER, "-batch", "-"], input=batch, text=True, check=True)
    async with netns.netlink(ROUTER) as sock:
        for name in ("lo", "d0", "d199", "d100", "d1") * 4:
            link = await find(sock, ROUTER, name)
            assert link is not None
            assert link.name == name
        assert await find(sock, ROUTER, "absent") is None


async def test_what_is_missing_is_named(driver: LinkDriver) -> None:
    with pytest.raises(DriverError, match=f"no interface {WIRE}"):
        await driver.apply(Op("create", PORT.key, PORT))
    with pytest.raises(DriverError, match=f"no network namespace {ROUTER}"):
        await driver.apply(Op("create", PAIR.key, PAIR))
    sh(f"ip link del {TAP}")


async def test_changes_are_noticed_inside_namespaces_too(driver: LinkDriver) -> None:
    dirty = asyncio.Event()
    driver.watch(dirty.set)
    await converge(driver, *ALL)
    harms = (
        f"ip -n {ROUTER} route del default",
        f"tc qdisc del dev {TAP} ingress",
        f"ip link set {WIRE} down",
        f"ip netns del {ROUTER}",
    )
    for harm in harms:
        await driver.observe(ALL)
        await silent(dirty, lambda: sh(f"ip link add {WAN}x type bridge; ip link set {WAN}x up; ip link del {WAN}x"))
        sh(harm)
        await asyncio.wait_for(dirty.wait(), 1)
        if "netns" not in harm:
            await converge(driver, *ALL)
    assert not Path(f"/run/netns/{ROUTER}").exists()
    # No socket of ours keeps the dead namespace, and with it its half of the pair, alive; it dies a moment later.
    async with asyncio.timeout(5):
        while WAN in sh("ip link"):
            await asyncio.sleep(0.05)


async def test_kernel_settings(driver: LinkDriver) -> None:
    await converge(driver, NETNS)
    sysctl = SysctlDriver()
    item = Sysctl(netns=ROUTER, path="net/ipv4/conf/all/rp_filter", value="2")
    for op in diff([item], await sysctl.observe([item])):
        await sysctl.apply(op)
    assert sh(f"ip netns exec {ROUTER} cat /proc/sys/net/ipv4/conf/all/rp_filter").strip() == "2"
    assert diff([item], await sysctl.observe([item])) == []
    assert diff([], await sysctl.observe([])) == []
    nowhere = replace(item, path="net/no-such/setting", value="0")
    assert len(diff([nowhere], await sysctl.observe([nowhere]))) == 1
    with pytest.raises(DriverError, match="No such file"):
        await sysctl.apply(Op("create", nowhere.key, nowhere))
    nowhere = replace(nowhere, optional=True)
    assert diff([nowhere], await sysctl.observe([nowhere])) == []
    await sysctl.apply(Op("create", nowhere.key, nowhere))
    with pytest.raises(DriverError, match="is no kernel setting"):
        await sysctl.apply(Op("create", "x", replace(item, path="../../etc/passwd")))


async def test_no_signal_of_a_child_reaches_the_agent(driver: LinkDriver) -> None:
    told: list[int] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told.append, 1)
    try:
        for _ in range(5):
            await converge(driver, *ALL)
            await converge(driver)
        await asyncio.sleep(0.2)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    assert told == []


async def test_a_plain_file_by_the_name_of_a_namespace_blinds_nobody(driver: LinkDriver) -> None:
    """As a killed ``ip netns add`` leaves it."""
    Path("/run/netns").mkdir(exist_ok=True)
    stranger = Path("/run/netns") / names.router(f"{UID}-other")
    for file in (stranger, Path("/run/netns") / ROUTER):
        file.write_text("")
    try:
        assert not {stranger.name, ROUTER} & netns.ours()
        await driver.observe([])
        assert "create netns" in await converge(driver, *ALL)
        assert await converge(driver, *ALL) == []
        assert ROUTER in netns.ours()
        seen = await driver.observe(ALL)
        assert seen[DEFAULT.key].owner == "w-net"  # a route is its namespace's owner's
    finally:
        stranger.unlink()
