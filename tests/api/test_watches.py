"""What Kubernetes promises of watches, and clients build on, holds in the control planes that are run here."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from apiserver import ApiServer
from zos.kube.client import Access

_NAMESPACES = "/api/v1/namespaces"


@pytest.fixture
async def session(apiserver: ApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    access = await Access.load(apiserver.kubeconfig)
    headers = {"Authorization": await access.authorization() or ""}
    async with aiohttp.ClientSession(access.server, connector=aiohttp.TCPConnector(ssl=access.ssl()), headers=headers) as made:
        yield made


async def told(session: aiohttp.ClientSession, until: str, **asked: str) -> list[tuple[str, str]]:
    """Type and name of each event of a watch of namespaces, up to the first of which the line has ``until``."""
    found = []
    async with session.get(_NAMESPACES, params={"watch": "1", "timeoutSeconds": "30", **asked}) as watch:
        assert watch.status == 200, await watch.text()
        async for line in watch.content:
            event = json.loads(line)
            assert event["type"] != "ERROR", event["object"]["message"]
            found.append((event["type"], event["object"]["metadata"].get("name", "")))
            if until in line.decode():
                return found
    raise AssertionError(f"{until!r} did not come: {found}")


@pytest.fixture
def busy(apiserver: ApiServer) -> Iterator[str]:
    """Something else was written last, so the newest version is not one of a namespace: gives a namespace's name."""
    apiserver.kubectl("create", "configmap", "newer", "-n", "default")
    yield "default"
    apiserver.kubectl("delete", "configmap", "newer", "-n", "default")


async def test_a_watch_without_a_version_begins_with_what_there_is(session: aiohttp.ClientSession, busy: str) -> None:
    assert ("ADDED", busy) in await told(session, f'"name":"{busy}"')


async def test_a_watch_can_list(session: aiohttp.ClientSession, busy: str) -> None:
    asked = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    found = await told(session, "k8s.io/initial-events-end", **asked)
    assert ("ADDED", busy) in found
    assert found[-1][0] == "BOOKMARK"
