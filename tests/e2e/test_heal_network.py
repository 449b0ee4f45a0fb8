"""Networks heal: whatever is killed or deleted, traffic flows again within seconds, with the agent or without."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from harness import IMAGE, Grid, obj, until
from zos.api import names

NODES = ("n1", "n2", "n3")  # n3 is hidden, and behind a NAT that lets nothing in


@dataclass
class Mesh:
    """A network on three nodes. Traffic is between its router namespaces; n3's to n2 goes through the relay."""

    grid: Grid
    namespace: str
    uid: str

    @property
    def router(self) -> str:
        return names.router(self.uid)

    @property
    def wireguard(self) -> str:
        return names.wireguard(self.uid)

    @property
    def status(self) -> dict[str, object]:
        found = self.grid.get("network", "lan", self.namespace)
        assert found is not None
        return dict(found["status"])

    def gateway(self, node: str) -> str:
        subnets = {entry["name"]: entry["subnet"] for entry in self.status["nodes"]}  # type: ignore[attr-defined]
        return str(subnets[node]).replace(".0/24", ".1")

    def pings(self, source: str, target: str) -> bool:
        command = ("ip", "netns", "exec", self.router, "ping", "-c1", "-W1", self._gateways[target])
        return "1 received" in self.grid.run(source, *command, check=False)

    def whole(self, nodes: tuple[str, ...] = NODES) -> bool:
        """Fails at the first that does not reach another: nobody else is to wake what that needs."""
        for source, target in itertools.permutations(nodes, 2):
            assert self.pings(source, target), f"{source} does not reach {target}"
        return True

    def saved(self, node: str) -> bool:
        """Nothing that this node has learned up to now is lost with its processes."""
        endpoints = self.grid.run(node, "ip", "netns", "exec", self.router, "wg", "show", self.wireguard, "endpoints")
        heard = sum("(none)" not in line for line in endpoints.splitlines())
        return self.grid.run(node, "cat", f"/var/lib/zos/wireguard/{self.wireguard}/conf").count("\nEndpoint = ") == heard

    def settled(self, since: datetime) -> bool:
        """Fails at the first node whose agent has not been heard of since, or has not all done that it was told. (Who is silent
        for longer than a Lease lasts is taken for dead, and the relay moves: until its agent is back and has heard of that,
        nothing reaches the hidden node from there.)"""
        for node in NODES:
            namespace = names.node_namespace(node)
            lease = self.grid.get("lease", names.AGENT, namespace)
            assert lease is not None
            assert datetime.fromisoformat(lease["spec"]["renewTime"]) > since, f"{node}'s agent"
            assert self.grid.condition("gridnode", node, "")["status"] == "True", node
            for told in self.grid.items("nodeworkload", namespace):
                done = told.get("status", {}).get("observedGeneration")
                assert done == told["metadata"]["generation"], f"{node}: {told['metadata']['name']}"
            assert self.saved(node), f"{node} has not saved where it heard others"
        return self.grid.condition("network", "lan", self.namespace)["status"] == "True"

    def remember(self) -> None:
        self._gateways = {node: self.gateway(node) for node in NODES}

    def heals(self, harm: Callable[[], object], seconds: float) -> None:
        """Every pair reaches each other again: well before an agent's next full look, so somebody told it."""
        try:
            until(self.whole, 15, "every router reaches every other before")
            harm()
            until(self.whole, seconds, "every router reaches every other")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.sessions()}") from None

    def sessions(self) -> str:
        """What each node's WireGuard knows of the others, and its router's routes."""
        look = f"date +%T; wg show {self.wireguard} | grep -v 'key: (hidden)'; ip route"
        inside = ("ip", "netns", "exec", self.router, "sh", "-c", look)
        return "\n".join(f"--- {node}\n{self.grid.run(node, *inside, check=False)}" for node in NODES)

    def in_router(self, node: str, *command: str) -> Callable[[], str]:
        return lambda: self.grid.run(node, "ip", "netns", "exec", self.router, *command)

    def on(self, node: str, *command: str) -> Callable[[], str]:
        return lambda: self.grid.run(node, *command)


@pytest.fixture(scope="module")
def mesh(grid: Grid) -> Iterator[Mesh]:
    namespace = "t-heal-network"
    grid.kubectl("create", "namespace", namespace)
    grid.apply(
        namespace,
        obj("Network", "lan", ipRange="10.61.0.0/16", nodes=[{"name": node} for node in NODES], access=[{"name": "laptop"}]),
    )
    grid.ready(namespace, "network/lan")
    found = grid.get("network", "lan", namespace)
    assert found is not None
    made = Mesh(grid, namespace, found["metadata"]["uid"])
    made.remember()
    until(made.whole, 15)
    until(lambda: all(made.saved(node) for node in NODES), 15, "where hidden nodes call from is saved, every few seconds")
    yield made
    for node in NODES:
        grid.run(node, "s6-svc", "-u", "/run/service/agent")
    grid.clean(namespace)


