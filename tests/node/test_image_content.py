"""What layers and archives hold gets to the node as their authors made it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from imageworks import converge, driver_of, fact
from zos.drivers.imagecache import directory_of

#: cap_net_bind_service=ep, as the kernel keeps it (linux/capability.h, vfs_cap_data of version 2).
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
MIB = 1 << 20
#: When all entries were made.
MADE = 1_600_000_000


def member(
    name: str,
    content: bytes = b"",
    mode: int = 0o644,
    *,
    owner: tuple[int, int] = (0, 0),
    xattrs: dict[str, bytes] | None = None,
    link: str = "",
    type: bytes = tarfile.REGTYPE,
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.linkname, info.size = mode, type, link, len(content)
    info.uid, info.gid = owner
    info.mtime = MADE
    told = {name: value.decode("utf-8", "surrogateescape") for name, value in (xattrs or {}).items()}
    info.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in told.items()}
    return info, content


def layer(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def directory(name: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, mode=mode, owner=owner, type=tarfile.DIRTYPE)


LONG = "/".join(["n" * 60] * 5)


_OCI = "application/vnd.oci.image"
#: What makes a layer's media type of how it is packed (opencontainers/image-spec layer.md).
_PACKED = {"plain": "", "gzip": "+gzip", "zstd": "+zstd"}


def published(reference: str, layers: list[Path], packed: str = "gzip") -> str:
    """Makes an image of the layers, packed so, and gives the ref that a machine names it by."""
    layout = layers[0].parent / f"layout-{hashlib.sha256(reference.encode()).hexdigest()[:8]}"
    (layout / "blobs" / "sha256").mkdir(parents=True)

    def blob(content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (layout / "blobs" / "sha256" / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def document(kind: str, **told: object) -> dict[str, object]:
        return {"mediaType": f"{_OCI}.{kind}.v1+json", **blob(json.dumps(told).encode())}

    contents = [path.read_bytes() for path in layers]
    inner = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in contents]}
    config = document("config", architecture="amd64", os="linux", config={}, rootfs=inner)
    if packed != "plain":
        contents = [
            subprocess.run([packed, "-c"], input=content, check=True, capture_output=True).stdout for content in contents
        ]
    listed = [{"mediaType": f"{_OCI}.layer.v1.tar{_PACKED[packed]}", **blob(content)} for content in contents]
    manifest = document("manifest", schemaVersion=2, config=config, layers=listed)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    copy = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}", f"docker://{reference}"]
    subprocess.run(copy, check=True)
    return f"oci://{reference}"


@pytest.mark.parametrize("kind", ["archive", "registry plain", "registry gzip", "registry zstd"])
async def test_modes_owners_and_attributes(tmp_path: Path, images: Path, registry: str, kind: str) -> None:
    path = layer(
        tmp_path / "one.tar",
        directory("tmp", 0o1777),
        directory("bin"),
        directory("srv", 0o2775, (7, 4_000_000)),
        member("bin/su", b"su", 0o4755),
        member("bin/wall", b"wall", 0o2755, owner=(0, 5)),
        member("bin/ping", b"ping", 0o755, xattrs={"security.capability": CAPABILITY, "user.word": b"\xff\0x"}),
        member("bin/ping6", link="bin/ping", type=tarfile.LNKTYPE),
        member("home/secret", b"x", 0o400, owner=(3_000_000, 1000)),
        member("link", link="/bin/su", type=tarfile.SYMTYPE, owner=(8, 9)),
        member(LONG, b"long"),
        member("caf\u00e9 \u2603", b"name"),
    )  # fmt: skip
    driver, ref = driver_of(images), f"file://{path}"
    if kind != "archive":
        ref = published(f"{registry}/app:1", [path], kind.partition(" ")[2])
    await converge(driver, ref)
    root = directory_of(images, fact(driver, ref).digest) / "rootfs"

    def shown(name: str) -> tuple[int, int, int]:
        info = os.lstat(root / name)
        return info.st_mode & 0o7777, info.st_uid, info.st_gid

    assert shown("tmp") == (0o1777, 0, 0)
    assert shown("srv") == (0o2775, 7, 4_000_000)
    assert shown("bin/su") == (0o4755, 0, 0)
    assert shown("bin/wall") == (0o2755, 0, 5)
    assert shown("home/secret") == (0o400, 3_000_000, 1000)
    assert shown("link")[1:] == (8, 9)
    assert os.readlink(root / "link") == "/bin/su"
    assert os.getxattr(root / "bin/ping", "security.capability") == CAPABILITY
    assert os.getxattr(root / "bin/ping", "user.word") == b"\xff\0x"
    assert os.stat(root / "bin/ping").st_ino == os.stat(root / "bin/ping6").st_ino
    assert (root / LONG).read_bytes() == b"long"
    assert (root / "caf\u00e9 \u2603").read_bytes() == b"name"
    assert os.stat(root / "bin/su").st_mtime == MADE
    assert os.stat(root / "srv").st_mtime == os.stat(root / "bin").st_mtime == MADE


def tree(root: Path) -> dict[str, str]:
    """What files say, where links lead, and a slash for directories, by path."""
    found = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        found[name] = f"-> {os.readlink(path)}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
    return found


def word(name: str, content: str = "") -> tuple[tarfile.TarInfo, bytes]:
    return member(name, content.encode())


def link(name: str, target: str, type: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, link=target, type=type)


LAYERS: dict[str, tuple[tuple[tuple[tuple[tarfile.TarInfo, bytes], ...], ...], dict[str, str]]] = {
    "what a layer hides is gone, with all that is in it": (
        ((word("a/x", "1"), word("a/sub/y", "1"), word("b", "1")), (word("a/.wh.sub"), word(".wh.b"), word(".wh.never"))),
        {"a": "/", "a/x": "1"},
    ),
    "what it hides of a layer below may come again in it, before or after": (
        (
            (word("a/x", "1"), word("a/y", "1"), word("b/x", "1"), word("b/y", "1")),
            (word(".wh.a"), word("a/x", "2"), word("b/x", "2"), word(".wh.b")),
        ),
        {"a": "/", "a/x": "2", "b": "/", "b/x": "2"},
    ),
    "an opaque directory has what its layer says, wherever that says so": (
        (
            (word("a/x", "1"), word("a/deep/y", "1"), word("a/deep/z", "1")),
            (word("a/new", "2"), word("a/deep/z", "2"), word("a/.wh..wh..opq"), word("a/later", "2")),
        ),
        {"a": "/", "a/new": "2", "a/deep": "/", "a/deep/z": "2", "a/later": "2"},
    ),
    "hard links lead to layers below, and what replaces one leaves the other": (
        (
            (word("one", "1"),),
            (link("two", "one", tarfile.LNKTYPE), link("three", "/one", tarfile.LNKTYPE)),
            (word("one", "2"),),
        ),
        {"one": "2", "two": "1", "three": "1"},
    ),
    "an entry replaces what has its name, and goes through no link to it": (
        (
            (
                word("etc/passwd", "kept"),
                link("door", "etc/passwd"),
                link("dir", "etc"),
                word("tree/x", "1"),
                word("leaf", "1"),
            ),
            (word("door", "2"), directory("dir"), word("tree", "2")),
            (directory("leaf"), word("leaf/x", "3")),
        ),
        {"etc": "/", "etc/passwd": "kept", "door": "2", "dir": "/", "tree": "2", "leaf": "/", "leaf/x": "3"},
    ),
    "what lies in a directory by the name of a link to it lies there": (
        ((word("usr/lib/a", "1"), link("lib", "usr/lib")), (word("lib/b", "2"), word("lib/.wh.a"))),
        {"usr": "/", "usr/lib": "/", "usr/lib/b": "2", "lib": "-> usr/lib"},
    ),
    "what AUFS writes down for itself is nobody's": (
        ((word("a", "1"), word(".wh..wh.plnk/1"), word(".wh..wh.aufs"), word("x/.wh..wh.orph/2")),),
        {"a": "1"},
    ),
    "one layer twice": (((word("a", "1"),), (word("a", "2"),), (word("a", "1"),)), {"a": "1"}),
}


@pytest.mark.parametrize("what", LAYERS)
async def test_layers_lie_upon_each_other(tmp_path: Path, images: Path, registry: str, what: str) -> None:
    layers, expected = LAYERS[what]
    paths = [layer(tmp_path / f"{number}.tar", *members) for number, members in enumerate(layers)]
    driver, ref = driver_of(images), published(f"{registry}/app:1", paths)
    await converge(driver, ref)
    assert tree(directory_of(images, fact(driver, ref).digest) / "rootfs") == expected


@pytest.mark.parametrize("kind", ["archive", "registry"])
async def test_holes_stay_holes_and_zeros_become_some(tmp_path: Path, images: Path, registry: str, kind: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as file:
        file.truncate(64 * MIB)
        file.seek(32 * MIB + 5)
        file.write(b"word")
    (source / "zeros").write_bytes(b"x" + bytes(8 * MIB))
    path = tmp_path / "sparse.tar"
    subprocess.run(["tar", "--sparse", "-cf", path, "-C", source, "."], check=True)
    driver = driver_of(images)
    ref = f"file://{path}" if kind == "archive" else published(f"{registry}/app:1", [path])
    await converge(driver, ref)
    root = directory_of(images, fact(driver, ref).digest) / "rootfs"
    for name in ("sparse", "zeros"):
        assert (root / name).read_bytes() == (source / name).read_bytes()
        assert (root / name).stat().st_blocks * 512 < MIB


async def test_a_layer_of_two_images_is_fetched_once(tmp_path: Path, images: Path, registry: str) -> None:
    shared = layer(tmp_path / "shared.tar", member("noise", os.urandom(3 * MIB)))
    driver = driver_of(images)
    for number in ("1", "2"):
        own = layer(tmp_path / f"{number}.tar", word("own", number))
        await converge(driver, ref := published(f"{registry}/app:{number}", [shared, own]))
        assert (directory_of(images, fact(driver, ref).digest) / "rootfs/own").read_text() == number
    assert driver.measures().fetched < 4 * MIB
