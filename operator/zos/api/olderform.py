"""What release 0.2 wrote in another form. Goes with release 0.4.

NodeWorkloads are read, and answered, in that form. Parts had a field each in spec and status, called by other names, and only
machines had secrets, which were variables. An agent reads both forms; a controller asks an agent of release 0.2 in the older
one.

Addresses of a Network were of machines alone: ``machine`` and ``uid`` beside ``ip`` and ``node``. They are read in that form,
and written in both: a controller of 0.2 can't read a Network with an address that lacks those two, and under the definitions of
0.2 the API server drops ``owner``, so that nobody would know who has what. What is no machine keeps its address under a
controller of 0.2 for as long as it has a NodeWorkload. That controller writes the address down as a machine's; the owner, who
finds it by its uid, puts that right when this release is back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Old name → the kind's.
MEMBERS = {"network": "network", "machine": "zmachine", "mount": "zmount"}
_SECRETS, _VARIABLE = "sealedEnv", "env/"
#: What told whose an address is.
ADDRESS = ("machine", "uid")


def spec_read(data: Any) -> Any:
    """As it would be said today; what is no such spec is given back as it is."""
    member = _member(data, ("part", "parts"))
    if member is None:
        return data
    part = data[member]
    read = {key: value for key, value in data.items() if key not in MEMBERS}
    read |= {"part": {MEMBERS[member]: part}, "older": True}
    if isinstance(part, Mapping) and isinstance(sealed := part.get(_SECRETS), list | tuple):
        read["secrets"] = [{**entry, "name": f"{_VARIABLE}{entry['name']}"} for entry in sealed]
    return read


def spec_written(wire: dict[str, Any]) -> dict[str, Any]:
    """The same for an agent of release 0.2."""
    parts, secrets = wire.pop("part"), wire.pop("secrets")
    for old, new in MEMBERS.items():
        if new in parts:
            wire[old] = dict(parts[new])
    if "machine" in wire:
        wire["machine"][_SECRETS] = [entry | {"name": entry["name"].removeprefix(_VARIABLE)} for entry in secrets]
    return wire


def status_read(data: Any) -> Any:
    member = _member(data, ("state", "states"))
    if member is None:
        return data
    read = {key: value for key, value in data.items() if key not in MEMBERS}
    return read | {"state": {MEMBERS[member]: data[member]}, "older": True}


def status_written(wire: dict[str, Any]) -> dict[str, Any]:
    states = wire.pop("state")
    return wire | {old: states[new] for old, new in MEMBERS.items() if new in states}


def address_read(data: Any) -> Any:
    """An entry of ``Network.status.addresses`` as it would be said today; any other is given back as it is."""
    if not isinstance(data, Mapping) or data.get("owner") is not None or "machine" not in data:
        return data
    owner = {"kind": "ZMachine", "name": data["machine"], "uid": data.get("uid")}
    return {key: value for key, value in data.items() if key not in ADDRESS} | {"owner": owner, "older": True}


def address_written(wire: dict[str, Any]) -> dict[str, Any]:
    """The same in both forms."""
    return wire | {"machine": wire["owner"]["name"], "uid": wire["owner"]["uid"]}


def _member(data: Any, today: tuple[str, ...]) -> str | None:
    """The old name under which something is said, where nothing is said in today's form."""
    if not isinstance(data, Mapping) or any(name in data for name in today):
        return None
    return next((name for name in MEMBERS if data.get(name) is not None), None)
