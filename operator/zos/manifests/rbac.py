"""Who may do what: the controller's role and the users', as Kubernetes objects. (An agent's follow from
its GridNode: `zos.kinds.gridnode.rights`.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zos.api.meta import GROUP
from zos.api.names import CONTROLLER, CONTROLLER_NAMESPACE
from zos.kinds.gridnode.rights import rule
from zos.kinds.kind import Kinds, Writer
from zos.kinds.registry import KINDS

#: Lets everybody who is somebody to the cluster see which nodes and farms there are.
GRID_READER = "zos-grid-reader"

_RBAC = "rbac.authorization.k8s.io"
Manifest = Mapping[str, Any]


def controller_rules() -> list[dict[str, Any]]:
    """What the controller may do: its own kinds, and what it makes for nodes and laptops. It grants agents their rights, so
    it holds each of them itself."""
    everything = ["get", "list", "watch", "create", "update", "patch", "delete"]
    return [
        rule([GROUP], ["*"], everything),
        rule([""], ["secrets"], everything),
        rule([""], ["namespaces"], ["get", "list", "watch", "create", "update", "patch", "delete"]),
        rule([""], ["serviceaccounts"], ["get", "create", "update", "patch", "delete"]),
        rule([""], ["events"], ["create", "patch"]),
        rule(
            [_RBAC],
            ["roles", "rolebindings", "clusterroles", "clusterrolebindings"],
            ["get", "create", "update", "patch", "delete"],
        ),
        rule(["coordination.k8s.io"], ["leases"], ["get", "list", "watch", "create", "update", "patch"]),
        rule(["apiextensions.k8s.io"], ["customresourcedefinitions"], ["get", "list", "watch"]),
    ]


def user_roles(kinds: Kinds = KINDS) -> tuple[Manifest, ...]:
    """What Kubernetes' own roles view, edit and admin may do with the kinds that tenants write (they aggregate these); and who
    may see which nodes and farms there are. Status is the controller's, NodeWorkloads and Claims are nobody else's."""
    read = ["get", "list", "watch"]
    write = [*read, "create", "update", "patch", "delete", "deletecollection"]
    theirs = [model.PLURAL for model in kinds.written_by(Writer.TENANT)]
    shown = rule([GROUP], [f"{plural}/status" for plural in theirs], ["get"])
    grid = rule([GROUP], [model.PLURAL for model in kinds.written_by(Writer.ADMINISTRATOR)], read)
    return (
        _aggregated("view", [rule([GROUP], theirs, read), shown, grid]),
        _aggregated("edit", [rule([GROUP], theirs, write), shown]),
        _aggregated("admin", [rule([GROUP], theirs, write), shown]),
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


def controller_objects(kinds: Kinds = KINDS) -> tuple[Manifest, ...]:
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
        *user_roles(kinds),
    )
