"""Who publishes flists for the end-to-end tests: a web server on the control plane's host, which the nodes of a minigrid open
for images."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from harness import Grid, sh
from imageworks import certified
from zos.programs.flist.pack import pack

ADDRESS, PORT = "198.51.100.2", 8099


class Publisher:
    """Serves a directory over HTTPS, with ``speed`` bytes a second in all (0: as they come)."""

    def __init__(self, grid: Grid, directory: Path, certificate: Path, speed: int = 0) -> None:
        self.grid, self.directory, self.speed = grid, directory, speed
        self.count, self.lies = directory / "sent", directory / "sent.lies"
        self._store, self._certificate = directory / "store", certificate
        self._store.mkdir()
        self._process: subprocess.Popen[str] | None = None

    def publish(self, tree: Path, name: str) -> str:
        """What a machine writes to have the tree as its image."""
        pack(tree, self._store / f"{name}.fl", self._store, f"https://{ADDRESS}:{PORT}")
        return f"https://{ADDRESS}:{PORT}/{name}.fl"

    def start(self) -> None:
        script = Path(__file__).with_name("blockserver.py")
        words = (
            self._store,
            ADDRESS,
            PORT,
            self.speed,
            self.count,
            self._certificate / "cert.pem",
            self._certificate / "key.pem",
        )
        self._process = self.grid.popen("cp", sys.executable, str(script), *map(str, words))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def sent(self) -> int:
        return int(self.count.read_text() or "0") if self.count.exists() else 0


@contextlib.contextmanager
def publishing(grid: Grid, directory: Path, node: str, speed: int = 0) -> Iterator[Publisher]:
    """One whom a node trusts."""
    with certified(ADDRESS) as certificate, _trusted(grid, node, certificate / "cert.pem"):
        made = Publisher(grid, directory, certificate, speed)
        made.start()
        try:
            yield made
        finally:
            made.stop()


@contextlib.contextmanager
def _trusted(grid: Grid, node: str, certificate: Path) -> Iterator[None]:
    """Among the certificates of a node, and of no other host of this machine: whatever is mounted there is its own."""
    place, run = "/etc/ssl/certs", "/run/trusted"
    over = f"lowerdir={place},upperdir={run}/new,workdir={run}/work"
    add = f"mkdir -p {run}/new {run}/work && mount -t overlay -o {over} trusted {place}"
    name = sh("openssl", "x509", "-hash", "-noout", "-in", str(certificate)).strip()
    # The node need not see this machine's files.
    grid.run(node, "sh", "-ec", f'{add}; echo "$1" >{place}/{name}.0', "sh", certificate.read_text())
    try:
        yield
    finally:
        grid.run(node, "sh", "-ec", f"umount {place}; rm -r {run}")
