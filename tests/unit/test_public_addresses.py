"""Allocation of public addresses: random lives of farms, contracts and public addresses keep the invariants."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import fixpoint
from cases import load, world_of
from fixpoint import resolve
from zos.api.contract import (
    Claim,
    ClaimHolder,
    ClaimSpec,
    Contract,
    ContractSpec,
    ContractStatus,
    NameContract,
    NameContractSpec,
)
from zos.api.core import Namespace
from zos.api.farm import Farm, FarmSpec, PublicIPv4Range, PublicIPv6Prefix
from zos.api.gridnode import GridNode, GridNodeStatus
from zos.api.meta import RESTARTED_AT, Key, Meta, Object, Reason
from zos.api.nodeworkload import NodeWorkload
from zos.api.publicip import PublicIP, PublicIPSpec, slaac
from zos.api.selector import NamespaceSelector
from zos.api.zmachine import MachineNetwork, ZMachine, ZMachineSpec
from zos.kinds.claim import resolve as claim
from zos.kinds.contract import resolve as contract
from zos.kinds.farm import resolve as farm
from zos.kinds.namecontract import resolve as namecontract
from zos.kinds.publicip import resolve as publicip
from zos.kinds.zmachine.part import MachineOnNode, MachineState
from zos.world.objects import Indexes
from zos.world.resolution import Resolution
from zos.world.store import World

KINDS = {"Farm": farm, "Contract": contract, "Claim": claim, "NameContract": namecontract, "PublicIP": publicip}


def merged() -> list[Indexes]:
    by: dict[type[Object], dict] = {}
    for module in KINDS.values():
        for indexes in module.INDEXES:
            by.setdefault(indexes.model, {}).update(indexes.by)
    return [Indexes(model, functions) for model, functions in by.items()]


class Grid:
    """A cluster in memory: carries resolutions out at once, in any order, until nothing more follows."""

    def __init__(self) -> None:
        self.world = World(merged())
        self.verdicts: dict[Key, Resolution] = {}
        self.dirty: set[Key] = set()
        self.count = 0

    def meta(self, name: str, namespace: str = "") -> Meta:
        self.count += 1
        return Meta(name=name, namespace=namespace, uid=f"uid-{self.count}", creation_timestamp=f"{self.count:09d}")

    def put(self, obj: Object) -> None:
        self.dirty |= self.world.put(obj)

    def get(self, model: type[Object], name: str, namespace: str = "") -> Object | None:
        return self.world.peek(model.key_of(namespace, name))

    def delete(self, obj: Object) -> None:
        meta = obj.metadata.model_copy(update={"deletion_timestamp": "now"})
        self.put(obj.model_copy(update={"metadata": meta}))

    def settle(self) -> None:
        for _ in range(3000):
            if not self.dirty:
                return
            key = min(self.dirty)
            self.dirty.discard(key)
            obj = self.world.peek(key)
            if obj is None or key.kind not in KINDS:
                self.world.forget(key)
                continue
            self.carry_out(obj, KINDS[key.kind].resolve(obj, self.world.reader(key)))
        raise AssertionError(f"does not settle: {self.dirty}")

    def carry_out(self, obj: Object, resolution: Resolution) -> None:
        self.verdicts[obj.key] = resolution
        if resolution.obsolete:
            self.dirty |= self.world.remove(obj.key)
            return
        going = obj.deleting and not resolution.waits_for
        for pool in resolution.releases if going or not obj.deleting else ():
            self.hold(pool, obj.uid, None)
        for hold in resolution.holds:
            self.hold(hold.pool, obj.uid, hold.entry)
        leave = resolution.claims is None and not going
        wanted = {} if going else {wish.name: wish for wish in resolution.claims or ()}
        for other in self.world.all("Claim"):
            if other.spec.holder.uid == obj.uid and other.name not in wanted and not leave:
                self.dirty |= self.world.remove(other.key)
        for wish in wanted.values():
            seen = self.get(Claim, wish.name)
            if seen is None:
                holder = ClaimHolder(kind=obj.KIND, namespace=obj.namespace, name=obj.name, uid=obj.uid)
                spec = ClaimSpec(holder=holder, thing=wish.thing, farm=wish.farm)
                self.put(Claim(metadata=self.meta(wish.name), spec=spec))
            else:
                assert seen.spec.holder.uid == obj.uid, "a resolution wanted what another holds"
        if going:
            self.dirty |= self.world.remove(obj.key)
        elif resolution.status is not None:
            status = resolution.status.model_copy(update={"observed_generation": obj.metadata.generation})
            self.put(self.world.peek(obj.key).model_copy(update={"status": status}))

    def hold(self, pool: Key, uid: str, entry: object) -> None:
        obj = self.world.peek(pool)
        if obj is not None:
            others = tuple(e for e in obj.status.in_use if e.uid != uid)
            in_use = (*others, entry) if entry else others
            if in_use != obj.status.in_use and (entry is None or entry not in obj.status.in_use):
                self.put(obj.model_copy(update={"status": obj.status.model_copy(update={"in_use": in_use})}))


def a_farm(grid: Grid, *ranges: str, name: str = "farm", **more: object) -> Farm:
    spec = FarmSpec(
        public_ipv4=tuple(PublicIPv4Range(range=r, gateway=str(IPv4Network(r)[1])) for r in ranges),
        public_ipv6=(PublicIPv6Prefix(prefix="2001:db8:1::/64"),),
        **more,
    )
    old = grid.get(Farm, name)
    made = Farm(metadata=old.metadata, spec=spec, status=old.status) if old else Farm(metadata=grid.meta(name), spec=spec)
    grid.put(made)
    return made


def a_contract(grid: Grid, name: str, number: int, namespace: str = "ns", farm: str = "farm") -> Contract:
    spec = ContractSpec(farm=farm, public_ipv4=number)
    old = grid.get(Contract, name, namespace)
    made = old.model_copy(update={"spec": spec}) if old else Contract(metadata=grid.meta(name, namespace), spec=spec)
    grid.put(made)
    return made


def an_ip(grid: Grid, name: str, contract: str, **more: bool) -> PublicIP:
    made = PublicIP(metadata=grid.meta(name, "ns"), spec=PublicIPSpec(contract=contract, **more))
    grid.put(made)
    return made


def address(grid: Grid, name: str) -> str | None:
    found = grid.get(PublicIP, name, "ns").status.ipv4
    return found and found.address


def verdict(grid: Grid, obj: Object):
    return grid.verdicts[obj.key].verdict


@pytest.fixture
def grid() -> Grid:
    made = Grid()
    made.put(Namespace(metadata=made.meta("ns").model_copy(update={"labels": {"tier": "gold"}})))
    return made


def test_addresses_go_from_farm_to_contract_to_public_ip(grid: Grid) -> None:
    a_farm(grid, "203.0.113.16/29")
    a_contract(grid, "c", 2)
    an_ip(grid, "a", "c")
    an_ip(grid, "b", "c")
    third = an_ip(grid, "third", "c")
    grid.settle()
    assert grid.get(Contract, "c", "ns").status.reserved == ("203.0.113.18", "203.0.113.19")
    assert (address(grid, "a"), address(grid, "b")) == ("203.0.113.18/29", "203.0.113.19/29")
    assert grid.get(PublicIP, "a", "ns").status.ipv4.gateway == "203.0.113.17"
    assert verdict(grid, third).reason == Reason.INSUFFICIENT_CAPACITY
    assert "all 2 addresses of contract c are in use" in verdict(grid, third).message
    counts = grid.get(Farm, "farm").status.ipv4
    assert (counts.total, counts.held, counts.free) == (5, 2, 3)


def test_exhaustion_is_all_or_nothing_with_numbers_and_heals(grid: Grid) -> None:
    a_farm(grid, "203.0.113.16/29")
    a_contract(grid, "first", 4)
    late = a_contract(grid, "late", 2)
    grid.settle()
    assert verdict(grid, late).reason == Reason.INSUFFICIENT_CAPACITY
    assert "farm farm: 2 asked, 0 held, 1 free" in verdict(grid, late).message
    assert grid.get(Contract, "late", "ns").status.reserved == ()
    a_farm(grid, "203.0.113.16/29", "203.0.113.32/29")
    grid.settle()
    assert len(grid.get(Contract, "late", "ns").status.reserved) == 2


def test_shrinking_gives_back_only_unused_addresses(grid: Grid) -> None:
    a_farm(grid, "203.0.113.16/28")
    a_contract(grid, "c", 3)
    an_ip(grid, "a", "c")
    an_ip(grid, "b", "c")
    grid.settle()
    asked = a_contract(grid, "c", 1)
    grid.settle()
    assert len(grid.get(Contract, "c", "ns").status.reserved) == 2
    assert verdict(grid, asked).reason == Reason.CONFLICT
    assert "PublicIP a (203.0.113.18), PublicIP b (203.0.113.19)" in verdict(grid, asked).message
    grid.delete(grid.get(PublicIP, "a", "ns"))
    grid.settle()
    assert grid.get(Contract, "c", "ns").status.reserved == ("203.0.113.19",)
    assert address(grid, "b") == "203.0.113.19/28"


def test_what_the_farm_no_longer_offers_is_given_back_first_then_the_highest(grid: Grid) -> None:
    a_farm(grid, "203.0.113.16/29", "203.0.113.32/29")
    a_contract(grid, "c", 7)
    grid.settle()
    assert grid.get(Contract, "c", "ns").status.reserved[-3:] == ("203.0.113.22", "203.0.113.34", "203.0.113.35")
    a_farm(grid, "203.0.113.32/29")
    for number, left in ((4, ("203.0.113.18", "203.0.113.19", "203.0.113.34", "203.0.113.35")), (1, ("203.0.113.34",))):
        a_contract(grid, "c", number)
        grid.settle()
        assert grid.get(Contract, "c", "ns").status.reserved == left


@pytest.mark.parametrize("lost", [True, False])
def test_a_status_that_was_lost_is_made_from_claims_and_one_that_says_none_is_believed(grid: Grid, lost: bool) -> None:
    a_farm(grid, "203.0.113.16/28")
    a_contract(grid, "c", 2)
    grid.settle()
    there = grid.get(Contract, "c", "ns")
    reserved = there.status.reserved
    unwritten = Claim(metadata=Meta(name="ipv4.203.0.113.30"), spec=grid.get(Claim, f"ipv4.{reserved[0]}").spec)
    unwritten = unwritten.model_copy(update={"spec": unwritten.spec.model_copy(update={"thing": "203.0.113.30"})})
    grid.world.put(unwritten)
    status = ContractStatus() if lost else ContractStatus(observed_generation=there.metadata.generation)
    restored = there.model_copy(update={"status": status, "spec": ContractSpec(farm="farm", public_ipv4=3)})
    grid.world.put(restored)
    found: Any = resolve(restored, grid.world).status
    assert found.reserved == (reserved if lost else ())


def test_a_contract_in_use_waits_for_its_users(grid: Grid) -> None:
    a_farm(grid, "203.0.113.16/28")
    a_contract(grid, "c", 1)
    an_ip(grid, "a", "c")
    grid.settle()
    grid.delete(grid.get(Contract, "c", "ns"))
    grid.settle()
    assert grid.verdicts[Contract.key_of("ns", "c")].waits_for == ("PublicIP a",)
    grid.delete(grid.get(PublicIP, "a", "ns"))
    grid.settle()
    assert grid.get(Contract, "c", "ns") is None
    assert not grid.world.all("Claim")


def test_a_removed_range_keeps_serving_what_is_held_and_says_so(grid: Grid) -> None:
    made = a_farm(grid, "203.0.113.16/29", "203.0.113.32/29")
    a_contract(grid, "c", 7)
    for number in range(7):
        an_ip(grid, f"ip{number}", "c", ipv4=True)
    grid.settle()
    before = {f"ip{n}": grid.get(PublicIP, f"ip{n}", "ns").status.ipv4 for n in range(7)}
    a_farm(grid, "203.0.113.16/29")
    grid.settle()
    assert before == {f"ip{n}": grid.get(PublicIP, f"ip{n}", "ns").status.ipv4 for n in range(7)}
    assert grid.get(Farm, "farm").status.out_of_range == ("203.0.113.34", "203.0.113.35")
    assert "kept until released: 203.0.113.34, 203.0.113.35" in verdict(grid, made).message


def test_farms_that_overlap_name_each_other(grid: Grid) -> None:
    one = a_farm(grid, "203.0.113.0/24", name="one")
    two = a_farm(grid, "203.0.113.64/26", name="two")
    grid.settle()
    assert "203.0.113.0/24 of farm one overlaps 203.0.113.64/26 of farm two" in verdict(grid, one).message
    assert verdict(grid, two).reason == Reason.CONFLICT


def test_a_broadcast_address_is_no_gateway(grid: Grid) -> None:
    ranges = (PublicIPv4Range(range="203.0.113.16/28", gateway="203.0.113.31"),)
    made = Farm(metadata=grid.meta("farm"), spec=FarmSpec(public_ipv4=ranges))
    grid.put(made)
    grid.settle()
    assert "203.0.113.31 is the broadcast address of 203.0.113.16/28" in verdict(grid, made).message


@pytest.mark.parametrize(("range_", "gateway", "valid"), [
    ("203.0.113.16/31", "203.0.113.17", True), ("203.0.113.16/30", "203.0.113.19", False),
])  # fmt: skip
def test_a_link_of_two_has_no_broadcast_address(grid: Grid, range_: str, gateway: str, valid: bool) -> None:
    """RFC 3021."""
    made = Farm(metadata=grid.meta("farm"), spec=FarmSpec(public_ipv4=(PublicIPv4Range(range=range_, gateway=gateway),)))
    grid.put(made)
    grid.settle()
    assert verdict(grid, made).ready is valid


def test_what_another_farm_still_has_of_a_range_is_not_free(grid: Grid) -> None:
    a_farm(grid, "203.0.113.16/28", name="old")
    a_contract(grid, "c", 2, farm="old")
    grid.settle()
    a_farm(grid, name="old")
    a_farm(grid, "203.0.113.16/28", name="new")
    grid.settle()
    old, new = grid.get(Farm, "old").status, grid.get(Farm, "new").status
    assert (old.ipv4.held, len(old.out_of_range)) == (2, 2)
    assert (new.ipv4.held, new.ipv4.total - new.ipv4.free) == (0, 2)


def test_only_admitted_namespaces_may_contract(grid: Grid) -> None:
    a_farm(grid, "203.0.113.16/28", allowed_namespaces=NamespaceSelector(match_labels={"tier": "platinum"}))
    made = a_contract(grid, "c", 1)
    grid.settle()
    assert verdict(grid, made).reason == Reason.INVALID_SPEC
    assert "does not admit namespace ns" in verdict(grid, made).message
    a_farm(grid, "203.0.113.16/28", allowed_namespaces=NamespaceSelector(match_labels={"tier": "gold"}))
    grid.settle()
    assert len(grid.get(Contract, "c", "ns").status.reserved) == 1


def test_one_machine_uses_an_address_and_keeps_it(grid: Grid) -> None:
    a_farm(grid, "203.0.113.16/28")
    a_contract(grid, "c", 1)
    an_ip(grid, "a", "c")
    for name in ("late", "later"):
        spec = ZMachineSpec(image="oci://r/i:t", network=MachineNetwork(name="n"), public_ip="a")
        grid.put(ZMachine(metadata=grid.meta(name, "ns"), spec=spec))
    grid.settle()
    assert grid.get(PublicIP, "a", "ns").status.machine == "late"
    older = ZMachine(metadata=grid.meta("old", "ns").model_copy(update={"creation_timestamp": "0"}), spec=spec)
    grid.put(older)
    grid.settle()
    assert grid.get(PublicIP, "a", "ns").status.machine == "late"


def test_slaac_address_is_eui64() -> None:
    from ipaddress import IPv6Network

    assert str(slaac(IPv6Network("2001:db8:1::/64"), "02:00:5e:10:00:01")) == "2001:db8:1:0:0:5eff:fe10:1".replace(
        ":0:0:", "::"
    )


def test_orphaned_claims_are_collected(grid: Grid) -> None:
    holder = ClaimHolder(kind="Contract", namespace="ns", name="gone", uid="gone")
    grid.put(Claim(metadata=grid.meta("ipv4.203.0.113.20"), spec=ClaimSpec(holder=holder, thing="203.0.113.20", farm="farm")))
    grid.settle()
    assert not grid.world.all("Claim")


def test_a_name_has_one_holder_and_goes_to_the_next(grid: Grid) -> None:
    made = {}
    for namespace, name in (("ns", "Example"), ("other", "example"), ("ns", "EXAMPLE")):
        obj = NameContract(metadata=grid.meta(f"n{len(made)}", namespace), spec=NameContractSpec(name=name))
        grid.put(obj)
        made[len(made)] = obj
    grid.settle()
    assert [verdict(grid, obj).ready for obj in made.values()] == [True, False, False]
    assert "held by another namespace" in verdict(grid, made[1]).message
    assert "held by NameContract n0" in verdict(grid, made[2]).message
    grid.delete(grid.get(NameContract, "n0", "ns"))
    grid.settle()
    assert [verdict(grid, obj).ready for obj in (made[1], made[2])] == [True, False]


@pytest.mark.parametrize(("one", "two"), [("a-b", "a_b"), ("-a", "x-a"), ("-a", "0-2da"), ("a", "a-"), ("a-", "a-2d")])
def test_claim_names_are_valid_and_never_collide(one: str, two: str) -> None:
    import re

    names = [namecontract.claim_name(name) for name in (one, two)]
    assert names[0] != names[1]
    label = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    assert all(re.fullmatch(rf"{label}(\.{label})*", name) for name in names)


RANGES = ["203.0.113.0/29", "203.0.113.8/29", "203.0.113.16/28", "203.0.113.32/30", "203.0.113.0/28"]


class Lives(RuleBasedStateMachine):
    """Creates, grows, shrinks, deletes and edits ranges in any order."""

    @initialize()
    def begin(self) -> None:
        self.grid = Grid()
        self.seen: dict[str, str] = {}
        a_farm(self.grid, RANGES[0])
        self.grid.settle()

    @rule(ranges=st.lists(st.sampled_from(RANGES[:4]), unique=True, max_size=4))
    def edit_ranges(self, ranges: list[str]) -> None:
        a_farm(self.grid, *ranges)
        self.grid.settle()

    @rule(name=st.sampled_from("abcde"), number=st.integers(1, 6))
    def ask(self, name: str, number: int) -> None:
        obj = self.grid.get(Contract, name, "ns")
        if obj is None or not obj.deleting:
            a_contract(self.grid, name, number)
            self.grid.settle()

    @rule(name=st.sampled_from("abcdefgh"), contract=st.sampled_from("abcde"))
    def use(self, name: str, contract: str) -> None:
        if self.grid.get(PublicIP, name, "ns") is None:
            an_ip(self.grid, name, contract)
            self.grid.settle()

    @rule(name=st.sampled_from("abcdefgh"), kind=st.sampled_from([Contract, PublicIP]))
    def drop(self, name: str, kind: type[Object]) -> None:
        obj = self.grid.get(kind, name, "ns")
        if obj is not None:
            self.grid.delete(obj)
            self.grid.settle()

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "grid"):
            return
        contracts = {obj.uid: obj for obj in self.grid.world.all("Contract")}
        claims = self.grid.world.all("Claim")
        assert all(c.spec.holder.uid in contracts for c in claims), "leaked"
        held = {uid: sorted(c.spec.thing for c in claims if c.spec.holder.uid == uid) for uid in contracts}
        for uid, obj in contracts.items():
            assert sorted(obj.status.reserved) == held[uid], "status and claims differ"
            uses = [entry.ip for entry in obj.status.in_use]
            assert set(uses) <= set(held[uid])
            assert max(Counter(uses).values(), default=0) <= 1
            if not obj.deleting and len(held[uid]) < obj.spec.public_ipv4:
                assert verdict(self.grid, obj).reason == Reason.INSUFFICIENT_CAPACITY
        the_farm = self.grid.get(Farm, "farm")
        outside = {c.spec.thing for c in claims if not the_farm.spec.gives(IPv4Address(c.spec.thing))}
        assert set(the_farm.status.out_of_range) == outside
        now: dict[str, str] = {}
        for ip in self.grid.world.all("PublicIP"):
            if ip.status.ipv4 and ip.uid:
                now[ip.uid] = ip.status.ipv4.address.split("/")[0]
        for uid, had in self.seen.items():
            if uid in now:
                assert now[uid] == had, "an address moved"
        assert max(Counter(now.values()).values(), default=0) <= 1, "an address given twice"
        living = {ip.uid for ip in self.grid.world.all("PublicIP")}
        lost = {uid for uid in self.seen if uid in living and uid not in now}
        assert not lost, "an address was dropped"
        self.seen = now


Lives.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestLives = Lives.TestCase


# -- what nodes have, in a grid where everything is Ready: ZMachine web has PublicIP address of Contract contract on node n1

ORDER = ("Farm", "GridNode", "Network", "Contract", "Claim", "PublicIP", "NameContract", "ZMount", "ZMachine")
READY: list[Object] = []


@pytest.fixture
def ready() -> World:
    if not READY:
        made = world_of(load(Path(__file__).parent.parent / "golden" / "vanished.yaml")[0])
        settle(made)
        READY.extend(obj for kind in (*made.counts(),) for obj in made.all(kind))
    return world_of(READY)


def settle(world: World) -> None:
    """Claims that nobody holds go at once."""
    for _ in range(3):
        for claim_ in world.all("Claim"):
            if resolve(claim_, world).obsolete:
                world.remove(claim_.key)
        fixpoint.settle(world, [kind for kind in ORDER if kind != "Claim"])


def one(world: World, model: type[Object], name: str, namespace: str = "default") -> Any:
    return world.peek(model.key_of(namespace if model.NAMESPACED else "", name))


def edit(world: World, obj: Any, **spec: Any) -> Any:
    new = obj.model_copy(update={"spec": obj.spec.model_copy(update=spec)})
    world.put(new)
    return new


def restart(world: World, obj: Any) -> None:
    meta = obj.metadata.model_copy(update={"annotations": {RESTARTED_AT: "now"}})
    world.put(obj.model_copy(update={"metadata": meta}))


def deleting(world: World, obj: Any) -> Any:
    meta = obj.metadata.model_copy(update={"deletion_timestamp": "2026-01-02T00:00:00Z"})
    new = obj.model_copy(update={"metadata": meta})
    world.put(new)
    return new


def asked(world: World) -> NodeWorkload:
    """What node n1 is asked for machine web."""
    (found,) = [w for w in world.all("NodeWorkload") if w.spec.owner.kind == "ZMachine" and w.spec.owner.name == "web"]
    return found


def another(world: World, name: str = "another", **spec: Any) -> Any:
    """A further machine that wants the PublicIP."""
    meta = Meta(name=name, namespace="default", uid=f"uid-{name}", generation=1, creation_timestamp="2026")
    text = {"image": "oci://r/i:t", "network": {"name": "net"}, "publicIP": "address"} | spec
    made = ZMachine.model_validate({"metadata": meta, "spec": text})
    world.put(made)
    return made


def kept_for(world: World, words: str) -> None:
    """Nobody else gets the PublicIP, and its deletion waits."""
    another(world)
    settle(world)
    assert not [w for w in world.all("NodeWorkload") if w.spec.owner.name == "another" and w.part(MachineOnNode).public_nic]
    (waits,) = resolve(deleting(world, one(world, PublicIP, "address")), world).waits_for
    assert words in waits


def lost(world: World, **entry: Any) -> None:
    """Machine web went without its user's word, and its guest runs on."""
    world.remove(asked(world).key)
    world.remove(one(world, ZMachine, "web").key)
    left_on(world, "n1", **entry)


