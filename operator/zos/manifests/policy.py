"""The form of admission policies, and whom they are about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from zos.api.meta import GROUP
from zos.api.names import AGENT, CONTROLLER, CONTROLLER_NAMESPACE, NODE_ACCOUNT, NODE_PREFIX, RUNTIME_ACCOUNT

API_VERSION = "admissionregistration.k8s.io/v1"

Manifest = dict[str, Any]


def is_account(account: str) -> str:
    """That it is asked by one of the ServiceAccounts in the controller's namespace."""
    return f"request.userInfo.username == 'system:serviceaccount:{CONTROLLER_NAMESPACE}:{account}'"


_IS_AGENT = (
    f"request.userInfo.username.startsWith('system:serviceaccount:{NODE_PREFIX}')"
    f" && request.userInfo.username.endsWith(':{AGENT}')"
)
AGENTS_ONLY = {"name": "agent", "expression": _IS_AGENT}
CONTROLLER_ONLY = {"name": "controller", "expression": is_account(CONTROLLER)}
#: Whoever has an account of this project's.
OURS_ONLY = {
    "name": "ours",
    "expression": " || ".join([*map(is_account, (CONTROLLER, NODE_ACCOUNT, RUNTIME_ACCOUNT)), f"({_IS_AGENT})"]),
}
KUBELETS_ONLY = {"name": "kubelet", "expression": "'system:nodes' in request.userInfo.groups"}


def same(part: str, besides: Iterable[str]) -> str:
    """That a part of the object, a map, is as it was in all keys but some."""
    now, was = f"object.{part}", f"oldObject.{part}"
    free = ", ".join(f"'{key}'" for key in besides)
    return (
        f"{now}.all(key, key in [{free}] || (key in {was} && {now}[key] == {was}[key]))"
        f" && {was}.all(key, key in [{free}] || key in {now})"
    )


def policy(name: str, matching: Manifest, condition: Manifest, *validations: tuple[str, str]) -> tuple[Manifest, Manifest]:
    full = f"{name}.{GROUP}"
    return (
        {
            "apiVersion": API_VERSION,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": full},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": matching,
                "matchConditions": [condition],
                "validations": [
                    {"expression": expression, "message": message, "reason": "Forbidden"} for expression, message in validations
                ],
            },
        },
        {
            "apiVersion": API_VERSION,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": full},
            "spec": {"policyName": full, "validationActions": ["Deny"]},
        },
    )


def matching(group: str, version: str, resources: Iterable[str], operations: Sequence[str]) -> Manifest:
    return {"resourceRules": [rule(group, version, resources, operations)]}


def rule(group: str, version: str, resources: Iterable[str], operations: Sequence[str]) -> Manifest:
    return {"apiGroups": [group], "apiVersions": [version], "operations": list(operations), "resources": list(resources)}
