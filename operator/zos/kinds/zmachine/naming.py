"""Whom a machine asks for names: the resolver of its network, at its gateway (ADR 0023)."""

from __future__ import annotations

from zos.kinds.zmachine.part import MachineOnNode


def resolution(machine: MachineOnNode, nameservers: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Its name servers and its search list. ``nameservers`` are the node's. They stand beside the network's own only where that
    can't reach them, as all are IPv6's: who asks several takes the first answer, and outside nobody knows the network's names.
    """
    nic = next((nic for nic in machine.nics if nic.domain), None)
    if nic is None:
        return nameservers, ()
    beyond = nameservers if all(":" in server for server in nameservers) else ()
    return (nic.gateway, *beyond), (nic.domain or "",)