def left_on(world: World, node: str, **entry: Any) -> None:
    """What a node says that it has in quarantine."""
    text = {"uid": "uid-web", "kind": "ZMachine", "namespace": "default", "name": "web", "running": True, "cpu": 1} | entry
    found = one(world, GridNode, node)
    status = GridNodeStatus.model_validate(found.status.wire() | {"quarantine": [text]})
    world.put(found.model_copy(update={"status": status}))


def test_an_address_stays_with_the_machine_whose_node_has_it(ready: World) -> None:
    had = asked(ready).part(MachineOnNode).public_nic
    edit(ready, one(ready, ZMachine, "web"), public_ip="mistyped")
    settle(ready)
    assert asked(ready).part(MachineOnNode).public_nic == had, "what it waits for is no reason to take away what it has"
    assert one(ready, PublicIP, "address").status.machine == "web"
    kept_for(ready, "remove publicIP from its spec")


def test_a_machine_that_waits_can_do_without_its_address(ready: World) -> None:
    before = asked(ready)
    web = one(ready, ZMachine, "web")
    edit(ready, web, public_ip=None, network=web.spec.network.model_copy(update={"name": "mistyped"}))
    fixpoint.carried_out(ready, web, resolve(one(ready, ZMachine, "web"), ready), nodes=False)
    machine = one(ready, ZMachine, "web")
    (workload,) = resolve(machine, ready).workloads or ()
    assert workload.part == before.part(MachineOnNode).model_copy(update={"public_nic": None}), "and nothing else changes"
    assert machine.status.public_ipv4 == "203.0.113.18", "the guest runs with it until it is restarted"
    spec = type(before).asking(before.spec.owner, workload.part)
    written = before.model_copy(update={"spec": spec, "metadata": before.metadata.model_copy(update={"generation": 2})})
    ready.put(written)  # the agent has not come to it, or does not answer
    ip = deleting(ready, one(ready, PublicIP, "address"))
    assert "runs with it until it is restarted" in resolve(ip, ready).waits_for[0]
    (condition,) = written.status.conditions
    assert written.state(MachineState) is not None
    ended = written.state(MachineState).model_copy(update={"state": "Stopped", "runs": None})
    unsaid = written.model_copy(update={"status": written.status.model_copy(update={"states": written.saying(ended).states})})
    ready.put(unsaid)
    assert "has not said yet" in resolve(ip, ready).waits_for[0]
    said = {"conditions": (condition.model_copy(update={"observed_generation": 2}),), "states": written.saying(ended).states}
    ready.put(unsaid.model_copy(update={"status": unsaid.status.model_copy(update=said)}))
    assert resolve(ip, ready).waits_for == ()


