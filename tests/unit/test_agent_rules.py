"""Small rules of a node's agent: which keys are fresh, which orders count, what is news, what a node is like, how it ends."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import fields
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from memory import MemoryClient, Server
from wholeagent import main
from zos.agent import surroundings
from zos.agent.cluster import Cluster
from zos.agent.nodestatus import NodeStatus
from zos.agent.orders import Orders
from zos.agent.owners import Owners
from zos.agent.prekeys import KEEP, POOL, plan
from zos.agent.settings import Settings, parse
from zos.agent.snapshot import Snapshot
from zos.agent.surroundings import capacity, endpoint_of, is_truly_global, nameservers
from zos.agent.workloads import Workloads
from zos.api.gridnode import Endpoint, GridNode, NodeFeatures
from zos.api.meta import Meta
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.api.quarantine import QuarantineOrder
from zos.api.resources import GUEST_OVERHEAD
from zos.drivers.keyring import Keyring
from zos.kinds.kind import Kinds
from zos.kinds.registry import KINDS
from zos.kinds.zmount.part import MountOnNode
from zos.kube.client import Raw

# -- fresh keys


def test_keys_are_offered_that_are_here_and_nobody_has() -> None:
    here = {"shown", "made", "used", "idle", "both"}
    pool = plan(here, ("shown", "elsewhere", "used", "both"), {"made", "lost", "both"}, {"used"}, {}, 50.0)
    assert pool.publish == ("shown", "both", "made")
    assert pool.create == POOL - 3
    assert pool.unused == {"idle": 50.0}
    assert pool.forget == frozenset()
    assert plan(set("abcdefghij"), tuple("abcdefghij"), set(), set(), {}, 0).create == 0


def test_a_key_is_forgotten_ten_minutes_after_nobody_named_it_any_more() -> None:
    assert KEEP == 600
    early = plan({"k"}, (), set(), set(), {"k": 100.0, "gone": 1.0}, 100.0 + KEEP - 1)
    assert (early.forget, early.unused) == (frozenset(), {"k": 100.0})
    assert plan({"k"}, (), set(), set(), {"k": 100.0}, 100.0 + KEEP).forget == {"k"}
    assert plan({"k"}, (), set(), {"k"}, {"k": 100.0}, 100.0 + KEEP).unused == {}


# -- orders


def mount(name: str, *, deleting: bool = False) -> NodeWorkload:
    owner = Owner(kind="ZMount", namespace="default", name=name, uid=f"uid-{name}")
    meta = Meta(name=name, deletion_timestamp="2030-01-01T00:00:00Z" if deleting else None)
    return KINDS.workload(metadata=meta, spec=KINDS.workload.asking(owner, MountOnNode(size=1)))


def test_an_order_for_what_lives_is_over_until_it_is_taken_back(tmp_path: Path) -> None:
    order, other = QuarantineOrder(uid="uid-a", discard=True), QuarantineOrder(uid="uid-b", discard=True)
    alive = {"a": mount("a")}
    assert Orders(tmp_path).counting((order, other), {"a": mount("a", deleting=True)}) == (order, other)
    assert Orders(tmp_path).counting((order, other), alive) == (other,)
    assert Orders(tmp_path).counting((order, other), {}) == (other,)  # another agent knows it as well
    changed = QuarantineOrder.model_validate(
        {"uid": "uid-a", "giveTo": {"kind": "ZMount", "namespace": "default", "name": "c"}}
    )
    assert Orders(tmp_path).counting((changed,), {}) == (changed,)  # that is another
    assert Orders(tmp_path).counting((order,), alive) == ()
    assert Orders(tmp_path).counting((), {}) == ()
    assert Orders(tmp_path).counting((order,), {}) == (order,)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"7"])
def test_what_was_remembered_of_orders_and_can_not_be_read_is_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "orders.json").write_bytes(content)
    order = QuarantineOrder(uid="uid-a", discard=True)
    assert Orders(tmp_path).counting((order,), {}) == (order,)


def test_a_disk_that_takes_no_more_ends_no_agent(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("a file where a directory should be")
    order = QuarantineOrder(uid="uid-a", discard=True)
    assert Orders(state / "x").counting((order,), {"a": mount("a")}) == ()
    Owners(state / "x").learn({"a": mount("a")})
    Snapshot(state / "x", KINDS.workload).save("c", {"a": mount("a")})


def test_owners_are_written_when_they_change_and_again_where_that_failed(tmp_path: Path) -> None:
    owners = Owners(tmp_path)
    owners.learn({"a": mount("a")})
    file = tmp_path / "owners.json"
    first = file.stat().st_ino
    owners.learn({"a": mount("a")})
    owners.forget({"a"})
    assert file.stat().st_ino == first
    file.unlink()
    file.mkdir()
    owners.learn({"b": mount("b")})  # can't be written
    file.rmdir()
    owners.learn({"b": mount("b")})
    assert set(Owners(tmp_path).known) == {"a", "b"}


# -- what is news


def shown(version: int, *, uid: str = "u", generation: int = 1, status: Any = None, size: str = "1Gi") -> Raw:
    meta = {"name": "w", "namespace": "s", "uid": uid, "resourceVersion": str(version), "generation": generation}
    owner = {"kind": "ZMount", "namespace": "d", "name": "w", "uid": "x"}
    return {"metadata": meta, "spec": {"owner": owner, "part": {"zmount": {"size": size}}}, "status": status or {}}


def test_only_what_matters_to_the_node_is_news() -> None:
    there = Workloads(KINDS.workload)
    assert there.put(shown(5))
    assert not there.put(shown(6, status={"observedGeneration": 1}))  # our own word
    assert there.get("w").status.observed_generation == 1  # type: ignore[union-attr]
    assert there.version == 1
    assert there.put(shown(8, generation=2, size="2Gi"))
    assert not there.put(shown(8, generation=2, size="3Gi"))  # the same again
    assert not there.put(shown(7, generation=1, size="4Gi"))  # late
    assert there.get("w").part(MountOnNode).size == 2 * 2**30  # type: ignore[union-attr]
    assert there.put(shown(3, uid="another"))
    assert there.version == 3
    assert there.remove("w")
    assert not there.remove("w")
    assert (there.version, there.all()) == (4, {})


def test_after_a_step_back_each_is_believed_once_whatever_its_version() -> None:
    there = Workloads(KINDS.workload)
    there.put(shown(50))
    there.doubt()
    assert there.put(shown(5, generation=2, size="2Gi"))
    assert not there.put(shown(4, generation=3, size="3Gi"))


def test_late_news_of_the_node_are_none_but_once_after_a_step_back(tmp_path: Path) -> None:
    def shown(version: int) -> GridNode:
        return GridNode(metadata=Meta(name="n", uid="u", resource_version=str(version), generation=version))

    settings = Settings(node="n", state=tmp_path)
    told = NodeStatus(MemoryClient(Server()), settings, Keyring(tmp_path / "keys"), NodeFeatures, lambda: 0.0, lambda: None)
    known = []
    for version, doubt in ((5, False), (4, False), (3, True), (2, False), (6, False)):
        if doubt:
            told.doubt()
        told.see(shown(version))
        assert told.node is not None
        known.append(told.node.metadata.generation)
    assert known == [5, 5, 3, 3, 6]


def test_what_an_agent_of_before_showed_in_quarantine_counts_whole_until_it_is_seen_again(tmp_path: Path) -> None:
    """It told a guest's own memory alone, and libvirt does not answer yet."""
    status = {"agentVersion": "0.2.1", "quarantine": [{"uid": "u-vm", "kind": "ZMachine", "memory": "1Gi", "running": True}]}
    node = GridNode.model_validate({"metadata": {"name": "n", "uid": "u", "resourceVersion": "1"}, "status": status})
    settings = Settings(node="n", state=tmp_path)
    told = NodeStatus(MemoryClient(Server()), settings, Keyring(tmp_path / "keys"), NodeFeatures, lambda: 0.0, lambda: None)
    told.see(node)
    told.keep(frozenset(), (), complete=False)
    (entry,) = told.quarantine
    assert entry.memory == 2**30 + GUEST_OVERHEAD == node.allocated(()).memory


