"""What every account of the installation may do, in one file that a change of rights shows up in; and who gets which token:
tried against a real API server, with pods that no kubelet runs."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from apiserver import ApiServer
from simulated import until
from users import APPLY, User, rules
from zos.api import names
from zos.api.meta import API_VERSION, GROUP
from zos.api.names import (
    AGENT,
    AGENT_ROLE,
    CONTROLLER,
    CONTROLLER_NAMESPACE,
    ENDPOINT,
    NODE,
    NODE_ACCOUNT,
    NODE_NAMESPACE,
    OWNER_UID,
    RUNTIME_ACCOUNT,
    TOKEN_ROLE,
)
from zos.api.nodeworkload import NodeWorkload
from zos.kinds.gridnode.rights import agent_objects
from zos.kube.client import ApiError, Client, Unavailable
from zos.kube.nodetoken import NodeAccess, NoToken
from zos.manifests.rbac import controller_objects

COMMITTED = Path(__file__).parent / "account-rights.yaml"
RBAC = "rbac.authorization.k8s.io/v1"
#: The one's namespace is called after it, the other's is derived.
MINE, OTHER = "accounts-mine", "accounts-other.example"
TENANT = "accounts-tenant"


@dataclass
class Cluster:
    """Two nodes with a pod of an agent each."""

    server: ApiServer
    admin: User

    def user(self, account: str, namespace: str = CONTROLLER_NAMESPACE, *bound: str) -> User:
        given = self.server.kubectl("create", "token", account, "-n", namespace, *bound).strip()
        return User(self.server, given, self.admin.session)

    def pod(self, node: str) -> User:
        """With the token that a kubelet mounts into an agent's pod on this node."""
        return self.user(NODE_ACCOUNT, CONTROLLER_NAMESPACE, "--bound-object-kind=Pod", f"--bound-object-name=agent-{node}")


def pod(node: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"agent-{node}", "namespace": CONTROLLER_NAMESPACE},
        "spec": {
            "nodeName": node,
            "serviceAccountName": NODE_ACCOUNT,
            "containers": [{"name": "agent", "image": "agent", "securityContext": {"privileged": True}}],
        },
    }


@pytest.fixture(scope="module")
def installed(apiserver: ApiServer) -> ApiServer:
    apiserver.start_controllers("clusterrole-aggregation-controller")
    items: list[Mapping[str, Any]] = [*controller_objects()]
    for node in (MINE, OTHER):
        items += [{"apiVersion": API_VERSION, "kind": "GridNode", "metadata": {"name": node}, "spec": {}}]
        items += agent_objects(node, names.node_namespace(node))
        items += [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}]
    items += [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT}}]
    items += [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": TENANT}}]
    for role in ("view", "edit", "admin"):
        meta = {"name": role, "namespace": TENANT}
        items += [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}]
        subject = {"kind": "ServiceAccount", **meta}
        ref = {"apiGroup": RBAC.partition("/")[0], "kind": "ClusterRole", "name": role}
        items += [{"apiVersion": RBAC, "kind": "RoleBinding", "metadata": meta, "roleRef": ref, "subjects": [subject]}]
    apply(apiserver, items)
    apply(apiserver, [pod(MINE), pod(OTHER)])
    return apiserver


def apply(server: ApiServer, items: list[Mapping[str, Any]]) -> None:
    server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


@pytest.fixture
async def cluster(installed: ApiServer) -> AsyncIterator[Cluster]:
    config = json.loads(Path(installed.kubeconfig).read_text())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16)) as session:
        made = Cluster(installed, User(installed, config["users"][0]["user"]["token"], session))

        async def in_force() -> bool:
            return (await ask_token(made.pod(MINE), MINE, seconds=7200))[0] == 403

        await until(in_force, 30)
        yield made


async def ask_token(
    user: User, node: str, account: str = AGENT, *, seconds: int | None = 3600, namespace: str = "", **spec: Any
) -> tuple[int, str]:
    body: dict[str, Any] = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    if seconds is not None:
        body["spec"]["expirationSeconds"] = seconds
    place = namespace or names.node_namespace(node)
    return await user.ask("POST", f"/api/v1/namespaces/{place}/serviceaccounts/{account}/token", body)


