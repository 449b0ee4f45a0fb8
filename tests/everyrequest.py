"""Every verb on every kind and subresource that an API server has, really asked with somebody's token: what is not refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from users import MERGE, User

#: How many of a place's objects are tried, and one that is not there: rights differ by name, and by few.
_NAMES = 3
NOBODY = "nobody"
_COLLECTION = {
    "list": ("GET", "limit=1"),
    "watch": ("GET", "watch=1&timeoutSeconds=1"),
    "deletecollection": ("DELETE", "dryRun=All&limit=1"),
}
_NAMED = {
    "get": ("GET", ""),
    "update": ("PUT", "dryRun=All"),
    "patch": ("PATCH", "dryRun=All"),
    "delete": ("DELETE", "dryRun=All"),
}
_CREATE = ("POST", "dryRun=All")


@dataclass(frozen=True)
class Resource:
    """``path``: that of its API, `/apis/apps/v1`; ``name`` with the subresource, `pods/exec`; ``kind``: apiVersion and kind of
    what is sent to it."""

    path: str
    name: str
    kind: tuple[str, str]
    namespaced: bool

    def at(self, namespace: str, name: str = "") -> str:
        resource, _, sub = self.name.partition("/")
        below = f"namespaces/{namespace}" if namespace and self.namespaced else ""
        return "/".join(part for part in (self.path, below, resource, name, sub) if part)

    @property
    def title(self) -> str:
        group = self.path.removeprefix("/apis/").rpartition("/")[0] if self.path.startswith("/apis/") else ""
        return f"{group}/{self.name}".lstrip("/")


@dataclass(frozen=True)
class Attempt:
    resource: Resource
    verb: str
    name: str
    method: str
    path: str
    body: object


async def served(user: User) -> list[Resource]:
    """All that discovery tells, every version of every group."""
    groups = json.loads((await user.ask("GET", "/apis"))[1])["groups"]
    paths = ["/api/v1", *(f"/apis/{version['groupVersion']}" for group in groups for version in group["versions"])]
    found: list[Resource] = []
    for path in paths:
        status, text = await user.ask("GET", path)
        assert status == 200, text
        listed = json.loads(text)
        for one in listed["resources"]:
            version = "/".join(filter(None, (one.get("group"), one.get("version")))) or listed["groupVersion"]
            found.append(Resource(path, one["name"], (version, one["kind"]), one["namespaced"]))
    return found


async def attempts(admin: User, resources: Iterable[Resource], namespace: str, first: Sequence[str] = ()) -> list[Attempt]:
    """Every verb in a namespace, on objects that are there and one that is not; without a namespace, in the cluster. ``first``:
    names that are tried before others."""
    here = [one for one in resources if one.namespaced or not namespace]
    names: dict[str, list[str]] = {}

    async def look(resource: Resource) -> None:
        status, text = await admin.ask("GET", resource.at(namespace))
        there = [item["metadata"]["name"] for item in json.loads(text)["items"]] if status == 200 else []
        found = sorted(there, key=lambda name: (name not in first, name))[:_NAMES]
        names[f"{resource.path}/{resource.name}"] = [*found, NOBODY]

    await asyncio.gather(*(look(one) for one in here if "/" not in one.name and (namespace or not one.namespaced)))
    return [
        attempt
        for resource in here
        for attempt in _of(resource, namespace, names.get(f"{resource.path}/{resource.name.partition('/')[0]}", []))
    ]


def _of(resource: Resource, namespace: str, names: Iterable[str]) -> Iterable[Attempt]:
    """Without names: of all namespaces, where nothing has one."""
    version, kind = resource.kind
    if "/" not in resource.name:
        for verb, (method, query) in _COLLECTION.items():
            if not (resource.namespaced and not namespace and verb == "deletecollection"):
                yield Attempt(resource, verb, "", method, f"{resource.at(namespace)}?{query}", None)
    for name in names:
        body = {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": name} | ({"namespace": namespace} if namespace else {}),
        }
        if kind == "TokenRequest":
            body["spec"] = {"expirationSeconds": 3600}
        for verb, (method, query) in _NAMED.items():
            sent = {"update": body, "patch": {}}.get(verb)
            yield Attempt(resource, verb, name, method, f"{resource.at(namespace, name)}?{query}", sent)
        method, query = _CREATE
        path = resource.at(namespace, name if "/" in resource.name else "")
        yield Attempt(resource, "create", name, method, f"{path}?{query}", body)


async def allowed(user: User, asked: Sequence[Attempt]) -> dict[str, str]:
    """Resource → its verbs that were not refused, with the names where it depends on them. What a request that is let through
    comes to (nothing of that name, no such method, a body that won't do) is no matter."""

    async def passes(attempt: Attempt) -> bool:
        content = MERGE if attempt.verb == "patch" else "application/json"
        status, text = await user.ask(attempt.method, attempt.path, attempt.body, content)
        assert status not in (401, 429), (attempt, status, text)
        return status != 403

    answers = await asyncio.gather(*(passes(attempt) for attempt in asked))
    passed: dict[str, dict[str, set[str]]] = {}
    tried: dict[tuple[str, str], set[str]] = {}
    for attempt, yes in zip(asked, answers, strict=True):
        tried.setdefault((attempt.resource.title, attempt.verb), set()).add(attempt.name)
        if yes:
            passed.setdefault(attempt.resource.title, {}).setdefault(attempt.verb, set()).add(attempt.name)
    return {
        title: ", ".join(
            verb if names == tried[title, verb] else f"{verb} {'|'.join(sorted(names))}" for verb, names in verbs.items()
        )
        for title, verbs in sorted(passed.items())
    }
