"""What the accounts of the installation are held to where their rights are too coarse: who may have which token, what a kubelet
says of its node, and what the controller makes for nodes and laptops."""

from __future__ import annotations

from collections.abc import Sequence

from zos.api.gridnode import GridNode
from zos.api.meta import GROUP
from zos.api.names import (
    AGENT,
    AGENT_ROLE,
    CONTROLLER_NAMESPACE,
    ENDPOINT,
    NODE,
    NODE_ACCOUNT,
    NODE_NAMESPACE,
    NODE_PREFIX,
    OWNER_UID,
    TOKEN_ROLE,
    TOKEN_SECONDS,
)
from zos.manifests.policy import CONTROLLER_ONLY, KUBELETS_ONLY, OURS_ONLY, Manifest, is_account, matching, policy, rule


def tokens() -> Sequence[Manifest]:
    """Who asks for the token of an agent: a pod on that agent's node. Pod-bound tokens say their node since Kubernetes 1.32."""
    node = "request.userInfo.?extra[?'authentication.kubernetes.io/node-name'].orValue([])"
    pod = "request.userInfo.?extra[?'authentication.kubernetes.io/pod-name'].orValue([])"
    return policy(
        "agents-tokens",
        matching("", "v1", ("serviceaccounts/token",), ("CREATE",)),
        OURS_ONLY,
        (is_account(NODE_ACCOUNT), f"of Zero-OS' accounts only {CONTROLLER_NAMESPACE}/{NODE_ACCOUNT} asks for tokens"),
        (
            f"size({pod}) == 1 && size({node}) == 1 && {node}[0] != ''"
            f" && {node}[0] == namespaceObject.metadata.?annotations[?'{NODE}'].orValue('')",
            "a pod gets the token of its own node's agent only, and asks for it with a token that is bound to the pod",
        ),
        (
            f"has(object.spec.expirationSeconds) && object.spec.expirationSeconds <= {TOKEN_SECONDS}",
            f"an agent's token lasts for {TOKEN_SECONDS} seconds at most",
        ),
        (
            "!has(object.spec.boundObjectRef) || object.spec.boundObjectRef == null",
            "an agent's token is bound to its account alone",
        ),
    )


def endpoints() -> Sequence[Manifest]:
    """Where others reach a node is said by whoever administers the cluster: a kubelet may annotate its own Node."""
    said = "{}.metadata.?annotations[?'" + ENDPOINT + "']"
    now, was = said.format("object"), said.format("oldObject")
    return policy(
        "kubelets-endpoints",
        matching("", "v1", ("nodes", "nodes/status"), ("CREATE", "UPDATE")),
        KUBELETS_ONLY,
        (
            f"request.operation == 'UPDATE' ? {now} == {was} : !{now}.hasValue()",
            f"a kubelet does not say where its node is reached: {ENDPOINT} is an administrator's",
        ),
    )


def _only(account: str, namespace: str) -> str:
    """That a binding is for one ServiceAccount; ``namespace`` is an expression."""
    return (
        "size(object.subjects) == 1 && object.subjects.all(one, one.kind == 'ServiceAccount'"
        f" && one.name == '{account}' && one.namespace == {namespace})"
    )


def controllers_objects() -> Sequence[Manifest]:
    """The controller gives agents what they have, and nobody anything else."""
    rbac = "rbac.authorization.k8s.io"
    here = "object.metadata.namespace"
    agents, pods = _only(AGENT, "{}"), _only(NODE_ACCOUNT, f"'{CONTROLLER_NAMESPACE}'")
    role = "object.roleRef.kind == 'ClusterRole' && object.roleRef.name == {}"
    labelled = "{}.metadata.?labels[?'" + NODE_NAMESPACE + "'].orValue('') == 'true'"
    owned = "{}.metadata.?labels[?'" + OWNER_UID + "'].hasValue()"
    node = "{}.metadata.?annotations[?'" + NODE + "'].orValue('')"
    now, was = node.format("object"), node.format("oldObject")
    named = f"object.metadata.name.startsWith('{NODE_PREFIX}')"
    whose = "the controller gives rights to agents in their own nodes' namespaces, and to nobody else"
    return (
        *policy(
            "controller-objects",
            {
                "resourceRules": [
                    rule("", "v1", ("namespaces", "serviceaccounts"), ("UPDATE", "DELETE")),
                    rule(rbac, "v1", ("rolebindings", "clusterroles", "clusterrolebindings"), ("UPDATE", "DELETE")),
                ]
            },
            CONTROLLER_ONLY,
            (
                labelled.format("oldObject"),
                f"the controller changes and deletes only what it made for nodes: what has the label {NODE_NAMESPACE}",
            ),
        ),
        *policy(
            "controller-namespaces",
            matching("", "v1", ("namespaces",), ("CREATE", "UPDATE")),
            CONTROLLER_ONLY,
            (
                f"{named} && {now} != '' && (request.operation == 'CREATE' || {was} in ['', {now}])",
                f"the controller makes namespaces of nodes, and says once whose each is ({NODE})",
            ),
        ),
        *policy(
            "controller-accounts",
            matching("", "v1", ("serviceaccounts",), ("CREATE",)),
            CONTROLLER_ONLY,
            (
                f"object.metadata.name == '{AGENT}' && {here}.startsWith('{NODE_PREFIX}')",
                "the controller makes accounts of agents",
            ),
        ),
        *policy(
            "controller-secrets",
            matching("", "v1", ("secrets",), ("CREATE", "UPDATE", "DELETE")),
            CONTROLLER_ONLY,
            (
                f"request.operation == 'DELETE' ? {owned.format('oldObject')}"
                f" : (object.type == 'Opaque' && {owned.format('object')})",
                "the controller writes and deletes files of laptops: Opaque, with the owner's uid; no other Secrets",
            ),
        ),
        *policy(
            "controller-bindings",
            matching(rbac, "v1", ("rolebindings",), ("CREATE", "UPDATE")),
            CONTROLLER_ONLY,
            (
                f"{here}.startsWith('{NODE_PREFIX}') && (({role.format(repr(AGENT_ROLE))} && {agents.format(here)})"
                f" || ({role.format(repr(TOKEN_ROLE))} && {pods}))",
                whose,
            ),
        ),
        *policy(
            "controller-cluster-bindings",
            matching(rbac, "v1", ("clusterrolebindings",), ("CREATE", "UPDATE")),
            CONTROLLER_ONLY,
            (f"{named} && {role.format('object.metadata.name')} && {agents.format('object.metadata.name')}", whose),
        ),
        *policy(
            "controller-roles",
            matching(rbac, "v1", ("clusterroles",), ("CREATE", "UPDATE")),
            CONTROLLER_ONLY,
            (
                f"{named} && !has(object.aggregationRule) && object.rules.all(rule, size(rule.?resourceNames.orValue([])) == 1"
                f" && ((rule.apiGroups == ['{GROUP}'] && rule.resources.all(kind, kind in"
                f" ['{GridNode.PLURAL}', '{GridNode.PLURAL}/status'])"
                " && rule.verbs.all(verb, verb in ['get', 'list', 'watch', 'patch']))"
                " || (rule.apiGroups == [''] && rule.resources == ['namespaces'] && rule.verbs == ['get'])))",
                "the controller makes roles for a node's own GridNode, and for nothing else",
            ),
        ),
    )