async def test_all_that_accounts_may_do_is_what_is_committed(cluster: Cluster) -> None:
    everybody = set(await rules(cluster.user("nobody", TENANT), TENANT))

    async def of(account: str, namespace: str, at: str) -> list[str]:
        """But for what everybody may."""
        return sorted(set(await rules(cluster.user(account, namespace), at)) - everybody)

    async def anywhere(account: str) -> dict[str, list[str]]:
        places = {
            "in its own namespace": CONTROLLER_NAMESPACE,
            "in a node's namespace, as far as admission lets it": names.node_namespace(MINE),
            "elsewhere": TENANT,
        }
        found = {words: await of(account, CONTROLLER_NAMESPACE, at) for words, at in places.items()}
        return {"anywhere": found["elsewhere"]} if len({tuple(one) for one in found.values()}) == 1 else found

    async def aggregated(role: str) -> list[str]:
        """What Kubernetes itself gives the role is its own."""
        return [one for one in await of(role, TENANT, TENANT) if one.startswith(f"{GROUP}/")]

    async def complete() -> bool:
        return any("namecontracts" in one and "deletecollection" in one for one in await aggregated("admin"))

    await until(complete, 30)
    mine, other = names.node_namespace(MINE), names.node_namespace(OTHER)
    found = {
        "everybody": sorted(everybody),
        **{account: await anywhere(account) for account in (CONTROLLER, NODE_ACCOUNT, RUNTIME_ACCOUNT)},
        "an agent (see agent-rights.yaml)": {
            "in its node's namespace": await of(AGENT, mine, mine),
            "in another node's namespace": await of(AGENT, mine, other),
            "elsewhere": await of(AGENT, mine, TENANT),
        },
        **{
            f"role {role}": {
                "in a tenant's namespace": await aggregated(role),
                "in a node's namespace": await of(role, TENANT, mine),
                "in the installation's": await of(role, TENANT, CONTROLLER_NAMESPACE),
            }
            for role in ("view", "edit", "admin")
        },
    }
    text = "# What each account may do, as RBAC says it and test_accounts.py asks it (ZOS_UPDATE_GOLDEN=1 writes it).\n"
    text += yaml.safe_dump(found, sort_keys=False, width=120)
    if os.environ.get("ZOS_UPDATE_GOLDEN"):
        COMMITTED.write_text(text)
    assert text == COMMITTED.read_text()


@pytest.mark.parametrize("node", [MINE, OTHER])
async def test_a_pod_gets_the_token_of_its_own_nodes_agent(cluster: Cluster, node: str) -> None:
    status, text = await ask_token(cluster.pod(node), node)
    assert status == 201, text
    answer = json.loads(text)
    assert answer["spec"]["expirationSeconds"] == 3600
    agent = User(cluster.server, answer["status"]["token"], cluster.admin.session)
    place = f"/apis/{API_VERSION}/namespaces/{names.node_namespace(node)}/nodeworkloads"
    assert (await agent.ask("GET", place))[0] == 200
    assert (await ask_token(cluster.pod(node), node, seconds=None))[0] == 201, "an hour is what nobody asks for"
    status, text = await ask_token(agent, node)
    assert status == 403, "an agent makes no tokens"


