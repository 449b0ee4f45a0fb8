"""The main job: machines on three nodes and a laptop reach each other over a private network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import IMAGE, Grid, obj, until
from stories import laptop
from stories.laptop import reach
from zos.api import names

NODES = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def home(grid: Grid) -> Iterator[str]:
    """The namespace of the machines that several tests look at."""
    grid.kubectl("create", "namespace", "t-main-job")
    yield "t-main-job"
    grid.clean("t-main-job")


@pytest.fixture(scope="module")
def machines(grid: Grid, home: str) -> dict[str, str]:
    """A machine on each node, Ready; name → private address."""
    return laptop.machines(grid, home, *NODES)


def test_every_machine_reaches_every_other_and_so_does_the_laptop(grid: Grid, home: str, machines: dict[str, str]) -> None:
    laptop.reach_each_other(grid, home, machines)
    network = grid.get("network", "private", home)
    assert network is not None
    by_name = {node["name"]: node for node in network["status"]["nodes"]}
    assert (by_name["n3"]["role"], by_name["n1"]["role"]) == ("hidden", "accessible")
    assert network["status"]["readyNodes"] == "3/3"
    assert [node["subnet"] for node in network["status"]["nodes"]] == ["10.20.3.0/24", "10.20.4.0/24", "10.20.5.0/24"]


def test_networks_with_the_same_range_do_not_meet(grid: Grid, home: str, machines: dict[str, str]) -> None:
    grid.apply(home, obj("Network", "twin", ipRange="10.20.0.0/16", nodes=[{"name": "n1"}], access=[{"name": "l"}]))
    grid.apply(
        home,
        obj("ZMachine", "stranger", image=IMAGE, memory="256Mi", nodeName="n1", network={"name": "twin", "ip": "10.20.3.99"}),
    )
    grid.ready(home, "network/twin", "zmachine/stranger")
    grid.connect(home)
    ours = machines["m-n1"]
    assert reach(grid, ours, machines["m-n2"])[-1:] == ["m-n2"]
    assert reach(grid, ours, "10.20.3.99") == [], "a machine of the other network answered"


def test_out_to_the_world_but_not_in_and_not_to_the_node_or_its_network(
    grid: Grid, home: str, machines: dict[str, str]
) -> None:
    grid.connect(home)
    closed = {
        "m-n1": ("198.51.100.11", "198.51.100.12", "198.51.100.1", "198.51.100.2", "169.254.169.254"),
        "m-n3": ("192.168.50.13", "192.168.50.1", "169.254.169.254"),
    }
    for name in closed:
        for far in ("203.0.113.130", "203.0.113.17"):  # beyond the farm's router, and the farm's addresses
            assert reach(grid, machines[name], far), f"{name} can't ping {far}"
    ways = [(name, address) for name, near in closed.items() for address in near]
    with ThreadPoolExecutor(len(ways)) as pool:  # for what does not answer one waits long
        answers = list(pool.map(lambda way: reach(grid, machines[way[0]], way[1]), ways))
    for (name, address), answer in zip(ways, answers, strict=True):
        assert answer == [], f"{name} reaches {address}"
    network = grid.get("network", "private", home)
    assert network is not None
    router = names.router(network["metadata"]["uid"])
    connects = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2)"
    for port, closed_to in ((53, False), (5000, True)):  # the node's name server, and a registry at the same address
        said = grid.run("n1", "ip", "netns", "exec", router, "python3", "-c", connects, "198.51.100.2", str(port), check=False)
        assert bool(said) is closed_to, said
    opened = {"spec": {"egress": {"allow": ["192.168.50.1/32"]}}}
    grid.kubectl("patch", "gridnode", "n3", "--type=merge", "-p", json.dumps(opened))
    try:
        until(lambda: reach(grid, machines["m-n3"], "192.168.50.1"), 15, "what its administrator opens")
    finally:
        grid.kubectl("patch", "gridnode", "n3", "--type=merge", "-p", '{"spec": {"egress": null}}')
    until(lambda: reach(grid, machines["m-n3"], "192.168.50.1") == [], 15, "closed again")
    stranger = grid.run(
        "cp", "sh", "-c", "ip route replace 10.20.3.0/24 via 198.51.100.11 && "
        f"ping -c1 -W2 {machines['m-n1']}; ip route del 10.20.3.0/24", check=False,
    )  # fmt: skip
    assert "100% packet loss" in stranger


def test_addresses_and_keys_survive_a_restart_of_everything(grid: Grid, home: str, machines: dict[str, str]) -> None:
    def snapshot() -> str:
        network = grid.get("network", "private", home)
        assert network is not None
        keep = [(n["name"], n["subnet"], n["listenPort"], n["publicKey"]) for n in network["status"]["nodes"]]
        ips = {item["metadata"]["name"]: item["status"]["ip"] for item in grid.items("zmachines", home)}
        secret = grid.get("secret", "private-laptop-wireguard", home)
        assert secret is not None
        return json.dumps([keep, ips, secret["data"]], sort_keys=True)

    def started() -> set[str]:
        return {item["status"]["startedAt"] for item in grid.items("zmachines", home)}

    before, first = snapshot(), started()
    for host in ("n1", "n2", "n3", "cp"):
        grid.minigrid("crash", host)
    grid.minigrid("up")
    # Until a node has spoken, what is told is of before: nobody was left to say otherwise.
    until(lambda: not started() & first, 240, "every guest was started again")
    grid.ready(home, "network/private", *(f"zmachine/m-{name}" for name in NODES), seconds=240)
    assert snapshot() == before
    grid.connect(home)
    assert until(lambda: reach(grid, machines["m-n1"], machines["m-n3"])[-1:] == ["m-n3"], 30)


def test_a_laptop_with_its_own_key_gets_a_file_without_one(grid: Grid, namespace: str) -> None:
    key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
    grid.apply(
        namespace,
        obj("Network", "net", ipRange="10.40.0.0/16", nodes=[{"name": "n1"}], access=[{"name": "own", "publicKey": key}]),
    )
    grid.ready(namespace, "network/net")
    secret = grid.get("secret", "net-own-wireguard", namespace)
    assert secret is not None
    text = base64.b64decode(secret["data"]["wg0.conf"]).decode()
    assert "\nPrivateKey" not in text
    assert set(secret["data"]) == {"wg0.conf"}


def test_a_laptop_is_in_several_networks_at_a_time(grid: Grid, namespace: str) -> None:
    ranges = {"one": "10.41.0.0/16", "two": "10.42.0.0/16"}
    nodes, access = [{"name": "n1"}], [{"name": "laptop"}]
    grid.apply(namespace, *(obj("Network", name, ipRange=ip, nodes=nodes, access=access) for name, ip in ranges.items()))
    grid.ready(namespace, *(f"network/{name}" for name in ranges))
    for name in ranges:
        grid.connect(namespace, name, interface=name)
    for name in ranges:
        network = grid.get("network", name, namespace)
        assert network is not None
        gateway = network["status"]["nodes"][0]["subnet"].replace(".0/24", ".1")
        until(lambda ip=gateway: "1 received" in grid.run("laptop", "ping", "-c", "1", "-W", "5", ip, check=False), 20)


def test_what_is_asked_of_a_network_and_can_not_be(grid: Grid, namespace: str) -> None:
    grid.apply(namespace, obj("Network", "net", ipRange="10.40.0.0/20", nodes=[{"name": "nowhere"}]))
    grid.says(namespace, "network", "net", "node nowhere does not exist", "DependencyNotReady")
    nodes = [{"name": "n1"}]
    access = [{"name": f"l{number}"} for number in range(14)]
    grid.apply(namespace, obj("Network", "net", ipRange="10.40.0.0/20", nodes=nodes, access=access))
    grid.says(namespace, "network", "net", "all 14 sub-ranges of 10.40.0.0/20 are used", "InsufficientCapacity")
    grid.apply(namespace, obj("Network", "net", ipRange="10.40.0.0/20", nodes=nodes))
    grid.ready(namespace, "network/net")
    machine = {"image": IMAGE, "memory": "256Mi", "nodeName": "n1"}
    grid.apply(namespace, obj("ZMachine", "m", **machine, network={"name": "net", "ip": "10.40.99.5"}))
    grid.says(namespace, "zmachine", "m", "network.ip 10.40.99.5 is outside", "InvalidSpec")
    grid.apply(namespace, obj("ZMachine", "m", **machine, network={"name": "missing"}))
    grid.says(namespace, "zmachine", "m", "network missing does not exist", "DependencyNotReady")


def test_deleting_the_network_first_waits_and_then_finishes(grid: Grid, namespace: str) -> None:
    grid.apply(
        namespace,
        obj("Network", "net", ipRange="10.40.0.0/16"),
        obj("ZMachine", "m", image=IMAGE, memory="256Mi", network={"name": "net"}),
    )
    grid.ready(namespace, "zmachine/m")
    grid.kubectl("delete", "network", "net", "-n", namespace, "--wait=false")
    grid.says(namespace, "network", "net", "waits for ZMachine m", "DeletionBlocked")
    assert grid.condition("zmachine", "m", namespace)["status"] == "True"
    grid.kubectl("delete", "zmachine", "m", "-n", namespace, "--timeout=60s")
    until(lambda: grid.get("network", "net", namespace) is None, 30)
