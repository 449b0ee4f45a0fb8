"""The resolver of a network with the real program: in a namespace as a router is, with a name server outside."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from known import facts
from services import Bench, converge
from zos.api import names
from zos.drivers import netns
from zos.drivers.sysctl import SysctlDriver
from zos.kinds.network import resolver
from zos.kinds.network.part import NameOnNode, NamesOnNode, NetworkOnNode
from zos.plan.diff import diff
from zos.plan.facts import Facts
from zos.plan.items import Service, Sysctl

UID = f"test-names-{os.getpid()}"
ROUTER = names.router(UID)
GATEWAY, MACHINE, STRANGER, OUTSIDE = "10.20.4.1", "10.20.4.2", "10.99.0.2", "127.0.0.9"
A, PTR, AAAA = 1, 12, 28
NOERROR, NXDOMAIN, REFUSED = 0, 3, 5
WEB = NameOnNode(name="web", ip="10.20.4.2")


def sh(command: str) -> None:
    subprocess.run(["sh", "-ec", command], check=True)


@pytest.fixture
def router() -> Iterator[None]:
    """A router with its bridge; behind it a machine, and somebody who is none of the network's."""
    sh(f"ip netns add {ROUTER}; ip -n {ROUTER} link set lo up; ip netns add {ROUTER}-m; ip -n {ROUTER}-m link set lo up")
    sh(f"ip -n {ROUTER} link add lan type veth peer name eth0 netns {ROUTER}-m")
    sh(f"ip -n {ROUTER} addr add {GATEWAY}/24 dev lan; ip -n {ROUTER} link set lan up; ip -n {ROUTER}-m link set eth0 up")
    sh(f"ip -n {ROUTER}-m addr add {MACHINE}/24 dev eth0; ip -n {ROUTER}-m addr add {STRANGER}/32 dev eth0")
    sh(f"ip -n {ROUTER} route add {STRANGER} dev lan")
    yield
    sh(f"ip netns del {ROUTER}; ip netns del {ROUTER}-m")


@dataclass(frozen=True)
class Answer:
    code: int
    count: int
    data: bytes


class Outside:
    """A name server: every name is 192.0.2.1, and it knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((OUTSIDE, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                question, who = self._socket.recvfrom(2048)
            except OSError:
                return
            end = question.index(0, 12) + 5
            self.asked.append(_name(question))
            head = question[:2] + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0)
            record = struct.pack(">HHHIH", 0xC00C, A, 1, 60, 4) + socket.inet_aton("192.0.2.1")
            self._socket.sendto(head + question[12:end] + record, who)

    def close(self) -> None:
        self._socket.close()


def _name(message: bytes) -> str:
    at, labels = 12, []
    while size := message[at]:
        labels.append(message[at + 1 : at + 1 + size].decode())
        at += 1 + size
    return ".".join(labels)


async def ask(name: str, kind: int = A, source: str = MACHINE, tcp: bool = False) -> Answer | None:
    """As the machine, or as who has another address there. None: no answer."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    message = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)

    def call() -> bytes | None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
            sock.settimeout(2)
            try:
                sock.bind((source, 0))
                sock.connect((GATEWAY, 53))
                sock.sendall((struct.pack(">H", len(message)) if tcp else b"") + message)
                return sock.recv(4096)[2 if tcp else 0 :]
            except OSError:
                return None

    said = await netns.inside(f"{ROUTER}-m", call)
    if said is None:
        return None
    return Answer(said[3] & 15, struct.unpack(">H", said[6:8])[0], said[-4:])


