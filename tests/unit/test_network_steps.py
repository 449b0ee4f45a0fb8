"""The steps of a network's resolution, each by itself: values in, a value and the problems out."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import pytest
from nacl.public import PrivateKey

from cases import world_of
from fixpoint import resolve, settle
from zos.api.core import Secret
from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.network import Network, NetworkStatus
from zos.kinds.network import judging, ranges, seats, serving
from zos.kinds.network.problems import Problem, Rank
from zos.kinds.network.reports import NodeReport
from zos.kinds.network.topology import Member
from zos.world.heartbeat import Heartbeat


def network(spec: dict[str, Any], status: dict[str, Any] | None = None) -> Network:
    meta = {"name": "net", "namespace": "d", "uid": "u-net", "generation": 1}
    return Network.model_validate({"metadata": meta, "spec": spec, "status": status or {}})


def member(name: str, ipv4: str | None = None) -> Member:
    return Member(name, "10.20.2.0/24", f"key-{name}", 51820, ipv4)


def test_a_node_and_a_laptop_of_one_name_have_sub_ranges_of_their_own() -> None:
    found, problems = ranges.allocate(network({"ipRange": "10.20.0.0/16", "access": [{"name": "n1"}]}), ("n1",))
    assert problems == ()
    assert (dict(found.laptops), dict(found.nodes)) == ({"n1": "10.20.2.0/24"}, {"n1": "10.20.3.0/24"})


def test_who_asks_for_anothers_sub_range_gets_none_and_the_others_theirs() -> None:
    spec = {"ipRange": "10.20.0.0/16", "nodes": [{"name": "n1", "subnet": "10.20.2.0/24"}], "access": [{"name": "bob"}]}
    had = {"access": [{"name": "bob", "subnet": "10.20.2.0/24"}]}
    found, problems = ranges.allocate(network(spec, had), ("n1", "n2"))
    assert (dict(found.laptops), dict(found.nodes)) == ({"bob": "10.20.2.0/24"}, {"n2": "10.20.3.0/24"})
    (problem,) = problems
    assert problem.reason is Reason.CONFLICT
    assert problem.message == "sub-range 10.20.2.0/24 asked for node n1 belongs to laptop bob: ask for another"


def test_a_sub_range_is_for_life() -> None:
    spec = {"ipRange": "10.20.0.0/16", "nodes": [{"name": "n1", "subnet": "10.20.7.0/24"}]}
    found, problems = ranges.allocate(network(spec, {"nodes": [{"name": "n1", "subnet": "10.20.2.0/24"}]}), ("n1",))
    assert dict(found.nodes) == {"n1": "10.20.2.0/24"}
    assert [(problem.rank, problem.reason, problem.message) for problem in problems] == [
        (
            Rank.RANGES,
            Reason.CONFLICT,
            "node n1 has sub-range 10.20.2.0/24 for the network's life: it can't change to 10.20.7.0/24, so set it back",
        )
    ]


MINE, OTHERS, FRESH = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("held", "said", "port", "key"),
    [
        (None, NodeReport(), 51821, FRESH),
        ((51899, MINE), NodeReport(), 51899, MINE),
        ((51820, OTHERS), NodeReport(), 51820, OTHERS),  # what is held stays, whatever else is
        (None, NodeReport(listen_port=51899, public_key=MINE), 51899, MINE),  # a GridNode made anew learns of it
        (None, NodeReport(listen_port=51820, public_key=MINE), 51821, FRESH),
        (None, NodeReport(listen_port=51899, public_key=OTHERS), 51899, FRESH),
        ((51899, MINE), NodeReport(lost_key=MINE), 51899, FRESH),
    ],
)
def test_a_network_keeps_its_seat_and_takes_nobody_elses(
    held: tuple[int, str] | None, said: NodeReport, port: int, key: str
) -> None:
    holds: list[dict[str, Any]] = [{"uid": "u-other", "owner": "Network d/other", "listenPort": 51820, "publicKey": OTHERS}]
    if held is not None:
        holds.append({"uid": "u-net", "owner": "Network d/net", "listenPort": held[0], "publicKey": held[1]})
    world = world_of(())
    status = {"holds": holds, "prekeys": [OTHERS, FRESH], "agentVersion": "0.2"}
    spec = {"endpoint": {"ipv4": "198.51.100.1"}, "wireguardPorts": {"from": 51820, "to": 51830}}
    world.put(GridNode.model_validate({"metadata": {"name": "n1", "uid": "u-n1"}, "spec": spec, "status": status}))
    net = network({"ipRange": "10.20.0.0/16"})
    found, problems = seats.take(net, ["n1"], {"n1": said}, world.reader(net.key))
    assert problems == ()
    assert (found["n1"].port, found["n1"].public_key) == (port, key)
    assert (found["n1"].notice is not None) == (said.lost_key is not None)


def test_a_node_that_is_full_and_one_that_offers_nothing_say_so() -> None:
    world = world_of(())
    other = {"uid": "u-other", "owner": "Network d/other", "listenPort": 51820, "publicKey": OTHERS}
    for name, holds in (("full", [other]), ("mute", [])):
        spec = {"wireguardPorts": {"from": 51820, "to": 51820}}
        meta = {"name": name, "uid": f"u-{name}"}
        world.put(GridNode.model_validate({"metadata": meta, "spec": spec, "status": {"holds": holds, "agentVersion": "0.2"}}))
    net = network({"ipRange": "10.20.0.0/16"})
    names = ["full", "mute", "gone"]
    found, problems = seats.take(net, names, dict.fromkeys(names, NodeReport()), world.reader(net.key))
    assert not found
    assert [problem.reason for problem in problems] == [
        Reason.INSUFFICIENT_CAPACITY,
        Reason.DEPENDENCY_NOT_READY,
        Reason.DEPENDENCY_NOT_READY,
    ]


def test_a_node_that_failed_is_more_than_late() -> None:
    told = {"a": NodeReport(done=True), "b": NodeReport(failed=True, message="no port")}
    found = judging.nodes({"a": "10.20.2.0/24", "b": "10.20.3.0/24"}, {}, set(), {}, told)
    verdict = judging.verdict(found, (), {}, told, ())
    assert (verdict.reason, verdict.message) == (Reason.FAILED, "1 of 2 nodes ready, waiting for b: no port")
    assert judging.verdict(found[:1], (), {}, told, ()).message == "1 node connected"


def test_the_relay_stays_until_it_dies_and_a_hidden_node_says_when_there_is_none() -> None:
    net = network({"ipRange": "10.20.0.0/16"}, {"relay": "a", "observedGeneration": 1})
    members = {"a": member("a", "198.51.100.1"), "b": member("b", "198.51.100.2"), "c": member("c")}
    assert serving.relay(net, members, {"a": None, "b": True}) == ("a", ())
    assert serving.relay(net, members, {"a": False, "b": True}) == ("b", ())
    assert serving.relay(net, members, {"a": False, "b": False}) == ("a", ()), "none is better"
    found, problems = serving.relay(net, {"c": member("c")}, {"c": True})
    assert found is None
    assert [(problem.rank, problem.reason) for problem in problems] == [(Rank.CUT_OFF, Reason.DEPENDENCY_NOT_READY)]


def test_problems_are_told_by_their_rank_in_whatever_order_they_were_found() -> None:
    found = [
        Problem(Rank.MEMBERS, Reason.INVALID_SPEC, "first"),
        Problem(Rank.LAPTOPS, Reason.NODE_UNREACHABLE, "second"),
        Problem(Rank.OVERLAP, Reason.CONFLICT, "last"),
    ]
    for order in itertools.permutations(found):
        verdict = judging.verdict((), (), {}, {}, order)
        assert (verdict.reason, verdict.message) == (Reason.INVALID_SPEC, "first; second; last")
    alike = [Problem(Rank.PLACES, Reason.CONFLICT, name) for name in ("b", "a")]
    assert judging.verdict((), (), {}, {}, alike).message == "b; a"


def test_a_node_whose_agent_is_away_is_not_ready_whatever_it_said_last() -> None:
    told = {name: NodeReport(done=True) for name in ("a", "b")}
    alive = {"a": False, "b": None}
    found = judging.nodes({"a": "10.20.2.0/24", "b": "10.20.3.0/24"}, {}, set(), alive, told)
    assert [(node.ready, node.message) for node in found] == [(False, "its agent does not answer"), (True, None)]
    assert judging.verdict(found, (), alive, told, ()).reason is Reason.NODE_UNREACHABLE


def test_the_file_with_a_laptops_key_is_left_alone_while_its_secret_has_none_whatever_else_is_wrong() -> None:
    world = world_of(())
    offered = {"prekeys": [base64.b64encode(bytes(PrivateKey.generate().public_key)).decode()], "agentVersion": "0.2"}
    place = {"endpoint": {"ipv4": "198.51.100.1"}}
    world.put(GridNode.model_validate({"metadata": {"name": "n1", "uid": "u-n1"}, "spec": place, "status": offered}))
    world.put(Heartbeat.model_validate({"metadata": {"name": "n1"}, "alive": True}))
    world.put(network({"ipRange": "10.20.0.0/16", "nodes": [{"name": "n1"}], "access": [{"name": "bob"}]}))
    settle(world, ("GridNode", "Network"))

    def file() -> Any:
        net: Any = world.peek(Network.key_of("d", "net"))
        found = resolve(net, world)
        assert isinstance(found.status, NetworkStatus)
        (secret,) = found.secrets or ()
        return secret.values, found.status.access[0].message or ""

    assert "wg0.conf" in file()[0]
    secret: Any = world.peek(Secret.key_of("d", "net-bob-wireguard"))
    world.put(secret.model_copy(update={"data": {**secret.data, "privateKey": base64.b64encode(b"none").decode()}}))
    assert file()[0] is None
    world.put(Heartbeat.model_validate({"metadata": {"name": "n1"}, "alive": False}))
    values, message = file()
    assert "is down" in message
    assert values is None