@pytest.mark.parametrize("node", NODES)
def test_wireguard_killed(mesh: Mesh, node: str) -> None:
    died = []
    harm = lambda: died.append(mesh.grid.kill(node, f"zos-wg-{mesh.wireguard}"))  # noqa: E731
    mesh.heals(harm, 10)
    assert mesh.grid.service_pid(node, f"zos-wg-{mesh.wireguard}") != died[0]


@pytest.mark.parametrize("node", NODES)
def test_wireguard_killed_while_no_agent_is_there(mesh: Mesh, node: str) -> None:
    for other in NODES:
        mesh.grid.run(other, "s6-svc", "-wD", "-T", "10000", "-d", "/run/service/agent")
    try:
        mesh.heals(lambda: mesh.grid.kill(node, f"zos-wg-{mesh.wireguard}"), 10)
    finally:
        stopped = datetime.now(UTC)
        for other in NODES:
            mesh.grid.run(other, "s6-svc", "-u", "/run/service/agent")
    until(lambda: mesh.settled(stopped), 120, "the agents are back, and heard what happened meanwhile")


@pytest.mark.parametrize("node", ["n1", "n3"])
@pytest.mark.parametrize("what", ["interface", "route", "address", "table", "node table", "bridge", "uplink", "namespace"])
def test_deleted_by_hand(mesh: Mesh, node: str, what: str) -> None:
    table = names.table(mesh.uid)
    harm = {
        "interface": mesh.in_router(node, "ip", "link", "delete", mesh.wireguard),
        "route": mesh.in_router(node, "ip", "route", "delete", "10.61.0.0/16"),
        "address": mesh.in_router(node, "ip", "address", "flush", "dev", "lan"),
        "table": mesh.in_router(node, "nft", "delete", "table", "inet", table),
        "node table": mesh.on(node, "nft", "delete", "table", "inet", table),
        "bridge": mesh.in_router(node, "ip", "link", "delete", "lan"),
        "uplink": mesh.on(node, "ip", "link", "delete", names.uplink(mesh.uid)),
        "namespace": mesh.on(node, "ip", "netns", "delete", mesh.router),
    }[what]
    until(lambda: _complete(mesh, node), 10)
    mesh.heals(harm, 15)
    until(lambda: _complete(mesh, node), 15, "everything is back")  # well before an agent's next full look


def _complete(mesh: Mesh, node: str) -> bool:
    """Not only the traffic of this moment: everything that a network has on a node."""
    links = mesh.grid.run(node, "ip", "-br", "link", check=False)
    inside = mesh.grid.run(node, "ip", "-n", mesh.router, "-br", "link", check=False)
    routes = mesh.grid.run(node, "ip", "-n", mesh.router, "route", check=False)
    tables = mesh.grid.run(node, "nft", "list", "tables", check=False)
    inner = mesh.grid.run(node, "ip", "netns", "exec", mesh.router, "nft", "list", "ruleset", check=False)
    table = names.table(mesh.uid)
    return (
        names.uplink(mesh.uid) in links
        and all(name in inside for name in (mesh.wireguard, "lan", "wan"))
        and "default via" in routes
        and "10.61.0.0/16" in routes
        and table in tables
        and "masquerade" in inner
        and table in inner
    )


def test_the_agent_killed_disturbs_nobody(mesh: Mesh) -> None:
    """Ten pings a second for thirty seconds, from the hidden node through the relay, while each agent is killed."""
    ping = mesh.grid.popen(
        "n3", "ip", "netns", "exec", mesh.router, "ping", "-i", "0.1", "-c", "300", "-W", "1", mesh.gateway("n2")
    )
    for node in NODES:
        time.sleep(6)
        mesh.grid.kill(node, "agent")
    out, _ = ping.communicate(timeout=60)
    assert "300 received, 0% packet loss" in out, out[-300:]


def test_the_api_server_away_changes_nothing_and_is_caught_up_with(mesh: Mesh) -> None:
    relay = mesh.status["relay"]
    mesh.grid.run("cp", "s6-svc", "-wD", "-T", "20000", "-dk", "/run/service/apiserver")
    try:
        until(lambda: "refused" in mesh.grid.kubectl("get", "gn", check=False), 10)
        mesh.heals(lambda: mesh.grid.kill("n2", "agent"), 10)
        # Drift heals without it, by an agent that was started without it.
        mesh.heals(mesh.in_router("n2", "ip", "link", "delete", mesh.wireguard), 30)
        time.sleep(25)  # longer than a Lease lasts here
        assert mesh.whole()
    finally:
        mesh.grid.run("cp", "s6-svc", "-u", "/run/service/apiserver")
    until(lambda: "Ready" in mesh.grid.kubectl("get", "network", "lan", "-n", mesh.namespace, "-o", "yaml", check=False), 60)
    for node in NODES:
        until(lambda node=node: mesh.grid.condition("gridnode", node, "")["status"] == "True", 60, node)
    time.sleep(10)  # so that somebody who takes them for dead has the time to move it
    assert mesh.status["relay"] == relay
    # It listens again.
    patch = json.dumps({"spec": {"nodes": [{"name": node} for node in NODES], "access": [{"name": "laptop"}, {"name": "b"}]}})
    mesh.grid.kubectl("patch", "network", "lan", "-n", mesh.namespace, "--type=merge", "-p", patch)
    until(lambda: len(mesh.status["access"]) == 2, 20)  # type: ignore[arg-type]
    mesh.grid.ready(mesh.namespace, "network/lan", seconds=30)


