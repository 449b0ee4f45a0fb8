"""Images of this checkout, of a later one, and of the release before."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from harness import CHECKOUT, sh


def built(checkout: Path, output: Path) -> Path:
    """A folder with both images, as archives."""
    sh(str(checkout / "hack/images/build"), "--output", str(output), timeout=600)
    return output


def later(directory: Path) -> Path:
    """A checkout with a changed line of the code."""
    checkout = directory / "zos"
    shutil.copytree(CHECKOUT, checkout, symlinks=True, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    with open(checkout / "operator/zos/__init__.py", "a") as code:
        code.write("# A later version.\n")
    return checkout


def previous(directory: Path) -> Path | None:
    """A checkout of the release before; None: this one has no history to take it from."""
    commit = (CHECKOUT / "hack/kubernetes/previous").read_text().split("#")[0].strip()
    if subprocess.run(["git", "-C", str(CHECKOUT), "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True).returncode:
        assert not _whole(), f"{commit} is not in this repository's history: fetch all of it"
        return None
    directory.mkdir(parents=True, exist_ok=True)
    archive = subprocess.Popen(["git", "-C", str(CHECKOUT), "archive", commit], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", str(directory)], stdin=archive.stdout, check=True)
    assert archive.wait() == 0, f"{commit} could not be taken from the history"
    return directory


def _whole() -> bool:
    """Whether this is a repository with all of its history."""
    asked = ["git", "-C", str(CHECKOUT), "rev-parse", "--is-shallow-repository"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() == "false"
