"""An agent's token: asked for with its pod's, renewed in good time, and neither too often nor in vain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from zos.api.zmount import ZMount
from zos.kube import nodetoken
from zos.kube.client import ApiError, Client, Unavailable
from zos.kube.nodetoken import NodeAccess, NoToken

WHERE = "/api/v1/namespaces/zos-node-n1/serviceaccounts/agent/token"
ABSENT = (404, 'serviceaccounts "agent" not found')
UNBOUND = (403, 'serviceaccounts "agent" is forbidden: User "x" cannot create resource "serviceaccounts/token"')
DENIED = (403, "ValidatingAdmissionPolicy 'agents-tokens' denied request: its own node's agent only")


@dataclass
class Api:
    """Gives tokens t1, t2 …, and lists nothing to whoever has a good one. ``refusal`` is answered instead of a token."""

    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # pods' tokens, bodies
    good: Callable[[str], bool] = lambda _: True
    refusal: tuple[int, str] | None = None
    life: int = 3600
    requests: list[str] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def token(self, request: web.Request) -> web.Response:
        assert request.path == WHERE
        self.asked.append((request.headers["Authorization"], await request.json()))
        if self.hold is not None:
            await self.hold.wait()
        if self.refusal is not None:
            return web.json_response({"kind": "Status", "message": self.refusal[1]}, status=self.refusal[0])
        answer = {"spec": {"expirationSeconds": self.life}, "status": {"token": f"t{len(self.asked)}"}}
        return web.json_response(answer, status=201)

    async def rest(self, request: web.Request) -> web.Response:
        said = request.headers["Authorization"]
        self.requests.append(said)
        if not self.good(said.removeprefix("Bearer ")):
            return web.json_response({"reason": "Unauthorized", "message": "Unauthorized"}, status=401)
        return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def api() -> Api:
    return Api()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def access(api: Api, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NodeAccess]:
    monkeypatch.setattr(nodetoken.ssl, "create_default_context", lambda **_: False)  # the server here speaks plain HTTP
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    app = web.Application()
    app.router.add_post(WHERE, api.token)
    app.router.add_route("*", "/{path:.*}", api.rest)
    server = TestServer(app)
    await server.start_server(access_log=None)
    (tmp_path / "token").write_text("pod-1\n")
    yield NodeAccess(str(server.make_url("")).rstrip("/"), tmp_path, "zos-node-n1", "n1", clock)
    await server.close()


async def refused(access: NodeAccess) -> str:
    with pytest.raises(NoToken) as error:
        await access.authorization()
    return str(error.value)


async def test_it_asks_once_for_an_hour_whoever_waits_for_it(api: Api, access: NodeAccess, clock: Clock) -> None:
    found = await asyncio.gather(*(access.authorization() for _ in range(20)))
    assert set(found) == {"Bearer t1"}
    clock.now += 1799
    assert await access.authorization() == "Bearer t1"
    assert [(who, body["spec"]) for who, body in api.asked] == [("Bearer pod-1", {"expirationSeconds": 3600})]
    assert access.lacking() is None


async def settled() -> None:
    """Until nothing is asked any more."""
    while any(task.get_name() == "token" for task in asyncio.all_tasks()):
        await asyncio.sleep(0.001)


async def test_it_is_renewed_at_half_its_life_on_the_side_with_the_pods_token_of_that_time(
    api: Api, access: NodeAccess, clock: Clock, tmp_path: Path
) -> None:
    await access.authorization()
    (tmp_path / "token").write_text("pod-2")
    api.hold = asyncio.Event()
    clock.now += 1801
    assert {await access.authorization() for _ in range(5)} == {"Bearer t1"}, "nobody waits for that"
    api.hold.set()
    await settled()
    assert await access.authorization() == "Bearer t2"
    assert [who for who, _ in api.asked] == ["Bearer pod-1", "Bearer pod-2"]
    clock.now += 1000
    await access.authorization()
    await settled()
    assert len(api.asked) == 2


async def test_what_the_api_server_gives_may_be_shorter(api: Api, access: NodeAccess, clock: Clock) -> None:
    api.life = 600
    await access.authorization()
    clock.now += 301
    await access.authorization()
    await settled()
    assert await access.authorization() == "Bearer t2"


async def test_a_renewal_that_fails_is_tried_again_while_the_token_lasts_and_no_longer(
    api: Api, access: NodeAccess, clock: Clock
) -> None:
    await access.authorization()
    api.refusal = (500, "etcd is away")
    clock.now += 1800
    while clock.now < 100 + 3600:
        assert await access.authorization() == "Bearer t1"
        await settled()
        clock.now += 1
    assert 100 < len(api.asked) < 130, "every fifteen seconds"
    assert access.lacking() is not None
    assert "HTTP 500" in await refused(access)
    api.refusal = None
    clock.now += 15
    assert (await access.authorization()).startswith("Bearer t")
    assert access.lacking() is None


@pytest.mark.parametrize("answer", [ABSENT, UNBOUND])
async def test_a_node_without_an_account_waits_and_says_once_what_is_missing(
    api: Api, access: NodeAccess, clock: Clock, answer: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zos.token")
    api.refusal = answer
    for _ in range(120):
        said = await refused(access)
        clock.now += 0.5
    assert "kubectl label node n1 zos.grid.tf.node-restriction.kubernetes.io/node=true" in said
    assert access.lacking() == said
    assert len(api.asked) <= 8, "1, 2, 4, 8, 15, 15 … seconds between"
    (line,) = caplog.records
    assert line.getMessage().startswith(said)
    assert answer[1] in line.getMessage()
    api.refusal = ABSENT if answer is UNBOUND else UNBOUND
    clock.now += 15
    assert await refused(access) == said
    assert len(caplog.records) == 1, "it is the same that is missing"
    api.refusal = None
    clock.now += 15
    await access.authorization()
    assert caplog.records[-1].getMessage() == "has a token of its node's account"
    assert access.lacking() is None


async def test_what_is_wrong_otherwise_is_told_apart(
    api: Api, access: NodeAccess, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for refusal, words in (
        (DENIED, "may not have the token"),
        ((401, "Unauthorized"), "not good any more"),
        ((429, "later"), "HTTP 429"),
        ((201, ""), "the API server's answer has none"),
    ):
        api.refusal = refusal
        clock.now += 60
        assert words in await refused(access)
    (tmp_path / "token").unlink()
    clock.now += 60
    assert "no credentials of a pod" in await refused(access)
    assert "its own node's agent only" in caplog.text


async def test_a_token_that_is_refused_is_replaced_at_once_and_the_question_asked_again(
    api: Api, access: NodeAccess, clock: Clock
) -> None:
    client = Client(access)
    try:
        assert await client.keys(ZMount) == {}
        clock.now += 100
        api.good = lambda token: token != "t1"
        assert await client.keys(ZMount) == {}
        assert api.requests[-2:] == ["Bearer t1", "Bearer t2"]
        assert len(api.asked) == 2
    finally:
        await client.close()


async def test_where_no_token_is_good_it_does_not_ask_on_and_on(api: Api, access: NodeAccess, clock: Clock) -> None:
    client = Client(access)
    api.good = lambda _: False
    try:
        for _ in range(240):
            with pytest.raises((ApiError, Unavailable)):
                await client.keys(ZMount)
            clock.now += 0.25
        assert len(api.asked) <= 9, "1, 2, 4, 8, 15, 15 … seconds between"
        assert len(api.requests) <= 2 * len(api.asked)
    finally:
        await client.close()


async def test_a_refusal_of_an_earlier_token_is_none_of_the_present(api: Api, access: NodeAccess) -> None:
    assert not access.rejected("Bearer t0") or not api.asked
    await access.authorization()
    assert access.rejected("Bearer t0"), "there is another to try"
    assert await access.authorization() == "Bearer t1"


def test_where_the_api_server_is_the_kubelet_says(tmp_path: Path, clock: Clock) -> None:
    def of(**environment: str) -> NodeAccess:
        told = {f"KUBERNETES_SERVICE_{name}": value for name, value in environment.items()}
        return NodeAccess.of_pod(tmp_path, "zos-node-n1", "n1", told, clock)

    assert of(HOST="10.96.0.1", PORT="443").server == "https://10.96.0.1:443"
    assert of(HOST="fd00::1", PORT="6443").server == "https://[fd00::1]:6443"
    for wrong in ({}, {"HOST": "10.96.0.1"}, {"HOST": "10.96.0.1", "PORT": "https"}):
        with pytest.raises(OSError, match="KUBERNETES_SERVICE_HOST"):
            of(**wrong)
    assert of(HOST="h", PORT="1").configuration.ssl_ca_cert == str(tmp_path / "ca.crt")
