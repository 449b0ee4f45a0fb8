"""Whether guests' packets get out, where nobody can say, and where there are many who ask."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from zos.drivers import DriverError, netns, nftables, wayout
from zos.drivers.wayout import WayOutDriver
from zos.plan.facts import ShutFact
from zos.plan.wayout import PASSED, SENT

WHY = "inet theirs forward (policy drop)"


@dataclass
class Node:
    """``shut``: whose packets don't get through. ``fails``: from where nothing can be sent, and why; None: its own rules refuse
    it. ``most``: sockets that were open at once."""

    routers: frozenset[str]
    shut: set[str] = field(default_factory=set)
    fails: dict[str, Exception | None] = field(default_factory=dict)
    counted: dict[tuple[str, str], int] = field(default_factory=dict)
    opened: list[socket.socket] = field(default_factory=list)
    most: int = 0

    async def inside(self, router: str, _: Callable[[], socket.socket]) -> socket.socket:
        if router in self.fails and (why := self.fails[router]) is not None:
            raise why
        if router not in self.fails:
            for counter in (SENT, *(() if router in self.shut else (PASSED,))):
                self.counted[router, counter] = self.counted.get((router, counter), 0) + 1
        self.opened.append(socket.socket())
        self.most = max(self.most, sum(one.fileno() >= 0 for one in self.opened))
        return self.opened[-1]


def shut(driver: WayOutDriver) -> dict[str, str]:
    return {name: fact.by for name, fact in driver.facts()[ShutFact].items()}


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    async def reason() -> str:
        return WHY

    made = Node(frozenset(f"zos-{number:03}" for number in range(100)))
    monkeypatch.setattr(netns, "ours", lambda: made.routers)
    monkeypatch.setattr(netns, "inside", made.inside)
    monkeypatch.setattr(nftables, "packets", lambda: dict(made.counted))
    monkeypatch.setattr(wayout, "_reason", reason)
    monkeypatch.setattr(wayout, "_WAIT", 0.0)
    return made


async def test_of_many_some_are_asked_at_once(node: Node) -> None:
    node.shut = {"zos-007", "zos-099"}
    driver = WayOutDriver()
    await driver.look()
    assert shut(driver) == {"zos-007": WHY, "zos-099": WHY}
    assert node.most == 32
    node.shut = {"zos-099"}
    await driver.look()
    assert shut(driver) == {"zos-099": WHY}


async def test_from_where_nothing_can_be_sent_what_was_known_stays(node: Node) -> None:
    node.shut = {"zos-001", "zos-002", "zos-003"}
    driver = WayOutDriver()
    await driver.look()
    node.fails = {
        "zos-001": DriverError("no namespace"), "zos-002": OSError(errno.EPERM, "no"), "zos-003": None, "zos-004": OSError(),
    }  # fmt: skip
    await driver.look()
    assert shut(driver) == {"zos-001": WHY, "zos-002": WHY}, "of one whose own rules refuse it nothing is shut"


async def test_who_is_short_of_descriptors_says_nothing_new(node: Node) -> None:
    node.shut = {"zos-001"}
    driver = WayOutDriver()
    await driver.look()
    node.fails = {"zos-050": OSError(errno.EMFILE, "too many")}
    node.shut = set()
    with pytest.raises(OSError, match="too many"):
        await driver.look()
    assert shut(driver) == {"zos-001": WHY}
    assert all(one.fileno() < 0 for one in node.opened)
