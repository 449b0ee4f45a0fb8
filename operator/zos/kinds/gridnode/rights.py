"""A node's namespace and what its agent may do there, as Kubernetes objects.

They belong to the kind and not to `zos.manifests`: what is there is generated from the list of all kinds, once for a release,
while these are what resolving a GridNode asks for, anew for each node of a grid that runs. What is the same for every node is a
role of the installation (`zos.manifests.rbac`), and only bound here: the controller need not have what it gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zos.api.meta import GROUP
from zos.api.names import (
    AGENT,
    AGENT_ROLE,
    CONTROLLER,
    CONTROLLER_NAMESPACE,
    MANAGED_BY,
    NODE,
    NODE_ACCOUNT,
    NODE_NAMESPACE,
    TOKEN_ROLE,
)

_RBAC = "rbac.authorization.k8s.io"
Manifest = Mapping[str, Any]


def rule(groups: list[str], resources: list[str], verbs: list[str], names: list[str] | None = None) -> dict[str, Any]:
    """A rule of RBAC; ``names`` are those of the only objects that it is about."""
    found: dict[str, Any] = {"apiGroups": groups, "resources": resources, "verbs": verbs}
    return found | ({"resourceNames": names} if names else {})


def agent_rules() -> list[dict[str, Any]]:
    """What an agent may do in its own node's namespace. What these are too coarse for, admission holds it to."""
    return [
        rule([GROUP], ["nodeworkloads"], ["get", "list", "watch", "patch"]),
        rule([GROUP], ["nodeworkloads/status"], ["get", "patch"]),
        rule(["coordination.k8s.io"], ["leases"], ["create"]),
        rule(["coordination.k8s.io"], ["leases"], ["get", "list", "watch", "patch", "update"], [AGENT]),
        rule([""], ["events"], ["create", "patch"]),
    ]


def token_rules() -> list[dict[str, Any]]:
    """What the account of the agents' pods may do in every node's namespace. Admission holds it to the node of the pod."""
    return [rule([""], ["serviceaccounts/token"], ["create"], [AGENT])]


def agent_objects(node: str, namespace: str) -> tuple[Manifest, ...]:
    """A node's namespace and what its agent may do: its own workloads, its own GridNode's status, its own Lease; and that its
    pod may have the agent's token. Nothing owns them: a GridNode that is deleted by force must not take its node's workloads
    along. The controller removes them last."""
    labels = {NODE_NAMESPACE: "true", MANAGED_BY: CONTROLLER}
    here: dict[str, Any] = {"name": AGENT, "namespace": namespace, "labels": labels}
    cluster: dict[str, Any] = {"name": namespace, "labels": labels}
    subject = [{"kind": "ServiceAccount", "name": AGENT, "namespace": namespace}]
    pods = [{"kind": "ServiceAccount", "name": NODE_ACCOUNT, "namespace": CONTROLLER_NAMESPACE}]
    return (
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": labels, "annotations": {NODE: node}},
        },
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here},
        *(
            {
                "apiVersion": f"{_RBAC}/v1",
                "kind": "RoleBinding",
                "metadata": here | {"name": role},
                "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
                "subjects": whose,
            }
            for role, whose in ((AGENT_ROLE, subject), (TOKEN_ROLE, pods))
        ),
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": cluster,
            "rules": [
                rule([GROUP], ["gridnodes"], ["get", "list", "watch"], [node]),
                rule([GROUP], ["gridnodes/status"], ["get", "patch"], [node]),
                # The cluster's identity is the uid of this namespace: an agent keeps data apart by it.
                rule([""], ["namespaces"], ["get"], ["kube-system"]),
            ],
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": cluster,
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": namespace},
            "subjects": subject,
        },
    )
