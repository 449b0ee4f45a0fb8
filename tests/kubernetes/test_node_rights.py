"""What a thief on one node can do to another, and a tenant to everybody: every request that the cluster's API server knows, by
the tokens that are there to be stolen; and what the keys open that lie on the node's disk."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

from cluster import Product
from everyrequest import Attempt, allowed, attempts, served
from guests import Guests
from harness import obj
from users import MERGE, User, rules
from zos.api.meta import API_VERSION, GROUP
from zos.api.names import AGENT, CONTROLLER, CONTROLLER_NAMESPACE, NODE_ACCOUNT, node_namespace

COMMITTED = Path(__file__).parent / "node-rights.yaml"
ZOS = f"/apis/{API_VERSION}"
#: The thief's node, and the one that is to be robbed.
HERE, THERE = "n1", "n2"
VICTIM, TENANT = "victim", "tenant"
MOUNTED = "/var/run/secrets/kubernetes.io/serviceaccount"
#: Verbs that no request has: asked of the API server's authorizer.
WORDS = ("bind", "escalate", "impersonate", "use", "approve", "sign", "attest", "*")
PLACES = {
    "in the other node's namespace": node_namespace(THERE),
    "in its own node's namespace": node_namespace(HERE),
    "in a user's namespace": VICTIM,
    "in the installation's": CONTROLLER_NAMESPACE,
    "in Kubernetes' own": "kube-system",
    "in the cluster": "",
}


@dataclass(frozen=True)
class Server:
    url: str


@dataclass(frozen=True)
class Stolen:
    """Tokens by whose they are, a machine's secret on the other node, and what it is called on that node."""

    tokens: dict[str, str]
    plain: str
    workload: str


@pytest.fixture(scope="module")
def stolen(product: Product) -> Iterator[Stolen]:
    for namespace in (VICTIM, TENANT):
        product.kubectl("create", "namespace", namespace)
    plain = f"plain-{secrets.token_hex(16)}"
    guests = Guests(product, VICTIM)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": plain}}
    access = [{"name": "laptop", "node": HERE}]
    nodes = [{"name": HERE}, {"name": THERE}]
    product.apply(VICTIM, secret, obj("Network", "private", ipRange="10.20.0.0/16", nodes=nodes, access=access))
    env = [{"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    guests.apply("one", 'echo "it has $SECRET"; sleep 100000', nodeName=THERE, env=env)
    guests.prints("one", f"^it has {plain}$")
    guests.ready("one")
    uid = (product.get("zmachine", "one", VICTIM) or {})["metadata"]["uid"]
    (workload,) = [one for one in product.items("nodeworkloads", node_namespace(THERE)) if one["spec"]["owner"]["uid"] == uid]
    yield Stolen(_tokens(product), plain, workload["metadata"]["name"])
    for namespace in (VICTIM, TENANT):
        product.clean(namespace)


def _tokens(product: Product) -> dict[str, str]:
    """As a thief on the node gets them; and one that a tenant was given."""
    product.kubectl("create", "serviceaccount", "edit", "-n", TENANT)
    product.kubectl("create", "rolebinding", "edit", "-n", TENANT, "--clusterrole=edit", f"--serviceaccount={TENANT}:edit")
    pod = product.pods_of("node")[HERE]["metadata"]["name"]
    mounted = product.kubectl("exec", "-n", CONTROLLER_NAMESPACE, pod, "--", "cat", f"{MOUNTED}/token").strip()
    asked = product.as_token(mounted, "create", "token", AGENT, "-n", node_namespace(HERE), "--duration=1h").strip()
    assert asked.count(".") == 2, asked
    return {"pod": mounted, "agent": asked, "tenant": product.kubectl("create", "token", "edit", "-n", TENANT).strip()}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16)) as session:
        yield session


@dataclass(frozen=True)
class Thieves:
    product: Product
    stolen: Stolen
    session: aiohttp.ClientSession

    def user(self, token: str) -> User:
        return User(Server(self.product.url), token, self.session)

    def thief(self, whose: str) -> User:
        return self.user(self.stolen.tokens[whose])

    @property
    def admin(self) -> User:
        return self.user(self.product.token)


@pytest.fixture
def thieves(product: Product, stolen: Stolen, session: aiohttp.ClientSession) -> Thieves:
    return Thieves(product, stolen, session)


async def every(thieves: Thieves) -> dict[str, list[Attempt]]:
    """Of each place."""
    admin = thieves.admin
    resources = await served(admin)
    assert {"pods/exec", "serviceaccounts/token", f"{GROUP}/nodeworkloads/status"} <= {one.title for one in resources}
    first = (AGENT, HERE, THERE, "kube-system", thieves.stolen.workload)
    return {place: await attempts(admin, resources, namespace, first) for place, namespace in PLACES.items()}


async def special(user: User, namespace: str) -> list[str]:
    """What the authorizer would let through of verbs that are no requests."""

    async def may(verb: str) -> bool:
        spec = {"resourceAttributes": {"verb": verb, "group": "*", "resource": "*", "namespace": namespace}}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
        status, text = await user.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        assert status == 201, text
        return bool(json.loads(text)["status"]["allowed"])

    named = [rule for rule in await rules(user, namespace or "default") if set(rule.partition(": ")[2].split()) & set(WORDS)]
    return [f"{verb}: anything" for verb in WORDS if await may(verb)] + named