# -- clusters


class Answers:
    def __init__(self) -> None:
        self.uid: str | None = "one"
        self.asked = 0

    async def get(self, *_: object) -> Raw | None:
        self.asked += 1
        return {"metadata": {"uid": self.uid}} if self.uid is not None else None


async def test_whose_cluster_answers_is_asked_every_ten_seconds_and_when_in_doubt(tmp_path: Path) -> None:
    server, now = Answers(), [0.0]
    cluster = Cluster(server, tmp_path, lambda: now[0])  # type: ignore[arg-type]
    server.uid = None
    assert not await cluster.ours()  # one that is just starting binds nobody
    assert cluster.uid is None
    server.uid = "one"
    for seconds, asked in ((0.0, 2), (9.9, 2), (10.0, 3), (19.9, 3)):
        now[0] = seconds
        assert await cluster.ours()
        assert server.asked == asked
    cluster.doubt()
    server.uid = "two"
    assert not await cluster.ours()
    assert not await cluster.ours()
    assert (server.asked, cluster.foreign) == (5, "two")


# -- settings


def test_every_option_has_a_setting_and_every_setting_an_option() -> None:
    """As it is when nothing is said, and as it is when something is: on the command line, and in the environment."""
    assert parse(["--node", "n"], {}) == Settings(node="n")
    told: dict[str, tuple[str, object]] = {
        "node": ("x", "x"), "kubeconfig": ("/k", "/k"), "service_account": ("/t", Path("/t")),
        "state": ("/s", Path("/s")), "run": ("/r", Path("/r")),
        "service_dir": ("/d", Path("/d")), "accelerator": ("tcg", "tcg"), "metrics": (":1", ":1"),
        "libvirt_uri": ("qemu:///x", "qemu:///x"), "wireguard_go": ("/w", "/w"), "guest_dir": ("/g", Path("/g")),
        "insecure_registries": ("a,b", ("a", "b")), "egress_deny": ("10.0.0.0/8", ("10.0.0.0/8",)),
        "registry_auth": ("/a", Path("/a")), "image_cache": ("1Gi", 2**30), "image_dir": ("/i", (Path("/i"),)),
        "image_network": ("fd00::/8", (ip_network("fd00::/8"),)), "image_size": ("3Gi", 3 * 2**30), "capacity_cpu": ("7", 7),
        "capacity_memory": ("5Gi", 5 * 2**30), "capacity_storage": ("9Gi", 9 * 2**30), "reserve_memory": ("1Mi", 2**20),
        "reserve_storage": ("2Mi", 2**21), "heartbeat": ("1.5", 1.5), "lease": ("6", 6), "resync": ("2.5", 2.5),
        "log_level": ("DEBUG", "DEBUG"), "start_parallel": ("3", 3),
    }  # fmt: skip
    assert told.keys() == {field.name for field in fields(Settings)}
    words = itertools.chain(*((f"--{name.replace('_', '-')}", text) for name, (text, _) in told.items()))
    wanted = Settings(**{name: value for name, (_, value) in told.items()})  # type: ignore[arg-type]
    assert parse([*words], {}) == wanted
    assert parse([], {f"ZOS_{name.upper()}": text for name, (text, _) in told.items()}) == wanted


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--node", "n", "--accelerator", "hvf"],
        ["--node", "n", "--image-size", "much"],
        ["--node", "n", "--start-parallel", "0"],
    ],
)
def test_what_is_missing_or_malformed_ends_it(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(words, {})


# -- what a node is like


def test_a_node_offers_what_it_has_less_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5})
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**20 + 100}[name])
    size = os.statvfs(tmp_path)
    found = capacity(Settings(node="n", state=tmp_path, reserve_memory=2**30, reserve_storage=2**20))
    assert (found.cpu, found.memory) == (3, 3 * 2**30)  # whole MiB
    assert 0 <= size.f_blocks * size.f_frsize - 2**20 - found.storage < 2**20
    small = capacity(Settings(node="n", state=tmp_path, reserve_memory=2**50, reserve_storage=2**60))
    assert (small.memory, small.storage) == (0, 0)
    told = capacity(Settings(node="n", state=tmp_path, capacity_cpu=9, capacity_memory=77, capacity_storage=0))
    assert (told.cpu, told.memory, told.storage) == (9, 77, 0)