def test_giving_up_to_wait_for_a_node_gives_no_address_away(ready: World) -> None:
    workload = asked(ready)
    spec = workload.spec.model_copy(update={"erase": workload.spec.owner.uid})
    deleting(ready, workload.model_copy(update={"spec": spec}))
    ready.remove(one(ready, ZMachine, "web").key)
    kept_for(ready, "an administrator can give up the node")
    ready.put_unreadable(one(ready, GridNode, "n1").key, Meta(name="n1"), "spec.tomorrow: not known")
    assert "give up the node" in resolve(one(ready, PublicIP, "address"), ready).waits_for[0]
    ready.remove(GridNode.key_of("", "n1"))  # he has
    assert resolve(one(ready, PublicIP, "address"), ready).waits_for == ("ZMachine another",)


@pytest.mark.parametrize("told", ["nothing", "mac", "address"])
def test_a_public_ip_waits_for_a_guest_in_quarantine(ready: World, told: str) -> None:
    ip = one(ready, PublicIP, "address")
    nic = {"mac": ip.status.mac} if told == "mac" else {"mac": "02:00:00:00:00:09", "ipv4": "203.0.113.18"}
    lost(ready, nics=[nic] if told != "nothing" else [])
    if told != "nothing":  # an older state, from before it had a machine
        ready.put(ip.model_copy(update={"status": ip.status.model_copy(update={"machine": None, "machine_uid": None})}))
    settle(ready)
    condition = one(ready, PublicIP, "address").status.condition("Ready")
    assert (condition.status, condition.reason) == ("False", "Quarantined")
    kept_for(ready, "spec.quarantine of GridNode n1")
    for harmless in ({"running": False}, {"uid": "uid-x", "nics": []}):
        left_on(ready, "n1", **harmless)
        assert resolve(one(ready, PublicIP, "address"), ready).waits_for == ("ZMachine another",)
    left_on(ready, "n1", running=False)
    left_on(ready, "n2", nics=[nic])  # which is not on the farm's segment
    assert resolve(one(ready, PublicIP, "address"), ready).waits_for == ("ZMachine another",)


