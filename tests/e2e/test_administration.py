"""What administrators say of nodes and namespaces: maintenance, how often cpus are promised, how much may be held."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from guests import Guests
from harness import Grid, obj, until
from stories import quotas
from stories.quotas import says_of_node

STAY = "; while :; do sleep 1; done"


@pytest.fixture
def guests(grid: Grid, namespace: str) -> Iterator[Guests]:
    made = Guests(grid, namespace)
    made.network()
    yield made
    says_of_node(grid, "n1", maintenance=None)


def test_a_node_under_maintenance_stops_its_machines_and_starts_them_again(guests: Guests) -> None:
    grid, namespace = guests.grid, guests.namespace
    grid.apply(namespace, obj("ZMount", "data", size="64Mi"))
    script = "trap 'echo asked to stop; exit' TERM; cat /data/f; echo kept >/data/f; sync; echo up"
    guests.apply("one", script + STAY, disks=[{"name": "data", "mountPath": "/data"}])
    guests.prints("one", "^up$")
    guests.ready("one")
    ip = guests.status("one")["ip"]
    says_of_node(grid, "n1", maintenance=True)
    guests.says("one", "it is stopped, keeps all that it has", "NodeMaintenance")
    guests.prints("one", "^asked to stop$")
    assert guests.status("one")["state"] == "Stopped"
    node = grid.condition("gridnode", "n1", "")
    assert (node["status"], node["reason"]) == ("True", "NodeMaintenance")
    until(lambda: "its machines are stopped" in grid.condition("gridnode", "n1", "")["message"], 10)
    assert "NodeMaintenance" in grid.kubectl("get", "gridnode", "n1")
    # An agent that begins anew leaves it stopped, and nothing new comes.
    grid.kill("n1", "agent")
    guests.apply("two", "echo up" + STAY)
    guests.says("two", "node n1 is under maintenance and takes nothing new", "NodeMaintenance")
    with pytest.raises(AssertionError):
        guests.qemu("one")
    guests.delete("zmachine", "two")
    says_of_node(grid, "n1", maintenance=False)
    guests.prints("one", "^kept$")
    guests.ready("one")
    after = guests.status("one")
    assert (after.get("restarts", 0), after["ip"], after["state"]) == (0, ip, "Running")
    grid.ready(namespace, "zmount/data", "network/private")


def test_a_namespace_holds_no_more_than_its_quota_and_cpus_are_promised_as_often_as_said(grid: Grid, namespace: str) -> None:
    quotas.are_kept_and_processors_promised(grid, namespace)
