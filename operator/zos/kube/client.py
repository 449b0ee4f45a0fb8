"""The API server: authenticated requests, errors as types. Makes no decisions and retries nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from zos.api.meta import Key, Object

#: Connections at once, if nothing else is said. One API server on two cores is saturated by fewer.
_CONNECTIONS = 16
_TIMEOUT = 30.0
_PAGE = 500
#: Bytes of an answer that are too many to take in.
_LARGEST = 64 * 2**20
#: What etcd and its client say of an object that is too large for them. The API server passes it on as a fault of its own.
_TOO_LARGE = ("etcdserver: request is too large", "trying to send message larger than max")
#: A body for a server-side apply is read as YAML: these characters are no text there, or break lines, unless escaped. Others
#: must not be escaped: YAML takes the two halves of a JSON escape beyond U+FFFF for two characters.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

PatchType = Literal["apply", "merge", "json"]
_CONTENT = {
    "apply": "application/apply-patch+yaml",
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
}
Raw = dict[str, Any]


class ApiError(Exception):
    """The API server refused. ``status`` is the HTTP code, ``reason`` Kubernetes' word for it (``Conflict``, ``Invalid``)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    @property
    def permanent(self) -> bool:
        """The same request would be refused again: only somebody's doing changes that. (A field that is newer than the CRD is
        an internal error to the API server, where it is applied.)"""
        return self.status in (400, 403, 405, 413, 422) or (self.status == 500 and _UNDECLARED in str(self))


#: structured-merge-diff, typed: what server-side apply says of a field that is not in the schema.
_UNDECLARED = "field not declared in schema"


class NotFound(ApiError):
    """404: no such object, or no such kind."""


class Conflict(ApiError):
    """409: it changed meanwhile, exists already, or another manager owns a field."""


class Unavailable(Exception):
    """The API server can't be reached, or is in no state to answer (429, 5xx). Try later."""


class TooLarge(Unavailable):
    """An answer of more bytes than can be taken in."""


class Keys(dict[Key, str]):
    """Keys and resourceVersions of objects; ``version`` is that of the list itself."""

    version: str = ""


@dataclass
class Access:
    """How to reach an API server, from a kubeconfig or from the pod's service account. Tokens that rotate are read anew, and a
    kubeconfig that was replaced is too."""

    configuration: Configuration
    kubeconfig: str | None = None
    _written: int = 0  # when the kubeconfig was written that was read last, in nanoseconds

    @classmethod
    async def load(cls, kubeconfig: str | None) -> Access:
        """Raises OSError or kubernetes' ConfigException when there is no usable configuration."""
        configuration = Configuration()
        if kubeconfig is None or not kubeconfig:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            return cls(configuration)
        written = os.stat(kubeconfig).st_mtime_ns
        await load_kube_config(config_file=kubeconfig, client_configuration=configuration)  # type: ignore[no-untyped-call]
        return cls(configuration, kubeconfig, written)

    @property
    def server(self) -> str:
        return str(self.configuration.host).rstrip("/")

    async def authorization(self) -> str | None:
        """The Authorization header, None with client certificates."""
        if self.kubeconfig is not None:
            with contextlib.suppress(OSError, ConfigException):  # being replaced just now: what was read goes on for a moment
                await self._read_anew(self.kubeconfig)
        settings = await self.configuration.auth_settings()
        token = settings.get("BearerToken", {}).get("value")
        return str(token) if token else None

    def rejected(self, authorization: str | None) -> bool:
        """The API server did not know who said this (401). Whether there may be another answer to the same question at once."""
        return False

    async def _read_anew(self, kubeconfig: str) -> None:
        written = os.stat(kubeconfig).st_mtime_ns
        if written != self._written:
            await load_kube_config(config_file=kubeconfig, client_configuration=self.configuration)  # type: ignore[no-untyped-call]
            self._written = written

    def ssl(self) -> ssl.SSLContext:
        context = ssl.create_default_context(
            cafile=self.configuration.ssl_ca_cert, cadata=getattr(self.configuration, "ca_cert_data", None)
        )
        if self.configuration.cert_file:
            context.load_cert_chain(self.configuration.cert_file, self.configuration.key_file)
        if not self.configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def path_of(model: type[Object], namespace: str = "", name: str = "", subresource: str = "") -> str:
    """URL path of an object, or of a collection. No namespace of a namespaced kind: all namespaces."""
    version = model.API_VERSION
    parts = ["api" if "/" not in version else "apis", version]
    if namespace and model.NAMESPACED:
        parts += ["namespaces", namespace]
    parts += [part for part in (model.PLURAL, name, subresource) if part]
    return "/" + "/".join(parts)


