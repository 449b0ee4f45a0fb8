"""Contract: reserves addresses of a farm, all or nothing, and keeps them for its life.

An address goes through three writes: the contract's status says that it is being taken (guarded by the contract's
resourceVersion: two leaders can't choose differently), a Claim makes it exclusive among contracts, then the status says that
it is reserved. Who is served first when addresses are short: the oldest contract whose wish fits, so a large wish that cannot
be met does not keep smaller ones waiting.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from itertools import chain, islice

from zos.api import names
from zos.api.contract import Claim, Contract, ContractAddress, ContractStatus
from zos.api.core import Namespace
from zos.api.farm import Farm, FarmSpec, ipv4_of
from zos.api.meta import Reason
from zos.api.publicip import PublicIP
from zos.api.quota import Amounts
from zos.world import indexes, publicuse, quotas
from zos.world.objects import Indexes, Unreadable
from zos.world.reader import Look, Reader
from zos.world.resolution import ClaimWanted, Resolution, Verdict, ready, waiting

INDEXES = (
    *publicuse.INDEXES,
    *quotas.INDEXES,
    indexes.CLAIMS,
    indexes.CONTRACTED,
    Indexes(Farm),
    Indexes(Namespace),
    Indexes(
        Claim,
        {
            "name": lambda claim: [f"{claim.spec.holder.namespace}/{claim.spec.holder.name}"] if claim.spec.farm else [],
        },
    ),
    Indexes(Contract, {"farm": lambda contract: [contract.spec.farm]}),
    Indexes(
        PublicIP,
        {
            "address": lambda ip: {f"{ip.namespace}/{ip.spec.contract}": ip.status.ipv4.ip} if ip.status.ipv4 else {},
            "given": lambda ip: {ip.status.farm: int(ipv4_of(ip.status.ipv4.ip))} if ip.status.farm and ip.status.ipv4 else {},
        },
    ),
)


def resolve(contract: Contract, world: Reader) -> Resolution:
    own = dict(world.views(Claim, lambda claim: (ipv4_of(claim.spec.thing), bool(claim.uid)), holder=contract.uid))
    held = _reserved(contract, own, world)
    users = _users(contract, world)
    if contract.deleting:
        return _settle(contract, held, users, _leaving(users), waits_for=tuple(users.values()))
    wanted = contract.spec.public_ipv4
    if wanted < len(held):
        return _shrink(contract, world, held, users)
    if wanted == len(held):
        return _settle(contract, held, users, ready(_summary(held, users)))
    return _grow(contract, world, held, own, users)


def _reserved(contract: Contract, own: Mapping[IPv4Address, bool], world: Reader) -> list[IPv4Address]:
    """What the contract has for good. A status that was lost (restored without it) is made from the claims again."""
    if contract.status.observed_generation < 0 and not contract.status.reserved:
        return sorted(address for address, written in own.items() if written)
    return [a for a in map(ipv4_of, contract.status.reserved) if a in own or not _elsewhere(a, contract, world)]


def _elsewhere(address: IPv4Address, contract: Contract, world: Reader) -> bool:
    """Whether another contract has an address. An earlier one of the name went without a word: its addresses are this one's."""
    holder = world.view(Claim, "", claim_name(address), lambda claim: claim.spec.holder)
    return holder is not None and (holder.kind, holder.namespace, holder.name) != contract.key


def claim_name(address: IPv4Address) -> str:
    return f"ipv4.{address}"


def _users(contract: Contract, world: Reader) -> dict[IPv4Address | str, str]:
    """Who uses the contract: address (or, without an IPv4 address, uid) → PublicIP by name."""
    found: dict[IPv4Address | str, str] = {}
    holders = {entry.uid: ipv4_of(entry.ip) for entry in contract.status.in_use}
    users = world.views(PublicIP, lambda ip: (ip.uid, ip.name), contract=f"{contract.namespace}/{contract.name}")
    for uid, name in users:
        found[holders.get(uid, uid)] = f"PublicIP {name}"
    for entry in contract.status.in_use:
        if ipv4_of(entry.ip) not in found and (user := _may_use(entry, contract, world)) is not None:
            found[ipv4_of(entry.ip)] = user
    return found


