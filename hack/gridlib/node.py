"""A node of a minigrid: libvirtd, virtlogd and the agent on a host of its own.

Making the node is one thing, starting the agent in it another: a kubelet may start it instead.
"""

from __future__ import annotations

import json
import shutil

from gridlib import farm
from gridlib.controlplane import ControlPlane
from gridlib.host import Host, Service
from gridlib.layout import CONTROL_PLANE, REGISTRY_PORT, Grid, Node, patience
from gridlib.tools import Tools
from zos.programs.node import daemons


def gridnode(node: Node) -> dict[str, object]:
    """The administrator's object for the node."""
    spec: dict[str, object] = {"farm": farm.NAME, "publicInterface": node.public_interface}
    if not node.hidden:
        spec["endpoint"] = {"ipv4": str(node.ipv4), "ipv6": str(node.ipv6)}
    return {
        "apiVersion": "zos.grid.tf/v1alpha1",
        "kind": "GridNode",
        "metadata": {"name": node.name},
        "spec": spec,
    }


class NodeHost:
    def __init__(self, grid: Grid, node: Node, tools: Tools) -> None:
        self.grid = grid
        self.node = node
        self.tools = tools
        self.host = Host(grid, node.name)

    def start(self, control_plane: ControlPlane, accelerator: str = "tcg") -> None:
        """The machine with its agent. The agent's rights come from the controller."""
        directory = self.grid.directory(self.node.name)
        credentials = directory / "etc-zos" / "kubeconfig"
        (directory / "etc-zos").mkdir(parents=True, exist_ok=True)
        fresh = not (credentials.exists() and control_plane.accepts(credentials))
        if fresh:  # or of an account that was made anew
            namespace = self._namespace(control_plane)
            control_plane.credentials(namespace, "agent", credentials)
        configuration = directory / "libvirt-etc"
        configuration.mkdir(parents=True, exist_ok=True)
        for name, text in daemons.CONFIGURATION.items():
            (configuration / name).write_text(text)
        self.host.services([*_MACHINE, self._agent(accelerator)])
        runs = self.host.pid() is not None
        self.host.start()
        if runs and fresh:
            self.host.run("s6-svc", "-r", "/run/service/agent")

    def _namespace(self, control_plane: ControlPlane) -> str:
        told = ("--for=jsonpath={.status.nodeNamespace}", f"--timeout={patience(60):.0f}s")
        out = control_plane.kubectl("wait", f"gridnode/{self.node.name}", *told, "-o", "json")
        return str(json.loads(out)["status"]["nodeNamespace"])

    def _agent(self, accelerator: str) -> Service:
        tools = self.tools
        path = shutil.which("skopeo") and "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return Service(
            "agent",
            f"export PATH={path}\n"
            f"export ZOS_INSECURE_REGISTRIES={CONTROL_PLANE}:{REGISTRY_PORT}\n"
            f"{tools.program('agent', self.grid.kinds)} --node {self.node.name} --kubeconfig /etc/zos/kubeconfig "
            f"--accelerator {accelerator} --metrics 127.0.0.1:9442 --wireguard-go {tools.wireguard_go} "
            f"--guest-dir {tools.guest} --capacity-cpu 64 --capacity-memory 16Gi --capacity-storage 40Gi "
            f"--image-dir {self.grid.root}/images --image-network {CONTROL_PLANE} --heartbeat 5 --lease 20",
        )


_MACHINE = (
    Service("virtlogd", "exec virtlogd"),
    Service("libvirtd", "while [ ! -S /run/libvirt/virtlogd-sock ]; do sleep 0.05; done\nexec libvirtd"),
)
