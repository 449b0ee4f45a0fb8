"""Manifests of images in registries (opencontainers/image-spec manifest.md, image-index.md; Docker's forms are alike): a
stranger's text, of which the layers are taken, typed and bounded."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from zos.drivers import DriverError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
#: Layers of an image; characters of its manifest.
_MOST, _LONGEST = 1000, 4 << 20


@dataclass(frozen=True)
class Manifest:
    """``digest`` is that of the whole, an index where it is one. ``layers`` are packed bytes by digest."""

    digest: str
    layers: dict[str, int]


def digest_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def variant(text: str) -> str | None:
    """Of an index the digest of the manifest for linux/amd64; None: it is a manifest itself. Raises DriverError."""
    listed = _object(text).get("manifests")
    if listed is None:
        return None
    for entry in listed if isinstance(listed, list) else ():
        platform = entry.get("platform") if isinstance(entry, dict) else None
        system = (platform.get("os"), platform.get("architecture")) if isinstance(platform, dict) else ()
        if system == ("linux", "amd64") and _DIGEST.fullmatch(digest := str(entry.get("digest"))):
            return digest
    raise DriverError("it has no variant for linux/amd64")


def layers(text: str) -> dict[str, int]:
    """Empty where it tells of none, as the oldest kind. Raises DriverError."""
    found: dict[str, int] = {}
    listed = _object(text).get("layers")
    for layer in listed[:_MOST] if isinstance(listed, list) else ():
        digest, size = (layer.get("digest"), layer.get("size")) if isinstance(layer, dict) else (None, None)
        if isinstance(digest, str) and _DIGEST.fullmatch(digest) and isinstance(size, int) and size >= 0:
            found[digest] = size
    return found


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if len(text) <= _LONGEST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DriverError("the registry's answer can't be understood: it is no manifest of an image")
    return found