async def test_an_agent_reaches_the_api_server_by_its_pods_token_and_heals_when_its_account_is_made_anew(
    cluster: Cluster, tmp_path: Path
) -> None:
    """As the agent does it, from the directory that a kubelet fills."""
    server, here = cluster.server, names.node_namespace(OTHER)
    (tmp_path / "ca.crt").write_text((server.directory / "certs" / "apiserver.crt").read_text())
    (tmp_path / "token").write_text(cluster.pod(MINE).token)
    told = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
    access = NodeAccess.of_pod(tmp_path, here, OTHER, told, time.monotonic)
    client = Client(access)
    try:
        with pytest.raises(Unavailable, match="may not have the token"):
            await client.keys(NodeWorkload, here)
        (tmp_path / "token").write_text(cluster.pod(OTHER).token)

        async def reaches() -> bool:
            with contextlib.suppress(Unavailable, ApiError):  # a new account is known a moment after it is there
                return await client.keys(NodeWorkload, here) == {}
            return False

        await until(reaches, 20)
        before = await access.authorization()
        account = server.kubectl("get", "serviceaccount", AGENT, "-n", here, "-o", "yaml")
        server.kubectl("replace", "--force", "-f", "-", stdin=account)

        async def heals() -> bool:
            """The API server remembers for ten seconds whom it knew."""
            return await reaches() and await access.authorization() != before

        await until(heals, 60)
        with pytest.raises(ApiError) as refused:
            await client.keys(NodeWorkload, names.node_namespace(MINE))
        assert refused.value.status == 403
        server.kubectl("delete", "serviceaccount", AGENT, "-n", here)
        absent = NodeAccess.of_pod(tmp_path, here, OTHER, told, time.monotonic)
        with pytest.raises(NoToken, match=r"kubectl label node accounts-other\.example"):
            await absent.authorization()
        assert absent.lacking() is not None
    finally:
        apply(server, [*agent_objects(OTHER, here)])
        await client.close()


async def test_every_other_token_is_refused(cluster: Cluster) -> None:
    mine = cluster.pod(MINE)
    unbound = cluster.user(NODE_ACCOUNT)
    to_a_node = cluster.user(NODE_ACCOUNT, CONTROLLER_NAMESPACE, "--bound-object-kind=Node", f"--bound-object-name={MINE}")
    itself = {"apiVersion": "v1", "kind": "Pod", "name": f"agent-{MINE}"}
    refused = {
        "another node's": (ask_token(mine, OTHER), "its own node's agent only"),
        "another node's, the other way": (ask_token(cluster.pod(OTHER), MINE), "its own node's agent only"),
        "by a token of nobody's pod": (ask_token(unbound, MINE), "bound to the pod"),
        "by a token that is bound to the node": (ask_token(to_a_node, MINE), "bound to the pod"),
        "for two hours": (ask_token(mine, MINE, seconds=7200), "3600 seconds at most"),
        "for a second more": (ask_token(mine, MINE, seconds=3601), "3600 seconds at most"),
        "that is bound to something else": (ask_token(mine, MINE, boundObjectRef=itself), "bound to its account alone"),
        "of another account": (ask_token(mine, MINE, "default"), "cannot create resource"),
        "of the controller": (ask_token(mine, MINE, CONTROLLER, namespace=CONTROLLER_NAMESPACE), "cannot create resource"),
        "of itself": (ask_token(mine, MINE, NODE_ACCOUNT, namespace=CONTROLLER_NAMESPACE), "cannot create resource"),
        "of a tenant": (ask_token(mine, MINE, "admin", namespace=TENANT), "cannot create resource"),
        "by the runtime": (ask_token(cluster.user(RUNTIME_ACCOUNT), MINE), "cannot create resource"),
        "by the controller": (ask_token(cluster.user(CONTROLLER), MINE), "cannot create resource"),
        "by a tenant": (ask_token(cluster.user("admin", TENANT), MINE), "cannot create resource"),
    }
    for what, (answer, why) in refused.items():
        status, text = await answer
        assert (status, why in text) == (403, True), (what, text)


async def test_rights_that_were_given_by_mistake_are_no_way_to_a_token(cluster: Cluster) -> None:
    """Whoever bound the role to them: of ours only a pod on the node gets one."""
    here = names.node_namespace(MINE)
    accounts = ((CONTROLLER, CONTROLLER_NAMESPACE), (RUNTIME_ACCOUNT, CONTROLLER_NAMESPACE), (AGENT, here))
    subjects = [f"--serviceaccount={namespace}:{account}" for account, namespace in accounts]
    cluster.server.kubectl("create", "rolebinding", "mistake", "-n", here, f"--clusterrole={TOKEN_ROLE}", *subjects)
    try:
        for account, namespace in accounts:
            user = cluster.user(account, namespace)

            async def admitted(user: User = user) -> bool:
                return "cannot create resource" not in (await ask_token(user, MINE))[1]

            await until(admitted, 20)
            status, text = await ask_token(user, MINE)
            assert (status, "asks for tokens" in text) == (403, True), text
    finally:
        cluster.server.kubectl("delete", "rolebinding", "mistake", "-n", here)