class Network:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def has(self, *known: NameOnNode, facts: Facts) -> list[str]:
        part = NetworkOnNode(
            ip_range="10.20.0.0/16", mtu=1420, subnet="10.20.4.0/24", wireguard_address="100.64.20.4", listen_port=52007,
            public_key="k", names=NamesOnNode(domain="net.zos", names=known),
        )  # fmt: skip
        rules = resolver.rules(part, "w-x")
        body = f"chain input {{ type filter hook input priority filter; policy drop; iifname lo accept\n{rules}}}\n"
        table = f"add table inet t\ndelete table inet t\ntable inet t {{\n{body}}}\n"
        subprocess.run(["ip", "netns", "exec", ROUTER, "nft", "-f", "-"], input=table, text=True, check=True)
        made = resolver.items(part, UID, "w", (), facts)
        sysctl = SysctlDriver()
        settings = [item for item in made if isinstance(item, Sysctl)]
        for op in diff(settings, await sysctl.observe(settings)):
            await sysctl.apply(op)
        done = await converge(self.bench.driver, *(item for item in made if isinstance(item, Service)))
        await self.bench.until_fact(resolver.service(UID), lambda fact: fact.ready)
        return done

    def pid(self) -> int:
        found = subprocess.run(
            ["s6-svstat", "-o", "pid", str(self.bench.scan / f"zos-svc-{resolver.service(UID)}")],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return int(found.stdout)


async def soon(name: str, code: int, seconds: float = 10) -> float:
    began = time.monotonic()
    while (said := await ask(name)) is None or said.code != code:
        assert time.monotonic() < began + seconds, said
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_names_are_answered_and_nothing_of_them_is_asked_outside(router: None, bench: Bench) -> None:
    network, nobody = Network(bench), facts()
    began = time.monotonic()
    assert await network.has(WEB, NameOnNode(name="a.b", ip="10.20.5.2"), facts=nobody) == [
        f"create service/{resolver.service(UID)}"
    ]
    print(f"ready after {time.monotonic() - began:.2f} s")
    address = Answer(NOERROR, 1, socket.inet_aton("10.20.4.2"))
    for name in ("web", "web.net.zos", "WEB.net.zos"):
        assert await ask(name) == address
    assert await ask("web.net.zos", tcp=True) == address
    for name in ("web", "web.net.zos"):
        said = await ask(name, AAAA)
        assert said is not None
        assert (said.code, said.count) == (NOERROR, 0), "no such address, which is not: no such name"
    assert await ask("a.b.net.zos") == Answer(NOERROR, 1, socket.inet_aton("10.20.5.2"))
    backwards = await ask("2.4.20.10.in-addr.arpa", PTR)
    assert backwards is not None
    assert (backwards.code, backwards.count) == (NOERROR, 1)
    refused = await ask("example.org")
    assert refused is not None
    assert refused.code == REFUSED, "it knows nobody outside"
    # Who is not of the network is not answered, over the machines' bridge either.
    assert await ask("web", source=STRANGER) is None


async def test_the_rest_is_asked_outside_and_what_changes_is_heard(router: None, bench: Bench) -> None:
    # The name server is the router's own here: what is between them is the way out's affair.
    outside = await netns.inside(ROUTER, Outside)
    network, world = Network(bench), facts(nameservers=(OUTSIDE,))
    try:
        await network.has(WEB, facts=facts())
        pid = network.pid()
        assert await network.has(WEB, facts=world) == [f"update service/{resolver.service(UID)}"]
        await soon("example.org", NOERROR)
        assert await ask("example.org") == Answer(NOERROR, 1, socket.inet_aton("192.0.2.1"))
        for name, kind in (
            ("x.net.zos", A), ("x.other.zos", A), ("word", A),
            ("9.4.20.10.in-addr.arpa", PTR), ("3.20.64.100.in-addr.arpa", PTR),
        ):  # fmt: skip
            said = await ask(name, kind)
            assert said is not None
            assert said.code == NXDOMAIN, name
        assert set(outside.asked) == {"example.org"}
        new = NameOnNode(name="new", ip="10.20.6.2")
        await network.has(new, facts=world)
        took = await soon("new.net.zos", NOERROR)
        await soon("web.net.zos", NXDOMAIN)
        print(f"heard after {took:.2f} s")
        assert network.pid() == pid, "it was told, not started again"
        os.kill(pid, 9)
        print(f"back after {await soon('new.net.zos', NOERROR):.2f} s")
        lines = Path(f"/proc/{network.pid()}/smaps_rollup").read_text()
        print(next(line for line in lines.splitlines() if line.startswith("Pss:")))
    finally:
        outside.close()


async def test_a_flood_of_questions_is_bounded(router: None, bench: Bench) -> None:
    """Whoever asks more than is his has less of an answer; the program does not even see it."""
    network = Network(bench)
    await network.has(WEB, facts=facts())
    message = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\3web\0" + struct.pack(">HH", A, 1)

    def flood() -> int:
        answers = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((GATEWAY, 53))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
            began = time.monotonic()
            while time.monotonic() < began + 2:
                sock.send(message)
            sock.settimeout(0.3)
            try:
                while sock.recv(512):
                    answers += 1
            except TimeoutError:
                return answers

    assert 0 < await netns.inside(f"{ROUTER}-m", flood) < 6000
    await asyncio.sleep(2)
    assert await ask("web") is not None