@pytest.mark.parametrize(
    ("address", "everywhere"),
    [
        ("8.8.8.8", True), ("10.0.0.1", False), ("100.64.0.1", False), ("203.0.113.7", False), ("192.88.99.1", False),
        ("169.254.1.1", False), ("224.0.0.1", False), ("127.0.0.1", False), ("2a00:1450::1", True), ("2001:db8::1", False),
        ("fd00::1", False), ("fe80::1", False), ("3fff::1", False), ("ff0e::1", False),
    ],
)  # fmt: skip
def test_where_the_whole_internet_reaches_it(address: str, everywhere: bool) -> None:
    assert is_truly_global(ip_address(address)) is everywhere


def test_a_nodes_endpoint_is_its_first_lasting_address_of_each_family() -> None:
    def link(*infos: Raw) -> Raw:
        return {"addr_info": [*infos]}

    assert endpoint_of([]) == endpoint_of([{}]) == Endpoint()
    assert endpoint_of([link({"local": "10.0.0.1"}), link({"local": "8.8.8.8"}, {"local": "8.8.4.4"})]).ipv4 == "8.8.8.8"
    fleeting = [{"local": "2a00:1450::1", word: True} for word in ("temporary", "deprecated", "tentative")]
    assert endpoint_of([link(*fleeting, {"scope": "global"}, {"local": "2a00:1450::2"})]) == Endpoint(ipv6="2a00:1450::2")