async def test_a_namespace_that_says_of_nobody_whose_it_is_gives_no_token(cluster: Cluster) -> None:
    here = names.node_namespace(MINE)
    for said in (None, "", OTHER):
        await cluster.admin.patch(f"/api/v1/namespaces/{here}", {"metadata": {"annotations": {NODE: said}}})

        async def refused() -> bool:
            status, text = await ask_token(cluster.pod(MINE), MINE)
            return status == 403 and "its own node's agent only" in text

        await until(refused, 20)
    await cluster.admin.patch(f"/api/v1/namespaces/{here}", {"metadata": {"annotations": {NODE: MINE}}})

    async def granted() -> bool:
        return (await ask_token(cluster.pod(MINE), MINE))[0] == 201

    await until(granted, 20)


def subject(name: str, namespace: str) -> dict[str, str]:
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


def binding(kind: str, name: str, role: str, *subjects: dict[str, str], namespace: str = "") -> Any:
    meta = {"name": name, "labels": {NODE_NAMESPACE: "true"}} | ({"namespace": namespace} if namespace else {})
    ref = {"apiGroup": RBAC.partition("/")[0], "kind": "ClusterRole", "name": role}
    return {"apiVersion": RBAC, "kind": kind, "metadata": meta, "roleRef": ref, "subjects": list(subjects)}