class Client:
    """``wrote`` is called after each write with (kind, verb, HTTP status; 0: no answer), for metrics. What is in ``answered``
    is called with each object that the API server answered with. ``may_write`` is asked before each write, when it has its
    connection: however long it had to wait for that, nothing is sent once writing is over. ``connections``: so many at once."""

    def __init__(
        self,
        access: Access,
        *,
        wrote: Callable[[str, str, int], None] = lambda *_: None,
        may_write: Callable[[], bool] = lambda: True,
        connections: int = _CONNECTIONS,
    ) -> None:
        self.access = access
        self.answered: list[Callable[[type[Object], Raw], None]] = []
        self._wrote = wrote
        self._may_write = may_write
        self._connections = connections
        self._free = asyncio.Semaphore(connections)
        self._session: aiohttp.ClientSession | None = None

    def beside(self) -> Client:
        """Another one, whose connections are its own and which may always write; it tells the same."""
        made = Client(self.access, wrote=self._wrote, connections=self._connections)
        made.answered = self.answered
        return made

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, model: type[Object], namespace: str, name: str) -> Raw | None:
        """None: there is none."""
        try:
            found = await self.request("GET", path_of(model, namespace, name))
        except NotFound:
            return None
        self._tell(model, found)
        return found

    async def keys(self, model: type[Object], namespace: str = "", *, name: str = "", labels: str = "") -> Keys:
        """Every object's key and resourceVersion, without the objects; only the one called ``name`` if given, or those that
        ``labels`` (a selector) selects."""
        found = Keys()
        params = {"fieldSelector": f"metadata.name={name}"} if name else {}
        params |= {"labelSelector": labels} if labels else {}
        headers = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
        async for page in self._pages(path_of(model, namespace), params, headers):
            for item in page.get("items") or ():
                meta = item["metadata"]
                found[model.key_of(meta.get("namespace", ""), meta["name"])] = meta["resourceVersion"]
            found.version = page.get("metadata", {}).get("resourceVersion", "")
        return found

    async def objects(self, model: type[Object], namespace: str = "", *, labels: str = "") -> list[Raw]:
        """Whole objects, page by page."""
        items: list[Raw] = []
        async for page in self._pages(path_of(model, namespace), {"labelSelector": labels} if labels else {}, {}):
            items += page.get("items") or ()
        return items

    async def _pages(self, path: str, params: Mapping[str, str], headers: Mapping[str, str]) -> AsyncIterator[Raw]:
        """A list, page by page; smaller pages where objects are large."""
        limit, token = _PAGE, ""
        while True:
            sent = {**params, "limit": str(limit)} | ({"continue": token} if token else {})
            try:
                page = await self.request("GET", path, params=sent, headers=headers)
            except TooLarge:
                if limit == 1:
                    raise
                limit = max(1, limit // 8)
                continue
            yield page
            if not (token := page.get("metadata", {}).get("continue")):
                return

    async def create(self, model: type[Object], namespace: str, body: Mapping[str, Any]) -> Raw:
        """Raises Conflict when it exists."""
        return await self._write("create", model, "POST", path_of(model, namespace), body)

    async def replace(self, model: type[Object], namespace: str, name: str, body: Mapping[str, Any]) -> Raw:
        """Raises Conflict when ``body``'s resourceVersion is not the current one."""
        return await self._write("replace", model, "PUT", path_of(model, namespace, name), body)

    async def patch(
        self,
        model: type[Object],
        namespace: str,
        name: str,
        body: Mapping[str, Any] | list[Any],
        *,
        type: PatchType = "merge",
        subresource: str = "",
        manager: str = "",
    ) -> Raw:
        """``apply`` is a server-side apply that takes over what others own; it needs ``manager``."""
        params = {"fieldManager": manager} if manager else {}
        if type == "apply":
            params["force"] = "true"
        path = path_of(model, namespace, name, subresource)
        return await self._write(type, model, "PATCH", path, body, params=params, content=_CONTENT[type])

    async def delete(self, model: type[Object], namespace: str, name: str, *, uid: str = "") -> None:
        """Gone already: fine. ``uid``: only that incarnation."""
        body: Raw = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            await self._write("delete", model, "DELETE", path_of(model, namespace, name), body)
        except NotFound:
            return
        except Conflict:
            if not uid:
                raise

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Raw:
        """One request. Raises ApiError (or its subclasses) and Unavailable."""
        sent = {"Accept": "application/json", **(headers or {})}
        data = _encoded(body) if body is not None else None
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            status, answer, said = await self._send(method, path, params, data, sent)
            if status == 401 and self.access.rejected(said):
                status, answer, _ = await self._send(method, path, params, data, sent)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{self.access.server}: {error or type(error).__name__}") from error
        if status < 400:
            return _decoded(answer) if answer else {}
        raise _error(status, answer)

    async def _send(
        self, method: str, path: str, params: Mapping[str, str] | None, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, str | None]:
        """HTTP status, answer, and by which authorization it was asked."""
        session = self._session or self._open()
        authorization = await self.access.authorization()
        sent = {**headers, "Authorization": authorization} if authorization else headers
        url = self.access.server + path
        async with self._free:
            if method != "GET" and not self._may_write():
                raise Unavailable("not written: this process does not lead any more")
            async with session.request(method, url, params=params, data=data, headers=sent) as response:
                return response.status, await _read(response), authorization

    async def _write(
        self,
        verb: str,
        model: type[Object],
        method: str,
        path: str,
        body: object,
        *,
        params: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> Raw:
        status = 0
        try:
            answer = await self.request(method, path, params=params, body=body, headers={"Content-Type": content})
            status = 200
            self._tell(model, answer)
        except ApiError as error:
            status = error.status
            raise
        else:
            return answer
        finally:
            self._wrote(model.KIND, verb, status)

    def _tell(self, model: type[Object], answer: Raw) -> None:
        if answer.get("kind") == model.KIND:  # a deletion may be answered with a Status
            for told in self.answered:
                told(model, answer)

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=self.access.ssl()),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT, sock_connect=5),
        )
        return self._session


