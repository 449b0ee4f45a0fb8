"""The product's release on a cluster, as its administrator handles it: by Helm, with several versions of chart and images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import releases
from cluster import Product
from gridlib import chart
from gridlib.archives import load_images
from gridlib.layout import Grid, load
from gridlib.tools import KubeletTools
from torturelib.chaos import Refused

#: For Helm to wait until all pods are Ready.
PATIENCE = 240.0
PARTS = ("controller", "node", "runtime")
_WHERE = ("-n", chart.NAMESPACE)
_WAIT = ("--wait", f"--timeout={PATIENCE:.0f}s")
Values = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """Its images lie as archives in a folder."""

    name: str
    images: Path
    chart: Path


def versions(directory: Path) -> list[Version]:
    """This checkout's, a later one's, and those of the release before where the history is there. Takes a minute."""
    checkouts = {"this": chart.CHECKOUT, "later": releases.later(directory / "later")}
    if (before := releases.previous(directory / "previous")) is not None:
        checkouts["previous"] = before
    return [
        Version(name, releases.built(checkout, directory / f"images-{name}"), checkout / "charts/zos")
        for name, checkout in checkouts.items()
    ]


class Release:
    """One that is installed, or was. What it has been told is what Helm says of it."""

    def __init__(self, product: Product, known: list[Version]) -> None:
        self._product = product
        self.versions = {version.name: version for version in known}
        self._named: dict[str, dict[str, dict[str, str]]] = {}  # version → how values name its images

    @property
    def grid(self) -> Grid:
        grid = load(self._product.name)
        assert grid is not None
        return grid

    def bring_images(self) -> None:
        """Onto the nodes, which can't pull them."""
        for version in self.versions.values():
            given = self._product.load(version.images)
            self._named[version.name] = {**given, "runtime": given["node"]}

    def first_values(self) -> Values:
        images = load_images(self.grid, sorted(self.versions["this"].images.glob("*.tar")))
        return {**chart.values(self.grid, images, "tcg"), "images": self._named["this"]}

    def with_images(self, values: Values, **parts: str) -> Values:
        """Of other versions, for these parts."""
        images = {part: self._named[name][part] for part, name in parts.items()}
        return {**values, "images": {**values["images"], **images}}

    def versions_in(self, values: Values) -> dict[str, str]:
        """Part → its version."""
        return {
            part: next((name for name, named in self._named.items() if named[part] == values["images"].get(part)), "?")
            for part in PARTS
        }

    def values(self) -> Values:
        """Raises Refused: it is not installed."""
        if (said := self._asked("get", "values", chart.NAME, "-o", "json")) is None:
            raise Refused("it is not installed")
        return dict(json.loads(said) or {})

    def history(self) -> list[dict[str, Any]]:
        """The oldest first; none: it is not installed."""
        return list(json.loads(self._asked("history", chart.NAME, "-o", "json") or "[]"))

    def good(self) -> list[int]:
        """Revisions that were installed whole; the last is the present one."""
        return [one["revision"] for one in self.history() if one["status"] in ("deployed", "superseded")]

    def upgrade(self, values: Values, version: str = "this") -> None:
        self._helm("upgrade", chart.NAME, str(self.versions[version].chart), "-f", str(self._write(values)), *_WAIT)

    def install(self, values: Values, version: str = "this") -> None:
        self._helm("install", chart.NAME, str(self.versions[version].chart), "-f", str(self._write(values)), *_WAIT)

    def uninstall(self) -> None:
        self._helm("uninstall", chart.NAME, *_WAIT)

    def rollback(self, revision: int) -> None:
        self._helm("rollback", chart.NAME, str(revision), *_WAIT)

    def test(self) -> str:
        """What it says; a failure too."""
        return self._asked("test", chart.NAME, "--logs", "--timeout=120s", failing=True) or ""

    def killed_upgrade(self, values: Values, seconds: float) -> str:
        """One that is killed after a while. How the release stands then, as Helm calls it."""
        command, told = self._command("upgrade", chart.NAME, str(chart.CHART), "-f", str(self._write(values)), *_WAIT)
        process = subprocess.Popen(command, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return str(self.history()[-1]["status"])

    def _write(self, values: Values) -> Path:
        path = self.grid.root / "values.json"
        path.write_text(json.dumps(values, indent=2))
        return path

    def _command(self, *words: str) -> tuple[list[str], dict[str, str]]:
        own = {f"HELM_{what}_HOME": str(self.grid.root / "helm" / what.lower()) for what in ("CACHE", "CONFIG", "DATA")}
        return [KubeletTools.find().helm, "--kubeconfig", str(self.grid.kubeconfig), *words, *_WHERE], {**os.environ, **own}

    def _helm(self, *words: str) -> str:
        return chart.helm(self.grid, *words, *_WHERE)

    def _asked(self, *words: str, failing: bool = False) -> str | None:
        """None: it is refused."""
        command, told = self._command(*words)
        done = subprocess.run(command, env=told, capture_output=True, text=True)
        return None if done.returncode and not failing else done.stdout + (done.stderr if failing else "")
