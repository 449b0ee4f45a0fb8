"""The layer of Python packages: what is locked, and of that what an image's code needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from imagelib import kept, layer
from imagelib.closure import subset
from imagelib.recipe import CONTAINERS, PACKAGES, BuildError, Image

#: The generated methods for every kind that there is, which are looked up when they are asked for: none of ours asks.
_LEFT_OUT = ("bin", "kubernetes/client/api", "kubernetes/aio/client/api", "kubernetes/aio/setup.py")
_SOURCES = (".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h", ".in")


def made(image: Image, *, anew: bool = False) -> layer.Layer:
    """With a folder ``metadata`` beside it. Raises BuildError."""
    locked = subset(image.roots)
    key = [locked.encode(), (CONTAINERS / "bytecode").read_bytes()]
    return kept.layer(f"python-{image.name}", key, lambda work, at: _make(locked, work, at), anew=anew)


def _make(locked: str, work: Path, at: Path) -> layer.Layer:
    root = work / "root"
    put(locked, root, work)
    at.with_name("versions").write_text("".join(f"{name}=={version}\n" for name, version in installed(root)))
    return layer.write(layer.of_tree(root), at, "Python packages of requirements.lock")


def put(locked: str, root: Path, work: Path) -> None:
    """What is locked in a root file system, compiled. ``work`` is a directory for what comes along. Raises BuildError."""
    _install(locked, root / PACKAGES, work)
    bytecode(root, PACKAGES)


def _install(locked: str, target: Path, work: Path) -> None:
    lock = work / "requirements.lock"
    lock.write_text(locked)
    target.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--root-user-action=ignore"]
    _run(*pip, "--no-deps", "--no-compile", "--require-hashes", "--target", str(target), "-r", str(lock))
    for name in _LEFT_OUT:
        place = target / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    for path in sorted(target.rglob("*"), reverse=True):
        if path.suffix in _SOURCES or path.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
            path.unlink()
    # Built here: where, and with what, is nobody's business, and would be different each time.
    for built in target.glob("libvirtmod*.so"):
        _run("strip", "--strip-unneeded", "--remove-section=.note.gnu.build-id", str(built))


def bytecode(root: Path, *directories: str) -> None:
    """Compiles modules in a root file system. Raises BuildError."""
    _run("/usr/bin/python3", "-I", "-S", str(CONTAINERS / "bytecode"), str(root), *directories)


def versions(made: layer.Layer) -> list[tuple[str, str]]:
    """Of the packages in the layer, by name."""
    lines = made.path.with_name("versions").read_text().splitlines()
    return [(name, version) for name, _, version in (line.partition("==") for line in lines)]


def installed(root: Path) -> list[tuple[str, str]]:
    """Names and versions of the packages in a root file system."""
    found = []
    for path in (root / PACKAGES).glob("*.dist-info"):
        name, _, version = path.name.removesuffix(".dist-info").rpartition("-")
        found.append((name.lower().replace("_", "-"), version))
    return sorted(found)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env={**os.environ, "PYTHONPATH": ""})
    if done.returncode:
        raise BuildError(f"{' '.join(command[:4])} …: {(done.stderr or done.stdout).strip()[-2000:]}")
