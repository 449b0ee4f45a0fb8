"""PublicIP: an IPv4 address of its contract, an IPv6 address by SLAAC, for one machine."""

from __future__ import annotations

from ipaddress import IPv4Address

from zos.api.contract import Contract, ContractAddress
from zos.api.farm import Farm, FarmSpec, ipv4_of
from zos.api.meta import Reason
from zos.api.publicip import PublicAddress, PublicIP, slaac
from zos.api.zmachine import ZMachine
from zos.plan import names
from zos.world.resolution import Hold, Resolution, Verdict, ready, waiting
from zos.world.store import Indexes, Reader

INDEXES = (
    Indexes(Farm),
    Indexes(Contract),
    Indexes(ZMachine, {"publicIP": lambda machine: [f"{machine.namespace}/{machine.spec.public_ip}"]}),
)


def resolve(ip: PublicIP, world: Reader) -> Resolution:
    contract = Contract.key_of(ip.namespace, ip.spec.contract)
    machine = _machine(ip, world)
    status = ip.status.model_copy(update={"machine": machine and machine[0], "machine_uid": machine and machine[1]})
    if ip.deleting:
        return Resolution(
            verdict=waiting(Reason.DELETING, f"waiting for ZMachine {machine[0]}" if machine else "releasing its address"),
            status=status,
            releases=(contract,),
            waits_for=(f"ZMachine {machine[0]}",) if machine else (),
        )
    seen = world.view(Contract, ip.namespace, ip.spec.contract, lambda contract: _seen(contract, ip.uid))
    if seen is None:
        return Resolution(
            waiting(Reason.DEPENDENCY_NOT_READY, f"contract {ip.spec.contract} does not exist in this namespace"), status
        )
    farm_name, leaving, mine = seen
    farm = world.view(Farm, "", farm_name, lambda farm: farm.spec)
    if farm is None:
        return Resolution(waiting(Reason.DEPENDENCY_NOT_READY, f"farm {farm_name} does not exist"), status)
    status = status.model_copy(update={"farm": farm_name, "mac": names.mac(ip.uid)})

    problem: Verdict | None = None
    holds: tuple[Hold, ...] = ()
    ipv4 = ipv6 = None
    if ip.spec.ipv6:
        ipv6, problem = _ipv6(ip, farm, farm_name)
    if ip.spec.ipv4:
        address = mine or (None if leaving else _free(ip, world))
        if address is None:
            problem = _exhausted(ip, world)
        else:
            holds = (Hold(contract, ContractAddress(uid=ip.uid, ip=str(address), public_ip=ip.name)),)
            ipv4 = _with_gateway(address, farm, ip.status.ipv4)
    status = status.model_copy(update={"ipv4": ipv4, "ipv6": ipv6})
    addresses = " and ".join(entry.address for entry in (ipv4, ipv6) if entry)
    return Resolution(
        verdict=problem or ready(f"{addresses}, {f'used by ZMachine {machine[0]}' if machine else 'not used by a machine'}"),
        status=status,
        holds=holds,
        releases=() if ip.spec.ipv4 else (contract,),
    )


def _seen(contract: Contract, uid: str) -> tuple[str, bool, IPv4Address | None]:
    mine = next((ipv4_of(entry.ip) for entry in contract.status.in_use if entry.uid == uid), None)
    return contract.spec.farm, contract.deleting, mine


def _machine(ip: PublicIP, world: Reader) -> tuple[str, str] | None:
    """The one machine (name, uid) that has the address: who has it already, else the oldest that asks."""
    asking = world.where_view(ZMachine, "publicIP", f"{ip.namespace}/{ip.name}", lambda machine: (machine.name, machine.uid))
    if ip.status.machine is not None:  # raises where it can't be read: then it is not known that it has let go
        world.view(ZMachine, ip.namespace, ip.status.machine, lambda machine: machine.uid)
    return next((machine for machine in asking if machine[1] == ip.status.machine_uid), next(iter(asking), None))


def _free(ip: PublicIP, world: Reader) -> IPv4Address | None:
    """What it had (its contract was made anew), else the lowest address that the contract holds and no PublicIP uses. Not
    tracked: it is taken hold of at once."""
    found = world.glance_at(
        Contract,
        ip.namespace,
        ip.spec.contract,
        lambda contract: {*contract.status.reserved} - {entry.ip for entry in contract.status.in_use},
    )
    free = set(map(ipv4_of, found or ()))
    had = ipv4_of(ip.status.ipv4.address.partition("/")[0]) if ip.status.ipv4 is not None else None
    return had if had in free else min(free, default=None)


def _exhausted(ip: PublicIP, world: Reader) -> Verdict:
    def look(contract: Contract) -> tuple[bool, int, int, bool]:
        status = contract.status
        taking = bool(status.taking) or status.observed_generation < 0
        # The last is what is waited for: others of the contract that come and go wake nobody as long as all are in use.
        return taking, len(status.reserved), contract.spec.public_ipv4, len(status.reserved) > len(status.in_use)

    taking, reserved, asked, _ = world.view(Contract, ip.namespace, ip.spec.contract, look) or (True, 0, 0, False)
    if taking:
        return waiting(Reason.PROGRESSING, f"contract {ip.spec.contract} is taking its addresses")
    if reserved < asked:
        return waiting(
            Reason.DEPENDENCY_NOT_READY, f"contract {ip.spec.contract} has {reserved} of the {asked} addresses it asks for"
        )
    return waiting(
        Reason.INSUFFICIENT_CAPACITY,
        f"all {reserved} addresses of contract {ip.spec.contract} are in use: raise its publicIPv4 or delete a PublicIP",
    )


def _with_gateway(address: IPv4Address, farm: FarmSpec, before: PublicAddress | None) -> PublicAddress:
    """The address as its range says; one whose range was removed keeps what it had."""
    range_ = farm.range_of(address)
    if range_ is None:
        kept = before is not None and before.address.split("/")[0] == str(address)
        return before if kept and before else PublicAddress(address=f"{address}/32")
    return PublicAddress(address=f"{address}/{range_.network.prefixlen}", gateway=range_.gateway)


def _ipv6(ip: PublicIP, farm: FarmSpec, farm_name: str) -> tuple[PublicAddress | None, Verdict | None]:
    """The address that the machine gives itself: in the prefix it has already, else in the farm's first."""
    before = ip.status.ipv6
    if before is not None:
        return before, None
    if not farm.public_ipv6:
        return None, waiting(
            Reason.DEPENDENCY_NOT_READY, f"farm {farm_name} has no IPv6 prefix: set ipv6: false or ask its administrator"
        )
    return PublicAddress(address=f"{slaac(farm.public_ipv6[0].network, names.mac(ip.uid))}/64"), None
