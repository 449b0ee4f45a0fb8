"""The nodes of a minigrid that is a cluster: from hosts that start to Nodes that are Ready."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from gridlib import kubelet
from gridlib.archives import load_images
from gridlib.controlplane import ControlPlane
from gridlib.kubelet import KubeletHost
from gridlib.layout import Grid, GridError, patience
from gridlib.tools import KubeletTools


def start(grid: Grid, control_plane: ControlPlane) -> None:
    """Gives back when every node can run pods. Raises GridError."""
    tools = KubeletTools.find()
    hosts = [KubeletHost(grid, node, tools) for node in grid.nodes]
    began = int(time.time())
    fresh = {host.node.name for host in hosts if host.host.pid() is None}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda host: host.start(control_plane), hosts))
    control_plane.admit_kubelets([kubelet.manifest(node) for node in grid.nodes])
    load_images(grid, [tools.pause])
    _ready(grid, control_plane, {name: began if name in fresh else 0 for name in (node.name for node in grid.nodes)})


def _ready(grid: Grid, control_plane: ControlPlane, since: dict[str, int]) -> None:
    """Each has said so itself after a point of time: what was said before a crash stands for a while."""
    deadline = time.monotonic() + patience(90)
    while True:
        waiting = [name for name, told in _told(control_plane).items() if told < since.get(name, 0) or not told]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise GridError(f"not Ready: {', '.join(waiting)}: hack/minigrid logs {waiting[0]} kubelet --name {grid.name}")
        time.sleep(0.2)


def _told(control_plane: ControlPlane) -> dict[str, float]:
    """Node → when it last said that it is Ready; 0: it is not."""
    nodes = json.loads(control_plane.kubectl("get", "nodes", "-o", "json"))["items"]
    told = {node["metadata"]["name"]: 0.0 for node in nodes}
    for node in nodes:
        for condition in node.get("status", {}).get("conditions", ()):
            if condition["type"] == "Ready" and condition["status"] == "True":
                told[node["metadata"]["name"]] = datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp()
    return told
