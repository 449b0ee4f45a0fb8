"""An image as one file: an OCI layout in an archive, which containerd, skopeo and podman read (OCI image specification,
image-layout.md)."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagelib.layer import Layer
from imagelib.recipe import EPOCH, Image

_TYPE = "application/vnd.oci.image"


@dataclass(frozen=True)
class Written:
    """``digest`` is the image's own, by which a registry knows it."""

    digest: str
    size: int


def write(
    image: Image, layers: Sequence[Layer], labels: Mapping[str, str], created: str, reference: str, path: Path
) -> Written:
    """Makes the archive. ``reference`` is the image's whole name, tag included; ``created`` as in RFC 3339."""
    config = _packed(
        {
            "created": created,
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "User": image.user,
                "Env": list(image.environment),
                "Entrypoint": list(image.entrypoint),
                "WorkingDir": "/",
                "Labels": dict(labels),
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": created, "created_by": layer.what} for layer in layers],
        }
    )
    manifest = _packed(
        {
            "schemaVersion": 2,
            "mediaType": f"{_TYPE}.manifest.v1+json",
            "config": _described(f"{_TYPE}.config.v1+json", config),
            "layers": [
                {"mediaType": f"{_TYPE}.layer.v1.tar+zstd", "digest": layer.digest, "size": layer.size} for layer in layers
            ],
            "annotations": dict(labels),
        }
    )
    # Which name it gets is nothing of the image's own: containerd's import takes the first, others the second.
    names = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference.rpartition(":")[2]}
    described = _described(f"{_TYPE}.manifest.v1+json", manifest)
    index = _packed(
        {"schemaVersion": 2, "mediaType": f"{_TYPE}.index.v1+json", "manifests": [{**described, "annotations": names}]}
    )
    new = path.with_name(f"{path.name}.new")
    with tarfile.open(new, "w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "oci-layout", _packed({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", index)
        for blob in (manifest, config):
            _add(archive, _blob(_digest(blob)), blob)
        for digest, layer in sorted({layer.digest: layer for layer in layers}.items()):
            with layer.path.open("rb") as file:
                archive.addfile(_info(_blob(digest), layer.size), file)
    new.rename(path)
    return Written(_digest(manifest), path.stat().st_size)


def _packed(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _described(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_info(name, len(content)), io.BytesIO(content))


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, EPOCH
    return info
