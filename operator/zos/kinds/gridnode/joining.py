"""What a Kubernetes Node that is to be one of the grid asks of its GridNode.

The GridNode is made where there is none. Of one that the controller made these fields are its own, as long as nobody else sets
them; of any other, none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from zos.api.core import Node
from zos.api.gridnode import Endpoint, GridNode
from zos.api.names import CONTROLLER, ENDPOINT, MANAGED_BY

Raw = Mapping[str, Any]
#: Field manager of what is written here, beside the controller's other writes.
MANAGER = f"{CONTROLLER}-nodes"
#: The fields of a spec that are written here.
_FIELDS = ("farm", "publicInterface", "gatewayDomain", "endpoint")
_FORM = f"{ENDPOINT} must be an IPv4 address, an IPv6 address or both, like 198.51.100.7 or 198.51.100.7,2001:db8::7"
#: Of what somebody wrote, so much is shown to him.
_SHOWN = 60


@dataclass(frozen=True)
class Membership:
    """What nodes that join by themselves are given: the farm that they are on, their interface on its public segment, and the
    domain under which their gateways publish names."""

    farm: str | None = None
    public_interface: str | None = None
    gateway_domain: str | None = None


@dataclass(frozen=True)
class Asked:
    """``fields`` of the GridNode's spec, as they travel; one that is not there is not to be set. ``problem``: what is wrong
    with the Node's annotation, in words for its author."""

    fields: Mapping[str, Any]
    problem: str | None = None


def asked(node: Node, given: Membership, current: Raw) -> Asked:
    """``current`` is the spec of the GridNode as it is. An annotation that can't be read changes nothing."""
    problem = None
    try:
        endpoint = endpoint_of(node.metadata.annotations.get(ENDPOINT))
        said = endpoint.wire() if endpoint is not None else None
    except ValueError as error:
        problem, said = str(error), current.get("endpoint")
    fields = {
        "farm": given.farm,
        "publicInterface": given.public_interface,
        "gatewayDomain": given.gateway_domain,
        "endpoint": said,
    }
    return Asked({name: value for name, value in fields.items() if value}, problem)


def fields_of(gridnode: GridNode) -> Raw:
    """Of its spec, those that are written here."""
    spec: Raw = gridnode.spec.wire()
    return {name: spec[name] for name in _FIELDS if name in spec}


def endpoint_of(text: str | None) -> Endpoint | None:
    """None: nothing is said. Raises ValueError, which says what is right."""
    if text is None or not text.strip():
        return None
    found: dict[str, str] = {}
    for part in text.split(","):
        try:
            address = ip_address(part.strip())
        except ValueError:
            raise ValueError(f"{_FORM}; {part.strip()[:_SHOWN]!r} is no address") from None
        if not _unicast(address):
            raise ValueError(f"{_FORM}; {address} is none that others can send to")
        family = f"ipv{address.version}"
        if family in found:
            raise ValueError(f"{_FORM}; there are two of IPv{address.version}")
        found[family] = str(address)
    return Endpoint(**found)


def _unicast(address: IPv4Address | IPv6Address) -> bool:
    """As the CRD has it (Go's ``netip.Addr.IsGlobalUnicast``), which has no zones and takes no IPv4 address for one of IPv6."""
    if isinstance(address, IPv6Address) and (address.scope_id or address.ipv4_mapped):
        return False
    broadcast = str(address) == "255.255.255.255"
    return not (address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local or broadcast)


def made_here(metadata: Raw) -> bool:
    """Whether the controller made a GridNode, and nobody has taken it over."""
    return bool((metadata.get("labels") or {}).get(MANAGED_BY) == CONTROLLER)


def of_others(metadata: Raw) -> frozenset[str]:
    """Of the fields that are written here, those that somebody else has set."""
    return frozenset(
        name
        for entry in metadata.get("managedFields") or ()
        if entry.get("manager") != MANAGER and not entry.get("subresource")
        for name in _FIELDS
        if f"f:{name}" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    )


def differs(found: Raw, fields: Raw, besides: frozenset[str] = frozenset()) -> bool:
    """Whether a GridNode's spec has these fields otherwise than it should, but for those of others."""
    return any(found.get(name) != fields.get(name) for name in _FIELDS if name not in besides)


def gridnode(name: str, fields: Raw, besides: frozenset[str] = frozenset()) -> Raw:
    """What is applied. What was written here before and is not in it any more goes."""
    return {
        "apiVersion": GridNode.API_VERSION,
        "kind": GridNode.KIND,
        "metadata": {"name": name, "labels": {MANAGED_BY: CONTROLLER}},
        "spec": {field: value for field, value in fields.items() if field not in besides},
    }
