"""A kind that the tests alone define, in a real grid: what CONTRIBUTING says of a new workload type is what happens here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from guests import Guests
from harness import Grid, obj, until
from ping.lower import PORT
from zos.api import names
from zos.api.gridnode import GUEST_OVERHEAD
from zos.api.meta import parse_quantity


def secret(word: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "word"}, "stringData": {"word": word}}


STAY = "; while :; do sleep 1; done"
PING = {"network": {"name": "net"}, "wordFrom": {"secretKeyRef": {"name": "word", "key": "word"}}, "nodeName": "n1"}


class Story:
    def __init__(self, grid: Grid, namespace: str) -> None:
        self.grid, self.namespace = grid, namespace
        grid.apply(namespace, secret("first"), obj("Network", "net", ipRange="10.40.0.0/16", nodes=[{"name": "n2"}]))
        grid.apply(namespace, obj("Ping", "answers", **PING))
        grid.ready(namespace, "network/net", "ping/answers")
        self.uid = self.get()["metadata"]["uid"]
        self.service = f"zos-svc-ping-{names.ident(self.uid)}"

    def get(self) -> dict[str, Any]:
        found = self.grid.get("ping", "answers", self.namespace)
        assert found is not None
        return found

    def asked(self) -> tuple[str, int]:
        """What it answers somebody on another node."""
        network = self.grid.get("network", "net", self.namespace)
        assert network is not None
        ip, router = self.get()["status"]["ip"], names.router(network["metadata"]["uid"])
        ask = f"import socket; print(socket.create_connection(('{ip}', {PORT}), timeout=10).recv(99).decode())"
        word, count = self.grid.run("n2", "ip", "netns", "exec", router, "/usr/bin/python3", "-c", ask).split()
        return word, int(count)

    def held(self) -> list[object]:
        """All that is kept for it: what its node is asked for, its share of the node, its address."""
        (workload,) = [
            one for one in self.grid.items("nodeworkloads", "zos-node-n1") if one["spec"]["owner"]["uid"] == self.uid
        ]
        assert "deletionTimestamp" not in workload["metadata"]
        (hold,) = [one for one in self.node()["holds"] if one["uid"] == self.uid]
        network = self.grid.get("network", "net", self.namespace)
        assert network is not None
        (address,) = [one for one in network["status"]["addresses"] if one["owner"]["uid"] == self.uid]
        return [workload["metadata"]["uid"], workload["spec"], hold, address]

    def node(self) -> dict[str, Any]:
        node = self.grid.get("gridnode", "n1")
        assert node is not None
        return dict(node["status"])

    def pid(self) -> int:
        return int(self.grid.run("n1", "s6-svstat", "-o", "pid", f"/run/service/{self.service}"))

    def answers(self, after: int, seconds: float = 60) -> int:
        """Waits until it answers again; what it keeps goes on from there."""

        def look() -> int | None:
            try:
                word, count = self.asked()
            except Exception:
                return None
            assert word == known("first") or word == known("second")
            assert count > after, "what it keeps is another's, or lost"
            return count

        return int(until(look, seconds, "it does not answer"))


def known(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()[:8]


@pytest.fixture
def story(grid: Grid, namespace: str) -> Story:
    return Story(grid, namespace)


def test_a_kind_of_a_strangers(story: Story) -> None:
    grid, namespace = story.grid, story.namespace
    assert story.asked() == (known("first"), 1)
    columns = grid.kubectl("get", "ping", "answers", "-n", namespace)
    assert "n1" in columns
    assert story.get()["status"]["ip"] in columns  # type: ignore[index]
    # Its secret is nowhere but in its file, and another one takes effect in the program that runs.
    pid = story.pid()
    grid.apply(namespace, secret("second"))
    until(lambda: story.asked()[0] == known("second"), 30)
    assert story.pid() == pid
    shown = grid.kubectl("get", "nodeworkloads", "-n", "zos-node-n1", "-o", "yaml")
    assert "second" not in shown
    # Whatever is killed, it answers again, and knows how often it has.
    count = story.asked()[1]
    grid.kill("n1", "agent")
    assert story.pid() == pid, "it outlives the agent"
    grid.run("n1", "kill", "-9", str(story.pid()))
    count = story.answers(count)
    supervisor = grid.run("n1", "pgrep", "-f", f"^s6-supervise {story.service}$").split()[0]
    grid.run("n1", "kill", "-9", supervisor)
    count = story.answers(count)
    router = names.resident(story.uid)
    grid.run("n1", "ip", "-n", router, "link", "del", names.OWN_INTERFACE)
    count = story.answers(count)
    grid.ready(namespace, "ping/answers", seconds=60)
    # What it tells is told under its name.
    metrics = grid.run("n1", "curl", "-s", "http://127.0.0.1:9442/metrics")
    line = next(line for line in metrics.splitlines() if line.startswith("ping_answers_total{"))
    assert 'kind="Ping"' in line
    assert f'namespace="{namespace}"' in line
    assert float(line.rpartition(" ")[2]) >= count
    # A machine is given what it keeps, to read; nobody takes it from under the machine.
    guests = Guests(grid, namespace)
    look = "echo count $(cat /kept/count); touch /kept/mine || echo refused" + STAY
    filesystems = [{"kind": "Ping", "name": "answers", "mountPath": "/kept", "readOnly": True}]
    guests.apply("looks", look, network={"name": "net"}, filesystems=filesystems, nodeName=None)
    guests.ready("looks")
    assert guests.status("looks")["nodeName"] == "n1", "where what it looks at is"
    (seen,) = re.findall(r"^count (\d+)$", guests.prints("looks", "^refused$"), re.MULTILINE)
    assert int(seen) >= count
    grid.kubectl("delete", "ping", "answers", "-n", namespace, "--wait=false")
    grid.says(namespace, "ping", "answers", "waits for ZMachine looks")
    assert story.asked()[0] == known("second"), "it serves until then"
    guests.delete("zmachine", "looks")
    # Nothing of it is left when it is gone.
    until(lambda: grid.get("ping", "answers", namespace) is None, 60)
    assert json.loads(grid.kubectl("get", "network", "net", "-n", namespace, "-o", "json"))["status"].get("addresses", []) == []
    left = grid.run("n1", "sh", "-c", "ls /run/service /run/netns /var/lib/zos/volumes; cat /proc/mounts; ps ax", check=False)
    for word in (story.service, router, f"ping-{story.uid}"):
        assert word not in left
    assert not [hold for hold in grid.get("gridnode", "n1")["status"].get("holds", []) if hold["uid"] == story.uid]  # type: ignore[index]


@contextmanager
def released(grid: Grid, host: str, *services: str) -> Iterator[None]:
    """Agents or controllers as they are released: they do not know the kind."""
    scripts = [f"/run/service/{service}/run" for service in services]
    for script in scripts:
        grid.run(host, "sed", "-i.knows", r"s/ -m gridlib.kinds \([a-z]*\) ping / -m zos.\1 /", script)
        assert " -m zos." in grid.run(host, "cat", script)
    restart(grid, host, *services)
    try:
        yield
    finally:
        for script in scripts:
            grid.run(host, "mv", f"{script}.knows", script)
        restart(grid, host, *services)


def restart(grid: Grid, host: str, *services: str) -> None:
    for service in services:
        grid.run(host, "s6-svc", "-wr", "-T", "30000", "-r", f"/run/service/{service}")


def test_who_does_not_know_it_leaves_it_alone(story: Story) -> None:
    """An agent or a controller that is older, or was rolled back."""
    grid, namespace = story.grid, story.namespace
    pid, held, ip = story.pid(), until(story.held, 30), story.get()["status"]["ip"]
    count = story.asked()[1]
    with released(grid, "n1", "agent"):
        grid.says(namespace, "ping", "answers", "does not know Ping, and leaves what there is of it as it is: upgrade it")
        grid.apply(namespace, obj("ZMount", "new", size="64Mi", nodeName="n1"))
        grid.ready(namespace, "zmount/new", seconds=60)
        assert story.pid() == pid
        assert story.asked() == (known("first"), count + 1)
    grid.ready(namespace, "ping/answers", seconds=60)
    assert story.pid() == pid
    assert story.asked() == (known("first"), count + 2)
    assert story.held() == held
    with released(grid, "cp", "controller-1", "controller-2"):
        grid.apply(namespace, obj("ZMount", "newer", size="64Mi", nodeName="n1"))
        grid.ready(namespace, "zmount/newer", seconds=60)
        # Nobody else is given anything of it: what would fit in its place alone does not.
        node, guests = story.node(), Guests(grid, namespace)
        more = {
            what: parse_quantity(node["capacity"][what]) - parse_quantity(node["allocated"][what]) + (1 << 20)
            for what in ("memory", "storage")
        }
        grid.apply(namespace, obj("ZMount", "large", size=more["storage"], nodeName="n1"))
        guests.apply("large", memory=more["memory"] - GUEST_OVERHEAD, network={"name": "net"})
        guests.apply("robs", network={"name": "net", "ip": ip})
        grid.says(namespace, "zmount", "large", "node n1 lacks", "InsufficientCapacity")
        guests.says("large", "node n1 lacks", "InsufficientCapacity")
        guests.says("robs", f"{ip} is taken by Ping answers")
        assert story.held() == held
        assert story.pid() == pid
        assert story.asked() == (known("first"), count + 3)
        guests.delete("zmachine", "robs")
    grid.apply(namespace, secret("second"))
    until(lambda: story.asked()[0] == known("second"), 60)
    assert story.pid() == pid, "whoever knows it goes on where it stands"
    assert story.get()["status"]["ip"] == ip
