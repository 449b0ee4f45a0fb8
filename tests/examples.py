"""What is in ``examples``: kustomizations as ``kubectl`` builds them, and manifests that stand for themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from gridlib.tools import program
from zos.kube.client import Raw

EXAMPLES = Path(__file__).parent.parent / "examples"
BUILT = ("base", "cluster", "minigrid")
#: Pieces of what is built, and objects of other tools.
_PIECES = ("base", "cluster", "gitops", "minigrid", "public-address")
PLAIN = tuple(
    str(path.relative_to(EXAMPLES))
    for path in sorted(EXAMPLES.rglob("*.yaml"))
    if path.relative_to(EXAMPLES).parts[0] not in _PIECES
)


def built(name: str) -> list[Raw]:
    """The objects of a kustomization, in the order in which they would be applied."""
    done = subprocess.run([program("kubectl"), "kustomize", str(EXAMPLES / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [*yaml.safe_load_all(done.stdout)]


def plain(name: str) -> list[Raw]:
    """The objects of a file."""
    return [*yaml.safe_load_all((EXAMPLES / name).read_text())]
