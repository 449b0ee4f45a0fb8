"""Machines of a network find each other by name, on whatever nodes they are, and everything else as before."""

from __future__ import annotations

from harness import Grid
from stories import names


def test_machines_resolve_each_other_on_two_nodes_and_the_rest_of_the_world(grid: Grid, namespace: str) -> None:
    # n3 only because it is listed: a node on which nobody asks answers nobody.
    named = names.find_each_other(names.network(grid, namespace, "n1", "n2", "n3"))
    assert named.service not in grid.run("n3", "ls", "/run/service")
    (workload,) = [one for one in grid.items("nodeworkloads", "zos-node-n3") if one["spec"]["owner"]["uid"] == named.uid]
    assert "names" not in workload["spec"]["part"]["network"]
    names.is_killed_and_back(named)
    names.what_is_gone_has_no_name(named)
