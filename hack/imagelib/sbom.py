"""What is in an image, for those who look for what has a hole: CycloneDX 1.5."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

from imagelib.debian import Package
from imagelib.recipe import Image


def written(
    image: Image,
    version: str,
    debian: Sequence[Package],
    python: Sequence[tuple[str, str]],
    go: Sequence[tuple[str, str]],
) -> bytes:
    """The file. It says nothing of when and from which commit, so that it is the same for the same content."""
    components = [
        *(
            _component("library", p.name, p.version, f"pkg:deb/debian/{p.name}", f"?arch={p.architecture}&distro=debian-12")
            for p in debian
        ),
        *(_component("library", name, told, f"pkg:pypi/{name}") for name, told in python),
        *(_component("library", name, told, f"pkg:golang/{name}") for name, told in go),
    ]
    subject = _component("container", image.repository, version, f"pkg:generic/{image.repository}")
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**subject, "licenses": [{"license": {"id": "Apache-2.0"}}]}},
        "components": sorted(components, key=lambda component: component["purl"]),
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def _component(kind: str, name: str, version: str, purl: str, more: str = "") -> dict[str, str]:
    whole = f"{purl}@{quote(version, safe='')}{more}"
    return {"type": kind, "name": name, "version": version, "purl": whole, "bom-ref": whole}
