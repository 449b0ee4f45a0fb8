"""Images in OCI archives, and how they get into nodes that have a kubelet."""

from __future__ import annotations

import json
import subprocess
import tarfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gridlib.host import run
from gridlib.kubelet import KubeletHost
from gridlib.layout import Grid, GridError, patience
from gridlib.tools import KubeletTools

_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True)
class Image:
    """``digest`` is what its name stands for."""

    archive: Path
    repository: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}"

    @property
    def pinned(self) -> str:
        """Stands for it whatever the name comes to stand for."""
        return f"{self.repository}@{self.digest}"


def read(archive: Path) -> Image:
    """Raises GridError for what is no archive with one image that has a full name."""
    try:
        with tarfile.open(archive) as content:
            index = content.extractfile("index.json")
            assert index is not None
            (found,) = json.loads(index.read())["manifests"]
        name = next(found["annotations"][key] for key in _NAMES if key in found["annotations"])
        repository, tag = name.rsplit(":", 1)
        if "/" not in repository:
            raise ValueError(f"{name} has no registry")
        return Image(archive, repository, tag, found["digest"])
    except (OSError, tarfile.TarError, KeyError, ValueError, StopIteration) as error:
        raise GridError(f"{archive} is no OCI archive with one image, named registry/name:tag: {error!r}") from None


def load_images(grid: Grid, archives: Iterable[Path]) -> list[Image]:
    """Into every node that has not that very image. Raises GridError."""
    tools, images = KubeletTools.find(), [read(archive) for archive in archives]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda node: _load(KubeletHost(grid, node, tools), images), grid.nodes))
    return images


def _load(host: KubeletHost, images: list[Image]) -> None:
    there = _listed(host)
    for image in images:
        if there.get(image.name) != image.digest or image.pinned not in there:
            run(*host.containerd("images", "import", "--local", str(image.archive)))
            run(*host.containerd("images", "tag", "--force", image.name, image.pinned))


def _listed(host: KubeletHost) -> dict[str, str]:
    """What it has: name → digest. Waits until its containerd answers."""
    deadline = time.monotonic() + patience(30)
    while True:
        done = subprocess.run(host.containerd("images", "list"), capture_output=True, text=True)
        if done.returncode == 0:
            break
        if time.monotonic() > deadline:
            name, node = host.grid.name, host.node.name
            raise GridError(f"{node}: {done.stderr.strip()}: hack/minigrid logs {node} containerd --name {name}")
        time.sleep(0.1)
    rows = (line.split() for line in done.stdout.splitlines()[1:])
    return {name: digest for name, _, digest, *_ in rows}