def test_a_dead_relay_is_replaced(mesh: Mesh) -> None:
    """n3 is hidden and calls the relay; the relay's machine dies; within a minute n3 is reached through the other one."""
    relay = str(mesh.status["relay"])
    other = next(node for node in ("n1", "n2") if node != relay)
    until(mesh.whole, 15)
    mesh.grid.minigrid("crash", relay)
    try:
        until(lambda: mesh.whole((other, "n3")), 60, f"n3 and {other} reach each other without {relay}")
        assert mesh.status["relay"] == other
    finally:
        mesh.grid.minigrid("up", timeout=300)
    # The node comes back as it was: same sub-range, port, key; and the relay stays where it went.
    until(mesh.whole, 60)
    mesh.grid.ready(mesh.namespace, "network/lan", seconds=60)
    assert mesh.status["relay"] == other


#: As its command line has it: libvirt starts a QEMU of its own now and then, to ask what it can do.
GUEST = "qemu-system.* guest=zos-"


def test_machines_do_not_notice_the_agents_end(mesh: Mesh, namespace: str) -> None:
    """Guests and a ping between them, 10/s for 30 s: none lost while agents are killed."""
    grid = mesh.grid
    grid.apply(
        namespace,
        obj("Network", "lan", ipRange="10.62.0.0/16"),
        *(
            obj("ZMachine", name, image=IMAGE, memory="256Mi", network={"name": "lan"}, nodeName=node)
            for name, node in (("one", "n1"), ("two", "n2"))
        ),
    )
    grid.ready(namespace, "zmachine/one", "zmachine/two", seconds=120)
    machine = grid.get("zmachine", "two", namespace)
    network = grid.get("network", "lan", namespace)
    assert machine is not None
    assert network is not None
    router, ip = names.router(network["metadata"]["uid"]), machine["status"]["ip"]
    until(lambda: "1 received" in grid.run("n1", "ip", "netns", "exec", router, "ping", "-c1", "-W1", ip, check=False), 30)
    qemus = {node: grid.run(node, "pgrep", "-f", GUEST) for node in ("n1", "n2")}
    ping = grid.popen("n1", "ip", "netns", "exec", router, "ping", "-i", "0.1", "-c", "300", "-W", "1", ip)
    killer = threading.Thread(target=lambda: [(time.sleep(8), grid.kill(node, "agent")) for node in ("n1", "n2")])
    killer.start()
    out, _ = ping.communicate(timeout=90)
    killer.join()
    assert re.search(r"300 received.* 0% packet loss", out), out[-300:]
    assert {node: grid.run(node, "pgrep", "-f", GUEST) for node in ("n1", "n2")} == qemus


def test_a_node_that_forwards_nothing(mesh: Mesh, namespace: str) -> None:
    """As Docker, ufw and kubelets leave it: machines reach each other on one node and across; that they don't reach the
    Internet is told, and no more once they do."""
    grid = mesh.grid
    grid.apply(
        namespace,
        obj("Network", "lan", ipRange="10.63.0.0/16"),
        *(
            obj("ZMachine", name, image=IMAGE, memory="256Mi", network={"name": "lan"}, nodeName=node)
            for name, node in (("one", "n1"), ("two", "n1"), ("three", "n2"))
        ),
    )
    grid.ready(namespace, "zmachine/one", "zmachine/two", "zmachine/three", seconds=120)
    network = grid.get("network", "lan", namespace)
    assert network is not None
    router = names.router(network["metadata"]["uid"])
    ips = {}
    for name in ("one", "two", "three"):
        machine = grid.get("zmachine", name, namespace)
        assert machine is not None
        ips[name] = machine["status"]["ip"]

    def reaches(target: str) -> bool:
        url = f"http://{ips['one']}/cgi-bin/reach?{ips[target]}"
        return target in grid.run("n1", "ip", "netns", "exec", router, "curl", "-s", "-m", "5", url, check=False).split()

    def told() -> str:
        found = grid.get("network", "lan", namespace)
        assert found is not None
        return "".join(one["message"] for one in found["status"]["conditions"] if one["type"] == "EgressBlocked")

    until(lambda: reaches("two") and reaches("three"), 30)
    chain = "add table inet theirs; add chain inet theirs forward { type filter hook forward priority 0; policy drop; }"
    try:
        for node in ("n1", "n2"):
            grid.run(node, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
            grid.run(node, "nft", chain)
        assert reaches("two")
        assert reaches("three")
        until(lambda: told().count("inet theirs forward (policy drop)") == 2, 10, "both nodes tell what stops it")
        assert reaches("two")
        assert reaches("three")
    finally:
        for node in ("n1", "n2"):
            grid.run(node, "nft", "delete", "table", "inet", "theirs", check=False)
    until(lambda: told() == "", 10, "it is not told any more")