def _encoded(body: object) -> bytes:
    """JSON that reads the same as YAML. Raises ApiError for text that is no Unicode (half a surrogate pair)."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    try:
        return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()
    except UnicodeEncodeError as error:
        broken = error.object[max(0, error.start - 20) : error.start + 1]
        raise ApiError(400, "BadRequest", f"not sent, because it has a character that is none: {broken!a}") from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole answer, if it is of a size to take in."""
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > _LARGEST:
            raise TooLarge(f"{response.url.path}: the answer has more than {_LARGEST} bytes")
    return bytes(answer)


def _decoded(answer: bytes) -> Raw:
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"the answer is not JSON ({error}): {answer[:100]!r}") from None
    if not isinstance(found, dict):
        raise Unavailable(f"the answer is not an object: {answer[:100]!r}")
    return found


def _error(status: int, answer: bytes) -> Exception:
    try:
        parsed = json.loads(answer)
        reason, message = str(parsed.get("reason", "")), str(parsed.get("message", ""))
    except (ValueError, AttributeError, RecursionError):
        reason, message = "", answer.decode(errors="replace")[:300]
    if any(words in message for words in _TOO_LARGE):
        return ApiError(413, "RequestEntityTooLarge", message)
    if status == 429 or status >= 500:
        return Unavailable(f"HTTP {status}: {message}")
    kind = {404: NotFound, 409: Conflict}.get(status, ApiError)
    return kind(status, reason, message or f"HTTP {status}")
