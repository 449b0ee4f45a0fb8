"""The Helm chart, as Helm renders it for tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gridlib.tools import program

ROOT = Path(__file__).parent.parent
CHART = ROOT / "charts/zos"
GOLDEN = Path(__file__).parent / "golden/chart"
NAMESPACE = "zos-system"
#: With which of these values, beside those that are there by themselves.
CASES: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "everything": ("--values", str(GOLDEN / "everything.values.yml")),
    "pools": ("--values", str(GOLDEN / "pools.values.yml")),
}
#: Of the oldest Kubernetes that the chart is for, and of one that it is tested with.
OLDEST, TESTED = ("--kube-version", "1.32.0"), ("--kube-version", "1.37.0")

Manifest = dict[str, Any]


def helm(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("helm"), *words], input=stdin, capture_output=True, text=True)


def rendered(*words: str, version: tuple[str, ...] = TESTED) -> list[Manifest]:
    """What the chart makes with these options of ``helm template``. Raises ValueError with what Helm says against them."""
    done = helm("template", "zos", str(CHART), "--namespace", NAMESPACE, *version, *words)
    if done.returncode:
        raise ValueError(done.stderr)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def told(value: str, to: object) -> tuple[str, str]:
    """The option that sets one value."""
    return "--set-json", f"{value}={json.dumps(to)}"


def container(daemon: Manifest) -> Manifest:
    """The one container of a Deployment or DaemonSet."""
    (found,) = daemon["spec"]["template"]["spec"]["containers"]
    return dict(found)