async def test_every_request_with_every_token_is_what_is_committed(thieves: Thieves) -> None:
    found: dict[str, dict[str, Any]] = {}
    asked = await every(thieves)
    print(f"{sum(map(len, asked.values()))} requests with each token")
    for whose in thieves.stolen.tokens:
        user = thieves.thief(whose)
        found[whose] = {}
        for place, namespace in PLACES.items():
            answer: dict[str, Any] = dict(await allowed(user, asked[place]))
            if words := await special(user, namespace):
                answer["and"] = words
            found[whose][place] = answer
    own = await allowed(thieves.thief("tenant"), await attempts(thieves.admin, await served(thieves.admin), TENANT))
    assert own["secrets"] == "list, watch, deletecollection, get, update, patch, delete, create"
    # What Kubernetes itself gives is its own.
    found["tenant"]["in its own namespace"] = {what: verbs for what, verbs in own.items() if what.startswith(f"{GROUP}/")}
    text = "# What is not refused with tokens of node n1, as test_node_rights.py tried it (ZOS_UPDATE_GOLDEN=1 writes it).\n"
    text += yaml.safe_dump(found, sort_keys=False, width=120)
    if os.environ.get("ZOS_UPDATE_GOLDEN"):
        COMMITTED.write_text(text)
    assert text == COMMITTED.read_text()


def thefts(stolen: Stolen) -> list[tuple[str, str, object]]:
    """Requests as a thief would make them, with bodies that would do."""
    there, here, victim = (f"namespaces/{name}" for name in (node_namespace(THERE), node_namespace(HERE), VICTIM))
    token = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "zos-agent"}
    mine = {"kind": "ServiceAccount", "name": AGENT, "namespace": node_namespace(HERE)}
    binding = {"metadata": {"name": "mine"}, "roleRef": role, "subjects": [mine]}
    key = base64.b64encode(bytes(PrivateKey.generate().public_key)).decode()
    container = {"name": "c", "image": "localhost/pause:1", "securityContext": {"privileged": True}}
    pod = {"metadata": {"name": "p"}, "spec": {"nodeName": THERE, "serviceAccountName": CONTROLLER, "containers": [container]}}
    workload = f"{ZOS}/{there}/nodeworkloads/{stolen.workload}"
    return [
        *(("POST", f"/api/v1/{place}/serviceaccounts/{account}/token", token)
          for place, account in ((there, AGENT), (there, "default"), (f"namespaces/{CONTROLLER_NAMESPACE}", CONTROLLER),
                                 (f"namespaces/{CONTROLLER_NAMESPACE}", NODE_ACCOUNT), (victim, "default"))),
        ("POST", f"/api/v1/{here}/serviceaccounts/{AGENT}/token", token | {"spec": {"expirationSeconds": 7200}}),
        ("GET", f"{ZOS}/{there}/nodeworkloads", None),
        ("GET", workload, None),
        ("PATCH", workload, {"spec": {"secrets": []}}),
        ("PATCH", workload, {"metadata": {"finalizers": []}}),
        ("PATCH", f"{workload}/status", {"status": {"conditions": []}}),
        ("DELETE", workload, None),
        ("DELETE", f"{ZOS}/{there}/nodeworkloads", None),
        ("PATCH", f"{ZOS}/gridnodes/{THERE}/status", {"status": {"sealingKey": key}}),
        ("PATCH", f"{ZOS}/gridnodes/{THERE}", {"spec": {"unschedulable": True}}),
        ("DELETE", f"{ZOS}/gridnodes/{THERE}", None),
        ("PATCH", f"{ZOS}/gridnodes/{HERE}", {"spec": {"offer": {"cpu": 1000}}}),
        ("PATCH", f"{ZOS}/gridnodes/{HERE}/status", {"status": {"nodeNamespace": node_namespace(THERE)}}),
        ("DELETE", f"{ZOS}/{here}/nodeworkloads", None),
        ("PATCH", f"/apis/coordination.k8s.io/v1/{there}/leases/{AGENT}", {"spec": {"holderIdentity": HERE}}),
        ("GET", f"/api/v1/{victim}/secrets/s", None),
        ("GET", f"/api/v1/{victim}/secrets/private-laptop-wireguard", None),
        ("GET", "/api/v1/secrets", None),
        ("GET", f"{ZOS}/{victim}/zmachines/one", None),
        ("PATCH", f"{ZOS}/{victim}/zmachines/one", {"spec": {"nodeName": HERE}}),
        ("DELETE", f"{ZOS}/{victim}/zmachines/one", None),
        ("POST", f"{rbac}/{there}/rolebindings", binding),
        ("POST", f"{rbac}/clusterrolebindings", binding),
        ("POST", f"/api/v1/namespaces/{CONTROLLER_NAMESPACE}/pods", pod),
        ("GET", f"/api/v1/nodes/{THERE}/proxy/pods", None),
        ("PATCH", f"/api/v1/nodes/{THERE}", {"metadata": {"annotations": {"zos.grid.tf/endpoint": "192.0.2.1"}}}),
    ]  # fmt: skip


