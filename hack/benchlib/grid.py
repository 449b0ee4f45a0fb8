"""A minigrid for measurements, and what is asked of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gridlib.host import Host
from gridlib.layout import Grid, load
from gridlib.tools import Tools
from zos.api.meta import API_VERSION

_HACK = Path(__file__).resolve().parents[1]
NAME = "bench"
IMAGE = "oci://198.51.100.2:5000/zos/hello:latest"


@dataclass(frozen=True)
class Minigrid:
    grid: Grid

    def host(self, name: str) -> Host:
        return Host(self.grid, name)

    def popen(self, host: str, *argv: str, **how: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(self.host(host).command(*argv), text=True, **how)

    def kubectl(self, *words: str, input: str | None = None, check: bool = True) -> str:
        argv = [Tools.find().kubectl, "--kubeconfig", str(self.grid.kubeconfig), *words]
        done = subprocess.run(argv, input=input, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr}")
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def agent(self, node: str) -> int:
        """Its process, as this machine sees it."""
        inside = self.host(node).run("s6-svstat", "-o", "pid", "/run/service/agent").strip()
        space = Path(f"/proc/{self.host(node).pid()}/ns/pid").readlink()
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                numbers = next(line for line in status.read_text().splitlines() if line.startswith("NSpid:")).split()
                if numbers[-1] == inside and Path(status.parent / "ns/pid").readlink() == space:
                    return int(status.parent.name)
        raise ProcessLookupError(f"agent of {node}")


def end(entered: subprocess.Popen[str]) -> None:
    """Kills a command inside a host: what was started is only the door to it."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{entered.pid}/task/{entered.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    entered.kill()
    entered.wait()


def obj(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


@contextlib.contextmanager
def minigrid(nodes: int) -> Iterator[Minigrid]:
    command = [str(_HACK / "minigrid")]
    try:
        _quietly(*command, "up", "--name", NAME, "--nodes", str(nodes))
        grid = load(NAME)
        assert grid is not None
        yield Minigrid(grid)
    finally:
        _quietly(*command, "down", "--name", NAME)


def push_image(*, virtual: bool = False) -> None:
    """``virtual``: the virtual machine's as well."""
    _quietly(str(_HACK / "images/push"), "--name", NAME, *(["--vm"] if virtual else []))


def _quietly(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
