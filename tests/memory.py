"""An API server in memory, as strict as the real one where ours relies on it: resourceVersions and uids that must match,
generations that count specs, finalizers that hold up an end, statuses apart, namespaces that must exist, models that must fit.
Its client is the real one but for the wire."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from kubernetes.aio.client import Configuration
from pydantic import ValidationError

from zos.api.core import CustomResourceDefinition, Lease, Namespace, Node, Secret
from zos.api.meta import Key, Object
from zos.kinds.registry import KINDS
from zos.kube.client import Access, Client, Raw, Unavailable, _error

_MODELS = {
    (model.API_VERSION, model.PLURAL): model
    for model in (*KINDS.models, CustomResourceDefinition, Lease, Namespace, Node, Secret)
}
#: What a refusal is called, by HTTP status.
_REASONS = {403: "Forbidden", 404: "NotFound", 409: "Conflict", 422: "Invalid"}


@dataclass(frozen=True)
class Request:
    """``path`` as `path_of` gives it; ``content`` is the body's type."""

    method: str
    path: str
    body: Any
    content: str


class _Refused(Exception):
    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or _REASONS[status]


class Server:
    """``hears`` are told of each change, in order, with the object's key and the object (None: gone), for the kinds that have a
    model. ``refuses`` may answer a request itself: an HTTP status and words. ``requests`` is all that was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, Raw] = {}  # by path
        self.hears: list[Callable[[Key, Raw | None], None]] = []
        self.refuses: Callable[[Request], tuple[int, str] | None] = lambda _: None
        self.requests: list[Request] = []
        self.versions = itertools.count(1)
        self._applied: dict[str, set[str]] = {}  # finalizers that somebody applied, by path
        for name in ("default", "kube-system", "zos-system"):
            self.handle(Request("POST", "/api/v1/namespaces", {"metadata": {"name": name}}, ""))

    @property
    def writes(self) -> list[Request]:
        """But for events."""
        return [one for one in self.requests if one.method != "GET" and not one.path.endswith("/events")]

    def handle(self, request: Request) -> tuple[int, Raw]:
        self.requests.append(request)
        if (refusal := self.refuses(request)) is not None:
            return refusal[0], {"reason": _REASONS.get(refusal[0], ""), "message": refusal[1]}
        try:
            return 200, copy.deepcopy(self._answer(request))
        except _Refused as refused:
            return refused.status, {"reason": refused.reason, "message": str(refused)}

    def of(self, model: type[Object]) -> Iterator[Raw]:
        """Every object of a kind."""
        for path, raw in self.objects.items():
            version, _, plural, *_ = _parsed(path)
            if (version, plural) == (model.API_VERSION, model.PLURAL):
                yield raw

    def _answer(self, request: Request) -> Raw:
        version, namespace, plural, name, subresource = _parsed(request.path)
        path = request.path.removesuffix(f"/{subresource}") if subresource else request.path
        there = self.objects.get(path)
        body = copy.deepcopy(request.body) if request.body is not None else {}
        if plural == "events":
            return body
        if request.method == "GET" and not name:
            of = ((_parsed(at), raw) for at, raw in self.objects.items())
            items = [raw for at, raw in of if (at[0], at[2]) == (version, plural) and namespace in ("", at[1])]
            return {"items": items, "metadata": {"resourceVersion": str(next(self.versions))}}
        if request.method == "POST":
            name = body["metadata"]["name"]
            path = f"{path}/{name}"
            if path in self.objects:
                raise _Refused(409, f"{plural} {name!r} already exists", "AlreadyExists")
            return self._create(path, version, namespace, plural, body)
        if there is None:
            if request.method == "PATCH" and "apply" in request.content and not subresource:
                if body["metadata"].get("uid"):
                    raise _Refused(409, f"{plural} {name!r}: uid mismatch: the object is gone")
                self._applied[path] = set(body["metadata"].get("finalizers", ()))
                return self._create(path, version, namespace, plural, body)
            raise _Refused(404, f"{plural} {name!r} not found")
        if request.method == "GET":
            return there
        if request.method == "DELETE":
            _meets(there, body.get("preconditions", {}))
            return self._delete(path)
        meta = body.get("metadata", {})
        if "apply" in request.content and meta.get("uid", there["metadata"]["uid"]) != there["metadata"]["uid"]:
            raise _Refused(422, f"metadata.uid: Invalid value: {meta['uid']!r}: field is immutable")
        _meets(there, meta)
        if request.method == "PUT":
            wanted = {"apiVersion": there.get("apiVersion"), "kind": there.get("kind"), **body}
        elif "apply" in request.content:
            wanted = self._apply(path, there, body)
        else:
            wanted = _merged(there, body)
        return self.update(path, there, wanted, subresource)

    def _create(self, path: str, version: str, namespace: str, plural: str, body: Raw) -> Raw:
        if namespace and f"/api/v1/namespaces/{namespace}" not in self.objects:
            raise _Refused(404, f'namespaces "{namespace}" not found')
        number = next(self.versions)
        model = _MODELS.get((version, plural))
        meta = {
            **body["metadata"],
            **({"namespace": namespace} if namespace else {}),
            "uid": f"uid-{number:06}",
            "resourceVersion": str(number),
            "generation": 1,
            "creationTimestamp": f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}Z",
        }
        made = {**({"apiVersion": version, "kind": model.KIND} if model else {}), **body, "metadata": meta}
        if _has_status(model):
            made.pop("status", None)
        _fits(model, made)
        self.objects[path] = made
        self._tell(path)
        return made

    def _apply(self, path: str, there: Raw, body: Raw) -> Raw:
        """The only one that applies an object's spec is ours, so what is not in the body goes."""
        meta = body.get("metadata", {})
        asked = set(meta.get("finalizers", ()))
        others = [name for name in there["metadata"].get("finalizers", ()) if name not in self._applied.get(path, set())]
        self._applied[path] = asked
        wanted = {**there, **body, "metadata": {**there["metadata"], **meta}}
        wanted["metadata"]["labels"] = {**there["metadata"].get("labels", {}), **meta.get("labels", {})}
        wanted["metadata"]["finalizers"] = list(dict.fromkeys([*others, *meta.get("finalizers", ())]))
        return wanted

    def update(self, path: str, there: Raw, wanted: Raw, subresource: str) -> Raw:
        version, _, plural, *_ = _parsed(path)
        model = _MODELS.get((version, plural))
        if subresource == "status":
            wanted = {**there, "status": wanted.get("status", {})}
        elif _has_status(model):
            wanted = {**wanted, "status": there.get("status", {})}
        for fixed in ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "name", "namespace"):
            wanted["metadata"].pop(fixed, None) if fixed not in there["metadata"] else None
            if fixed in there["metadata"]:
                wanted["metadata"] = {**wanted["metadata"], fixed: there["metadata"][fixed]}
        added = set(wanted["metadata"].get("finalizers", ())) - set(there["metadata"].get("finalizers", ()))
        if "deletionTimestamp" in there["metadata"] and added:
            raise _Refused(422, f"no new finalizers can be added if the object is being deleted: {sorted(added)}")
        _fits(model, wanted)
        if _said(wanted) == _said(there):
            return there
        if wanted.get("spec") != there.get("spec"):
            wanted["metadata"] = {**wanted["metadata"], "generation": there["metadata"]["generation"] + 1}
        if "deletionTimestamp" in wanted["metadata"] and not wanted["metadata"].get("finalizers"):
            del self.objects[path]
        else:
            wanted["metadata"] = {**wanted["metadata"], "resourceVersion": str(next(self.versions))}
            self.objects[path] = wanted
        self._tell(path)
        return wanted

    def _delete(self, path: str) -> Raw:
        there = self.objects[path]
        if not there["metadata"].get("finalizers"):
            del self.objects[path]
            self._tell(path)
            return there
        if "deletionTimestamp" not in there["metadata"]:
            meta = {**there["metadata"], "deletionTimestamp": "2026-01-02T00:00:00Z"}
            meta |= {"generation": meta["generation"] + 1, "resourceVersion": str(next(self.versions))}
            self.objects[path] = {**there, "metadata": meta}
            self._tell(path)
        return self.objects[path]

    def _tell(self, path: str) -> None:
        version, namespace, plural, name, _ = _parsed(path)
        model = _MODELS.get((version, plural))
        for hear in self.hears if model is not None else ():
            assert model is not None
            hear(model.key_of(namespace, name), copy.deepcopy(self.objects.get(path)))


