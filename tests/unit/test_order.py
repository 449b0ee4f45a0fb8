"""Order of operations: needs first, removals the other way round, circles and missing needs as values."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from zos.plan.diff import Observed, Op
from zos.plan.items import (
    Bridge,
    ContainerBoot,
    Disk,
    DiskBoot,
    Domain,
    File,
    Firewall,
    GuestDisk,
    GuestNic,
    GuestShare,
    Item,
    Netns,
    Route,
    Segment,
    Service,
    Tap,
    Veth,
    WireGuard,
)
from zos.plan.order import Schedule, schedule


def create(*items: Item) -> list[Op]:
    return [Op("create", item.key, item) for item in items]


def remove(*items: Item) -> list[Op]:
    return [Op("remove", item.key, observed=Observed(item.key, item, item.owner)) for item in items]


def run(plan: Schedule) -> list[str]:
    """One order in which the schedule lets its operations run."""
    done: list[str] = []
    left = dict(plan.after)
    while left:
        ready = sorted(key for key, waits in left.items() if waits <= set(done))
        assert ready, "the schedule contradicts itself"
        done += ready
        for key in ready:
            del left[key]
    return done


def service(name: str, *needs: str) -> Service:
    return Service(name=name, argv=("x",), needs=tuple(f"service/{need}" for need in needs))


def as_wanted(*items: Item) -> dict[str, Item]:
    return {item.key: item for item in items}


NETNS = Netns(name="r", owner="net")
BRIDGE = Bridge(name="b", mtu=1500, owner="net")
LAN = Veth(name="l", peer_netns="r", peer_name="lan", mtu=1500, bridge="b", owner="net")
WG = WireGuard(netns="r", name="w", public_key="k", listen_port=1, mtu=1420, addresses=(), routes=(), peers=(), owner="net")
ROUTE = Route(netns="r", destination="0.0.0.0/0", device="w", owner="net")
TABLE = Firewall(netns="r", name="t", body="", owner="net")
TAP = Tap(name="t-1", bridge="b", mtu=1500, owner="vm")
ROOT = Disk(name="root-1", size=1, format="ext4", owner="vm")
DATA = Disk(name="mount-1", size=1, format="ext4", owner="mount")
CONFIG = File(path="c", content="", owner="vm")
GUEST = Domain(
    name="d",
    uuid="u",
    cpu=1,
    memory=1,
    boot=ContainerBoot(image="i", root=GuestDisk(disk="root-1", serial="r"), config="c", config_digest=""),
    disks=(GuestDisk(disk="mount-1", serial="m"),),
    nics=(GuestNic(tap="t-1", mac="m"),),
    running=True,
    owner="vm",
)


def test_needs_come_first_and_the_rest_runs_in_parallel() -> None:
    a, b, c, alone = service("a"), service("b", "a"), service("c", "b"), service("alone")
    plan = schedule(create(c, b, a, alone), as_wanted(a, b, c, alone), {})
    assert plan.after == {
        "service/a": frozenset(),
        "service/alone": frozenset(),
        "service/b": frozenset({"service/a"}),
        "service/c": frozenset({"service/b"}),
    }


def test_what_is_right_already_is_no_obstacle() -> None:
    a, b = service("a"), service("b", "a")
    plan = schedule(create(b), as_wanted(a, b), {a.key: Observed(a.key, a)})
    assert plan.after == {b.key: frozenset()}


def test_a_need_that_nobody_makes_blocks_what_stands_on_it_and_nothing_else() -> None:
    b, c, alone = service("b", "missing"), service("c", "b"), service("alone")
    plan = schedule(create(b, c, alone), as_wanted(b, c, alone), {})
    assert plan.blocked == {"service/b": "service/missing", "service/c": "service/b"}
    assert set(plan.after) == {"service/alone"}


def test_a_need_on_its_way_out_or_held_up_blocks() -> None:
    old, new = service("old"), service("new", "old")
    plan = schedule([*create(new), *remove(old)], as_wanted(new), {old.key: Observed(old.key, old)})
    assert plan.blocked == {"service/new": "service/old"}
    plan = schedule(create(new), as_wanted(old, new), {old.key: Observed(old.key, old)}, held=frozenset({old.key}))
    assert plan.blocked == {"service/new": "service/old"}


def test_a_circle_is_named_and_what_is_behind_it_waits() -> None:
    a, b, c = service("a", "b"), service("b", "a"), service("c", "a")
    plan = schedule(create(a, b, c), as_wanted(a, b, c), {})
    assert set(plan.cycles) == {"service/a", "service/b"}
    assert plan.cycles["service/a"].count("→") == 2
    assert plan.blocked == {"service/c": "service/a"}
    alone = service("me", "me")
    assert schedule(create(alone), as_wanted(alone), {}).cycles == {"service/me": "service/me → service/me"}


def test_a_node_is_taken_down_from_the_top() -> None:
    things = [NETNS, BRIDGE, LAN, WG, ROUTE, TABLE, TAP, ROOT, DATA, CONFIG, GUEST]
    order = run(schedule(remove(*things), {}, {}))
    before = [(GUEST, TAP), (GUEST, ROOT), (GUEST, DATA), (GUEST, CONFIG), (TAP, BRIDGE), (LAN, BRIDGE), (LAN, NETNS)]
    before += [(WG, NETNS), (TABLE, NETNS), (ROUTE, NETNS), (ROUTE, WG)]
    for first, later in before:
        assert order.index(first.key) < order.index(later.key), f"{first.key} before {later.key}"


def test_a_disk_goes_only_after_the_guest_let_go_of_it() -> None:
    smaller = replace(GUEST, disks=())
    update = Op("update", GUEST.key, smaller, Observed(GUEST.key, GUEST, "vm"))
    plan = schedule([update, *remove(DATA)], as_wanted(smaller), {})
    assert plan.after[DATA.key] == {GUEST.key}


def test_the_next_holder_of_a_port_waits_for_the_last() -> None:
    new = replace(WG, netns="r2", name="w2", needs=())
    plan = schedule([*create(new), *remove(WG)], as_wanted(new), {WG.key: Observed(WG.key, WG)})
    assert plan.after[new.key] == {WG.key}


def test_broken_things_are_removed_in_order_too() -> None:
    ops = [Op("remove", key, observed=Observed(key, None, "net")) for key in ("netns/r", "link//l", "wireguard/r/w")]
    order = run(schedule(ops, {}, {}))
    assert order[-1] == "netns/r"


@given(
    st.lists(st.tuples(st.integers(0, 11), st.frozensets(st.integers(0, 13), max_size=3)), unique_by=lambda n: n[0]),
    st.frozensets(st.integers(0, 13)),
)
def test_every_operation_is_scheduled_blocked_or_in_a_circle(
    nodes: list[tuple[int, frozenset[int]]], there: frozenset[int]
) -> None:
    items = [service(str(n), *map(str, sorted(needs))) for n, needs in nodes]
    observed = {f"service/{n}": Observed(f"service/{n}", service(str(n))) for n in there}
    missing = [item for item in items if item.key not in observed]
    plan = schedule(create(*missing), as_wanted(*items), observed)
    parts = [set(plan.after), set(plan.blocked), set(plan.cycles)]
    assert set().union(*parts) == {item.key for item in missing}
    assert sum(map(len, parts)) == len(missing)
    run(plan)
    possible: set[str] = set(observed)
    while more := {item.key for item in missing if item.key not in possible and set(item.needs) <= possible}:
        possible |= more
    assert set(plan.after) == possible - set(observed)


def test_what_waits_for_its_own_removal_keeps_its_ground() -> None:
    """A guest that is being stopped, or can't be, still runs with its disks."""
    root = Disk(name="root", size=1, format="ext4", owner="vm")
    guest = domain(root)
    observed = {item.key: Observed(item.key, item, "vm") for item in (root, guest)}
    plan = schedule(remove(root), {}, observed, held=frozenset({guest.key}))
    assert (dict(plan.after), dict(plan.blocked)) == ({}, {root.key: guest.key})


