"""hack/images/build: the controller's and the node's images, as OCI archives."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

from imagelib import archive, debian, gomodules, kept, ours, pythonpackages, recipe, sbom
from imagelib.recipe import BuildError, Image

#: Where each program of a bare name may be.
_PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin")


@dataclass(frozen=True)
class Built:
    """``reference``: its name in the archive; ``digest``: by which a registry knows it; ``identity``: what it says of itself,
    by its content; sizes in bytes, ``packed`` of the archive and ``unpacked`` of all files in it."""

    image: str
    reference: str
    digest: str
    identity: str
    packed: int
    unpacked: int
    archive: str
    seconds: float


def build(image: Image, output: Path, repository: str, tag: str, *, anew: bool = False) -> Built:
    """Makes ``zos-‹image›.tar`` in ``output``, with ``zos-‹image›.sbom.json`` and ``zos-‹image›.json`` (`Built`) beside it.
    Raises BuildError."""
    began = time.monotonic()
    version = recipe.product_version()
    base = debian.made(image, anew=anew)
    programs = [ours.built()] if image.node else []
    packages = pythonpackages.made(image)
    with tempfile.TemporaryDirectory(prefix=".new-image-", dir=recipe.cache()) as work:
        layers = [base, *programs, packages, ours.code(Path(work), node=image.node)]
        if image.node and (missing := lacking(debian.names(base) | ours.files().keys() | {ours.PROGRAM})):
            raise BuildError(f"the node's image would lack {', '.join(missing)}, which {recipe.PROGRAMS} asks for")
        identity = ours.identity(version, layers)
        go = gomodules.modules(ours.wireguard()) if image.node else []
        bill = sbom.written(image, version, debian.packages(debian.status(base)), pythonpackages.versions(packages), go)
        layers.append(ours.card(Path(work), identity, bill))
        created = _created()
        reference = f"{repository}/{image.repository}:{tag}"
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{image.repository}.tar"
        written = archive.write(image, layers, _labels(image, version, created), created, reference, path)
    unpacked = sum(one.unpacked for one in layers)
    seconds = round(time.monotonic() - began, 1)
    made = Built(image.name, reference, written.digest, identity, written.size, unpacked, str(path), seconds)
    (output / f"{image.repository}.sbom.json").write_bytes(bill)
    (output / f"{image.repository}.json").write_text(json.dumps(asdict(made), indent=1) + "\n")
    return made


def lacking(names: Set[str]) -> list[str]:
    """What a node's image must have, and is not among these ``names`` of files."""

    def there(program: str) -> bool:
        places = [program[1:]] if program[0] == "/" else [f"{folder}/{program}" for folder in _PATH]
        return any(place in names for place in places)

    return [program for program in recipe.programs() if not there(program)]


def _labels(image: Image, version: str, created: str) -> dict[str, str]:
    told = {
        "title": image.title,
        "version": version,
        "licenses": "Apache-2.0",
        "created": created,
        "revision": _revision(),
        "source": _source(),
    }
    return {f"org.opencontainers.image.{name}": value for name, value in told.items() if value}


def _created() -> str:
    """When what is built was written, not when it was built (reproducible-builds.org's SOURCE_DATE_EPOCH)."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or str(recipe.EPOCH)
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _revision() -> str:
    revision = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "operator", "hack", "requirements.lock", "pyproject.toml")
    return f"{revision}-changed" if revision and changed else revision


def _source() -> str:
    """Where others find it, where this is a clone of that."""
    url = _git("remote", "get-url", "origin")
    return url if url.startswith("https://") and "@" not in url else ""


def _git(*words: str) -> str:
    """What it says; nothing where this is no clone."""
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", "-C", str(recipe.CHECKOUT), *words], capture_output=True, text=True).stdout.strip()


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hack/images/build", description="Builds OCI archives of the images that a cluster runs."
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"{' or '.join(sorted(recipe.IMAGES))} (default: both)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to (default: ~/.cache/zos/images/TAG)")
    parser.add_argument("--tag", default=recipe.product_version(), help="default: the product's version")
    parser.add_argument("--repository", default="localhost/zos", help="in front of the images' names (default: localhost/zos)")
    parser.add_argument(
        "--anew", action="store_true", help="with Debian's packages of today, instead of those of the last time"
    )
    parsed = parser.parse_args(words)
    if unknown := set(parsed.images) - recipe.IMAGES.keys():
        parser.error(f"no image is called {', '.join(sorted(unknown))}: {' or '.join(sorted(recipe.IMAGES))}")
    return parsed


def main(words: Sequence[str]) -> int:
    told = _parse(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half made is taken away
    output = (told.output or recipe.cache() / told.tag).absolute()
    try:
        with kept.alone():
            for name in told.images or sorted(recipe.IMAGES, reverse=True):
                print(f"build: {name}", file=sys.stderr)
                made = build(recipe.IMAGES[name], output, told.repository, told.tag, anew=told.anew)
                sizes = f"{made.packed / 1e6:.0f} MB packed, {made.unpacked / 1e6:.0f} MB unpacked"
                print(f"{made.archive}\n  {made.reference}  {made.digest}\n  {made.identity}, {sizes}, {made.seconds} s")
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
