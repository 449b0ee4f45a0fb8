"""What a node believes of its surroundings when a look at them fails, or shows less than before."""

from __future__ import annotations

from pathlib import Path

import pytest

from zos.agent import surroundings
from zos.agent.settings import Settings
from zos.agent.surroundings import LOOKS, Steady, Surroundings, nameservers
from zos.api.gridnode import Endpoint, GridNodeStatus
from zos.api.resources import Resources
from zos.drivers.process import ProcessError

HERE = Endpoint(ipv4="198.51.100.7")


class Node:
    """What the looks find, one after the other; an exception is a look that fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.endpoint: Endpoint | Exception = HERE
        self.servers: tuple[str, ...] | Exception = ("192.0.2.53",)
        self.size: Resources | Exception = Resources(cpu=4, memory=8, storage=16)

        async def endpoint() -> Endpoint:
            return told(self.endpoint)

        def told(found: object) -> object:  # type: ignore[misc]
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(surroundings, "endpoint", endpoint)
        monkeypatch.setattr(surroundings, "nameservers", lambda: told(self.servers))
        monkeypatch.setattr(surroundings, "capacity", lambda _: told(self.size))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


async def test_looks_that_fail_take_nothing_away(node: Node) -> None:
    seen = Surroundings(Settings(node="n"))
    await seen.look()
    node.endpoint, node.servers, node.size = ProcessError("ip: not done after 30 s"), OSError(5, "I/O"), OSError(5, "I/O")
    for _ in range(3 * LOOKS):
        await seen.look()
        assert seen.unsure
        assert (seen.endpoint, seen.nameservers, seen.capacity.cpu) == (HERE, ("192.0.2.53",), 4)
    node.endpoint, node.servers, node.size = HERE, ("192.0.2.53",), Resources(cpu=4, memory=8, storage=16)
    await seen.look()
    assert not seen.unsure


@pytest.mark.parametrize("what", ["endpoint", "servers", "size"])
async def test_one_look_that_fails_is_cause_to_look_again_soon(node: Node, what: str) -> None:
    seen = Surroundings(Settings(node="n"))
    await seen.look()
    assert not seen.unsure
    setattr(node, what, ProcessError("killed") if what == "endpoint" else OSError(5, "I/O"))
    await seen.look()
    assert seen.unsure


async def test_a_loss_counts_when_it_was_seen_several_times(node: Node) -> None:
    seen = Surroundings(Settings(node="n"))
    await seen.look()
    node.endpoint, node.servers, node.size = Endpoint(), ("192.0.2.5",), Resources(cpu=4, memory=7, storage=16)
    for _ in range(LOOKS - 1):
        await seen.look()
        assert seen.unsure
        assert (seen.endpoint, seen.nameservers, seen.capacity.memory) == (HERE, ("192.0.2.53",), 8)
    await seen.look()
    assert not seen.unsure
    assert (seen.endpoint, seen.nameservers, seen.capacity.memory) == (None, ("192.0.2.5",), 7)


async def test_what_is_new_counts_at_once(node: Node) -> None:
    seen = Surroundings(Settings(node="n"))
    node.endpoint = Endpoint()
    await seen.look()
    assert seen.endpoint is None
    node.endpoint = Endpoint(ipv4=HERE.ipv4, ipv6="2001:db8::7")
    node.servers = ("192.0.2.54", "192.0.2.53")
    node.size = Resources(cpu=8, memory=8, storage=16)
    await seen.look()
    assert not seen.unsure
    assert (seen.endpoint, seen.nameservers, seen.capacity.cpu) == (node.endpoint, node.servers, 8)


async def test_a_new_agent_holds_on_to_what_the_last_one_said(node: Node) -> None:
    before = GridNodeStatus(
        agent_version="0.2.0", reported_endpoint=HERE, nameservers=("192.0.2.53",),
        capacity=Resources(cpu=4, memory=8, storage=16),
    )  # fmt: skip
    node.endpoint, node.servers, node.size = ProcessError("ip: killed"), (), OSError(5, "I/O")
    seen = Surroundings(Settings(node="n"))
    await seen.look()
    seen.recall(before)
    assert (seen.endpoint, seen.nameservers, seen.capacity.cpu) == (HERE, ("192.0.2.53",), 4)
    assert seen.unsure
    seen.recall(GridNodeStatus(agent_version="0.2.0"))  # only once
    assert seen.endpoint == HERE
    await seen.look()
    await seen.look()
    assert (seen.endpoint, seen.nameservers) == (HERE, ())  # the one can't be told, the other is gone


def test_a_loss_that_comes_back_was_none() -> None:
    fact: Steady[int] = Steady(lambda before, now: now < before)
    for found in (5, 4, 5, 4, 5, 4, 4, 5):
        fact.see(found)
        assert fact.value == 5
    assert not fact.unsure


def test_a_file_of_name_servers_that_can_not_be_read_is_not_one_without(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    assert nameservers((file,)) == ()
    file.write_text("nameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\n")
    assert nameservers((file,)) == ("192.0.2.53",)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="utf-8"):
        nameservers((file,))
    file.unlink()
    file.mkdir()
    with pytest.raises(IsADirectoryError):
        nameservers((file,))
