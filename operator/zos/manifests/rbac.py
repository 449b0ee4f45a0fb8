"""Who may do what: the roles of the controller, of agents, of nodes' pods and of users, as Kubernetes objects. (What binds an
agent's to its node follows from the GridNode: `zos.kinds.gridnode.rights`.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zos.api.meta import GROUP
from zos.api.names import AGENT_ROLE, CONTROLLER, CONTROLLER_NAMESPACE, NODE_ACCOUNT, RUNTIME_ACCOUNT, TOKEN_ROLE
from zos.kinds.gridnode.rights import agent_rules, rule, token_rules
from zos.kinds.kind import Kinds, Writer
from zos.kinds.registry import KINDS

#: Lets everybody who is somebody to the cluster see which nodes and farms there are.
GRID_READER = "zos-grid-reader"

_RBAC = "rbac.authorization.k8s.io"
Manifest = Mapping[str, Any]


def controller_rules() -> list[dict[str, Any]]:
    """What the controller may do: its own kinds, and what it makes for nodes and laptops. What it gives agents in their nodes'
    namespaces it may bind and has not itself; what an agent's own ClusterRole lets it do outside of that, it has."""
    look, apply = ["get", "list", "watch"], ["create", "patch", "delete"]
    return [
        rule([GROUP], ["*"], [*look, "create", "update", "patch", "delete"]),
        rule([""], ["secrets"], [*look, "create", "update", "delete"]),
        rule([""], ["nodes"], look),
        rule([""], ["namespaces"], [*look, *apply]),
        rule([""], ["serviceaccounts"], apply),
        rule([""], ["events"], ["create"]),
        rule([_RBAC], ["rolebindings", "clusterroles", "clusterrolebindings"], apply),
        rule([_RBAC], ["clusterroles"], ["bind"], [AGENT_ROLE, TOKEN_ROLE]),
        rule(["coordination.k8s.io"], ["leases"], [*look, "create", "update"]),
        rule(["apiextensions.k8s.io"], ["customresourcedefinitions"], ["get"]),
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
        _role(GRID_READER, [grid]),
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": GRID_READER},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": GRID_READER},
            "subjects": [{"apiGroup": _RBAC, "kind": "Group", "name": "system:authenticated"}],
        },
    )


def _aggregated(role: str, rules: list[dict[str, Any]]) -> Manifest:
    return _role(f"zos-{role}", rules, labels={f"{_RBAC}/aggregate-to-{role}": "true"})


def _role(name: str, rules: list[dict[str, Any]], **meta: Any) -> Manifest:
    return {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name, **meta}, "rules": rules}


def _account(name: str, **more: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": CONTROLLER_NAMESPACE},
        **more,
    }


def controller_objects(kinds: Kinds = KINDS) -> tuple[Manifest, ...]:
    """The controller's namespace, the ServiceAccounts there, their roles and the agents', and the users' roles."""
    return (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CONTROLLER_NAMESPACE}},
        _account(CONTROLLER),
        _account(NODE_ACCOUNT),
        _account(RUNTIME_ACCOUNT, automountServiceAccountToken=False),
        _role(CONTROLLER, controller_rules()),
        _role(AGENT_ROLE, agent_rules()),
        _role(TOKEN_ROLE, token_rules()),
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": CONTROLLER},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": CONTROLLER},
            "subjects": [{"kind": "ServiceAccount", "name": CONTROLLER, "namespace": CONTROLLER_NAMESPACE}],
        },
        *user_roles(kinds),
    )
