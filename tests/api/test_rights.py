"""What a thief can do with a node's token, and a tenant with the role edit: tried, one by one, against a real API server."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from apiserver import ApiServer
from users import User, rules, token, tried
from zos.api import names
from zos.api.gridnode import GridNodeStatus
from zos.api.meta import AGENT_FINALIZER, API_VERSION, CONTROLLER_FINALIZER
from zos.api.names import AGENT
from zos.kinds.gridnode.rights import agent_objects
from zos.manifests.rbac import controller_objects

COMMITTED = Path(__file__).parent / "agent-rights.yaml"
ZOS = f"/apis/{API_VERSION}"
MINE, OTHER = "rights-mine", "rights-other.example"
KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="

#: What is tried, by path below a namespace (or the cluster), in verbs of RBAC.
NAMESPACED = {
    ZOS: (
        "nodeworkloads", "nodeworkloads/status", "networks", "networks/status", "zmachines", "zmachines/status", "zmounts",
        "zmounts/status", "publicips", "contracts", "namecontracts",
    ),
    "/api/v1": ("secrets", "configmaps", "pods", "pods/exec", "services", "serviceaccounts", "serviceaccounts/token", "events"),
    "/apis/coordination.k8s.io/v1": ("leases",),
    "/apis/rbac.authorization.k8s.io/v1": ("roles", "rolebindings"),
}  # fmt: skip
CLUSTER = {
    ZOS: ("gridnodes", "gridnodes/status", "farms", "farms/status", "quotas", "quotas/status", "claims", *NAMESPACED[ZOS]),
    "/api/v1": ("namespaces", "nodes", "secrets", "configmaps", "events"),
    "/apis/coordination.k8s.io/v1": ("leases",),
    "/apis/rbac.authorization.k8s.io/v1": ("clusterroles", "clusterrolebindings"),
    "/apis/apiextensions.k8s.io/v1": ("customresourcedefinitions",),
    "/apis/admissionregistration.k8s.io/v1": ("validatingadmissionpolicies",),
}
NAMES = (AGENT, MINE, OTHER, "kube-system", "own")


@dataclass
class Place:
    """Two nodes of a grid, what one of them hosts, and the token of its agent."""

    server: ApiServer
    admin: User
    thief: User

    @property
    def here(self) -> str:
        return f"{ZOS}/namespaces/{names.node_namespace(MINE)}"

    @property
    def there(self) -> str:
        return f"{ZOS}/namespaces/{names.node_namespace(OTHER)}"


def workload(namespace: str) -> dict[str, Any]:
    owner = {"kind": "ZMount", "namespace": "default", "name": "d", "uid": "uid-d"}
    meta = {
        "name": "own",
        "namespace": namespace,
        "finalizers": [AGENT_FINALIZER, "example.com/other"],
        "labels": {"a": "b"},
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "NodeWorkload",
        "metadata": meta,
        "spec": {"owner": owner, "part": {"zmount": {"size": "1Gi"}}},
    }


@pytest.fixture(scope="module")
def grid(apiserver: ApiServer) -> ApiServer:
    items: list[Mapping[str, Any]] = [*controller_objects()]
    for node in (MINE, OTHER):
        items += [{"apiVersion": API_VERSION, "kind": "GridNode", "metadata": {"name": node}, "spec": {}}]
        items += agent_objects(node, names.node_namespace(node))
        items += [workload(names.node_namespace(node))]
    apiserver.kubectl(
        "apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    )
    return apiserver


@pytest.fixture
async def place(grid: ApiServer) -> AsyncIterator[Place]:
    config = json.loads(Path(grid.kubeconfig).read_text())
    namespace = names.node_namespace(MINE)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16)) as session:
        admin = User(grid, config["users"][0]["user"]["token"], session)
        made = Place(grid, admin, User(grid, token(grid, AGENT, namespace), session))
        await in_force(made)
        yield made


async def in_force(place: Place) -> None:
    """A policy and a role take a moment to be known everywhere: the last of each is asked for."""
    for _ in range(100):
        status, text = await place.thief.patch(
            f"{place.here}/nodeworkloads/own?dryRun=All", {"metadata": {"labels": {"a": "c"}}}
        )
        if status == 403 and "changes nothing of a NodeWorkload" in text:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the policy is not in force: {status} {text}")


#: For each field of GridNode.status a value that it has not and that its type lets through.
STATUS: dict[str, Any] = {
    "capacity": {"cpu": 3},
    "prekeys": [KEY],
    "sealingKey": KEY,
    "features": {"accelerator": "tcg"},
    "agentVersion": "9.9.9",
    "reportedEndpoint": {"ipv4": "185.69.166.9", "ipv6": "2a02:1802:5e::9"},
    "nameservers": ["198.51.100.53"],
    "quarantine": [{"uid": "uid-x"}],
    "nodeNamespace": "default",
    "holds": [{"uid": "uid-v", "owner": "ZMachine default/victim", "cpu": 1}],
    "allocated": {"cpu": 1},
    "free": {"cpu": 1000},
    "usage": {"cpu": "0/1000", "memory": "0/1Ti", "storage": "0/1Ti"},
    "observedGeneration": 7,
    "conditions": [{"type": "Ready", "status": "True", "reason": "Succeeded"}],
}
WORKLOAD: dict[str, Any] = {
    "metadata.labels": {"metadata": {"labels": {"x": "y"}}},
    "metadata.annotations": {"metadata": {"annotations": {"x": "y"}}},
    "metadata.ownerReferences": {
        "metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Namespace", "name": "default", "uid": "u"}]}
    },
    "metadata.finalizers: its own, while it lives": {"metadata": {"finalizers": ["example.com/other"]}},
    "metadata.finalizers: another's": {"metadata": {"finalizers": [AGENT_FINALIZER]}},
    "metadata.finalizers: one more": {"metadata": {"finalizers": [AGENT_FINALIZER, "example.com/other", "example.com/more"]}},
    "spec.owner": {"spec": {"owner": {"name": "victim", "uid": "uid-victim"}}},
    "spec.part": {"spec": {"part": {"zmount": {"size": "2Gi"}}}},
    "spec.erase": {"spec": {"erase": "uid-d"}},
    "spec.retain": {"spec": {"retain": True}},
}
WORKLOAD_STATUS: dict[str, Any] = {
    "network": {"lostKey": KEY},
    "machine": {"state": "Running"},
    "mount": {"size": "1Gi"},
    "observedGeneration": 7,
    "conditions": [{"type": "Ready", "status": "True", "reason": "Succeeded"}],
}


async def fields(thief: User, path: str, bodies: Mapping[str, Any]) -> list[str]:
    """Those changes that are taken."""
    taken = []
    for name, body in bodies.items():
        status, text = await thief.patch(f"{path}?dryRun=All", body)
        assert status in (200, 403), text
        if status == 200:
            taken.append(name)
    return sorted(taken)


async def test_all_that_a_stolen_token_can_do_is_what_is_committed(place: Place) -> None:
    mine, other = names.node_namespace(MINE), names.node_namespace(OTHER)
    thief = place.thief
    assert STATUS.keys() == {field.alias for field in GridNodeStatus.model_fields.values()}
    found = {
        "rules in its own namespace": await rules(thief, mine),
        "rules in another node's namespace": await rules(thief, other),
        "tried in its own namespace": await tried(thief, f"namespaces/{mine}", NAMESPACED, NAMES),
        "tried in another node's namespace": await tried(thief, f"namespaces/{other}", NAMESPACED, NAMES),
        "tried in the cluster": await tried(thief, "", CLUSTER, NAMES),
        "fields of its GridNode": await fields(
            thief, f"{ZOS}/gridnodes/{MINE}/status", {k: {"status": {k: v}} for k, v in STATUS.items()}
        ),
        "fields of its NodeWorkloads": await fields(thief, f"{place.here}/nodeworkloads/own", WORKLOAD),
        "fields of their status": await fields(
            thief, f"{place.here}/nodeworkloads/own/status", {k: {"status": {k: v}} for k, v in WORKLOAD_STATUS.items()}
        ),
    }
    text = "# What an agent may do, as test_rights.py tried it (ZOS_UPDATE_GOLDEN=1 writes it). Names: where not all will do.\n"
    text += yaml.safe_dump(found, sort_keys=False, width=120)
    if os.environ.get("ZOS_UPDATE_GOLDEN"):
        COMMITTED.write_text(text)
    assert text == COMMITTED.read_text()


#: What a thief would like to say of its node, and the field that is refused. Each goes into somebody else's file, or attracts
#: what is others'.
FORGED = [
    ("prekeys", [f"{KEY}\nPostUp = touch /tmp/owned"]),
    ("prekeys", ["PostUp = touch /tmp/owned"]),
    ("prekeys", [f"{KEY}\n"]),
    ("prekeys", [KEY[:-2] + "h="]),  # more than 32 bytes
    ("prekeys", [KEY] * 17),
    ("sealingKey", "hello"),
    ("nameservers", ["198.51.100.1\noptions inject"]),
    ("nameservers", ["resolver.example"]),
    ("nameservers", [f"198.51.100.{n}" for n in range(9)]),
    ("reportedEndpoint", {"ipv4": "198.51.100.7\nx"}),
    ("reportedEndpoint", {"ipv6": "2001:db8::7]:1\nx"}),
    ("reportedEndpoint", {"ipv4": "127.0.0.1"}),
    ("reportedEndpoint", {"ipv4": "169.254.169.254"}),
    ("reportedEndpoint", {"ipv4": "10.0.0.1"}),
    ("reportedEndpoint", {"ipv6": "::1"}),
    ("reportedEndpoint", {"ipv6": "::ffff:10.0.0.1"}),
    ("reportedEndpoint", {"ipv6": "fe80::1"}),
    ("agentVersion", "0.2\nx"),
    ("agentVersion", "9" * 33),
    ("features", {"accelerator": "warp"}),
    ("quarantine", [{"uid": "u", "name": "a\nb"}]),
    ("quarantine", [{"uid": "u u"}]),
    ("quarantine", [{"uid": "u", "cpu": -5}]),
    ("quarantine", [{"uid": "u", "listenPort": 70000}]),
    ("capacity", {"cpu": -1}),
    ("capacity", {"cpu": 65537}),
    ("capacity", {"memory": -1}),
    ("capacity", {"memory": "2Ei"}),
    ("capacity", {"storage": 2**62}),
    ("capacity", {"storage": "1" * 30}),
]
FORGED_WORKLOAD = [
    ("network", {"lostKey": f"{KEY}\n"}),
    ("machine", {"console": "/log\nx"}),
    ("machine", {"console": "log"}),
    ("machine", {"imageDigest": "sha256:x"}),
    ("machine", {"state": "Flying"}),
    ("machine", {"mode": "other"}),
    ("machine", {"restarts": -1}),
    ("machine", {"startedAt": "yesterday"}),
    ("mount", {"size": -1}),
    ("mount", {"size": "much"}),
    ("conditions", [{"type": "Ready", "status": "True", "reason": "two words"}]),
    ("conditions", [{"type": "Ready", "status": "Maybe", "reason": "Failed"}]),
    ("conditions", [{"type": "R\n", "status": "True", "reason": "Failed"}]),
    ("conditions", [{"type": "Ready", "status": "True", "reason": "Failed", "message": "x" * 4097}]),
    ("conditions", [{"type": "Ready", "status": "True", "reason": "Failed", "lastTransitionTime": "now"}]),
    ("conditions", [{"type": f"T{'x' * n}", "status": "True", "reason": "Failed"} for n in range(17)]),
]


async def test_what_a_thief_says_of_its_node_is_of_the_form_that_it_has_to_be(place: Place) -> None:
    for path, table in (
        (f"{ZOS}/gridnodes/{MINE}/status", FORGED),
        (f"{place.here}/nodeworkloads/own/status", FORGED_WORKLOAD),
    ):
        for field, value in table:
            status, text = await place.thief.patch(f"{path}?dryRun=All", {"status": {field: value}})
            assert status == 422, (field, value, text)
            assert f"status.{field}" in text, text
            assert "rule evaluation error" not in text


async def test_of_a_workload_that_leaves_an_agent_takes_its_own_finalizer_off_and_no_more(place: Place) -> None:
    body = workload(names.node_namespace(MINE))
    body["metadata"]["name"] = "leaving"
    path = f"{place.here}/nodeworkloads/leaving"
    assert (await place.admin.ask("POST", f"{place.here}/nodeworkloads", body))[0] == 201
    assert (await place.admin.ask("DELETE", path))[0] == 200
    for finalizers in ([], [AGENT_FINALIZER], [AGENT_FINALIZER, "example.com/other", "example.com/more"], ["example.com/more"]):
        status, text = await place.thief.patch(path, {"metadata": {"finalizers": finalizers}})
        assert status in (403, 422), (finalizers, text)
    both = {"metadata": {"finalizers": ["example.com/other"]}, "spec": {"erase": "uid-d"}}
    assert (await place.thief.patch(path, both))[0] == 403
    assert (await place.thief.patch(path, {"metadata": {"finalizers": ["example.com/other"]}}))[0] == 200
    assert (await place.admin.patch(path, {"metadata": {"finalizers": None}}))[0] == 200


async def test_a_thief_has_nothing_of_other_nodes_whatever_their_names(place: Place) -> None:
    other = names.node_namespace(OTHER)
    assert other != f"zos-node-{OTHER}", "a name that has to be derived"
    status, text = await place.thief.patch(f"{ZOS}/gridnodes/{OTHER}/status", {"status": {"prekeys": [KEY]}})
    assert status == 403, text
    assert (await place.thief.ask("GET", f"{place.there}/nodeworkloads/own"))[0] == 403
    victim = User(place.server, token(place.server, AGENT, other), place.thief.session)
    for body in ({"spec": {"erase": "uid-d"}}, {"metadata": {"finalizers": []}}):
        assert (await victim.patch(f"{place.there}/nodeworkloads/own", body))[0] == 403
    holds = {"status": {"holds": STATUS["holds"]}}
    assert (await victim.patch(f"{ZOS}/gridnodes/{OTHER}/status", holds))[0] == 403
    applied = {"apiVersion": API_VERSION, "kind": "GridNode", "metadata": {"name": OTHER}} | holds
    path = f"{ZOS}/gridnodes/{OTHER}/status?fieldManager=thief&force=true"
    assert (await victim.ask("PATCH", path, applied, "application/apply-patch+yaml"))[0] == 403


async def test_through_a_status_an_agent_changes_nothing_else(place: Place) -> None:
    more = {"labels": {"x": "y"}, "annotations": {"x": "y"}, "finalizers": ["example.com/more"]}
    for path, spec in (
        (f"{ZOS}/gridnodes/{MINE}", {"unschedulable": True}),
        (f"{place.here}/nodeworkloads/own", {"erase": "uid-d"}),
    ):
        before = json.loads((await place.admin.ask("GET", path))[1])
        status, text = await place.thief.patch(f"{path}/status?dryRun=All", {"metadata": more, "spec": spec})
        after = json.loads(text)
        assert status == 200
        assert after["spec"] == before["spec"]
        assert [after["metadata"].get(key) for key in more] == [before["metadata"].get(key) for key in more]


async def test_a_stolen_token_is_taken_out_of_use_by_making_the_account_anew(place: Place) -> None:
    other = names.node_namespace(OTHER)
    stolen = User(place.server, token(place.server, AGENT, other), place.thief.session)
    account = place.server.kubectl("get", "serviceaccount", AGENT, "-n", other, "-o", "yaml")
    place.server.kubectl("replace", "--force", "-f", "-", stdin=account)
    assert (await stolen.ask("GET", f"{place.there}/nodeworkloads"))[0] == 401
    fresh = User(place.server, token(place.server, AGENT, other), place.thief.session)
    assert (await fresh.ask("GET", f"{place.there}/nodeworkloads"))[0] == 200


async def test_an_agent_has_one_lease(place: Place) -> None:
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{names.node_namespace(MINE)}/leases"

    def lease(name: str) -> dict[str, Any]:
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}}

    status, text = await place.thief.ask("POST", f"{leases}?dryRun=All", lease("another"))
    assert (status, "has one Lease" in text) == (403, True), text
    assert (await place.thief.ask("POST", f"{leases}?dryRun=All", lease(AGENT)))[0] == 201


async def test_a_controller_touches_no_namespace_and_no_role_that_it_did_not_make(place: Place, tenant: str) -> None:
    controller = User(place.server, token(place.server, "zos-controller", "zos-system"), place.thief.session)
    relabel = {"metadata": {"labels": {"a": "b"}}}
    roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    for path in (f"/api/v1/namespaces/{tenant}", f"{roles}/zos-view"):
        for status, text in (await controller.ask("DELETE", f"{path}?dryRun=All"), await controller.patch(path, relabel)):
            assert (status, "'controller-" in text) == (403, True), text
    # What somebody else has made under the name of a node that is to come: its owner would read all that goes there.
    place.server.kubectl("create", "namespace", "zos-node-rights-trap")
    trap = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": agent_objects("rights-trap", "zos-node-rights-trap")[0]["metadata"],
    }
    path = "/api/v1/namespaces/zos-node-rights-trap?fieldManager=c&force=true"
    status, text = await controller.ask("PATCH", path, trap, "application/apply-patch+yaml")
    assert (status, "only what it made" in text) == (403, True), text
    mine = names.node_namespace(MINE)
    for path in (f"/api/v1/namespaces/{mine}", f"{roles}/{mine}"):
        assert (await controller.ask("DELETE", f"{path}?dryRun=All"))[0] == 200
        assert (await controller.patch(f"{path}?dryRun=All", relabel))[0] == 200


async def test_a_controller_makes_all_that_a_node_needs_and_takes_it_away(place: Place) -> None:
    controller = User(place.server, token(place.server, "zos-controller", "zos-system"), place.thief.session)
    namespace = names.node_namespace("rights.new")
    paths = []
    for manifest in agent_objects("rights.new", namespace):
        version, kind, name = manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]
        group = "/api/v1" if version == "v1" else f"/apis/{version}"
        within = f"/namespaces/{namespace}" if "namespace" in manifest["metadata"] else ""
        paths.append(f"{group}{within}/{kind.lower()}{'es' if kind.endswith('s') else 's'}/{name}")
        for expected in (201, 200):  # made, and found as it is
            path = f"{paths[-1]}?fieldManager=c&force=true"
            status, text = await controller.ask("PATCH", path, manifest, "application/apply-patch+yaml")
            assert status == expected, text
    for path in reversed(paths):
        status, text = await controller.ask("DELETE", path)
        assert status == 200, text


@pytest.fixture(scope="module")
def tenant(grid: ApiServer) -> str:
    """A namespace with accounts that have Kubernetes' own roles there; and another tenant's."""
    grid.start_controllers("clusterrole-aggregation-controller")
    grid.kubectl("create", "namespace", "rights-tenant")
    grid.kubectl("create", "namespace", "rights-neighbour")
    for role in ("view", "edit"):
        grid.kubectl("create", "serviceaccount", role, "-n", "rights-tenant")
        subject = ("-n", "rights-tenant", f"--serviceaccount=rights-tenant:{role}")
        grid.kubectl("create", "rolebinding", role, f"--clusterrole={role}", *subject)
    return "rights-tenant"


KINDS = {ZOS: NAMESPACED[ZOS]}
READ, WRITE = "get, list, watch", "get, list, watch, create, update, patch, delete, deletecollection"
USERS = ("networks", "zmachines", "zmounts", "publicips", "contracts", "namecontracts")
GRID = {"gridnodes": READ, "farms": READ, "quotas": READ}


@pytest.mark.parametrize(("role", "verbs"), [("view", READ), ("edit", WRITE)])
async def test_a_tenant_has_its_own_kinds_in_its_own_namespace_and_sees_the_grid(
    place: Place, tenant: str, role: str, verbs: str
) -> None:
    user = User(place.server, token(place.server, role, tenant), place.thief.session)
    for _ in range(150):  # roles are aggregated in a moment, the last of the kinds with the last of the verbs
        if await user.may(verbs.split(", ")[-1], f"{ZOS}/namespaces/{tenant}/namecontracts"):
            break
        await asyncio.sleep(0.1)
    shown = {f"{kind}/status": "get" for kind in ("networks", "zmachines", "zmounts")}
    assert await tried(user, f"namespaces/{tenant}", KINDS) == dict.fromkeys(USERS, verbs) | shown
    for elsewhere in ("rights-neighbour", names.node_namespace(MINE), "zos-system"):
        assert await tried(user, f"namespaces/{elsewhere}", NAMESPACED) == {}
    assert await tried(user, "", CLUSTER) == GRID


async def test_a_tenant_does_not_take_the_controllers_finalizer_off(place: Place, tenant: str) -> None:
    user = User(place.server, token(place.server, "edit", tenant), place.thief.session)
    path = f"{ZOS}/namespaces/{tenant}/zmounts"
    meta = {"name": "d", "finalizers": [CONTROLLER_FINALIZER, "example.com/mine"]}
    body = {"apiVersion": API_VERSION, "kind": "ZMount", "metadata": meta, "spec": {"size": "1Gi"}}
    assert (await place.admin.ask("POST", path, body))[0] == 201
    status, text = await user.patch(f"{path}/d", {"metadata": {"finalizers": None}})
    assert (status, "only the controller takes" in text) == (403, True), text
    assert (await user.patch(f"{path}/d", {"metadata": {"finalizers": [CONTROLLER_FINALIZER]}}))[0] == 200
    controller = User(place.server, token(place.server, "zos-controller", "zos-system"), place.thief.session)
    assert (await controller.patch(f"{path}/d", {"metadata": {"finalizers": None}}))[0] == 200
