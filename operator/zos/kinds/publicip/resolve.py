"""PublicIP: an IPv4 address of its contract, an IPv6 address by SLAAC, for one machine."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from zos.api import names
from zos.api.contract import Contract, ContractAddress
from zos.api.farm import Farm, FarmSpec, ipv4_of
from zos.api.meta import Reason
from zos.api.publicip import PublicAddress, PublicIP, PublicIPStatus, slaac
from zos.api.zmachine import ZMachine
from zos.world import indexes, publicuse
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Hold, Resolution, Verdict, ready, waiting

INDEXES = (
    *publicuse.INDEXES,
    Indexes(Farm),
    Indexes(Contract),
    Indexes(ZMachine, {"public_ip": lambda machine: [f"{machine.namespace}/{machine.spec.public_ip}"]}),
)


@dataclass(frozen=True)
class _User:
    """Who has the addresses. ``uid`` None: nobody may have them for now. ``why``: he does not ask for them (any more), and what
    it takes that they come free. ``left``: that is a guest in quarantine."""

    name: str | None
    uid: str | None
    why: str = ""
    left: bool = False

    @property
    def words(self) -> str:
        machine = f"ZMachine {self.name}" if self.name is not None else ""
        return ", ".join(part for part in (machine, self.why) if part)


@dataclass(frozen=True)
class _Seen:
    """A contract as its PublicIP looks at it. ``settled``: it has all the addresses that it will have for now."""

    farm: str
    leaving: bool
    settled: bool
    mine: IPv4Address | None


@dataclass(frozen=True)
class _Stock:
    """A contract's IPv4 addresses, as one sees them who gets none. ``unused``: some are used by no PublicIP. That is what is
    waited for: others of the contract that come and go wake nobody as long as all are in use."""

    taking: bool = False
    reserved: int = 0
    asked: int = 0
    unused: bool = False
    stalled: bool = False


def resolve(ip: PublicIP, world: Reader) -> Resolution:
    contract = Contract.key_of(ip.namespace, ip.spec.contract)
    if ip.deleting:
        user = _user(ip, ip.status.farm, (), world)
        return Resolution(
            verdict=waiting(Reason.DELETING, f"waiting for {user.words}" if user else "releasing its address"),
            status=_used_by(ip, user),
            releases=(contract,),
            waits_for=(user.words,) if user else (),
        )
    seen = world.view(Contract, ip.namespace, ip.spec.contract, lambda contract: _seen(contract, ip.uid))
    if seen is None:
        return Resolution(
            waiting(
                Reason.DEPENDENCY_NOT_READY,
                f"contract {ip.spec.contract} does not exist in this namespace: apply it",
            ),
            _used_by(ip, _user(ip, ip.status.farm, (), world)),
        )
    farm = world.view(Farm, "", seen.farm, indexes.offer)
    if farm is None:
        return Resolution(
            waiting(Reason.DEPENDENCY_NOT_READY, f"farm {seen.farm} does not exist: kubectl get farms shows those that do"),
            _used_by(ip, _user(ip, seen.farm, (), world)),
        )

    problem: Verdict | None = None
    holds: tuple[Hold, ...] = ()
    ipv4 = ipv6 = None
    if ip.spec.ipv6:
        ipv6, problem = _ipv6(ip, farm, seen.farm)
    if ip.spec.ipv4:
        address = seen.mine or (None if seen.leaving else _free(ip, seen.farm, world))
        if address is None:
            problem = _exhausted(ip, seen.farm, world)
            ipv4 = None if seen.settled else ip.status.ipv4  # its contract was made anew, and comes to it
        else:
            holds = (Hold(contract, ContractAddress(uid=ip.uid, ip=str(address), public_ip=ip.name)),)
            ipv4 = _with_gateway(address, farm, ip.status.ipv4)
    user = _user(ip, seen.farm, (ipv4.ip,) if ipv4 else (), world)
    status = _used_by(ip, user).model_copy(update={"farm": seen.farm, "mac": names.mac(ip.uid), "ipv4": ipv4, "ipv6": ipv6})
    if problem is None and user is not None and user.left:
        problem = waiting(Reason.QUARANTINED, f"it is used by {user.words}")
    addresses = " and ".join(entry.address for entry in (ipv4, ipv6) if entry)
    return Resolution(
        verdict=problem or ready(f"{addresses}, {f'used by {user.words}' if user else 'not used by a machine'}"),
        status=status,
        holds=holds,
        releases=() if ip.spec.ipv4 else (contract,),
    )


def _used_by(ip: PublicIP, user: _User | None) -> PublicIPStatus:
    return ip.status.model_copy(update={"machine": user and user.name, "machine_uid": user and user.uid})


def _stock(contract: Contract) -> _Stock:
    status = contract.status
    return _Stock(
        taking=bool(status.taking) or status.observed_generation < 0,
        reserved=len(status.reserved),
        asked=contract.spec.public_ipv4,
        unused=len(status.reserved) > len(status.in_use),
        stalled=status.stalled,
    )


def _seen(contract: Contract, uid: str) -> _Seen:
    status = contract.status
    mine = next((ipv4_of(entry.ip) for entry in status.in_use if entry.uid == uid), None)
    settled = status.observed_generation >= 0 and not status.taking and len(status.reserved) >= contract.spec.public_ipv4
    return _Seen(contract.spec.farm, contract.deleting, settled, mine)


def _user(ip: PublicIP, farm: str | None, addresses: tuple[str, ...], world: Reader) -> _User | None:
    """The one machine that has the addresses: whose node has them, else who was given them, else the oldest that asks."""
    asking = dict(world.views(ZMachine, lambda machine: (machine.uid, machine.name), public_ip=f"{ip.namespace}/{ip.name}"))
    had = ip.status.machine_uid
    living: str | None = None
    if ip.status.machine is not None:  # raises where it can't be read: then it is not known that it has let go
        living = world.view(ZMachine, ip.namespace, ip.status.machine, lambda machine: machine.uid)
    before = ip.status.ipv4.ip if ip.status.ipv4 is not None else ""
    keys = tuple(dict.fromkeys((names.mac(ip.uid), *addresses, *filter(None, (before,)))))
    there = [found for found in publicuse.on_nodes(keys, world) if found.owner.namespace == ip.namespace]
    if there:
        found = next((one for one in there if one.owner.uid == had), there[0])
        return _User(found.owner.name, found.owner.uid, "" if found.owner.uid in asking else _still(found))
    if had is not None and had in asking:
        return _User(asking[had], had)
    if had is not None and publicuse.unsettled(had, world):
        return _User(ip.status.machine, had, "whose node has not said yet that it is without it")
    left = publicuse.left(farm, (*([had] if had is not None and living != had else []), *keys), world)
    if left is not None and left.entry.uid not in asking:
        was = left.entry.uid == had
        return _User(ip.status.machine if was else None, had if was else None, left.words, left=True)
    return next((_User(name, uid) for uid, name in asking.items()), None)


def _still(found: publicuse.Occupant) -> str:
    if found.going:
        return f"which is not gone yet from its node ({found.namespace}); an administrator can give up the node"
    if found.until_restart:
        return "which runs with it until it is restarted: its condition RestartRequired says how"
    return (
        f"which does not ask for it any more but runs with it on its node ({found.namespace}): remove publicIP from its spec, "
        "name one that is Ready, or delete it"
    )


def _free(ip: PublicIP, farm: str, world: Reader) -> IPv4Address | None:
    """What it had (its contract was made anew), or an earlier one of its name that went without a word; else the lowest address
    that the contract holds, no PublicIP uses and no guest has. Not tracked: it is taken hold of at once."""

    def look(contract: Contract) -> tuple[frozenset[IPv4Address], IPv4Address | None]:
        in_use = contract.status.in_use
        unused = {*contract.status.reserved} - {entry.ip for entry in in_use}
        earlier = next((ipv4_of(entry.ip) for entry in in_use if entry.public_ip == ip.name and entry.uid != ip.uid), None)
        return frozenset(map(ipv4_of, unused)), earlier

    free, earlier = world.untracked.view(Contract, ip.namespace, ip.spec.contract, look) or (frozenset(), None)
    had = ipv4_of(ip.status.ipv4.ip) if ip.status.ipv4 is not None else None
    if had in free:
        return had
    if earlier is not None:
        return earlier
    used = publicuse.numbers(farm, world.untracked)
    return min((address for address in free if int(address) not in used), default=None)


def _exhausted(ip: PublicIP, farm: str, world: Reader) -> Verdict:
    """Why there is no address for it."""
    stock = world.view(Contract, ip.namespace, ip.spec.contract, _stock) or _Stock(taking=True)
    if stock.taking:
        return waiting(Reason.PROGRESSING, f"contract {ip.spec.contract} is taking its addresses")
    if stock.reserved < stock.asked:
        has = f"contract {ip.spec.contract} has {stock.reserved} of the {stock.asked} addresses it asks for"
        return waiting(Reason.DEPENDENCY_NOT_READY, f"{has}: its own conditions say why", stalled=stock.stalled)
    if stock.unused:  # but had by guests that nodes have in quarantine
        publicuse.numbers(farm, world)
    return waiting(
        Reason.INSUFFICIENT_CAPACITY,
        f"all {stock.reserved} addresses of contract {ip.spec.contract} are in use: raise its publicIPv4 or delete a PublicIP",
    )


def _with_gateway(address: IPv4Address, farm: FarmSpec, before: PublicAddress | None) -> PublicAddress:
    """The address as its range says; one whose range was removed keeps what it had."""
    range_ = farm.range_of(address)
    if range_ is None:
        kept = before is not None and before.ip == str(address)
        return before if kept and before else PublicAddress(address=f"{address}/32")
    return PublicAddress(address=f"{address}/{range_.network.prefixlen}", gateway=range_.gateway)


def _ipv6(ip: PublicIP, farm: FarmSpec, farm_name: str) -> tuple[PublicAddress | None, Verdict | None]:
    """The address that the machine gives itself: in the prefix it has already, else in the farm's first."""
    before = ip.status.ipv6
    if before is not None:
        return before, None
    if not farm.public_ipv6:
        return None, waiting(
            Reason.DEPENDENCY_NOT_READY,
            f"farm {farm_name} has no IPv6 prefix: set ipv6: false or ask its administrator",
            stalled=True,
        )
    return PublicAddress(address=f"{slaac(farm.public_ipv6[0].network, names.mac(ip.uid))}/64"), None
