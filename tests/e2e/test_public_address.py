"""Machines with public addresses: reached from outside the grid, and safe from their neighbours."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network

import pytest

import frames
from frames import Party
from harness import Grid, obj, until
from stories import publicaddress
from stories.publicaddress import OUTSIDE, OUTSIDE6, Place, at, page, served
from zos.api import names
from zos.api.publicip import slaac


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> str:
    return publicaddress.forge(tmp_path_factory.mktemp("forge"))


@pytest.fixture
def place(grid: Grid, namespace: str, forge: str) -> Place:
    return Place(grid, namespace, forge)


def test_the_world_reaches_a_machine_and_it_reaches_the_world(place: Place) -> None:
    publicaddress.reaches_the_world_and_is_reached(place)


def test_an_address_has_one_machine_and_moves_with_it(grid: Grid, place: Place) -> None:
    place.address("front")
    place.machine("web", "n1", "front")
    grid.ready(place.namespace, "zmachine/web")
    before = place.party("front")
    served(grid, before, "web")
    place.machine("second", "n2", "front")
    grid.says(place.namespace, "zmachine", "second", "PublicIP front is used by ZMachine web", "Conflict")
    grid.kubectl("delete", "publicip", "front", "-n", place.namespace, "--wait=false")
    grid.says(place.namespace, "publicip", "front", "ZMachine web", "DeletionBlocked")
    served(grid, before, "web")
    # A deletion can't be taken back: the rest of the story is another address'.
    place.address("other")
    place.machine("moving", "n1", "other")
    grid.ready(place.namespace, "zmachine/moving")
    party = place.party("other")
    served(grid, party, "moving")
    grid.kubectl("delete", "zmachine", "moving", "-n", place.namespace, "--timeout=60s")
    place.machine("moving", "n2", "other")
    grid.ready(place.namespace, "zmachine/moving")
    assert place.party("other") == party
    assert place.status("zmachine", "moving")["nodeName"] == "n2"
    served(grid, party, "moving")


class Capture:
    """Every frame that passes an interface of a host, or of a router on it."""

    def __init__(self, grid: Grid, host: str, interface: str, router: str = "") -> None:
        command = ("tcpdump", "--immediate-mode", "-U", "-n", "-s", "0", "-w", "-", "-i", interface)
        self._tcpdump = at(grid, host, *command, router=router)
        assert self._tcpdump.stderr is not None
        assert b"listening" in self._tcpdump.stderr.readline()

    def stop(self) -> list[bytes]:
        time.sleep(1)
        self._tcpdump.terminate()
        data, _ = self._tcpdump.communicate(timeout=10)
        found: list[bytes] = []
        at = 24
        while at + 16 <= len(data):
            size = struct.unpack("<I", data[at + 8 : at + 12])[0]
            found.append(data[at + 16 : at + 16 + size])
            at += 16 + size
        return found


def whole(honest: dict[str, bytes]) -> dict[str, bytes]:
    """But for parts of packets: on a node whose bridges ask the IP hooks, a fragment waits for the others."""
    return {what: frame for what, frame in honest.items() if "fragment" not in what}


def test_a_neighbour_can_not_be_robbed(grid: Grid, place: Place) -> None:
    place.address("honest", "greedy")
    place.machine("victim", "n1", "honest")
    place.machine("thief", "n1", "greedy")
    grid.ready(place.namespace, "zmachine/victim", "zmachine/thief")
    victim, thief = place.party("honest"), place.party("greedy")
    served(grid, victim, "victim")
    served(grid, thief, "thief")

    # Frame by frame. The same captures show what is honest, so they would show the rest.
    captures = [Capture(grid, "n1", "public0"), Capture(grid, "n1", place.tap("victim")), Capture(grid, "farm", "public")]
    forged, honest = frames.forged(thief, victim), whole(frames.honest(thief, victim))
    place.send("thief", [*forged.values(), *honest.values()])
    seen = [capture.stop() for capture in captures]
    for what, frame in forged.items():
        assert not any(frames.trimmed(other).startswith(frames.trimmed(frame)) for passed in seen for other in passed), what
    for what, frame in honest.items():
        assert any(frames.trimmed(other).startswith(frames.trimmed(frame)) for passed in seen for other in passed), (
            f"honest, but held back: {what}"
        )
    served(grid, victim, "victim")

    # With the kernel's own means: the neighbour's addresses, then its MAC as well.
    attack = (
        "echo 0 > /proc/sys/net/ipv6/conf/eth1/accept_dad; "
        f"ip addr add {victim.ipv4}/28 dev eth1; ip addr add {victim.ipv6}/64 dev eth1; "
        f"arping -c 3 -U -I eth1 -s {victim.ipv4} {victim.ipv4}; arping -c 3 -A -I eth1 -s {victim.ipv4} {victim.ipv4}; "
        f"ping -c 2 -W 1 -I {victim.ipv4} {OUTSIDE}; ping -c 2 -W 1 -I {victim.ipv6} {OUTSIDE6}; "
    )
    capture = Capture(grid, "n1", "public0")
    said = place.inside("thief", attack)
    served(grid, victim, "victim")
    place.inside("thief", f"ip link set eth1 down; ip link set eth1 address {victim.mac}; ip link set eth1 up; {attack}")
    for _ in range(5):
        served(grid, victim, "victim")
        assert "hello from thief" not in page(grid, victim.ipv4) + page(grid, victim.ipv6)
    leaked = [frame for frame in capture.stop() if frame[6:12] == bytes.fromhex(thief.mac.replace(":", ""))]
    own = (bytes(map(int, victim.ipv4.split("."))), IPv6Address(victim.ipv6).packed)
    assert not [frame for frame in leaked if frame[26:30] == own[0] or frame[28:32] == own[0] or frame[22:38] == own[1]]
    assert said.count(", 0 packets received") == 2, said
    known = re.findall(r"^(\S+) .* lladdr (\S+)", grid.run("farm", "ip", "neigh"), re.MULTILINE)
    assert {mac for address, mac in known if address in (victim.ipv4, victim.ipv6)} == {victim.mac}

    # Its own addresses, given back, work again.
    place.inside(
        "thief",
        f"ip link set eth1 down; ip addr flush dev eth1; ip link set eth1 address {thief.mac}; ip link set eth1 up; "
        f"ip addr add {thief.ipv4}/28 dev eth1; ip route replace default via 203.0.113.17",
    )
    served(grid, thief, "thief")


def test_nor_of_its_private_address(grid: Grid, place: Place) -> None:
    place.machine("victim", "n1")
    place.machine("thief", "n1")
    grid.ready(place.namespace, "zmachine/victim", "zmachine/thief")
    gateway = "10.20.2.1"

    def party(name: str) -> Party:
        mac = until(lambda: place.inside(name, "cat /sys/class/net/eth0/address"), 20, f"{name} serves").strip()
        link = str(slaac(IPv6Network("fe80::/64"), mac))
        return Party(mac, place.status("zmachine", name)["ip"], link, link)

    victim, thief = party("victim"), party("thief")
    captures = [
        Capture(grid, "n1", "lan", names.router(place.uid("network", "net"))),
        Capture(grid, "n1", place.tap("victim", 0)),
    ]
    honest = whole(frames.honest4(thief, victim))
    # A private interface has no IPv6, so not even what would be honest there gets out.
    evil = frames.forged(thief, victim, gateway) | {
        f"{what}, where there is no IPv6": frame for what, frame in frames.honest6(thief, victim).items()
    }
    evil["another IPv4 address"] = frames.udp4(thief.mac, frames.BROADCAST, victim.ipv4, gateway, 5000, 53)
    place.send("thief", [*honest.values(), *evil.values()], "eth0")
    seen = [capture.stop() for capture in captures]
    for what, frame in evil.items():
        assert not any(frames.trimmed(other).startswith(frames.trimmed(frame)) for passed in seen for other in passed), (
            f"out of the tap came {what}"
        )
    for what, frame in honest.items():
        assert any(frames.trimmed(other).startswith(frames.trimmed(frame)) for passed in seen for other in passed), (
            f"honest, but held back: {what}"
        )

    # With the kernel's own means, and a MAC that is not its own. The router goes on asking the victim.
    take = (
        f"ip addr add {victim.ipv4}/24 dev eth0; arping -c 3 -U -I eth0 -s {victim.ipv4} {victim.ipv4}; "
        f"ping -c 2 -W 1 -I {victim.ipv4} {gateway}; ip addr del {victim.ipv4}/24 dev eth0"
    )
    said = place.inside("thief", take)
    assert "2 packets transmitted, 0 packets received" in said, said
    router = names.router(place.uid("network", "net"))
    known = grid.run("n1", "ip", "-n", router, "neigh")
    assert re.findall(rf"^{re.escape(victim.ipv4)} .* lladdr (\S+)", known, re.MULTILINE) in ([victim.mac], []), known
    assert place.inside("victim", "echo still here") == "still here\n"
    assert place.inside("thief", "echo as well") == "as well\n"


def left(grid: Grid, uids: Iterable[str]) -> list[str]:
    """What is still there of the owners with these uids, in the API and on the nodes."""
    claims = [item["spec"]["thing"] for item in grid.items("claims") if item["spec"]["holder"]["uid"] in uids]
    found = [f"claim {thing}" for thing in claims]
    idents = {names.ident(uid) for uid in uids} | {names.ident("public0"), *uids}
    for node in ("n1", "n2"):
        text = grid.run(
            node, "sh", "-c",
            "ip -o link; ip netns; nft list tables; ls /var/lib/zos/disks /var/lib/zos/machines; virsh list --all --name",
            check=False,
        )  # fmt: skip
        found += [f"{node}: {line}" for line in text.splitlines() if any(ident in line for ident in idents)]
    found += [
        f"workload {item['metadata']['name']}" for item in grid.items("nodeworkloads") if item["spec"]["owner"]["uid"] in uids
    ]
    return found


def test_deleting_the_namespace_at_once_releases_everything(grid: Grid, forge: str) -> None:
    grid.kubectl("create", "namespace", "t-at-once")
    place = Place(grid, "t-at-once", forge)
    place.address("one", "two")
    place.machine("a", "n1", "one")
    place.machine("b", "n2", "two")
    grid.apply("t-at-once", obj("NameContract", "n") | {"spec": {"name": "at-once"}})
    grid.ready("t-at-once", "zmachine/a", "zmachine/b", "namecontract/n")
    kinds = "networks,zmachines,publicips,contracts,namecontracts"
    uids = {item["metadata"]["uid"] for item in grid.items(kinds, "t-at-once")}
    assert len(uids) == 7
    there = left(grid, uids)
    assert any("claim 203.0.113." in line for line in there)
    assert any("n1: " in line for line in there)
    farm = grid.get("farm", "lab") or {}
    held = farm["status"]["ipv4"]["held"]
    assert held >= 2
    grid.kubectl("delete", "namespace", "t-at-once", "--wait=false")
    until(lambda: grid.get("namespace", "t-at-once") is None, 120, "the namespace goes")
    until(lambda: not left(grid, uids), 10, "nothing is left")
    until(lambda: json.dumps(grid.get("farm", "lab")).count('"held": 0') == 2, 10, "the farm has its addresses back")