def _may_use(entry: ContractAddress, contract: Contract, world: Reader) -> str | None:
    """Who uses an address whose PublicIP is not known; None: it has gone, and the address from nodes."""
    name = f"PublicIP {entry.public_ip}"
    try:
        world.view(PublicIP, contract.namespace, entry.public_ip, lambda ip: ip.uid)
    except Unreadable:
        return name
    keys = (names.mac(entry.uid), entry.ip)
    if there := publicuse.on_nodes(keys, world):
        return f"{name}, which is gone while ZMachine {there[0].owner.name} runs with its address"
    left = publicuse.left(contract.spec.farm, keys, world)
    return f"{name}, which is gone while its address is used by {left.words}" if left is not None else None


def _leaving(users: dict[IPv4Address | str, str]) -> Verdict:
    return waiting(Reason.DELETING, f"waiting for {', '.join(users.values())}" if users else "releasing its addresses")


def _grow(
    contract: Contract,
    world: Reader,
    held: list[IPv4Address],
    own: Mapping[IPv4Address, bool],
    users: dict[IPv4Address | str, str],
) -> Resolution:
    farm = world.view(Farm, "", contract.spec.farm, _terms)
    if farm is None:
        message = f"farm {contract.spec.farm} does not exist: kubectl get farms shows those that do"
        return _settle(contract, held, users, waiting(Reason.DEPENDENCY_NOT_READY, message))
    name, spec, leaving = farm
    if leaving:
        problem = waiting(Reason.DEPENDENCY_NOT_READY, f"farm {name} is being deleted: ask for addresses of another")
        return _settle(contract, held, users, problem)
    if spec.allowed_namespaces is not None:
        labels = world.view(Namespace, "", contract.namespace, lambda namespace: namespace.metadata.labels) or {}
        if not spec.allowed_namespaces.matches(labels):
            problem = waiting(
                Reason.INVALID_SPEC,
                f"farm {name} does not admit namespace {contract.namespace}: its allowedNamespaces selects by label, "
                "ask the farm's administrator",
            )
            return _settle(contract, held, users, problem)
    missing = contract.spec.public_ipv4 - len(held)
    begun = [a for a in map(ipv4_of, contract.status.taking) if spec.gives(a) and not _elsewhere(a, contract, world)]
    taking = begun[:missing]
    if len(taking) == missing and all(own.get(address) for address in taking):
        return _settle(contract, sorted([*held, *taking]), users, ready())
    taking += _had_before(contract, spec, {*held, *taking}, world)[: missing - len(taking)]
    if len(taking) < missing:
        asked = Amounts(public_ipv4=missing - len(taking))
        if (over := quotas.refused(world, contract.namespace, asked)) is not None:
            return _settle(contract, held, users, over, taking=begun[:missing])
        # Not tracked: what is found is taken hold of at once.
        taken = set(world.untracked.parts(Claim, held_of=name)) | _left_by_others(name, spec, world) | {*map(int, taking)}
        taken |= _in_use(name, world.untracked)
        free = spec.size - len(spec.given(taken))
        promised = sum(_ahead(contract, world, free))
        if missing - len(taking) > free - promised:
            return _settle(contract, held, users, _exhausted(contract, world, len(held), free, promised))
        untaken = (n for n in spec.numbers() if n not in taken and not _claimed(IPv4Address(n), world))
        chosen = [IPv4Address(number) for number in islice(untaken, promised, promised + missing - len(taking))]
        if len(taking) + len(chosen) < missing:  # farms at odds: another one has given some of these addresses
            return _settle(contract, held, users, _exhausted(contract, world, len(held), len(chosen), promised))
        taking += chosen
    return _settle(contract, held, users, waiting(Reason.PROGRESSING, f"taking {missing} addresses"), taking=taking)


def _had_before(contract: Contract, spec: FarmSpec, has: Container[IPv4Address], world: Reader) -> list[IPv4Address]:
    """Addresses that were an earlier contract's of its name, which went without a word; those that its PublicIPs have first."""
    name = f"{contract.namespace}/{contract.name}"
    used = {ipv4_of(one) for one in world.untracked.parts(PublicIP, address=name)}
    claims = world.views(Claim, lambda claim: (claim.spec.holder, ipv4_of(claim.spec.thing)), name=name)
    claimed = {ip for holder, ip in claims if holder.kind == contract.KIND and holder.uid != contract.uid}
    fit = [*sorted(used), *sorted(claimed - used)]
    return [ip for ip in fit if spec.gives(ip) and ip not in has and not _elsewhere(ip, contract, world)]


def _in_use(farm: str, look: Look) -> set[int]:
    """Addresses that PublicIPs or machines have, whatever became of the contracts that reserved them."""
    return {*look.parts(PublicIP, given=farm), *publicuse.numbers(farm, look)}


