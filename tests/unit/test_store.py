"""The World: who is asked to resolve again, and what an object that can't be read is."""

from __future__ import annotations

import pytest

from zos.api.meta import Key, Meta
from zos.api.network import Network, NetworkSpec
from zos.api.zmount import ZMount, ZMountSpec
from zos.world.objects import Indexes, Unfetched, Unreadable
from zos.world.store import World

READER = Key("ZMount", "default", "reader")


def network(name: str = "net", ip_range: str = "10.20.0.0/16") -> Network:
    return Network(metadata=Meta(name=name, namespace="default", uid=f"uid-{name}"), spec=NetworkSpec(ip_range=ip_range))


@pytest.fixture
def world() -> World:
    made = World([Indexes(Network, {"range": lambda found: [found.spec.ip_range]}), Indexes(ZMount)])
    made.put(ZMount(metadata=Meta(name="reader", namespace="default", uid="uid-reader"), spec=ZMountSpec(size=2**24)))
    return made


def test_an_unreadable_object_is_neither_absent_nor_what_it_was(world: World) -> None:
    old = network()
    world.put(old)
    assert world.reader(READER).view(Network, "default", "net", lambda found: found.spec.ip_range) == "10.20.0.0/16"
    assert READER in world.put_unreadable(old.key, old.metadata, "spec: of tomorrow")
    with pytest.raises(Unreadable, match="of tomorrow"):
        world.reader(READER).view(Network, "default", "net", lambda found: found.uid)
    with pytest.raises(Unreadable):
        world.reader(READER).view(Network, "default", "net", lambda found: found)
    with pytest.raises(Unreadable):
        world.reader(READER).untracked.view(Network, "default", "net", lambda found: found.uid)
    assert world.find(Network, range="10.20.0.0/16") == ()
    assert [key for key, _ in world.opaque("Network")] == [old.key]


def test_who_met_an_unreadable_object_looks_again_when_it_can_be_read_or_is_gone(world: World) -> None:
    old = network()
    for mend in (lambda: world.put(old), lambda: world.remove(old.key)):
        world.put_unreadable(old.key, old.metadata, "why")
        with pytest.raises(Unreadable):
            world.reader(READER).view(Network, "default", "net", lambda found: found.uid)
        assert READER in mend()
        assert list(world.opaque()) == []
        assert world.reader(READER).view(Network, "default", "net", lambda found: found.uid) in ("uid-net", None)
        world.remove(old.key)


def test_who_saw_nothing_looks_again_when_something_unreadable_comes(world: World) -> None:
    assert world.reader(READER).view(Network, "default", "net", lambda found: found.uid) is None
    assert READER in world.put_unreadable(network().key, network().metadata, "why")
    assert READER not in world.put_unreadable(network().key, network().metadata, "why"), "nothing is new"


def test_unreadable_objects_are_found_by_the_owner_on_their_label(world: World) -> None:
    meta = Meta(name="one", namespace="default", labels={"zos.grid.tf/owner-uid": "uid-owner"})
    world.put_unreadable(Network.key_of("default", "one"), meta, "why")
    assert [key.name for key, _ in world.opaque("Network", "uid-owner")] == ["one"]
    assert list(world.opaque("Network", "uid-other")) == []


def test_a_view_asks_again_only_when_it_would_see_something_else(world: World) -> None:
    world.put(network())
    world.reader(READER).views(Network, lambda found: found.name, range="10.20.0.0/16")
    same = network().model_copy(update={"metadata": Meta(name="net", namespace="default", uid="uid-net", generation=2)})
    assert READER not in world.put(same)
    assert READER in world.put(network("other"))
    world.reader(READER).views(Network, lambda found: found.name, range="10.20.0.0/16")
    assert READER in world.remove(network().key)
    world.forget(READER)
    assert READER not in world.remove(network("other").key)


def demanding() -> World:
    """One whose networks are held on demand."""
    made = World([Indexes(Network), Indexes(ZMount)], on_demand=["Network"])
    made.put(ZMount(metadata=Meta(name="reader", namespace="default", uid="uid-reader"), spec=ZMountSpec(size=2**24)))
    return made


def uid_seen(world: World) -> str | None:
    return world.reader(READER).view(Network, "default", "net", lambda found: found.uid)


def test_what_is_held_on_demand_is_not_absent_before_it_was_fetched() -> None:
    world, key = demanding(), network().key
    assert not world.looked_at(key)
    for fetched, seen in ((lambda: world.put(network()), "uid-net"), (lambda: world.put_absent(key), None)):
        for read in (
            uid_seen,
            lambda world: world.reader(READER).untracked.view(Network, "default", "net", lambda found: found.uid),
        ):
            with pytest.raises(Unfetched):
                read(world)
        with pytest.raises(Unfetched):
            uid_seen(world)
        assert world.looked_at(key)
        assert READER not in fetched(), "it begins anew by itself"
        assert uid_seen(world) == seen
        assert READER in world.lose(key), "what it saw may be otherwise now"
        assert world.unfetched(key)


def test_what_is_held_on_demand_is_held_as_long_as_it_is_read() -> None:
    world, key = demanding(), network().key
    with pytest.raises(Unfetched):
        uid_seen(world)
    world.put(network())
    assert uid_seen(world) == "uid-net"
    world.drop_unread()
    assert world.peek(key) is not None, "it is read still"
    world.reader(READER)
    assert world.peek(key) is not None, "a resolution that is under way may read it again"
    world.drop_unread()
    assert world.peek(key) is None
    assert world.unfetched(key)