def test_a_quarantine_takes_no_address_from_who_has_it(ready: World) -> None:
    ip = one(ready, PublicIP, "address")
    left_on(ready, "n1", uid="uid-liar", nics=[{"mac": ip.status.mac, "ipv4": "203.0.113.18"}])
    settle(ready)
    assert one(ready, PublicIP, "address").status == ip.status
    assert one(ready, ZMachine, "web").status.condition("Ready").status == "True"


def contract_of(world: World, name: str, number: int, *, created: str = "2026-02", namespace: str = "default") -> Any:
    meta = Meta(name=name, namespace=namespace, uid=f"uid-{namespace}-{name}", generation=1, creation_timestamp=created)
    made = Contract(metadata=meta, spec=ContractSpec(farm="lab", public_ipv4=number))
    world.put(made)
    return made


def test_a_contract_that_is_made_anew_comes_to_its_addresses(ready: World) -> None:
    """Its kind was deleted: that was nobody's word. Somebody else is first in line, and wants all that there is."""
    before, had = asked(ready), one(ready, Contract, "contract").status.reserved
    ready.remove(one(ready, Contract, "contract").key)
    contract_of(ready, "theirs", 13, created="2026-01", namespace="other")
    settle(ready)
    assert one(ready, Contract, "theirs", "other").status.reserved == ()
    contract_of(ready, "contract", 2)
    settle(ready)
    assert one(ready, Contract, "contract").status.reserved == had
    assert {claim_.spec.holder.uid for claim_ in ready.all("Claim") if claim_.spec.farm} == {"uid-default-contract"}
    assert asked(ready) == before
    assert one(ready, ZMachine, "web").status.condition("Ready").status == "True"
    edit(ready, one(ready, Contract, "theirs", "other"), public_ipv4=11)
    settle(ready)
    assert len({*one(ready, Contract, "theirs", "other").status.reserved} - {*had}) == 11


