"""The images as hack/images/build makes them: the same twice, as small as promised, and what is in them runs. Needs root and
what hack/setup makes; with a warm cache (~/.cache/zos/images) well under a minute, else some minutes, for Debian's packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagelib import recipe

BYTES = {"controller": 250_000_000, "node": 450_000_000}
#: In a root file system that can't be written to, as a pod has it; $1 is the root, the rest a command.
READ_ONLY = """
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
mount -o remount,bind,ro "$1"
root=$1 user=$2
shift 2
exec chroot --userspec="$user" "$root" "$@"
"""

#: As a service's program is started: by another user, who is shown the packages.
PROGRAM = """
import os
from zos.drivers import ownprogram
ownprogram.check()
one = ownprogram.of("zos.programs.flist")
os.setgid(4321)
os.setuid(4321)
os.execve(one.argv[0], [*one.argv, "--help"], {"PYTHONPATH": ":".join(shown.path for shown in one.shown)})
"""
#: What links to libraries that might have been taken away, and says who it is.
SPEAKING = (
    "qemu-system-x86_64 --version", "qemu-img --version", "/usr/lib/qemu/virtiofsd --version", "libvirtd --version",
    "virtlogd --version", "virsh --version", "skopeo --version", "nft --version", "wg --version", "wireguard-go --version",
    "ip -V", "mkfs.btrfs --version", "mkfs.ext4 -V", "dnsmasq --version",
)  # fmt: skip

Build = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """What is said of both images, built into a directory of that name."""
    room = tmp_path_factory.mktemp("images")

    def built(name: str) -> dict[str, Any]:
        output = room / name
        environment = {**os.environ, "PYTHONPATH": f"{recipe.CHECKOUT}/hack:{recipe.CHECKOUT}/operator"}
        command = [sys.executable, "-m", "imagelib.main", "--output", str(output)]
        subprocess.run(command, check=True, env=environment, timeout=1500)
        return {image: json.loads((output / f"zos-{image}.json").read_text()) for image in recipe.IMAGES}

    return built


@pytest.fixture(scope="module")
def built(build: Build) -> dict[str, Any]:
    return build("first")


@pytest.fixture(scope="module", params=sorted(recipe.IMAGES))
def root(request: pytest.FixtureRequest, built: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Which image, and what is in it."""
    room = tmp_path_factory.mktemp(request.param)
    room.chmod(0o755)  # as it is in a container
    with tarfile.open(built[request.param]["archive"]) as archive:
        manifest = content(archive, built[request.param]["digest"])
        for layer in json.loads(manifest)["layers"]:
            packed = content(archive, layer["digest"])
            plain = subprocess.run(["zstd", "-dc"], input=packed, capture_output=True, check=True).stdout
            subprocess.run(["tar", "-x", "--numeric-owner", "-C", str(room)], input=plain, check=True)
    return request.param, room


def content(archive: tarfile.TarFile, digest: str) -> bytes:
    file = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
    assert file is not None
    return file.read()


def run(image: str, root: Path, *argv: str) -> str:
    """As the image's user, with its variables and nothing else."""
    user = recipe.IMAGES[image].user
    environment = dict(line.split("=", 1) for line in recipe.IMAGES[image].environment)
    command = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--net",
        "sh",
        "-c",
        READ_ONLY,
        "sh",
        str(root),
        user,
        *argv,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_twice_and_as_small_as_promised(build: Build, built: dict[str, Any]) -> None:
    again = build("second")
    for image, told in built.items():
        assert again[image]["digest"] == told["digest"]
        assert again[image]["identity"] == told["identity"]
        assert Path(again[image]["archive"]).read_bytes() == Path(told["archive"]).read_bytes()
        assert told["unpacked"] <= BYTES[image]
        assert again[image]["seconds"] < 60


def test_it_says_what_it_is(root: tuple[str, Path], built: dict[str, Any]) -> None:
    image, place = root
    assert (place / "usr/share/zos/image").read_text() == f"{built[image]['identity']}\n"
    names = {component["name"] for component in json.loads((place / "usr/share/zos/sbom.json").read_text())["components"]}
    assert {"libc6", "python3.11", "aiohttp"} <= names
    assert ({"qemu-system-x86", "libvirt-python", "golang.zx2c4.com/wireguard"} <= names) == (image == "node")
    assert (place / "etc/machine-id").read_text() == ""


def test_nothing_in_it_gives_rights(root: tuple[str, Path]) -> None:
    _, place = root
    found = subprocess.run(["find", str(place), "-type", "f", "-perm", "/6000"], capture_output=True, text=True, check=True)
    assert found.stdout == ""


def test_all_of_its_code_can_be_imported(root: tuple[str, Path]) -> None:
    image, place = root
    names = [
        ".".join(path.relative_to(place / recipe.CODE).with_suffix("").parts).removesuffix(".__init__")
        for part in recipe.IMAGES[image].roots
        for path in sorted((place / recipe.CODE / part.replace(".", "/")).rglob("*.py"))
        if path.name != "__main__.py"
    ]
    assert names
    program = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('all')"
    assert run(image, place, "/usr/bin/python3", "-P", "-c", program) == "all\n"


def test_the_controller_starts_without_rights_on_a_read_only_root(root: tuple[str, Path]) -> None:
    image, place = root
    if image == "controller":
        assert "usage: zos-controller" in run(image, place, *recipe.IMAGES[image].entrypoint, "--help")


def test_programs_of_services_find_their_packages_without_rights(root: tuple[str, Path]) -> None:
    image, place = root
    if image == "node":
        assert "usage" in run(image, place, "/usr/bin/python3", "-P", "-c", PROGRAM)


def test_programs_that_the_node_needs_run(root: tuple[str, Path]) -> None:
    image, place = root
    if image == "node":
        for command in SPEAKING:
            run(image, place, *command.split())
