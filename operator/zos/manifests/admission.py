"""What the API server itself does to objects as they come in: gives them the controller's finalizer, and holds agents and the
controller to what is theirs where rights are too coarse.

The controller adds its finalizer too where it is missing (an older API server, an object from before), which is one more write
for each object and a moment in which a deletion would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic.alias_generators import to_camel

from zos.api.gridnode import GridNode, GridNodeStatus
from zos.api.meta import AGENT_FINALIZER, CONTROLLER_FINALIZER, GROUP, VERSION
from zos.api.names import AGENT, CONTROLLER, CONTROLLER_NAMESPACE, NODE_NAMESPACE, NODE_PREFIX
from zos.api.nodeworkload import NodeWorkload
from zos.kinds.kind import Kinds, Writer
from zos.kinds.registry import KINDS

_API_VERSION = "admissionregistration.k8s.io/v1"

Manifest = dict[str, Any]


def admission_objects(kinds: Kinds = KINDS) -> Sequence[Manifest]:
    """All of them: policies and their bindings."""
    return (*finalizing(kinds), *restricting(kinds))


def _finalized(kinds: Kinds) -> tuple[str, ...]:
    """Plurals of the kinds whose end the controller has to see to."""
    return tuple(model.PLURAL for model in kinds.written_by(Writer.TENANT, Writer.ADMINISTRATOR))


def finalizing(kinds: Kinds = KINDS) -> Sequence[Manifest]:
    """A MutatingAdmissionPolicy and its binding (Kubernetes 1.36 and later). What is not being deleted has the finalizer,
    whoever takes it off: else its end could go unnoticed."""
    name = f"finalizers.{GROUP}"
    return (
        {
            "apiVersion": _API_VERSION,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Ignore",  # the controller does it then
                "reinvocationPolicy": "Never",
                "matchConstraints": _matching(GROUP, VERSION, _finalized(kinds), ("CREATE", "UPDATE")),
                "matchConditions": [
                    {
                        "name": "without",
                        "expression": "!has(object.metadata.deletionTimestamp) && (!has(object.metadata.finalizers) || "
                        f"!('{CONTROLLER_FINALIZER}' in object.metadata.finalizers))",
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
            "metadata": {"name": name},
            "spec": {"policyName": name},
        },
    )


_AGENTS_ONLY = {
    "name": "agent",
    "expression": f"request.userInfo.username.startsWith('system:serviceaccount:{NODE_PREFIX}')"
    f" && request.userInfo.username.endsWith(':{AGENT}')",
}
_CONTROLLER_ONLY = {
    "name": "controller",
    "expression": f"request.userInfo.username == 'system:serviceaccount:{CONTROLLER_NAMESPACE}:{CONTROLLER}'",
}


def restricting(kinds: Kinds = KINDS) -> Sequence[Manifest]:
    """ValidatingAdmissionPolicies and their bindings (Kubernetes 1.30 and later). Who has no right to write a kind at all is
    stopped by RBAC before (`zos.manifests.rbac`)."""
    ours = sorted(to_camel(field) for field in GridNodeStatus.AGENTS)
    finalizers = "{}.metadata.?finalizers.orValue([])"
    was, now = finalizers.format("oldObject"), finalizers.format("object")
    return (
        *_policy(
            "agents-gridnodes",
            _matching(GROUP, VERSION, (GridNode.PLURAL, f"{GridNode.PLURAL}/status"), ("CREATE", "UPDATE", "DELETE")),
            _AGENTS_ONLY,
            (
                f"request.?subResource.orValue('') == 'status' && {_same('?status.orValue({})', ours)}",
                f"an agent changes nothing of a GridNode but {', '.join(ours)} in its status",
            ),
        ),
        *_policy(
            "agents-nodeworkloads",
            _matching(GROUP, VERSION, (NodeWorkload.PLURAL,), ("CREATE", "UPDATE", "DELETE")),
            _AGENTS_ONLY,
            (
                "request.operation == 'UPDATE' && object.spec == oldObject.spec"
                f" && {_same('metadata', ('finalizers', 'managedFields', 'resourceVersion'))}",
                "an agent changes nothing of a NodeWorkload but its status, and its own finalizer while it is being deleted",
            ),
            (
                f"request.operation == 'UPDATE' && ({now} == {was} || (has(oldObject.metadata.deletionTimestamp)"
                f" && {now} == {was}.filter(name, name != '{AGENT_FINALIZER}')))",
                f"an agent takes nothing but {AGENT_FINALIZER} off, and that only while the NodeWorkload is being deleted",
            ),
        ),
        *_policy(
            "agents-leases",
            _matching("coordination.k8s.io", "v1", ("leases",), ("CREATE", "UPDATE")),
            _AGENTS_ONLY,
            (f"object.metadata.name == '{AGENT}'", f"an agent has one Lease, {AGENT}"),
        ),
        *_policy(
            "controller-objects",
            {
                "resourceRules": [
                    _rule("", "v1", ("namespaces", "serviceaccounts"), ("UPDATE", "DELETE")),
                    _rule(
                        "rbac.authorization.k8s.io",
                        "v1",
                        ("roles", "rolebindings", "clusterroles", "clusterrolebindings"),
                        ("UPDATE", "DELETE"),
                    ),
                ]
            },
            _CONTROLLER_ONLY,
            (
                f"oldObject.metadata.?labels[?'{NODE_NAMESPACE}'].orValue('') == 'true'",
                f"the controller changes and deletes only what it made for nodes: what has the label {NODE_NAMESPACE}",
            ),
        ),
        *_policy(
            "finalizers-stay",
            _matching(GROUP, VERSION, _finalized(kinds), ("UPDATE",)),
            {"name": "let-go", "expression": f"'{CONTROLLER_FINALIZER}' in {was} && !('{CONTROLLER_FINALIZER}' in {now})"},
            (
                f"authorizer.group('{GROUP}').resource(request.resource.resource).subresource('finalizers')"
                ".namespace(request.?namespace.orValue('')).name(request.name).check('update').allowed()",
                f"only the controller takes {CONTROLLER_FINALIZER} off, when all nodes have let go of the object",
            ),
        ),
    )


def _same(part: str, besides: Iterable[str]) -> str:
    """That a part of the object, a map, is as it was in all keys but some."""
    now, was = f"object.{part}", f"oldObject.{part}"
    free = ", ".join(f"'{key}'" for key in besides)
    return (
        f"{now}.all(key, key in [{free}] || (key in {was} && {now}[key] == {was}[key]))"
        f" && {was}.all(key, key in [{free}] || key in {now})"
    )


def _policy(name: str, matching: Manifest, condition: Manifest, *validations: tuple[str, str]) -> tuple[Manifest, Manifest]:
    full = f"{name}.{GROUP}"
    return (
        {
            "apiVersion": _API_VERSION,
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
            "apiVersion": _API_VERSION,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": full},
            "spec": {"policyName": full, "validationActions": ["Deny"]},
        },
    )


def _matching(group: str, version: str, resources: Iterable[str], operations: Sequence[str]) -> Manifest:
    return {"resourceRules": [_rule(group, version, resources, operations)]}


def _rule(group: str, version: str, resources: Iterable[str], operations: Sequence[str]) -> Manifest:
    return {"apiGroups": [group], "apiVersions": [version], "operations": list(operations), "resources": list(resources)}