def test_a_tap_leaves_before_its_segment() -> None:
    segment = Segment(interface="eth1", owner="a")
    tap = Tap(name="t", bridge="eth1", mtu=1500, owner="b")
    assert run(schedule(remove(segment, tap), {}, {})) == [tap.key, segment.key]


def test_a_port_goes_before_its_guard_and_after_its_tap() -> None:
    rules = Firewall(netns="r", family="bridge", name="zos-1", body="", owner="vm")
    port = Veth(name="v-1", peer_netns="r", peer_name="t-1", peer_bridge="lan", mtu=1, owner="vm")
    tap = Tap(name="t-1", wired_to="v-1", mtu=1, owner="vm")
    lan = Bridge(netns="r", name="lan", mtu=1, owner="net")
    plan = schedule(remove(NETNS, lan, rules, port, tap), {}, {})
    assert tap.key in plan.after[port.key]
    order = run(plan)
    for owner in ([tap, port, rules], [tap, port, lan, NETNS]):
        assert [key for key in order if key in [item.key for item in owner]] == [item.key for item in owner]


def test_a_guard_of_an_older_agent_and_the_bridge_it_is_on_go_after_the_tap_has_left() -> None:
    bridge, pair = Bridge(name="b-1", mtu=1), Veth(name="l-1", peer_netns="r", peer_name="lan", mtu=1, bridge="b-1")
    rules = Firewall(family="bridge", name="zos-1-0", body="")
    before, after = Tap(name="t-1-0", bridge="b-1", mtu=1), Tap(name="t-1-0", wired_to="v-1-0", mtu=1)
    lan = Bridge(netns="r", name="lan", mtu=1)
    ops = [*remove(bridge, pair, rules), *create(lan), Op("update", after.key, after, Observed(before.key, before, "vm"))]
    plan = schedule(ops, as_wanted(lan, after), {})
    for old in (bridge, pair, rules):
        assert after.key in plan.after[old.key]
    assert lan.key in plan.after[pair.key]  # takes over from the far end