def test_claims_of_a_contract_that_is_gone_are_collected_when_nobody_counts_on_it(ready: World) -> None:
    ready.remove(one(ready, Contract, "contract").key)
    edit(ready, one(ready, ZMachine, "web"), public_ip=None)
    ready.remove(one(ready, PublicIP, "address").key)
    settle(ready)
    assert [claim_ for claim_ in ready.all("Claim") if claim_.spec.farm], "its guest runs with it until it is restarted"
    restart(ready, one(ready, ZMachine, "web"))
    settle(ready)
    assert [claim_ for claim_ in ready.all("Claim") if claim_.spec.farm] == []


def test_the_next_public_ip_of_a_name_has_its_address_and_no_other(ready: World) -> None:
    """Its kind was deleted: its share of the contract stays as long as a node has the address."""
    had = one(ready, PublicIP, "address").status.ipv4
    ready.remove(one(ready, PublicIP, "address").key)
    edit(ready, one(ready, Contract, "contract"), public_ipv4=1)
    settle(ready)
    for name in ("stranger", "address"):
        meta = Meta(name=name, namespace="default", uid=f"uid-{name}-anew", generation=1)
        ready.put(PublicIP(metadata=meta, spec=PublicIPSpec(contract="contract")))
        settle(ready)
    assert one(ready, PublicIP, "stranger").status.ipv4 is None
    assert one(ready, PublicIP, "address").status.ipv4 == had
    assert one(ready, PublicIP, "address").status.machine == "web"
    assert [entry.uid for entry in one(ready, Contract, "contract").status.in_use] == ["uid-address-anew"]
    assert one(ready, ZMachine, "web").status.condition("Ready").status == "True"


def test_no_contract_gets_an_address_that_is_in_use_without_one(ready: World) -> None:
    """As an older state of the cluster shows it: objects and claims are not there yet, what nodes have is."""
    for kind in ("Contract", "PublicIP", "Claim"):
        for obj in ready.all(kind):
            ready.remove(obj.key)
    left_on(ready, "n1", uid="uid-newer", name="newer", nics=[{"mac": "02:00:00:00:00:09", "ipv4": "203.0.113.19"}])
    left_on(ready, "n2", uid="uid-liar", nics=[{"mac": "02:00:00:00:00:0a", "ipv4": "203.0.113.20"}])  # not of this farm
    contract_of(ready, "theirs", 12, namespace="other")
    settle(ready)
    message = one(ready, Contract, "theirs", "other").status.condition("Ready").message
    assert "12 asked, 0 held, 11 free" in message
    edit(ready, one(ready, Contract, "theirs", "other"), public_ipv4=1)
    settle(ready)
    assert one(ready, Contract, "theirs", "other").status.reserved == ("203.0.113.20",)
