"""What Flux makes of an object: kstatus, by the rules that its documentation gives for kinds that it does not know
(https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md).

The package itself judges the same objects in ``tests/api/test_gitops.py``; this is for tests that need nothing but Python."""

from __future__ import annotations

from functools import cache
from typing import Any

from zos.kinds.registry import KINDS
from zos.kube.client import Raw
from zos.manifests.crd import crd


def kstatus(raw: Raw) -> str:
    """``Terminating``, ``InProgress``, ``Failed`` or ``Current``."""
    meta, status = raw["metadata"], raw.get("status", {})
    if meta.get("deletionTimestamp"):
        return "Terminating"
    if status.get("observedGeneration", meta.get("generation")) != meta.get("generation"):
        return "InProgress"
    said = {condition["type"]: condition["status"] for condition in status.get("conditions", ())}
    for condition in status.get("conditions", ()):  # whichever stands first
        if condition["type"] in ("Reconciling", "Stalled") and condition["status"] == "True":
            return "InProgress" if condition["type"] == "Reconciling" else "Failed"
    return "Current" if said.get("Ready", "True") == "True" else "InProgress"


def served(raw: Raw) -> Raw:
    """As the API server gives it, which fills in what the CRD says of a status that is not there yet."""
    default = _status_default(raw["kind"])
    return {**raw, "status": {**default, **raw.get("status", {})}} if default is not None else raw


@cache
def _status_default(kind: str) -> dict[str, Any] | None:
    (version,) = crd(KINDS[kind].model)["spec"]["versions"]
    default: dict[str, Any] | None = version["schema"]["openAPIV3Schema"]["properties"].get("status", {}).get("default")
    return default
