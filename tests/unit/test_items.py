"""Items tell all that is to be known of them: a primitive that nobody knows is ordered, kept and counted as any other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from zos.api import names
from zos.api.nodeworkload import Owner
from zos.api.resources import GUEST_OVERHEAD
from zos.plan import items
from zos.plan.diff import Observed, Op
from zos.plan.items import (
    Bridge,
    ContainerBoot,
    Disk,
    Domain,
    Fence,
    File,
    Firewall,
    Flist,
    GuestDisk,
    GuestNic,
    GuestShare,
    Held,
    Image,
    Item,
    Kernel,
    Netns,
    Rank,
    Route,
    Segment,
    Service,
    ServiceLimits,
    Sysctl,
    System,
    Tap,
    Veth,
    Volume,
    WireGuard,
    rank_in,
)
from zos.plan.order import schedule
from zos.plan.ownership import quarantine, spared

SHARE = GuestShare(tag="t", path="mounts/s", ground="service/s", inside="fs")
EACH: tuple[Item, ...] = (
    Netns(name="r"),
    Sysctl(netns="r", path="net/ipv4/ip_forward", value="1"),
    Bridge(netns="r", name="lan", mtu=1420),
    Veth(name="u", peer_netns="r", peer_name="wan", mtu=1500),
    Segment(interface="eth0"),
    Tap(name="t", bridge="eth0", mtu=1500),
    Route(netns="r", destination="0.0.0.0/0", device="wan"),
    Firewall(netns="r", name="t", body=""),
    WireGuard(netns="r", name="w", public_key="k", listen_port=1, mtu=1420, addresses=(), routes=(), peers=()),
    Image(ref="oci://r/i:1"),
    Kernel(image="i"),
    Flist(digest="sha256:1"),
    Fence(group="g"),
    Disk(name="root-1", size=1, format="ext4"),
    Volume(name="volume-1", size=1, user="u"),
    File(path="f", content=""),
    System(disk="mount-1", image="i", ref="r"),
    Domain(
        name="d", uuid="u", cpu=1, memory=1, disks=(), running=True, shares=(SHARE,),
        nics=(GuestNic(tap="t", mac="02:00:00:00:00:01"),),
        boot=ContainerBoot(image="i", root=GuestDisk(disk="root-1", serial="r"), config="f", config_digest=""),
    ),
    Service(name="s", argv=("x",)),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Shelf(Item):
    """A primitive that only this test knows: it stands on a netns, takes a port, and what lives on it must not lose it."""

    name: str
    netns: str
    port: int
    under: str = ""
    adopts: str = ""

    FAMILY: ClassVar[str] = "shelf"
    RANK: ClassVar[int] = Rank.PROGRAM

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.name}"

    def grounds(self) -> Iterator[str]:
        yield f"netns/{self.netns}"

    def occupies(self) -> Iterator[str]:
        if self.under:
            yield f"{self.FAMILY}/{self.under}"

    def aliases(self) -> Iterator[str]:
        yield f"{self.FAMILY}/old-{self.name}"

    def heirs(self) -> Iterator[str]:
        yield f"{self.FAMILY}/new-{self.name}"

    def exclusives(self) -> Iterator[str]:
        yield f"port {self.port}"

    @property
    def held(self) -> Held:
        return Held(alive=bool(self.under), cpu=1, memory=2, storage=3, ports=(self.port,))


def seen(*things: Item) -> dict[str, Observed]:
    return {thing.key: Observed(thing.key, thing, thing.owner) for thing in things}


def removals(*things: Item) -> list[Op]:
    return [Op("remove", key, observed=there) for key, there in seen(*things).items()]


def test_each_class_of_the_vocabulary_is_here() -> None:
    known = {one for one in vars(items).values() if isinstance(one, type) and issubclass(one, Item) and one is not Item}
    assert {type(item) for item in EACH} == known


@pytest.mark.parametrize("item", EACH, ids=lambda item: type(item).__name__)
def test_each_item_has_its_family_and_its_place(item: Item) -> None:
    assert item.key.startswith(f"{item.FAMILY}/")
    assert item.rank in set(Rank)
    assert item.key not in {*item.grounds(), *item.occupies(), *item.heirs()}
    # What it can't do without is what it stands on.
    assert set(item.occupies()) <= set(item.grounds())


def test_what_an_owner_has_is_removed_from_the_guest_down_to_the_ground() -> None:
    port = Veth(name="v", peer_netns="r", peer_name="t", mtu=1500, peer_bridge="lan")
    assert port.rank == Rank.PORT, "before its guard"
    assert [type(item).__name__ for item in sorted(EACH, key=lambda item: item.rank)] == [
        "Domain",
        "Service",
        "Tap",
        "Sysctl",
        "Route",
        "WireGuard",
        "Firewall",
        "Fence",
        "Veth",
        "Segment",
        "Bridge",
        "Netns",
        "File",
        "System",
        "Disk",
        "Volume",
        "Image",
        "Kernel",
        "Flist",
    ]


def test_what_each_holds_of_its_node() -> None:
    held = {type(item).__name__: item.held for item in EACH if item.held != Held()}
    assert held == {
        "Netns": Held(alive=True),
        "WireGuard": Held(alive=True, ports=(1,), public_keys=("k",)),
        "Disk": Held(storage=1),
        "Volume": Held(storage=1),
        "Domain": Held(alive=True, cpu=1, memory=1 + GUEST_OVERHEAD, macs=("02:00:00:00:00:01",)),
        "Service": Held(alive=True, memory=ServiceLimits().memory + ServiceLimits().scratch),
    }
    (pair,) = (item for item in EACH if isinstance(item, Veth))
    assert replace(pair, mac="02:00:00:00:00:01").held.macs == ("02:00:00:00:00:01",), "a program's, in a network"
    (guest,) = (item for item in EACH if isinstance(item, Domain))
    stopped = replace(guest, running=False)
    assert (stopped.held, [*stopped.occupies()]) == (Held(), [])
    (tunnel,) = (item for item in EACH if isinstance(item, WireGuard))
    assert replace(tunnel, listen_port=0).held.ports == (), "which it has is not known"


def test_whose_a_thing_is_by_its_name_alone() -> None:
    assert Domain.origin_of("u-1") == Owner(kind="ZMachine", namespace="", name="", uid="u-1")
    assert Disk.origin_of("root-u-1") == Owner(kind="ZMachine", namespace="", name="", uid="u-1")
    assert Disk.origin_of("mount-u-1") == Owner(kind="ZMount", namespace="", name="", uid="u-1")
    assert [Disk.origin_of(name) for name in ("mount-", "other-u-1", "mount")] == [None, None, None]
    assert Disk(name="mount-u-2", size=1, format="ext4", adopt="u-1").adoptee == "disk/mount-u-1"
    assert Disk(name="mount-u-2", size=1, format="ext4").adoptee == ""
    assert Volume.origin_of("volume-u-1") == Owner(kind="", namespace="", name="", uid="u-1"), "volumes are of many kinds"
    assert [Volume.origin_of(name) for name in ("volume-", "volume")] == [None, None]
    volume = Volume(name="volume-u-2", size=1, user="u", adopt="u-1")
    assert (volume.adoptee, volume.path) == ("volume/volume-u-1", "volumes/volume-u-2/data")
    assert names.kept("mount", "u-1") == "mount-u-1"
    for what in ("", "zdb-index", "Root"):  # where the uid begins could not be told
        with pytest.raises(ValueError, match="one word"):
            names.kept(what, "u-1")


def test_what_is_too_broken_to_say_has_the_rank_of_its_family() -> None:
    assert [rank_in(family) for family in ("domain", "netns", "image", "disk", "volume")] == [
        Rank.GUEST,
        Rank.NETNS,
        Rank.IMAGE,
        Rank.DATA,
        Rank.DATA,
    ]
    assert rank_in("link") == Rank.LINK, "after ports, before bridges"
    assert rank_in("unheard") == Rank.PROGRAM


def test_a_primitive_that_nobody_knows_is_removed_in_its_place() -> None:
    shelf, ground = Shelf(name="a", netns="r", port=7), Netns(name="r")
    other = replace(shelf, name="b", owner="w")
    plan = schedule(removals(shelf, ground), {}, seen(shelf, ground))
    assert plan.after == {shelf.key: frozenset(), ground.key: frozenset({shelf.key})}
    owned = [replace(Image(ref="i"), owner="w"), other]
    assert schedule(removals(*owned), {}, seen(*owned)).after == {"image/i": frozenset({other.key}), other.key: frozenset()}


def test_what_it_takes_is_given_on_when_it_has_gone_and_who_takes_over_comes_first() -> None:
    old, new = Shelf(name="a", netns="r", port=7), Shelf(name="b", netns="r", port=7)
    plan = schedule([*removals(old), Op("create", new.key, new)], {new.key: new}, seen(old))
    assert plan.after == {old.key: frozenset(), new.key: frozenset({old.key})}
    heir = Shelf(name="new-a", netns="r", port=8)
    plan = schedule([*removals(old), Op("create", heir.key, heir)], {heir.key: heir}, seen(old))
    assert plan.after == {old.key: frozenset({heir.key}), heir.key: frozenset()}


@pytest.mark.parametrize("known_as", ["a", "old-a"])
def test_what_stands_on_it_keeps_it(known_as: str) -> None:
    shelf, user = Shelf(name="a", netns="r", port=7), Shelf(name="b", netns="r", port=8, under=known_as)
    assert spared(removals(shelf), seen(shelf, user)) == ([], {shelf.key: user.key})
    both = removals(shelf, user)
    assert spared(both, seen(shelf, user)) == (both, {}), "its user goes as well"


def test_what_is_shared_with_a_guest_outlives_it() -> None:
    guest, service = (item for item in EACH if isinstance(item, Domain | Service))
    ops = removals(guest, service)
    assert schedule(ops, {}, seen(guest, service)).after == {guest.key: frozenset(), service.key: frozenset({guest.key})}
    assert isinstance(guest, Domain)
    assert spared(removals(service), seen(guest, service)) == ([], {service.key: guest.key})
    ended = replace(guest, running=False)
    assert spared(removals(service), seen(ended, service)) == (removals(service), {})
    given = replace(guest, shares=())
    update = Op("update", guest.key, given, Observed(guest.key, guest))
    assert schedule([update, *removals(service)], {guest.key: given}, seen(guest, service)).after[service.key] == {guest.key}


def test_where_something_must_be_mounted() -> None:
    assert SHARE.mount == "mounts/s/fs"
    assert replace(SHARE, inside="").mount == ""
    assert replace(SHARE, inside="", mounted=True).mount == "mounts/s"


def test_what_it_holds_is_counted_in_quarantine() -> None:
    things = tuple(seen(Shelf(name="a", netns="r", port=7), Shelf(name="b", netns="r", port=8, under="a")).values())
    (entry,) = quarantine({"w": things}, {"w": Owner(kind="Ping", namespace="n", name="p", uid="u")})
    assert (entry.running, entry.cpu, entry.memory, entry.storage, entry.listen_port) == (True, 2, 4, 6, 7)
