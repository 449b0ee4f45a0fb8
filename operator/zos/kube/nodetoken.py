"""How an agent in a pod reaches the API server: with a token of its node's own account, which it asks for with the pod's.

All pods of agents have one ServiceAccount, which may do nothing but this (`zos.manifests.admission` holds it to the node of its
pod). What the agent does after that it does as ``agent`` in the namespace of its node.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio.client import Configuration

from zos.api.names import AGENT, MEMBER, TOKEN_SECONDS
from zos.kube.client import Access

log = logging.getLogger("zos.token")

#: Which part of its life a token may have behind it before the next one is asked for: so it can fail for half an hour.
_RENEWED = 0.5
#: Seconds between two questions that fail, doubled each time, and at most.
_FIRST, _LAST = 1.0, 15.0
#: A token that is refused before it is so many seconds old was none: asking at once would go on for ever.
_YOUNG = 60.0
_TIMEOUT = 10.0


class NoToken(OSError):
    """There is no token to be had now; the text says why, and what helps."""


class _Trouble(Enum):
    NO_ACCOUNT = "no account"
    NOT_ASKED = "credentials"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class _Failure:
    """``said`` is what the API server answered, which may change while the trouble stays the same."""

    trouble: _Trouble
    message: str
    said: str = ""


@dataclass(frozen=True)
class _Token:
    """Times on the clock. ``header`` is what a request says."""

    header: str
    asked: float
    due: float
    until: float


class NodeAccess(Access):
    """Like `Access`, for the ServiceAccount ``agent`` of a node. ``directory`` has the pod's ``token`` and ``ca.crt``, read
    anew each time as the kubelet replaces them. ``clock`` gives seconds and never goes back.

    Everything but `server` and `ssl` is called in one event loop. `authorization` raises `NoToken` while there is none.
    """

    def __init__(self, server: str, directory: Path, namespace: str, node: str, clock: Callable[[], float]) -> None:
        configuration = Configuration()
        configuration.host = server
        configuration.ssl_ca_cert = str(directory / "ca.crt")
        super().__init__(configuration)
        self._directory = directory
        self._path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{AGENT}/token"
        self._node = node
        self._clock = clock
        self._token: _Token | None = None
        self._asking: asyncio.Task[None] | None = None
        self._not_before = clock()
        self._failures = 0
        self._refusals = 0
        self._failure: _Failure | None = None

    @classmethod
    def of_pod(
        cls, directory: Path, namespace: str, node: str, environment: Mapping[str, str], clock: Callable[[], float]
    ) -> NodeAccess:
        """Where the API server is, the kubelet tells each container. Raises OSError where it is not told."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
        if not host or not port.isdecimal():
            raise OSError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: --service-account is for pods")
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", directory, namespace, node, clock)

    def lacking(self) -> str | None:
        """Why there is no token, and what helps; None: there is one, or it was not asked for yet."""
        return self._failure.message if self._failure is not None and self._valid() is None else None

    async def authorization(self) -> str:
        """The Authorization header. A token that has half of its life behind it is renewed on the side."""
        now = self._clock()
        if (token := self._valid()) is not None:
            if now >= token.due and now >= self._not_before:
                self._ask()
            return token.header
        if (self._asking is None or self._asking.done()) and now < self._not_before:
            raise NoToken(self.lacking() or "the node's token was refused, and is asked for again")
        await asyncio.shield(self._ask())
        if (token := self._valid()) is None:
            raise NoToken(self.lacking() or "the node's token was refused, and is asked for again")
        return token.header

    def rejected(self, authorization: str | None) -> bool:
        """Its account was made anew, say: another token is asked for at once, but not on and on."""
        token = self._token
        if token is not None and token.header == authorization:
            self._token = None
            self._refusals = self._refusals + 1 if self._clock() - token.asked < _YOUNG else 0
            self._not_before = self._clock() + (_pause(self._refusals) if self._refusals else 0.0)
        return self._valid() is not None or self._clock() >= self._not_before

    def _valid(self) -> _Token | None:
        return self._token if self._token is not None and self._clock() < self._token.until else None

    def _ask(self) -> asyncio.Task[None]:
        """One question at a time, whoever waits for the answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._renew(), name="token")
            self._asking.add_done_callback(_told)
        return self._asking

    async def _renew(self) -> None:
        asked = self._clock()
        found = await self._request()
        if isinstance(found, _Failure):
            self._failures += 1
            self._not_before = self._clock() + _pause(self._failures)
            if self._failure is None or self._failure.trouble is not found.trouble:
                log.warning("%s%s", found.message, f" (the API server says: {found.said})" if found.said else "")
            self._failure = found
            return
        header, seconds = found
        self._token = _Token(header, asked, asked + seconds * _RENEWED, asked + seconds)
        if self._failure is not None:
            log.info("has a token of its node's account")
        self._failures, self._failure = 0, None

    async def _request(self) -> tuple[str, float] | _Failure:
        """A header and the seconds for which it is good."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        }
        try:
            own = (self._directory / "token").read_text().strip()
            context = ssl.create_default_context(cafile=str(self._directory / "ca.crt"))
        except OSError as error:
            return _Failure(_Trouble.NOT_ASKED, f"no credentials of a pod in --service-account {self._directory}: {error}")
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT)) as session,
                session.post(
                    self.server + self._path, json=body, headers={"Authorization": f"Bearer {own}"}, ssl=context
                ) as response,
            ):
                status, answer = response.status, await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return _Failure(_Trouble.UNREACHABLE, f"no token: {self.server}: {error or type(error).__name__}")
        return self._read(status, answer if isinstance(answer, dict) else {})

    def _read(self, status: int, answer: dict[str, Any]) -> tuple[str, float] | _Failure:
        said = str(answer.get("message", ""))[:500]
        if status in (200, 201):
            token, seconds = _granted(answer)
            if token:
                return f"Bearer {token}", seconds
            return _Failure(_Trouble.UNREACHABLE, "no token: the API server's answer has none")
        if status == 404 or (status == 403 and "cannot create resource" in said):
            return _Failure(
                _Trouble.NO_ACCOUNT,
                f"no account for this node yet: the controller makes it for the GridNode {self._node}. Where there is none, "
                f"kubectl label node {self._node} {MEMBER}=true has it made",
                said,
            )
        if status == 401:
            return _Failure(
                _Trouble.NOT_ASKED,
                f"the token in {self._directory} is not good any more: is the pod that it was mounted into gone?",
                said,
            )
        if status in (403, 422):
            return _Failure(_Trouble.REFUSED, "this pod may not have the token of this node's account", said)
        return _Failure(_Trouble.UNREACHABLE, f"no token: {self.server}: HTTP {status}", said)


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("asking for a token failed", exc_info=error)


def _granted(answer: dict[str, Any]) -> tuple[str, float]:
    """The token of a TokenRequest that was answered, and its seconds: as many as the API server says, if those are fewer."""
    status, spec = answer.get("status"), answer.get("spec")
    token = status.get("token") if isinstance(status, dict) else None
    seconds = spec.get("expirationSeconds") if isinstance(spec, dict) else None
    life = min(TOKEN_SECONDS, seconds) if isinstance(seconds, int) and seconds > 0 else TOKEN_SECONDS
    return (token if isinstance(token, str) else ""), float(life)


def _pause(failures: int) -> float:
    return min(_LAST, _FIRST * 2.0 ** min(failures - 1, 10))
