"""Who was called over WireGuard and has never answered."""

from __future__ import annotations

from dataclasses import replace

from zos.drivers.wgcalls import Silent
from zos.drivers.wgtext import Live
from zos.plan.items import WireGuard, WireGuardPeer

NONE: frozenset[str] = frozenset()
A, B = (WireGuardPeer(public_key=key, endpoint=f"198.51.100.{n}:52000", allowed_ips=()) for n, key in enumerate("ab", 7))
HIDDEN = WireGuardPeer(public_key="hidden", allowed_ips=())
ITEM = WireGuard(netns="r", name="w", public_key="k", listen_port=1, mtu=1420, addresses=(), routes=(), peers=(A, B, HIDDEN))


class Story:
    def __init__(self) -> None:
        self.now = 100.0
        self.silent = Silent(lambda: self.now)

    def hear(self, *met: str, called: frozenset[str] = NONE, item: WireGuard = ITEM) -> list[str]:
        """Who is to be called again."""
        self.silent.hear(item, Live("k", 1, (), {}, frozenset(met), frozenset()), called)
        return [peer.public_key for peer in self.silent.to_call(item)]


def test_one_that_is_still_being_called_may_answer_yet_and_one_without_endpoint_calls_itself() -> None:
    story = Story()
    assert story.hear(called=frozenset("ab")) == []
    story.now += 60
    assert story.hear(called=frozenset("ab")) == []
    assert story.silent.told() == {}
    assert story.hear() == []
    story.now += 19
    assert story.hear() == []
    assert story.silent.told() == {}
    story.now += 1
    assert story.hear() == ["a", "b"]
    assert story.silent.told() == {"w": frozenset("ab")}


def test_the_silent_are_called_again_from_time_to_time_and_stay_silent_until_they_answer() -> None:
    story = Story()
    story.hear("b")
    story.now += 30
    assert story.hear("b") == ["a"]
    story.now += 4
    assert story.hear("b", called=frozenset("a")) == []
    assert story.silent.told() == {"w": frozenset("a")}
    story.now += 30
    assert story.hear("b") == []
    story.now += 30
    assert story.hear("b") == ["a"]
    assert story.hear("a", "b") == []
    assert story.silent.told() == {}
    story.now += 100
    assert story.hear("b") == [], "its session went with the interface: it has its time again"


def test_who_is_no_peer_any_more_and_what_is_no_interface_any_more_is_forgotten() -> None:
    story = Story()
    story.hear()
    story.now += 30
    assert story.hear(item=replace(ITEM, peers=(B,))) == ["b"]
    assert story.silent.told() == {"w": frozenset("b")}
    story.silent.forget("w")
    assert story.silent.told() == {}
    assert story.hear() == []
