"""Who may do what: the controller's role, and each agent's, as Kubernetes objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zos.api.meta import GROUP

#: Name of the agent's ServiceAccount, Role and Lease in its node's namespace.
AGENT = "agent"
CONTROLLER = "zos-controller"
CONTROLLER_NAMESPACE = "zos-system"

_RBAC = "rbac.authorization.k8s.io"
Manifest = Mapping[str, Any]


def _rule(groups: list[str], resources: list[str], verbs: list[str], names: list[str] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": groups, "resources": resources, "verbs": verbs}
    return rule | ({"resourceNames": names} if names else {})


def agent_rules() -> list[dict[str, Any]]:
    """What an agent may do in its own node's namespace."""
    return [
        _rule([GROUP], ["nodeworkloads"], ["get", "list", "watch", "patch"]),
        _rule([GROUP], ["nodeworkloads/status"], ["get", "patch"]),
        _rule(["coordination.k8s.io"], ["leases"], ["create"]),
        _rule(["coordination.k8s.io"], ["leases"], ["get", "patch", "update"], [AGENT]),
        _rule([""], ["events"], ["create", "patch"]),
    ]


def agent_objects(node: str, namespace: str) -> tuple[Manifest, ...]:
    """A node's namespace and what its agent may do: its own workloads, its own GridNode's status, its own Lease. Nothing owns
    them: a GridNode that is deleted by force must not take its node's workloads along. The controller removes them last."""
    labels = {f"{GROUP}/node-namespace": "true", "app.kubernetes.io/managed-by": CONTROLLER}
    here = {"name": AGENT, "namespace": namespace, "labels": labels}
    cluster = {"name": namespace, "labels": labels}
    subject = [{"kind": "ServiceAccount", "name": AGENT, "namespace": namespace}]
    return (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": cluster},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here},
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": here, "rules": agent_rules()},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": here,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": AGENT},
            "subjects": subject,
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": cluster,
            "rules": [
                _rule([GROUP], ["gridnodes"], ["get", "list", "watch"], [node]),
                _rule([GROUP], ["gridnodes/status"], ["get", "patch"], [node]),
                # The cluster's identity is the uid of this namespace: an agent keeps data apart by it.
                _rule([""], ["namespaces"], ["get"], ["kube-system"]),
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


def controller_rules() -> list[dict[str, Any]]:
    """What the controller may do: its own kinds, and what it makes for nodes and laptops. It grants agents their rights, so
    it holds each of them itself."""
    everything = ["get", "list", "watch", "create", "update", "patch", "delete"]
    return [
        _rule([GROUP], ["*"], everything),
        _rule([""], ["secrets"], everything),
        _rule([""], ["namespaces"], ["get", "list", "watch", "create", "update", "patch", "delete"]),
        _rule([""], ["serviceaccounts"], ["get", "create", "update", "patch", "delete"]),
        _rule([""], ["events"], ["create", "patch"]),
        _rule(
            [_RBAC],
            ["roles", "rolebindings", "clusterroles", "clusterrolebindings"],
            ["get", "create", "update", "patch", "delete"],
        ),
        _rule(["coordination.k8s.io"], ["leases"], ["get", "list", "watch", "create", "update", "patch"]),
        _rule(["apiextensions.k8s.io"], ["customresourcedefinitions"], ["get", "list", "watch"]),
    ]


def controller_objects() -> tuple[Manifest, ...]:
    """The controller's namespace, ServiceAccount and role."""
    return (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CONTROLLER_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": CONTROLLER, "namespace": CONTROLLER_NAMESPACE},
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": CONTROLLER},
            "rules": controller_rules(),
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": CONTROLLER},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": CONTROLLER},
            "subjects": [{"kind": "ServiceAccount", "name": CONTROLLER, "namespace": CONTROLLER_NAMESPACE}],
        },
    )
