"""The forms of release 0.2 in CRDs, so that the API server keeps what is written in them. Goes with release 0.4."""

from __future__ import annotations

from typing import Any

from zos.api.meta import Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.olderform import ADDRESS
from zos.api.olderform import MEMBERS as MEMBERS
from zos.api.schema import Rule, rules

_SAID = "The form of release 0.2, until release 0.4: see `{}`."


def add_to(model: type[Object], properties: dict[str, Any]) -> None:
    if issubclass(model, NodeWorkload):
        _members(properties)
    elif issubclass(model, Network):
        _address(properties["status"]["properties"]["addresses"]["items"])


def _address(entry: dict[str, Any]) -> None:
    """Beside ``owner`` what told of machines alone: a controller of either release writes what the other reads."""
    owner = entry["properties"]["owner"]["properties"]
    for old, new in zip(ADDRESS, ("name", "uid"), strict=True):
        entry["properties"][old] = owner[new] | {"description": _SAID.format(f"owner.{new}")}
    entry["required"].remove("owner")
    entry |= rules(Rule("has(self.owner) || has(self.machine) && has(self.uid)", "an address has an owner"))


def _members(properties: dict[str, Any]) -> None:
    """Beside the envelope, in spec and status, the fields that each kind had."""
    for section, member in (("spec", "part"), ("status", "state")):
        fields = properties[section]["properties"]
        today = fields[member]["properties"]
        for old, new in MEMBERS.items():
            if new in today:
                fields[old] = today[new] | {"description": _SAID.format(f"{member}.{new}")}
    spec = properties["spec"]["properties"]
    if "machine" in spec:
        sealed = spec["secrets"] | {"description": _SAID.format("secrets")}
        spec["machine"] = spec["machine"] | {"properties": spec["machine"]["properties"] | {"sealedEnv": sealed}}
