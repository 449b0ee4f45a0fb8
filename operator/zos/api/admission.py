"""What the API server itself does to objects as they come in: gives them the controller's finalizer.

The controller adds it too where it is missing (an older API server, an object from before), which is one more write for each
object and a moment in which a deletion would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zos.api.contract import Contract, NameContract
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import CONTROLLER_FINALIZER, GROUP, VERSION, Object
from zos.api.network import Network
from zos.api.publicip import PublicIP
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount

#: Kinds whose end the controller has to see to.
FINALIZED: tuple[type[Object], ...] = (GridNode, Farm, Contract, NameContract, Network, PublicIP, ZMount, ZMachine)
_NAME = f"finalizers.{GROUP}"
_API_VERSION = "admissionregistration.k8s.io/v1"


def admission_objects() -> Sequence[dict[str, Any]]:
    """A MutatingAdmissionPolicy and its binding (Kubernetes 1.36 and later)."""
    return (
        {
            "apiVersion": _API_VERSION,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": _NAME},
            "spec": {
                "failurePolicy": "Ignore",  # the controller does it then
                "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "resourceRules": [
                        {
                            "apiGroups": [GROUP],
                            "apiVersions": [VERSION],
                            "operations": ["CREATE"],
                            "resources": [model.PLURAL for model in FINALIZED],
                        }
                    ]
                },
                "matchConditions": [
                    {
                        "name": "without",
                        "expression": "!has(object.metadata.finalizers) || "
                        f"!('{CONTROLLER_FINALIZER}' in object.metadata.finalizers)",
                    }
                ],
                "mutations": [
                    {
                        "patchType": "JSONPatch",
                        "jsonPatch": {
                            "expression": "has(object.metadata.finalizers) ? "
                            f'[JSONPatch{{op: "add", path: "/metadata/finalizers/-", value: "{CONTROLLER_FINALIZER}"}}] : '
                            f'[JSONPatch{{op: "add", path: "/metadata/finalizers", value: ["{CONTROLLER_FINALIZER}"]}}]'
                        },
                    }
                ],
            },
        },
        {
            "apiVersion": _API_VERSION,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": _NAME},
            "spec": {"policyName": _NAME},
        },
    )
