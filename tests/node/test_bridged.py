"""Whether what a public address sends and gets passes the node's firewall, in the real kernel."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from known import facts
from zos.api import names
from zos.api.nodeworkload import Owner
from zos.drivers.firewall import FirewallDriver
from zos.drivers.wayout import WayOutDriver
from zos.kinds.kind import Here
from zos.kinds.zmachine.lower import lower
from zos.kinds.zmachine.part import MachineOnNode, PublicNic
from zos.kinds.zmachine.state import report
from zos.plan.diff import Op, diff
from zos.plan.facts import DomainFact, Facts, ImageFact, ShutFact
from zos.plan.items import Firewall
from zos.plan.outcome import Outcome

UID = f"test-bridged-{os.getpid()}"
TAP, GUARD, MAC = names.tap(UID, 0), names.guard(names.tap(UID, 0)), "02:00:00:00:00:09"
GUEST, SEGMENT = f"br-{os.getpid()}-guest", f"br-{os.getpid()}-seg"
FACTS = facts(images={"oci://r/i:1": ImageFact(digest="sha256:1", entrypoint=("/bin/app",))})
#: The machine's own addresses, and the router's, which is greeted; by family.
OWN = {"ip": "203.0.113.18", "ip6": "2001:db8:1::ff:fe00:9"}
OTHERS = {"ip": "203.0.113.17", "ip6": "2001:db8:1::1"}


def sh(command: str) -> str:
    done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def here(facts: Facts) -> Here[MachineOnNode]:
    nic = PublicNic(interface="br-public", mac=MAC, ipv4=f"{OWN['ip']}/28", ipv6=f"{OWN['ip6']}/64")
    part = MachineOnNode(hostname="vm", image="oci://r/i:1", cpu=1, memory=2**28, root_size=2**29, public_nic=nic)
    owner = {"kind": "ZMachine", "namespace": "default", "name": "vm", "uid": UID}
    return Here(Owner(**owner), "w", part, facts)


@dataclass
class Node:
    firewall: FirewallDriver
    way_out: WayOutDriver

    async def guard(self) -> None:
        wanted = [item for item in lower(here(FACTS)).items if isinstance(item, Firewall)]
        for op in diff(wanted, await self.firewall.observe(wanted)):
            await self.firewall.apply(op)

    async def told(self) -> str:
        """What the machine's condition says."""
        await self.way_out.look()
        running = {names.domain(UID): DomainFact(running=True, booted=True)}
        known = facts(FACTS, domains=running, shut={name: fact.by for name, fact in self.way_out.facts()[ShutFact].items()})
        found = report(here(known), lower(here(known)), Outcome()).conditions
        return next((condition.message for condition in found if condition.type == "PublicAddressBlocked"), "")


@pytest.fixture
async def node(tmp_path: Path, elsewhere: None) -> AsyncIterator[Node]:
    """With the segment's router, and a guest in place of QEMU. They find each other as ever, and say nothing by themselves
    later: a router solicited, a neighbour probed just before a firewall's table is there would count as passed."""
    sh(
        "ip link set lo up; ip link add br-public type bridge mcast_snooping 0; ip link set br-public up; "
        "sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1"
    )
    for space, port, mac, own in ((SEGMENT, "pub0", "", OTHERS), (GUEST, TAP, f"address {MAC}", OWN)):
        sh(
            f"ip netns add {space}; ip -n {space} link set lo up; "
            f"ip link add {port} type veth peer name eth0 netns {space}; ip link set {port} master br-public up; "
            f"ip -n {space} link set eth0 {mac} addrgenmode none; "
            f"ip netns exec {space} sysctl -qw net.ipv6.conf.eth0.mldv2_unsolicited_report_interval=1 "
            "net.ipv4.neigh.eth0.delay_first_probe_time=60 net.ipv6.neigh.eth0.delay_first_probe_time=60; "
            f"ip -n {space} addr add {own['ip']}/28 dev eth0; ip -n {space} addr add {own['ip6']}/64 dev eth0 nodad; "
            f"ip -n {space} link set eth0 up"
        )
    made = Node(FirewallDriver(tmp_path), WayOutDriver())
    await made.guard()
    yield made
    await made.firewall.close()
    await made.way_out.close()
    for space in (GUEST, SEGMENT):
        subprocess.run(["ip", "netns", "del", space], check=False)


def greets(*families: str) -> set[str]:
    """The families in which the other answers."""
    return {
        family
        for family in families
        if subprocess.run(
            ["ip", "netns", "exec", GUEST, "ping", "-c4", "-i0.2", "-W1", OTHERS[family]], stdout=subprocess.DEVNULL
        ).returncode
        == 0
    }


def theirs(family: str, *rules: str) -> None:
    chain = f"chain FORWARD {{ type filter hook forward priority 0; policy drop; {'; '.join(rules)}; }};"
    subprocess.run(["nft", "-f", "-"], input=f"table {family} theirs {{ {chain} }}\n", text=True, check=True)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("ip", {"ip": "IPv4 by ip theirs FORWARD (policy drop)"}),
        ("ip6", {"ip6": "IPv6 by ip6 theirs FORWARD (policy drop)"}),
        ("inet", {"ip": "IPv4 by inet theirs FORWARD (policy drop)", "ip6": "IPv6 by inet theirs FORWARD (policy drop)"}),
        ("bridge", {"ip": "IPv4 by bridge theirs FORWARD (policy drop)", "ip6": "IPv6 by bridge theirs FORWARD (policy drop)"}),
    ],
)
async def test_what_stops_it_is_told_until_something_passes(node: Node, family: str, words: dict[str, str]) -> None:
    assert greets(*OTHERS) == {*OTHERS}
    assert await node.told() == ""
    theirs(family)
    assert greets(*OTHERS) == OTHERS.keys() - words.keys()
    told = await node.told()
    assert f"(br_netfilter has it asked): {'; '.join(words.values())}; let bridged packets pass (" in told
    assert await node.told() == told, "nobody has said anything since"
    sh(f"nft delete table {family} theirs")
    assert await node.told() == told
    assert greets(*OTHERS) == {*OTHERS}
    assert await node.told() == ""


async def test_what_is_let_pass_is_not_blocked(node: Node) -> None:
    theirs("inet", "meta l4proto icmp accept", "meta l4proto ipv6-icmp accept")
    assert greets(*OTHERS) == {*OTHERS}
    assert await node.told() == ""


async def test_who_is_silent_says_nothing_and_few_packets_are_awaited(node: Node) -> None:
    await node.told()
    theirs("ip")
    ping = ["ip", "netns", "exec", GUEST, "ping", "-c1", "-W1", OTHERS["ip"]]
    told = []
    for _ in range(3):
        told.append(await node.told())
        await asyncio.to_thread(subprocess.run, ping, stdout=subprocess.DEVNULL)
    assert told == ["", "", ""]
    assert "IPv4 by ip theirs" in await node.told()


async def test_a_guard_that_is_made_anew_begins_anew(node: Node) -> None:
    assert greets("ip") == {"ip"}
    assert await node.told() == ""
    theirs("ip")
    sh(f"nft delete table bridge {GUARD}")
    await node.guard()
    assert await node.told() == ""
    assert greets("ip") == set()
    assert "IPv4 by ip theirs" in await node.told()
    await node.firewall.apply(Op("remove", f"firewall//bridge/{GUARD}"))
    assert await node.told() == ""
