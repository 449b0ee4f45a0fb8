"""The lowest layer: Debian's packages, from where this machine's apt has its own."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from imagelib import kept, layer
from imagelib.recipe import CONTAINERS, EPOCH, BuildError, Image

_SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
_LEFT_OUT = ("path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright", "path-exclude=/usr/share/man/*",
             "path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/info/*")  # fmt: skip
_MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    architecture: str


def made(image: Image, *, anew: bool = False) -> layer.Layer:
    """With file ``status`` of dpkg beside it, and ``names`` of all that is in it. Raises BuildError."""
    key = [(CONTAINERS / "slim").read_bytes(), (CONTAINERS / "bytecode").read_bytes(), image.package_list.read_bytes()]
    return kept.layer(f"debian-{image.name}", key, lambda work, at: _make(image, work, at), anew=anew)


def _make(image: Image, work: Path, at: Path) -> layer.Layer:
    root = work / "root.tar"
    sources = next((path for path in _SOURCES if path.exists()), None)
    if sources is None:
        raise BuildError("this machine has no package sources of Debian below /etc/apt")
    command = [  # what it mounts is nobody else's, and gone with it
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
        *("sh", "-c", 'mount -t tmpfs tmpfs /var/lib/apt/lists && exec "$@"', "sh"),  # this machine's own stay as they are
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=essential", "--format=tar", f"--hook-dir={_MERGED}"),
        f"--include={','.join(image.packages())}",
        *(f"--dpkgopt={option}" for option in _LEFT_OUT),
        f'--customize-hook=sh "{CONTAINERS}/slim" "$1" "{image.package_list}"',
        *("bookworm", str(root), "-"),
    ]
    with sources.open("rb") as told:
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "TMPDIR": str(work), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, stdin=told, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode:
        raise BuildError(f"mmdebstrap: {done.stderr.strip()[-2000:]}\nIs there a way to Debian's packages, and are you root?")
    with tarfile.open(root) as archive:
        members = {str(Path(member.name)): member for member in archive}
        status = archive.extractfile(members["var/lib/dpkg/status"])
        assert status is not None
        at.with_name("status").write_bytes(status.read())
        at.with_name("names").write_text("".join(f"{name}\n" for name in sorted(members)))
    return layer.write_archive(root, at, f"Debian packages: {' '.join(image.packages())}")


def packages(status: Path) -> list[Package]:
    """What is installed by a status file of dpkg."""
    found = []
    for text in status.read_text().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", text, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            found.append(Package(fields["Package"], fields["Version"], fields["Architecture"]))
    return sorted(found, key=lambda package: package.name)


def status(made: layer.Layer) -> Path:
    """The layer's status file."""
    return made.path.with_name("status")


def names(made: layer.Layer) -> set[str]:
    """Of everything in the layer, without a leading slash."""
    return set(made.path.with_name("names").read_text().splitlines())
