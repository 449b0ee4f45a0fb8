"""Somebody with a token, and what he may do at an API server: as RBAC says it, and as it turns out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from apiserver import ApiServer

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class Server(Protocol):
    @property
    def url(self) -> str: ...


@dataclass
class User:
    """Somebody with a token. Nothing is ever refused here: answers are looked at."""

    server: Server
    token: str
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, body: Any = None, content: str = "application/json") -> tuple[int, str]:
        """Status and text of the answer."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content}
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, self.server.url + path, data=data, headers=headers, ssl=False) as answer:
            return answer.status, "" if "watch=" in path and answer.ok else await answer.text()

    async def patch(self, path: str, body: Any) -> tuple[int, str]:
        return await self.ask("PATCH", path, body, MERGE)

    async def may(self, verb: str, collection: str, name: str = "", subresource: str = "") -> bool:
        """Whether authorization lets it through; nothing comes of it."""
        path = "/".join(part for part in (collection, name, subresource) if part)
        method, query, body = {
            "get": ("GET", "", None),
            "list": ("GET", "limit=1", None),
            "watch": ("GET", "watch=1&timeoutSeconds=1", None),
            "create": ("POST", "dryRun=All", {}),
            "update": ("PUT", "dryRun=All", {}),
            "patch": ("PATCH", "dryRun=All", {}),
            "delete": ("DELETE", "dryRun=All", None),
            "deletecollection": ("DELETE", "dryRun=All&limit=1", None),
        }[verb]
        status, text = await self.ask(method, f"{path}?{query}", body, MERGE if verb == "patch" else "application/json")
        return not (status == 403 and "cannot" in text)


def token(server: ApiServer, account: str, namespace: str) -> str:
    return server.kubectl("create", "token", account, "-n", namespace).strip()


async def rules(user: User, namespace: str) -> list[str]:
    """What RBAC says about itself, the discovery and self reviews that everybody has left out."""
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}}
    _, text = await user.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body)
    found = [
        " ".join([f"{group}/{resource}".lstrip("/"), *rule.get("resourceNames", ())]) + ": " + " ".join(rule["verbs"])
        for rule in json.loads(text)["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    ]
    return sorted(set(found))


async def tried(
    user: User, below: str, resources: Mapping[str, Iterable[str]], names: Sequence[str] = ("own",)
) -> dict[str, str]:
    """Each verb on each kind: what was not refused by authorization, with the names where it depends on them."""
    asked: list[tuple[str, str, str]] = []
    for group, kinds in resources.items():
        for kind in kinds:
            for verb in ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"):
                sub = "/" in kind
                if sub and verb in ("list", "watch", "delete", "deletecollection"):
                    continue
                named = verb in ("get", "update", "patch", "delete") or sub
                asked += [(f"{group}|{kind}", verb, name) for name in (names if named else ("",))]

    async def one(where: str, verb: str, name: str) -> bool:
        group, kind = where.split("|")
        kind, _, sub = kind.partition("/")
        return await user.may(verb, "/".join(part for part in (group, below, kind) if part), name, sub)

    answers = await asyncio.gather(*(one(*question) for question in asked))
    allowed: dict[str, dict[str, list[str]]] = {}
    for (where, verb, name), yes in zip(asked, answers, strict=True):
        if yes:
            allowed.setdefault(where.split("|")[1], {}).setdefault(verb, []).append(name)
    return {
        kind: ", ".join(
            verb if where == [""] or len(where) == len(names) else f"{verb} {'|'.join(where)}" for verb, where in verbs.items()
        )
        for kind, verbs in allowed.items()
    }
