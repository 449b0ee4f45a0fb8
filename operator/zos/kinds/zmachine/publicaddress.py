"""The public addresses of a machine: whether its PublicIP is there, is its alone, and on which nodes it can be used."""

from __future__ import annotations

from dataclasses import dataclass

from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.publicip import PublicAddress, PublicIP
from zos.api.zmachine import ZMachine
from zos.kinds.zmachine.part import PublicNic
from zos.world import placement
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Verdict, waiting

INDEXES = (Indexes(PublicIP),)


@dataclass(frozen=True)
class Public:
    """A PublicIP that this machine has. ``ipv4`` and ``ipv6`` with prefix length."""

    name: str
    farm: str
    mac: str
    ipv4: str | None
    gateway: str | None
    ipv6: str | None

    def nic(self, interface: str) -> PublicNic:
        return PublicNic(interface=interface, mac=self.mac, ipv4=self.ipv4, gateway=self.gateway, ipv6=self.ipv6)


def find(machine: ZMachine, world: Reader) -> Public | Verdict | None:
    """What the machine has; why it has it not (yet); None if it asks for none."""
    name = machine.spec.public_ip
    if name is None:
        return None
    seen = world.view(PublicIP, machine.namespace, name, lambda ip: (ip.deleting, ip.spec, ip.status))
    if seen is None:
        return waiting(Reason.DEPENDENCY_NOT_READY, f"PublicIP {name} does not exist in this namespace: apply it")
    leaving, spec, status = seen
    condition = status.condition("Ready")
    why = condition.message if condition is not None and condition.status != "True" else ""
    if status.machine_uid not in (None, machine.uid):  # the PublicIP itself decides whose it is
        said = why or "an address has one machine at a time"
        return waiting(Reason.CONFLICT, f"PublicIP {name} is used by ZMachine {status.machine}: {said}")
    if leaving and status.machine_uid is None:
        message = f"PublicIP {name} is being deleted: apply it again when it is gone, or take publicIP out"
        return waiting(Reason.DEPENDENCY_NOT_READY, message)
    lacks_ipv4, lacks_ipv6 = spec.ipv4 and status.ipv4 is None, spec.ipv6 and status.ipv6 is None
    if status.machine_uid is None or lacks_ipv4 or lacks_ipv6 or status.farm is None or status.mac is None:
        return waiting(
            Reason.DEPENDENCY_NOT_READY,
            f"PublicIP {name} is not ready: {why or 'it has no addresses yet'}",
            stalled=status.stalled,
        )
    ipv4 = status.ipv4 if spec.ipv4 and status.ipv4 is not None else PublicAddress(address="")
    ipv6 = status.ipv6.address if spec.ipv6 and status.ipv6 is not None else None
    return Public(name, status.farm, status.mac, ipv4.address or None, ipv4.gateway, ipv6)


def interface(public: Public, node: str, world: Reader) -> str | Verdict:
    """The node's interface on the segment of the address' farm, or why the address can't be used there."""

    def look(found: GridNode) -> tuple[str | None, str | None]:
        return placement.off_segment(placement.candidate(found), public.farm), found.spec.public_interface

    seen = world.view(GridNode, "", node, look)
    if seen is None:
        return waiting(Reason.DEPENDENCY_NOT_READY, f"node {node} does not exist any more")
    apart, name = seen
    if apart is not None or name is None:
        return waiting(Reason.CONFLICT, f"PublicIP {public.name} of farm {public.farm} can't be used on its node: {apart}")
    return name
