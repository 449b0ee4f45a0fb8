"""The image that keeps a pod's namespaces: busybox that sleeps, as an OCI archive: pause.py FILE.

The same bytes give the same image, so that a node that has it is not given it again.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

NAME = "localhost/pause:1"
BUSYBOX = Path("/bin/busybox")
#: Ends when it is told to, as a first process that only sleeps would not.
COMMAND = ["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"]


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _layer(program: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "run"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(entry)
        _add(layer, "bin/busybox", program, 0o755)
        for name in ("sh", "sleep"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(entry)
    return content.getvalue()


def make(path: Path, program: bytes) -> None:
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    layer = _layer(program)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": COMMAND, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [blob(layer, "layer.v1.tar")],
    }
    # containerd takes the first name, others the second.
    names = {"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": NAME.rpartition(":")[2]}
    index = {
        "schemaVersion": 2,
        "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json") | {"annotations": names}],
    }
    scratch = path.with_suffix(".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(scratch, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(archive, "index.json", json.dumps(index).encode())
        for digest, content in blobs.items():
            _add(archive, f"blobs/sha256/{digest}", content)
    scratch.replace(path)


if __name__ == "__main__":
    make(Path(sys.argv[1]), BUSYBOX.read_bytes())