def _left_by_others(farm: str, spec: FarmSpec, world: Reader) -> set[int]:
    """Addresses of this farm that were another's once and are held there still."""
    left = world.untracked.views(Farm, lambda other: () if other.name == farm else other.status.out_of_range)
    return spec.among(chain.from_iterable(left))


def _claimed(address: IPv4Address, world: Reader) -> bool:
    return world.untracked.view(Claim, "", claim_name(address), lambda _: True) is not None


def _exhausted(contract: Contract, world: Reader, held: int, free: int, promised: int) -> Verdict:
    # Wakes the contract when the farm's numbers change: one change for all that came free together. Where they tell of
    # something else than the claims known here, one of the two is about to change.
    if world.view(Farm, "", contract.spec.farm, _free_there) != free:
        world.parts(Claim, held_of=contract.spec.farm)
        _in_use(contract.spec.farm, world)
    available = f"{free} free" + (f" ({promised} of them promised to older contracts)" if promised else "")
    return waiting(
        Reason.INSUFFICIENT_CAPACITY,
        f"farm {contract.spec.farm}: {contract.spec.public_ipv4} asked, {held} held, {available}; "
        "waiting for addresses to come free or the farm to grow",
    )


def _ahead(contract: Contract, world: Reader, free: int) -> Iterator[int]:
    """How many of the free addresses each older contract of the farm is about to take."""
    waiting_ = world.views(Contract, _wish, farm=contract.spec.farm)
    mine = (contract.metadata.creation_timestamp, contract.namespace, contract.name)
    for uid, age, missing in waiting_:
        if uid != contract.uid and age < mine and 0 < missing <= free:
            free -= missing
            yield missing


def _wish(contract: Contract) -> tuple[str, tuple[str, str, str], int]:
    """(uid, age, how many addresses it has not even begun to take)."""
    has = len(contract.status.reserved) + len(contract.status.taking)
    age = (contract.metadata.creation_timestamp, contract.namespace, contract.name)
    return contract.uid, age, 0 if contract.deleting else max(0, contract.spec.public_ipv4 - has)


def _shrink(contract: Contract, world: Reader, held: list[IPv4Address], users: dict[IPv4Address | str, str]) -> Resolution:
    """Gives back unused addresses only, those that the farm no longer offers first, then the highest."""
    surplus = len(held) - contract.spec.public_ipv4
    spec = world.view(Farm, "", contract.spec.farm, indexes.offer)
    unused = [address for address in held if address not in users]
    unused.sort(key=lambda address: (spec is not None and spec.gives(address), -int(address)))
    kept = sorted(set(held) - set(unused[:surplus]))
    if len(unused) >= surplus:
        return _settle(contract, kept, users, ready(_summary(kept, users)))
    using = [f"{user} ({address})" for address, user in users.items() if isinstance(address, IPv4Address)]
    return _settle(
        contract,
        kept,
        users,
        waiting(
            Reason.CONFLICT,
            f"asked to shrink to {contract.spec.public_ipv4}, but {len(using)} addresses are in use by "
            f"{', '.join(using)}: delete a PublicIP or ask for more",
        ),
    )


def _summary(held: list[IPv4Address], users: dict[IPv4Address | str, str]) -> str:
    return f"{len(held)} addresses reserved, {sum(1 for address in held if address in users)} in use"


def _settle(
    contract: Contract,
    held: list[IPv4Address],
    users: dict[IPv4Address | str, str],
    verdict: Verdict,
    waits_for: tuple[str, ...] = (),
    taking: Sequence[IPv4Address] = (),
) -> Resolution:
    # One that was given to the next PublicIP of a name is listed twice for a moment: the last is right.
    in_use = tuple({e.ip: e for e in contract.status.in_use if ipv4_of(e.ip) in users and ipv4_of(e.ip) in held}.values())
    if verdict.ready and not verdict.message:
        verdict = ready(_summary(held, users))
    return Resolution(
        verdict=verdict,
        status=ContractStatus(
            reserved=tuple(map(str, held)),
            taking=tuple(map(str, taking)),
            in_use=in_use,
            free=len(held) - len(in_use),
        ),
        guarded=True,
        claims=tuple(ClaimWanted(claim_name(address), str(address), contract.spec.farm) for address in (*held, *taking)),
        waits_for=waits_for,
    )


# Every contract of a farm looks at that through these: as one function each, they are asked once for all.


def _terms(farm: Farm) -> tuple[str, FarmSpec, bool]:
    return farm.name, farm.spec, farm.deleting


def _free_there(farm: Farm) -> int:
    return farm.status.ipv4.free