def test_the_next_holder_of_an_address_waits_for_the_last() -> None:
    old = Veth(name="u-1", peer_netns="r", peer_name="wan", mtu=1, addresses=("10.0.0.0/31",), owner="old")
    for new in (
        Veth(name="u-2", peer_netns="s", peer_name="wan", mtu=1, addresses=("10.0.0.0/31",), owner="new"),
        Veth(name="u-2", peer_netns="s", peer_name="wan", mtu=1, addresses=("10.0.0.2/31",), owner="new"),
    ):
        contends = new.addresses == old.addresses
        plan = schedule([*remove(old), *create(new)], as_wanted(new), {})
        assert plan.after[new.key] == (frozenset({old.key}) if contends else frozenset())


def test_all_that_a_guest_is_started_with_is_another_chance() -> None:
    guest = domain(Disk(name="root", size=1, format="ext4"))
    more = GuestDisk(disk="more", serial="m")
    share = GuestShare(tag="t", path="volumes/v", ground="volume/v")
    others: tuple[Domain, ...] = (
        replace(guest, cpu=2),
        replace(guest, memory=2),
        replace(guest, disks=(more,)),
        replace(guest, nics=(GuestNic(tap="t", mac="m"),)),
        replace(guest, shares=(share,)),
        replace(guest, shares=(replace(share, read_only=True),)),
        replace(guest, boot=replace(guest.boot, root=more)),
        replace(guest, boot=replace(guest.boot, config_digest="other")),
        replace(guest, boot=ContainerBoot(image="j", root=guest.boot.root, config="c", config_digest="")),
        replace(guest, boot=DiskBoot(root=guest.boot.root, config="c", config_digest="")),
        replace(guest, boot=DiskBoot(root=guest.boot.root, config="c", config_digest="", firmware="uefi")),
    )
    assert len({other.recipe for other in (guest, *others)}) == len(others) + 1
    assert replace(guest, running=not guest.running, incarnation="now", owner="x").recipe == guest.recipe


def domain(root: Disk) -> Domain:
    return Domain(
        name="g", uuid="u", cpu=1, memory=1, disks=(), nics=(), running=True, owner="vm",
        boot=ContainerBoot(image="i", root=GuestDisk(disk=root.name, serial="r"), config="c", config_digest=""),
    )  # fmt: skip


def test_addresses_of_pairs_are_given_on_one_after_the_other_in_each_namespace() -> None:
    old = Veth(
        name="u-old", peer_netns="r-old", peer_name="wan", mtu=1500, addresses=("100.127.0.2/31",), peer_addresses=("1/31",)
    )
    near = replace(old, name="u-new", peer_netns="r-new", peer_addresses=())
    far = replace(old, name="u-far", peer_netns="r-old", addresses=())
    apart = replace(old, name="u-apart", netns="elsewhere", peer_netns="r-new")
    plan = schedule([*remove(old), *create(near, far, apart, Netns(name="r-new"))], as_wanted(near, far, apart), {})
    assert plan.after[near.key] == {old.key}
    assert plan.after[far.key] == {old.key}
    assert plan.after[apart.key] == frozenset()


def test_a_segment_goes_after_the_tap_on_it() -> None:
    segment, tap = Segment(interface="eth1"), Tap(name="t", bridge="eth1", mtu=1500)
    plan = schedule(remove(segment, tap), {}, {})
    assert plan.after[segment.key] == {tap.key}
    kept = schedule(remove(segment), as_wanted(tap), {tap.key: Observed(tap.key, tap)}, held=frozenset({tap.key}))
    assert kept.blocked == {segment.key: tap.key}
