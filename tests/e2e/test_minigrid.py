"""The minigrid itself, and who may do what in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness import Grid, obj, sh, until


def as_agent(grid: Grid, node: str, *words: str) -> str:
    from gridlib.tools import program

    config = grid.root / "hosts" / node / "etc-zos" / "kubeconfig"
    return grid.run("cp", program("kubectl"), "--kubeconfig", str(config), *words, check=False)


def test_an_agent_reads_only_its_own(grid: Grid, namespace: str) -> None:
    grid.kubectl("create", "secret", "generic", "mine", "-n", namespace, "--from-literal=a=b")
    grid.apply(namespace, obj("ZMount", "d", size="64Mi", nodeName="n2"))
    grid.ready(namespace, "zmount/d")
    assert "zmount-" in as_agent(grid, "n2", "get", "nodeworkloads", "-n", "zos-node-n2")
    for words in (
        ("get", "nodeworkloads", "-n", "zos-node-n2"),
        ("get", "nodeworkloads", "-A"),
        ("get", "secret", "mine", "-n", namespace),
        ("get", "secrets", "-n", "zos-node-n1"),
        ("get", "secrets", "-A"),
        ("get", "zmounts", "-n", namespace),
        ("get", "lease", "agent", "-n", "zos-node-n2"),
        ("patch", "gridnode", "n2", "--subresource=status", "--type=merge", "-p", '{"status":{"agentVersion":"x"}}'),
        ("patch", "gridnode", "n1", "--type=merge", "-p", '{"spec":{"unschedulable":true}}'),
        ("create", "token", "agent", "-n", "zos-node-n1"),
        ("delete", "nodeworkload", "any", "-n", "zos-node-n1"),
    ):
        assert "Forbidden" in as_agent(grid, "n1", *words) or "forbidden" in as_agent(grid, "n1", *words), words
    assert "n1" in as_agent(grid, "n1", "get", "gridnode", "n1")


@pytest.fixture
def small() -> Grid:
    """A grid of its own: one node, whose name is long and has dots."""
    made = Grid(f"s{os.getpid() % 100000}")
    yield made
    made.minigrid("down", check=False)


def test_up_heals_and_down_leaves_nothing(small: Grid) -> None:
    node = "a-node.with-dots.and-a-name-that-is-longer-than-sixty-three-characters.example"
    small.minigrid("up", "--node-names", node, "--nodes", "1")
    small.kubectl("create", "namespace", "x")
    small.apply("x", obj("ZMount", "d", size="64Mi"), obj("Network", "n", ipRange="10.9.0.0/16", nodes=[{"name": node}]))
    small.ready("x", "zmount/d", "network/n")
    host = small.host(node)
    inits = [host.pid(), small.host("cp").pid()]
    assert all(inits)
    for pid in inits:
        os.kill(pid, 9)
    until(lambda: host.pid() is None, 10)
    assert "down" in small.minigrid("status", check=False)
    small.minigrid("up")
    small.ready("x", "zmount/d", "network/n")
    small.minigrid("up")
    small.minigrid("down")
    assert not small.root.exists()
    assert not [path for path in Path("/run/netns").iterdir() if path.name.startswith(f"mg-{small.name}-")]
    assert small.name not in sh("ip", "-o", "link")
    assert small.name not in subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True).stdout
    assert small.name not in Path("/proc/self/mountinfo").read_text()


def test_what_it_says_to_mistakes(small: Grid) -> None:
    assert "there is no minigrid" in small.minigrid("status", check=False)
    assert "take up to 16" in Grid("NO_GOOD").minigrid("up", check=False)
    assert "1 to 100" in small.minigrid("up", "--nodes", "0", check=False)


def test_one_controller_takes_over_from_the_other(grid: Grid, namespace: str) -> None:
    def leader() -> str:
        lease = grid.get("lease", "zos-controller", "zos-system")
        return lease["spec"].get("holderIdentity", "") if lease else ""

    first = until(leader, 10)
    grid.run("cp", "s6-svc", "-O", f"/run/service/{first}")  # not to be started again
    grid.kill("cp", first)
    grid.apply(namespace, obj("ZMount", "d", size="64Mi"))
    try:
        until(lambda: leader() not in ("", first), 30)
        grid.ready(namespace, "zmount/d")
    finally:
        grid.run("cp", "s6-svc", "-u", f"/run/service/{first}")