async def test_a_stolen_controller_gives_nobody_anything_but_agents_what_is_theirs(cluster: Cluster) -> None:
    controller = cluster.user(CONTROLLER)
    here = names.node_namespace(MINE)
    agent, pods, thief = subject(AGENT, here), subject(NODE_ACCOUNT, CONTROLLER_NAMESPACE), subject("admin", TENANT)
    own = f"/apis/{RBAC}/clusterroles/{here}"
    in_nodes, in_tenants = f"/apis/{RBAC}/namespaces/{here}/rolebindings", f"/apis/{RBAC}/namespaces/{TENANT}/rolebindings"
    cluster_wide = f"/apis/{RBAC}/clusterrolebindings"
    gridnodes = {"apiGroups": [GROUP], "resources": ["gridnodes"], "verbs": ["get"], "resourceNames": [MINE]}

    def role(name: str, **change: Any) -> dict[str, Any]:
        return {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": name}, "rules": [{**gridnodes, **change}]}

    def space(name: str, **annotations: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}

    def secret(type: str = "Opaque", **labels: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": labels}, "type": type}

    for path, body in (
        (in_nodes, binding("RoleBinding", "x", AGENT_ROLE, thief, namespace=here)),
        (in_nodes, binding("RoleBinding", "x", AGENT_ROLE, agent, thief, namespace=here)),
        (in_nodes, binding("RoleBinding", "x", TOKEN_ROLE, agent, namespace=here)),
        (in_nodes, binding("RoleBinding", "x", TOKEN_ROLE, subject(CONTROLLER, CONTROLLER_NAMESPACE), namespace=here)),
        (in_nodes, binding("RoleBinding", "x", "view", thief, namespace=here)),
        (in_tenants, binding("RoleBinding", "x", TOKEN_ROLE, pods, namespace=TENANT)),
        (cluster_wide, binding("ClusterRoleBinding", "x", AGENT_ROLE, thief)),
        (cluster_wide, binding("ClusterRoleBinding", here + "x", AGENT_ROLE, agent)),
        (cluster_wide, binding("ClusterRoleBinding", here, here, thief)),
        (f"/apis/{RBAC}/clusterroles", role("x")),
        (f"/apis/{RBAC}/clusterroles", role(here + "x", resourceNames=[])),
        (f"/apis/{RBAC}/clusterroles", role(here + "x", verbs=["delete"])),
        (f"/apis/{RBAC}/clusterroles", role(here + "x", resources=["zmachines"])),
        (f"/apis/{RBAC}/clusterroles", role(here + "x", apiGroups=[""], resources=["secrets"])),
        ("/api/v1/namespaces", space("x", **{NODE: "x"})),
        ("/api/v1/namespaces", space("zos-node-x")),
        (f"/api/v1/namespaces/{TENANT}/serviceaccounts", {"metadata": {"name": AGENT}}),
        (f"/api/v1/namespaces/{here}/serviceaccounts", {"metadata": {"name": "x"}}),
        (f"/api/v1/namespaces/{TENANT}/secrets", secret()),
        (
            f"/api/v1/namespaces/{TENANT}/secrets",
            {**secret("kubernetes.io/service-account-token", **{OWNER_UID: "u"})}
            | {
                "metadata": {
                    "name": "s",
                    "labels": {OWNER_UID: "u"},
                    "annotations": {"kubernetes.io/service-account.name": "admin"},
                }
            },
        ),
    ):
        status, text = await controller.ask("POST", f"{path}?dryRun=All", body)
        assert status == 403, (path, body, text)
        assert "controller-" in text or "attempting to grant" in text, text
    status, text = await controller.patch(f"{own}?dryRun=All", {"rules": [{**gridnodes, "resourceNames": []}]})
    assert status == 403, text
    stays = {"metadata": {"annotations": {NODE: OTHER}}}
    assert (await controller.patch(f"/api/v1/namespaces/{here}?dryRun=All", stays))[0] == 403
    theirs = f"/api/v1/namespaces/{TENANT}/secrets"
    assert (await cluster.admin.ask("POST", theirs, secret()))[0] == 201
    for verb, body in (("DELETE", None), ("PUT", secret())):
        status, text = await controller.ask(verb, f"{theirs}/s?dryRun=All", body)
        assert (status, "files of laptops" in text) == (403, True), text
    assert (
        await controller.ask(
            "POST", f"{theirs}?dryRun=All", secret(**{OWNER_UID: "u"}) | {"metadata": {"name": "t", "labels": {OWNER_UID: "u"}}}
        )
    )[0] == 201
    for manifest in agent_objects(MINE, here):
        version, kind, meta = manifest["apiVersion"], manifest["kind"], manifest["metadata"]
        below = f"/namespaces/{here}" if "namespace" in meta else ""
        path = f"{'/api/v1' if version == 'v1' else f'/apis/{version}'}{below}/{kind.lower()}s/{meta['name']}"
        status, text = await controller.ask("PATCH", f"{path}?fieldManager=c&force=true&dryRun=All", manifest, APPLY)
        assert status == 200, text


async def test_a_kubelet_does_not_say_where_its_node_is_reached(cluster: Cluster) -> None:
    """A kubelet as the API server knows it, by impersonation: group system:nodes, with the rights that it would have."""
    server = cluster.server
    server.kubectl("create", "clusterrole", "kubelet", "--verb=get,create,patch,update", "--resource=nodes,nodes/status")
    server.kubectl("create", "clusterrolebinding", "kubelet", "--clusterrole=kubelet", "--group=system:nodes")

    def annotate(words: str, *more: str, node: str = MINE) -> str:
        who = ("--as", f"system:node:{node}", "--as-group", "system:nodes") if "kubelet" in more else ()
        flags = [one for one in more if one != "kubelet"]
        patch = json.dumps({"metadata": {"annotations": {ENDPOINT: words or None, "example.com/a": "b"}}})
        server.kubectl("patch", "node", node, "--type=merge", "-p", patch, *flags, *who)
        return "done"

    assert annotate("198.51.100.7")
    for more in ((), ("--subresource=status",)):
        for words in ("198.51.100.8", ""):
            with pytest.raises(RuntimeError, match="does not say where its node is reached"):
                annotate(words, "kubelet", *more)
        assert annotate("198.51.100.7", "kubelet", *more), "all else is its own"
    new = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "accounts-new", "annotations": {ENDPOINT: "198.51.100.9"}}}
    who = ("--as", "system:node:accounts-new", "--as-group", "system:nodes")
    with pytest.raises(RuntimeError, match="does not say where its node is reached"):
        server.kubectl("create", "-f", "-", *who, stdin=json.dumps(new))
    del new["metadata"]["annotations"]  # type: ignore[attr-defined]
    server.kubectl("create", "-f", "-", *who, stdin=json.dumps(new))
