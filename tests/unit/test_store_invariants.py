"""The World's bookkeeping: what is remembered of a read, and that nothing is remembered of what is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zos.api.meta import Key, Meta, Object
from zos.api.network import Network, NetworkSpec
from zos.api.zmount import ZMount
from zos.world.objects import Indexes
from zos.world.reader import Look, Reader
from zos.world.store import World

READER, OTHER = Key("ZMount", "default", "reader"), Key("ZMount", "default", "other")
RANGE, ELSEWHERE = "10.20.0.0/16", "10.30.0.0/16"


def network(name: str = "net", ip_range: str = RANGE, mtu: int = 1420, generation: int = 1) -> Network:
    meta = Meta(name=name, namespace="default", uid=f"uid-{name}", generation=generation)
    return Network(metadata=meta, spec=NetworkSpec(ip_range=ip_range, mtu=mtu))


def empty() -> World:
    indexes = {"range": lambda found: [found.spec.ip_range], "mtu": lambda found: {found.spec.ip_range: found.spec.mtu}}
    return World([Indexes(Network, indexes), Indexes(ZMount)])


READS: dict[str, Callable[[Look], Any]] = {
    "view of the whole": lambda reader: reader.view(Network, "default", "net", lambda found: found),
    "view": lambda reader: reader.view(Network, "default", "net", lambda found: found.spec.mtu),
    "views of the whole": lambda reader: reader.views(Network, lambda found: found, range=RANGE),
    "views": lambda reader: reader.views(Network, lambda found: (found.name, found.spec.mtu), range=RANGE),
    "parts": lambda reader: tuple(sorted(reader.parts(Network, mtu=RANGE))),
    "views of a kind": lambda reader: reader.views(Network, lambda found: found.spec.ip_range),
}
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove", "unreadable"]),
        st.sampled_from(["net", "net2"]),
        st.sampled_from([RANGE, ELSEWHERE]),
        st.sampled_from([1400, 1420]),
        st.integers(1, 2),
    ),
    max_size=12,
)


def step(world: World, what: str, name: str, ip_range: str, mtu: int, generation: int) -> frozenset[Key]:
    obj = network(name, ip_range, mtu, generation)
    if what == "put":
        return world.put(obj)
    return world.remove(obj.key) if what == "remove" else world.put_unreadable(obj.key, obj.metadata, "why")


def seen(world: World, read: Callable[[Reader], Any], key: Key = READER) -> Any:
    try:
        return read(world.reader(key))
    except Exception as error:
        return str(error)


@pytest.mark.parametrize("how", READS)
@given(steps=STEPS)
def test_whoever_would_see_something_else_is_asked_again(how: str, steps: list[tuple[str, str, str, int, int]]) -> None:
    """Whatever happens in between."""
    world = empty()
    last = seen(world, READS[how])
    for one in steps:
        told = step(world, *one)
        fresh = seen(world, READS[how], OTHER)
        world.forget(OTHER)
        if fresh != last:
            assert READER in told, (how, one)
        if READER in told:
            last = seen(world, READS[how])


@given(steps=STEPS)
def test_what_is_found_is_what_is_there(steps: list[tuple[str, str, str, int, int]]) -> None:
    world, there = empty(), {}
    for what, name, ip_range, mtu, generation in steps:
        step(world, what, name, ip_range, mtu, generation)
        there.pop(name, None)
        if what == "put":
            there[name] = network(name, ip_range, mtu, generation)
        for one in (RANGE, ELSEWHERE):
            assert {found.name for found in world.find(Network, range=one)} == {
                obj.name for obj in there.values() if obj.spec.ip_range == one
            }
            parts = world.reader(OTHER).untracked.parts(Network, mtu=one)
            assert sorted(parts) == sorted(obj.spec.mtu for obj in there.values() if obj.spec.ip_range == one)
        assert world.counts()["Network"] == len(there)
    for name in list(there):
        world.remove(network(name).key)
    assert world.remembered() == (0, 0)


def test_an_object_that_moves_into_an_index_or_out_of_it_is_another_result_for_whoever_looks_there() -> None:
    """Even where what is looked at is the same."""
    world = empty()

    def nothing(_: Object) -> None:
        return None

    world.put(network(ip_range=ELSEWHERE))
    for ip_range, told in ((RANGE, True), (RANGE, False), (ELSEWHERE, True)):
        world.reader(READER).views(Network, nothing, range=RANGE)
        world.reader(OTHER).views(Network, nothing, range="10.99.0.0/16")
        changed = world.put(network(ip_range=ip_range, mtu=1400 if ip_range == RANGE else 1420, generation=len(ip_range)))
        assert (READER in changed) == (told and changed != frozenset()), ip_range
        assert OTHER not in changed


def test_what_was_seen_is_compared_with_what_would_be_seen_and_not_which_object_it_is() -> None:
    world = empty()
    world.put(network())
    world.reader(READER).view(Network, "default", "net", lambda found: (found.spec.mtu, "made anew each time"))
    world.reader(OTHER).views(Network, lambda found: [found.name], range=RANGE)
    assert world.put(network()) == frozenset(), "an equal object is no news"
    assert world.put(network(generation=2)) == {network().key}
    assert world.put(network(mtu=1400)) == {network().key, READER}


def test_whoever_saw_that_there_was_nothing_is_asked_only_when_there_is_something() -> None:
    world = empty()
    assert world.reader(READER).view(Network, "default", "net", lambda found: None) is None
    world.reader(OTHER).view(Network, "default", "net", lambda found: found.name)
    told = world.put(network())
    assert OTHER in told
    assert READER not in told, "it would see the same"


def test_nothing_is_kept_of_readers_that_are_forgotten() -> None:
    world = empty()
    world.put(network())
    known, _ = world.remembered()
    for reader in (world.reader(READER), world.reader(OTHER)):
        for read in READS.values():
            read(reader)
    assert READER in world.put(network(mtu=1400))
    world.forget(READER)
    told = world.put(network(mtu=1420))
    assert READER not in told
    assert OTHER in told, "of others everything is still known"
    world.forget(OTHER)
    world.forget(OTHER)
    assert world.remembered() == (known, 0)


def test_a_new_reader_knows_nothing_of_what_was_read_before() -> None:
    world = empty()
    world.reader(READER).view(Network, "default", "net", lambda found: found)
    world.reader(READER)
    assert READER not in world.put(network())


@pytest.mark.parametrize("how", READS)
def test_untracked_reads_give_the_same_and_are_not_remembered(how: str) -> None:
    world = empty()
    world.put(network())
    reader = world.reader(READER)
    assert READS[how](reader.untracked) == READS[how](world.reader(OTHER))
    assert READER not in world.remove(network().key)


def test_an_index_that_no_kind_declared_is_an_error_and_not_empty() -> None:
    reader = empty().reader(READER)
    for look in (reader, reader.untracked):
        with pytest.raises(LookupError, match="Network has no index color"):
            look.views(Network, lambda found: found.name, color="red")
        with pytest.raises(LookupError, match="Network has no index color"):
            look.parts(Network, color="red")
    with pytest.raises(LookupError, match="Network has no index color"):
        empty().find(Network, color="red")


def test_objects_come_oldest_first_then_by_name() -> None:
    world = empty()
    for name, time in (("c", "2026-01-01T00:00:01Z"), ("b", "2026-01-01T00:00:02Z"), ("a", "2026-01-01T00:00:02Z")):
        obj = network(name)
        world.put(obj.model_copy(update={"metadata": obj.metadata.model_copy(update={"creation_timestamp": time})}))
    assert [found.name for found in world.reader(READER).views(Network, lambda found: found)] == ["c", "a", "b"]
    assert [found.name for found in world.find(Network, range=RANGE)] == ["c", "a", "b"]
