"""What the API server itself does to objects as they come in: gives them the controller's finalizer, and holds agents, nodes'
pods, kubelets and the controller to what is theirs where rights are too coarse.

The controller adds its finalizer too where it is missing (an older API server, an object from before), which is one more write
for each object and a moment in which a deletion would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic.alias_generators import to_camel

from zos.api.gridnode import GridNode, GridNodeStatus
from zos.api.meta import AGENT_FINALIZER, CONTROLLER_FINALIZER, GROUP, VERSION
from zos.api.names import AGENT
from zos.api.nodeworkload import NodeWorkload
from zos.kinds.kind import Kinds, Writer
from zos.kinds.registry import KINDS
from zos.manifests import confinement
from zos.manifests.policy import AGENTS_ONLY, API_VERSION, Manifest, matching, policy, same


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
            "apiVersion": API_VERSION,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Ignore",  # the controller does it then
                "reinvocationPolicy": "Never",
                "matchConstraints": matching(GROUP, VERSION, _finalized(kinds), ("CREATE", "UPDATE")),
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
            "apiVersion": API_VERSION,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        },
    )


def restricting(kinds: Kinds = KINDS) -> Sequence[Manifest]:
    """ValidatingAdmissionPolicies and their bindings (Kubernetes 1.30 and later). Who has no right to write a kind at all is
    stopped by RBAC before (`zos.manifests.rbac`)."""
    ours = sorted(to_camel(field) for field in GridNodeStatus.AGENTS)
    finalizers = "{}.metadata.?finalizers.orValue([])"
    was, now = finalizers.format("oldObject"), finalizers.format("object")
    return (
        *policy(
            "agents-gridnodes",
            matching(GROUP, VERSION, (GridNode.PLURAL, f"{GridNode.PLURAL}/status"), ("CREATE", "UPDATE", "DELETE")),
            AGENTS_ONLY,
            (
                f"request.?subResource.orValue('') == 'status' && {same('?status.orValue({})', ours)}",
                f"an agent changes nothing of a GridNode but {', '.join(ours)} in its status",
            ),
        ),
        *policy(
            "agents-nodeworkloads",
            matching(GROUP, VERSION, (NodeWorkload.PLURAL,), ("CREATE", "UPDATE", "DELETE")),
            AGENTS_ONLY,
            (
                "request.operation == 'UPDATE' && object.spec == oldObject.spec"
                f" && {same('metadata', ('finalizers', 'managedFields', 'resourceVersion'))}",
                "an agent changes nothing of a NodeWorkload but its status, and its own finalizer while it is being deleted",
            ),
            (
                f"request.operation == 'UPDATE' && ({now} == {was} || (has(oldObject.metadata.deletionTimestamp)"
                f" && {now} == {was}.filter(name, name != '{AGENT_FINALIZER}')))",
                f"an agent takes nothing but {AGENT_FINALIZER} off, and that only while the NodeWorkload is being deleted",
            ),
        ),
        *policy(
            "agents-leases",
            matching("coordination.k8s.io", "v1", ("leases",), ("CREATE", "UPDATE")),
            AGENTS_ONLY,
            (f"object.metadata.name == '{AGENT}'", f"an agent has one Lease, {AGENT}"),
        ),
        *confinement.tokens(),
        *confinement.endpoints(),
        *confinement.controllers_objects(),
        *policy(
            "finalizers-stay",
            matching(GROUP, VERSION, _finalized(kinds), ("UPDATE",)),
            {"name": "let-go", "expression": f"'{CONTROLLER_FINALIZER}' in {was} && !('{CONTROLLER_FINALIZER}' in {now})"},
            (
                f"authorizer.group('{GROUP}').resource(request.resource.resource).subresource('finalizers')"
                ".namespace(request.?namespace.orValue('')).name(request.name).check('update').allowed()",
                f"only the controller takes {CONTROLLER_FINALIZER} off, when all nodes have let go of the object",
            ),
        ),
    )
