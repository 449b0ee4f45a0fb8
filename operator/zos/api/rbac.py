"""Who may do what: the controller's role, each agent's and the users', as Kubernetes objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zos.api.contract import Contract, NameContract
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import GROUP, Object
from zos.api.network import Network
from zos.api.publicip import PublicIP
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount

#: Name of the agent's ServiceAccount, Role and Lease in its node's namespace.
AGENT = "agent"
CONTROLLER = "zos-controller"
CONTROLLER_NAMESPACE = "zos-system"
#: What every node's namespace begins with, those with derived names too.
NODE_PREFIX = "zos-node-"
#: Lets everybody who is somebody to the cluster see which nodes and farms there are.
GRID_READER = "zos-grid-reader"

#: On what the controller makes for a node. It deletes no namespace and no role without it.
NODE_NAMESPACE = f"{GROUP}/node-namespace"

#: What tenants write, each in its own namespace.
USER_KINDS: tuple[type[Object], ...] = (Network, ZMachine, ZMount, PublicIP, Contract, NameContract)
#: What administrators write and tenants may look at.
GRID_KINDS: tuple[type[Object], ...] = (GridNode, Farm)

_RBAC = "rbac.authorization.k8s.io"
Manifest = Mapping[str, Any]


def _rule(groups: list[str], resources: list[str], verbs: list[str], names: list[str] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": groups, "resources": resources, "verbs": verbs}
    return rule | ({"resourceNames": names} if names else {})


def agent_rules() -> list[dict[str, Any]]:
    """What an agent may do in its own node's namespace. What these are too coarse for, admission holds it to."""
    return [
        _rule([GROUP], ["nodeworkloads"], ["get", "list", "watch", "patch"]),
        _rule([GROUP], ["nodeworkloads/status"], ["get", "patch"]),
        _rule(["coordination.k8s.io"], ["leases"], ["create"]),
        _rule(["coordination.k8s.io"], ["leases"], ["get", "list", "watch", "patch", "update"], [AGENT]),
        _rule([""], ["events"], ["create", "patch"]),
    ]


def agent_objects(node: str, namespace: str) -> tuple[Manifest, ...]:
    """A node's namespace and what its agent may do: its own workloads, its own GridNode's status, its own Lease. Nothing owns
    them: a GridNode that is deleted by force must not take its node's workloads along. The controller removes them last."""
    labels = {NODE_NAMESPACE: "true", "app.kubernetes.io/managed-by": CONTROLLER}
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


def user_roles() -> tuple[Manifest, ...]:
    """What Kubernetes' own roles view, edit and admin may do with the kinds that tenants write (they aggregate these); and who
    may see which nodes and farms there are. Status is the controller's, NodeWorkloads and Claims are nobody else's."""
    read = ["get", "list", "watch"]
    write = [*read, "create", "update", "patch", "delete", "deletecollection"]
    kinds = [model.PLURAL for model in USER_KINDS]
    shown = _rule([GROUP], [f"{kind}/status" for kind in kinds], ["get"])
    grid = _rule([GROUP], [model.PLURAL for model in GRID_KINDS], read)
    return (
        _aggregated("view", [_rule([GROUP], kinds, read), shown, grid]),
        _aggregated("edit", [_rule([GROUP], kinds, write), shown]),
        _aggregated("admin", [_rule([GROUP], kinds, write), shown]),
        {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": GRID_READER}, "rules": [grid]},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": GRID_READER},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": GRID_READER},
            "subjects": [{"apiGroup": _RBAC, "kind": "Group", "name": "system:authenticated"}],
        },
    )


def _aggregated(role: str, rules: list[dict[str, Any]]) -> Manifest:
    labels = {f"{_RBAC}/aggregate-to-{role}": "true"}
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": f"zos-{role}", "labels": labels},
        "rules": rules,
    }


def controller_objects() -> tuple[Manifest, ...]:
    """The controller's namespace, ServiceAccount and role, and the users' roles."""
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
        *user_roles(),
    )