@pytest.mark.parametrize("whose", ["pod", "agent", "tenant"])
async def test_nothing_of_the_other_node_is_had_or_changed(thieves: Thieves, whose: str) -> None:
    """Not tried in a dry run, as everything above, but done."""
    user, product = thieves.thief(whose), thieves.product

    def stands() -> list[Any]:
        objects = [product.get("gridnode", THERE) or {}, product.get("zmachine", "one", VICTIM) or {}]
        objects += product.items("nodeworkloads", node_namespace(THERE))
        return [(one["metadata"]["uid"], one["metadata"]["generation"], one["spec"]) for one in objects]

    before = stands()
    for method, path, body in thefts(thieves.stolen):
        status, text = await user.ask(method, path, body, MERGE if method == "PATCH" else "application/json")
        assert status == 403, (method, path, status, text)
    assert stands() == before
    token = thieves.stolen.tokens[whose]
    pod = product.pods_of("node")[THERE]["metadata"]["name"]
    for words in (
        ("exec", "-n", CONTROLLER_NAMESPACE, pod, "--", "id"),
        ("get", "nodeworkloads", "-n", node_namespace(THERE), f"--as=system:serviceaccount:{node_namespace(THERE)}:{AGENT}"),
        ("get", "secrets", "-A", "--as=system:admin", "--as-group=system:masters"),
    ):
        assert "forbidden" in product.as_token(token, *words).lower(), words
    address = "198.51.100.12"
    for path in ("pods", "metrics", "logs/", f"run/{CONTROLLER_NAMESPACE}/{pod}/agent?cmd=id", "configz"):
        asked = ("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: Bearer {token}")
        said = product.run_on_host(HERE, *asked, f"https://{address}:10250/{path}")
        assert said == "403", (path, said)


def test_the_pods_that_hold_the_runtime_have_no_token(product: Product, stolen: Stolen) -> None:
    name = product.pods_of("runtime")[HERE]["metadata"]["name"]
    seen = product.kubectl(
        "exec", "-n", CONTROLLER_NAMESPACE, name, "--", "sh", "-c", f"ls {MOUNTED} /run/secrets; echo looked", check=False
    )
    assert seen.count("No such file or directory") == 2, seen
    assert "looked" in seen
    pod = product.ask(f"/api/v1/namespaces/{CONTROLLER_NAMESPACE}/pods/{name}")
    assert pod is not None
    assert "serviceAccountToken" not in json.dumps(pod["spec"])


def boxes(product: Product, node: str) -> list[SealedBox]:
    """Whatever a node has keys for."""
    paths = (product.root / "hosts" / node / "zos/keys").rglob("*.key")
    found = [SealedBox(PrivateKey(base64.b64decode(path.read_bytes()))) for path in paths]
    assert len(found) > 1, "its own and its networks'"
    return found


def opened(boxes: list[SealedBox], sealed: str) -> list[str]:
    found = []
    for box in boxes:
        with contextlib.suppress(CryptoError):
            found.append(box.decrypt(base64.b64decode(sealed)).decode())
    return found


async def test_what_is_sealed_to_the_other_node_is_not_read(thieves: Thieves) -> None:
    product, stolen = thieves.product, thieves.stolen
    workload = product.get("nodeworkload", stolen.workload, node_namespace(THERE))
    assert workload is not None
    (sealed,) = workload["spec"]["secrets"]
    # By the keys of the node that it is sealed to, and by none of the thief's.
    assert opened(boxes(product, THERE), sealed["value"]) == [stolen.plain]
    assert opened(boxes(product, HERE), sealed["value"]) == []

    # In nothing that the thief can read, by any way to write it; the search finds it where it is.
    forms = {stolen.plain, base64.b64encode(stolen.plain.encode()).decode(), sealed["value"]}
    read = await everything(thieves, "pod") + await everything(thieves, "agent")
    assert '"sealingKey":"' in read
    assert stolen.workload not in read
    assert [form for form in forms if form in read] == []
    there = await everything(thieves, "")
    assert [form for form in forms - {stolen.plain} if form not in there] == []

    def on_disk(node: str) -> list[str]:
        words = [word for form in forms for word in ("-e", form)]
        return product.run_on_host(node, "grep", "-rlaF", *words, "/var/lib/zos", check=False).split()

    assert on_disk(THERE)
    assert on_disk(HERE) == []


async def everything(thieves: Thieves, whose: str) -> str:
    """All that a token reads, as it comes; without one, the administrator's."""
    user = thieves.thief(whose) if whose else thieves.admin
    resources = [one for one in await served(thieves.admin) if "/" not in one.name]
    paths = {one.at(namespace) for one in resources for namespace in PLACES.values()}
    answers = await asyncio.gather(*(user.ask("GET", path) for path in sorted(paths)))
    return "\n".join(text for status, text in answers if status == 200)
