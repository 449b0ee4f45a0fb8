"""Makes an image of a root file system that has Debian's packages, for whoever builds with a container engine: the files in
hack/images/containers do. ``python -m imagelib.finish IMAGE ROOT [WIREGUARD-GO GUEST]``
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from imagelib import debian, gomodules, ours, pythonpackages, recipe, sbom
from imagelib.closure import subset
from imagelib.recipe import CONTAINERS, BuildError, Image


def finish(image: Image, root: Path, wireguard: Path | None = None, guest: Path | None = None) -> None:
    """Takes away what is not needed, and adds what `hack/images/build` adds. Raises BuildError."""
    if subprocess.run(["sh", str(CONTAINERS / "slim"), str(root), str(image.package_list)]).returncode:
        raise BuildError(f"what {image.name} does not need could not be taken away from {root}")
    with tempfile.TemporaryDirectory() as work:
        pythonpackages.put(subset(image.roots), root, Path(work))
    go = []
    if wireguard and guest:
        shutil.copy(wireguard, root / "usr/local/bin/wireguard-go")
        shutil.copytree(guest, root / ours.SHARE / "guest")
        go = gomodules.modules(wireguard)
    ours.put(root, node=image.node)
    version = recipe.product_version()
    packages = debian.packages(root / "var/lib/dpkg/status")
    (root / ours.SHARE / "sbom.json").write_bytes(sbom.written(image, version, packages, pythonpackages.installed(root), go))
    (root / ours.SHARE / "image").write_text(f"{version}-{_content(root)}\n")


def _content(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() or path.is_symlink():
            what = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
            digest.update(f"{path.relative_to(root)} {path.lstat().st_mode:o} ".encode() + hashlib.sha256(what).digest())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    try:
        finish(recipe.IMAGES[sys.argv[1]], *map(Path, sys.argv[2:]))
    except BuildError as error:
        sys.exit(f"finish: {error}")
