"""Who leads, on a clock of its own: never two, and never nobody for long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from memory import MemoryClient, Request, Server
from virtual import clock, virtual
from zos.api.core import HEARTBEAT, Lease
from zos.kube.client import Raw, path_of
from zos.kube.election import Election, Times
from zos.kube.lease import renew

TIMES = Times()
PATH = path_of(Lease, "zos-system", "lead")


class Candidate:
    """``heard``: whether the API server answered, each time that it was asked."""

    def __init__(self, server: Server, identity: str) -> None:
        self.client = MemoryClient(server)
        self.heard: list[bool] = []
        self.election = Election(self.client, "zos-system", "lead", identity, clock, self.heard.append, TIMES)
        self.led: list[float] = []
        self.task = asyncio.create_task(self._lead())

    async def _lead(self) -> None:
        await self.election.win()
        self.led.append(clock())
        await self.election.keep()
        self.led.append(clock())


def lease(server: Server) -> Raw:
    spec: Raw = server.objects[PATH]["spec"]
    return spec


@virtual
async def test_one_leads_as_long_as_it_renews_and_is_heard_of() -> None:
    server = Server()
    one = Candidate(server, "one")
    assert not one.election.leads, "before it has asked"
    await asyncio.sleep(1)
    two = Candidate(server, "two")
    for _ in range(600):
        await asyncio.sleep(1)
        assert one.election.leads
        assert not two.election.leads
    assert lease(server)["holderIdentity"] == "one"
    assert lease(server)["leaseTransitions"] == 0
    assert server.objects[PATH]["metadata"]["labels"] == {HEARTBEAT: "true"}
    renewals = [one for one in server.writes if one.path == PATH]
    assert 600 / TIMES.duration < len(renewals) <= 601 / TIMES.renew + 1
    assert set(one.heard) == set(two.heard) == {True}


@virtual
async def test_a_leader_that_is_gone_is_replaced_when_its_time_is_over_and_not_before() -> None:
    server = Server()
    one = Candidate(server, "one")
    await asyncio.sleep(20)
    two = Candidate(server, "two")
    await asyncio.sleep(20)
    one.task.cancel()
    gone = clock()
    while not two.election.leads:
        await asyncio.sleep(0.1)
    assert TIMES.duration - TIMES.renew <= clock() - gone <= TIMES.duration + 2 * TIMES.retry
    assert lease(server)["holderIdentity"] == "two"
    assert lease(server)["leaseTransitions"] == 1


@pytest.mark.parametrize("silent", [False, True])
@virtual
async def test_who_can_not_renew_stops_before_another_may_begin(silent: bool) -> None:
    server = Server()
    one, two = Candidate(server, "one"), None
    await asyncio.sleep(1)
    two = Candidate(server, "two")
    await asyncio.sleep(30)
    assert one.election.leads
    if silent:

        async def request(*_: object, **__: object) -> Raw:
            await asyncio.sleep(3600)
            raise AssertionError

        one.client.request = request  # type: ignore[method-assign]
    else:
        one.client.away = True
    while not one.task.done():
        await asyncio.sleep(0.1)
        assert not two.election.leads
    assert not one.election.leads
    assert one.heard[-1] is False
    ended = clock()
    while not two.election.leads:
        await asyncio.sleep(0.1)
    assert 1 < clock() - ended < TIMES.duration


@virtual
async def test_one_leads_for_a_time_from_when_it_asked_and_not_from_when_it_was_answered() -> None:
    """Others count from what they see in the Lease, which was there before the answer."""
    server = Server()
    one = Candidate(server, "one")
    await asyncio.sleep(30)
    answer, asked = one.client.request, 0.0

    async def request(method: str, *rest: Any, **more: Any) -> Raw:
        nonlocal asked
        if method == "GET":
            asked = clock()
        found = await answer(method, *rest, **more)
        await asyncio.sleep(TIMES.attempt / 3)
        return found

    one.client.request = request  # type: ignore[method-assign]
    renewed = server.objects[PATH]["metadata"]["resourceVersion"]
    while server.objects[PATH]["metadata"]["resourceVersion"] == renewed:
        await asyncio.sleep(0.05)
    last = asked
    await asyncio.sleep(TIMES.attempt / 2)  # it has the answer
    assert one.heard[-1]
    one.client.away, one.client.request = True, answer  # type: ignore[method-assign]
    while one.election.leads:
        await asyncio.sleep(0.05)
    assert clock() - last <= TIMES.give_up + 0.1


@virtual
async def test_an_outage_that_ends_in_time_costs_nobody_the_lead() -> None:
    server = Server()
    one = Candidate(server, "one")
    await asyncio.sleep(30)
    one.client.away = True
    await asyncio.sleep(TIMES.give_up - TIMES.renew - 1)
    one.client.away = False
    await asyncio.sleep(60)
    assert one.election.leads
    assert {True, False} == set(one.heard)


@virtual
async def test_who_ends_lets_another_lead_at_once() -> None:
    server = Server()
    one = Candidate(server, "one")
    await asyncio.sleep(5)
    two = Candidate(server, "two")
    await asyncio.sleep(5)
    await one.election.release()
    assert not one.election.leads
    released = clock()
    while not two.election.leads:
        await asyncio.sleep(0.1)
    assert clock() - released <= TIMES.retry + 0.1
    before = len(server.requests)
    await one.election.release()
    assert len(server.requests) == before, "who does not lead has nothing to give"
    assert lease(server)["holderIdentity"] == "two"


@virtual
async def test_who_lost_the_lead_without_knowing_does_not_take_it_from_the_next() -> None:
    server = Server()
    one = Candidate(server, "one")
    await asyncio.sleep(5)
    server.handle(Request("PATCH", PATH, {"spec": {"holderIdentity": "two"}}, "merge"))
    await one.election.release()
    assert lease(server)["holderIdentity"] == "two"


@virtual
async def test_who_hears_that_another_leads_stops_at_once() -> None:
    server = Server()
    one = Candidate(server, "one")
    await asyncio.sleep(5)
    server.handle(Request("PATCH", PATH, {"spec": {"holderIdentity": "two"}}, "merge"))
    taken = clock()
    await one.task
    assert clock() - taken <= TIMES.renew


@virtual
async def test_of_two_that_come_at_the_same_time_one_leads() -> None:
    """Both have read that nobody leads; the second write is refused, which is no outage."""
    server = Server()
    both = [Candidate(server, name) for name in ("one", "two")]

    def first(request: Request) -> tuple[int, str] | None:
        if request.method == "POST" and "/leases" in request.path and PATH not in server.objects:
            server.refuses = lambda _: None
            body = {**request.body, "spec": {**request.body["spec"], "holderIdentity": "other"}}
            server.handle(Request("POST", request.path, body, ""))
        return None

    server.refuses = first
    await asyncio.sleep(5)
    assert lease(server)["holderIdentity"] == "other"
    assert not any(one.election.leads for one in both)
    assert False not in both[0].heard


@virtual
async def test_an_agents_heartbeat_is_one_request_and_comes_back_when_it_was_deleted() -> None:
    server = Server()
    client = MemoryClient(server)
    await renew(client, "zos-system", "agent", "n1", 40)
    server.requests.clear()
    await renew(client, "zos-system", "agent", "n1", 40)
    assert [one.method for one in server.requests] == ["PATCH"]
    made = server.objects[path_of(Lease, "zos-system", "agent")]
    assert (made["spec"]["holderIdentity"], made["spec"]["leaseDurationSeconds"]) == ("n1", 40)
    assert made["metadata"]["labels"] == {HEARTBEAT: "true"}
    server.handle(Request("DELETE", path_of(Lease, "zos-system", "agent"), {}, ""))
    await renew(client, "zos-system", "agent", "n1", 40)
    assert path_of(Lease, "zos-system", "agent") in server.objects