class MemoryClient(Client):
    """The real client, whose requests reach a `Server`; by ``dawdles`` after and for some turns of the loop."""

    dawdles: Random | None = None

    def __init__(self, server: Server, **more: Any) -> None:
        super().__init__(Access(Configuration()), **more)
        self.memory = server
        self.away = False

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Raw:
        if self.away:
            raise Unavailable("the API server does not answer")
        content = (headers or {}).get("Content-Type", "")
        sent = json.loads(json.dumps(body)) if body is not None else None
        await self._dawdle()
        status, answer = self.memory.handle(Request(method, path, sent, content))
        await self._dawdle()
        if status < 400:
            return answer
        raise _error(status, json.dumps(answer).encode())

    async def _dawdle(self) -> None:
        for _ in range(self.dawdles.randrange(4) if self.dawdles is not None else 0):
            await asyncio.sleep(0)


def _parsed(path: str) -> tuple[str, str, str, str, str]:
    """(apiVersion, namespace, plural, name, subresource)"""
    _, root, *parts = path.split("/")
    version = parts.pop(0) if root == "api" else f"{parts.pop(0)}/{parts.pop(0)}"
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        _, namespace, *parts = parts
    plural, name, subresource, *_ = [*parts, "", ""]
    return version, namespace, plural, name, subresource


def _meets(there: Raw, conditions: Raw) -> None:
    for name in ("uid", "resourceVersion"):
        if conditions.get(name) and conditions[name] != there["metadata"][name]:
            raise _Refused(409, f"the {name} is {there['metadata'][name]}, not {conditions[name]}")


def _has_status(model: type[Object] | None) -> bool:
    return model is not None and "status" in model.model_fields


def _fits(model: type[Object] | None, raw: Raw) -> None:
    if model is not None:
        try:
            model.model_validate(raw)
        except ValidationError as error:
            raise _Refused(422, str(error)) from None


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _said(raw: Raw) -> Raw:
    return {**raw, "metadata": {**raw["metadata"], "finalizers": list(raw["metadata"].get("finalizers", ()))}}
