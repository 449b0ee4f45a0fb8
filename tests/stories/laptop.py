"""The main job: machines on several nodes, and a laptop that joins, reach each other over a private network."""

from __future__ import annotations

from harness import IMAGE, Grid, obj, until


def machines(grid: Grid, namespace: str, *nodes: str) -> dict[str, str]:
    """A machine m-NODE on each, Ready, in network ``private``; name → private address."""
    grid.apply(
        namespace,
        obj(
            "Network", "private", ipRange="10.20.0.0/16", nodes=[{"name": name} for name in nodes], access=[{"name": "laptop"}]
        ),
        *(
            obj("ZMachine", f"m-{name}", image=IMAGE, memory="256Mi", nodeName=name, network={"name": "private"})
            for name in nodes
        ),
    )
    grid.ready(namespace, "network/private", *(f"zmachine/m-{name}" for name in nodes))
    return {item["metadata"]["name"]: item["status"]["ip"] for item in grid.items("zmachines", namespace)}


def reach(grid: Grid, source: str, target: str) -> list[str]:
    """[round trip, who answered] from inside the machine at ``source``, which has to say so itself."""
    return grid.run("laptop", "curl", "-s", "-m", "30", f"http://{source}/cgi-bin/reach?{target}").split()


def reach_each_other(grid: Grid, namespace: str, machines: dict[str, str]) -> None:
    grid.connect(namespace)
    for name, ip in machines.items():
        assert f"hello from {name}" in until(
            lambda ip=ip: grid.run("laptop", "curl", "-s", "-m", "5", f"http://{ip}/", check=False), 10
        )
    for source in machines.values():
        for name, target in machines.items():
            words = until(lambda s=source, t=target: reach(grid, s, t), 15, f"{source} → {target}")
            assert words[-1] == name, words
