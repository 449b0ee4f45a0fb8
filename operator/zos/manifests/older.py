"""The form of NodeWorkloads of release 0.2 in their CRD, so that the API server keeps what is written in it. Goes with release
0.4."""

from __future__ import annotations

from typing import Any

from zos.api.olderform import MEMBERS as MEMBERS

_SAID = "The form of release 0.2, until release 0.4: see `{}`."


def add_to(properties: dict[str, Any]) -> None:
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