async def test_its_addresses_are_those_that_ip_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        def __init__(self, stdout: str) -> None:
            self.stdout = stdout

    said = iter(['[{"addr_info": [{"local": "8.8.8.8"}]}]', ""])

    async def ran(*argv: str) -> Done:
        assert argv[:3] == ("ip", "-json", "address")
        return Done(next(said))

    monkeypatch.setattr(surroundings, "run", ran)
    assert await surroundings.endpoint() == Endpoint(ipv4="8.8.8.8")
    assert await surroundings.endpoint() == Endpoint()


def test_name_servers_behind_a_local_stub(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("search x\nnameserver 127.0.0.53\nnameserver\n")
    assert nameservers((stub, real)) == ()
    real.write_text(
        "# nameserver 1.1.1.1\nnameserver 9.9.9.9 # quad\nnameserver 0.0.0.0\nnameserver what\nnameserver fe80::1\n"
    )
    assert nameservers((stub, real)) == ("9.9.9.9",)
    stub.write_text("nameserver 1.1.1.1\n")
    assert nameservers((stub, real)) == ("1.1.1.1",)


# -- how a process ends


@pytest.fixture
def signals() -> Iterator[None]:
    """An event loop's handlers leave the default behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_does_and_that_is_no_failure(
    number: signal.Signals, signals: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def forever(settings: Settings, kinds: Kinds) -> None:
        seen.append(settings.node)
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("tidied")

    monkeypatch.setattr(main, "run", forever)
    monkeypatch.setattr(main, "configure", lambda level, node: seen.append(f"{level} {node}"))
    assert main.main(["--node", "n"]) == 0
    assert seen == ["INFO n", "n", "tidied"]


def test_a_node_that_can_not_be_used_is_a_failure(
    signals: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(settings: Settings, kinds: Kinds) -> None:
        raise OSError("no /dev/null")

    monkeypatch.setattr(main, "run", broken)
    monkeypatch.setattr(main, "configure", lambda *_, **__: None)
    assert main.main(["--node", "n"]) == 1
    assert "no /dev/null" in caplog.text
