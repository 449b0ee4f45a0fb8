"""A registry of a stranger, that says other things than it was asked for."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageworks import converge, driver_of, fact, leftovers, problem, tar
from zos.drivers.fence import TABLE
from zos.drivers.meter import Limits

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
SMALL = Limits(size=8 << 20, entries=100)


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "images"
    subprocess.run(["nft", "delete", "table", "inet", TABLE], stderr=subprocess.DEVNULL)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Registry(http.server.ThreadingHTTPServer):
    """``answers`` by path: type and content, whatever the path says of it. ``endless``: paths that never stop sending."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, bytes]] = {"/v2/": ("application/json", b"{}")}
        self.endless: set[str] = set()
        super().__init__(("127.0.0.1", 0), _Answer)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def blob(self, data: bytes) -> dict[str, object]:
        self.answers[f"/v2/app/blobs/{_digest(data)}"] = ("application/octet-stream", data)
        return {"digest": _digest(data), "size": len(data)}

    def manifest(self, layer: bytes) -> bytes:
        """Of an image with one layer, as text."""
        inner = {"type": "layers", "diff_ids": [_digest(layer)]}
        config = self.blob(json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": inner}).encode())
        kind = "application/vnd.oci.image.config.v1+json"
        layers = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **self.blob(layer)}]
        told = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": {"mediaType": kind, **config}, "layers": layers}
        return json.dumps(told).encode()

    def says(self, name: str, text: bytes, kind: str = _MANIFEST) -> str:
        self.answers[f"/v2/app/manifests/{name}"] = (kind, text)
        return f"oci://{self.address}/app{'@' if ':' in name else ':'}{name}"


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        if self.path in self.server.endless:
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(1 << 16))
            except OSError:
                return
        kind, data = self.server.answers.get(self.path, ("", b""))
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind or "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    yield server
    server.shutdown()
    server.server_close()


async def test_who_asks_for_a_digest_gets_that_content_or_none(tmp_path: Path, images: Path, registry: Registry) -> None:
    good, evil = (tar(tmp_path / f"{name}.tar").read_bytes() + bytes(512 * n) for n, name in enumerate(("good", "evil")))
    text = registry.manifest(good)
    driver, ref = driver_of(images), registry.says(_digest(text), registry.manifest(evil))
    said = await problem(driver, ref)
    assert "the registry sends something else than what has the digest that was asked for" in said
    assert leftovers(images) == []
    registry.says(_digest(text), text)
    await converge(driver, ref)
    assert fact(driver, ref).digest == _digest(text)


def _index(text: bytes) -> bytes:
    entry = {
        "mediaType": _MANIFEST,
        "digest": _digest(text),
        "size": len(text),
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    return json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]}).encode()


@pytest.mark.parametrize("lie", ["variant", "layer"])
async def test_nobody_else_is_refused_for_what_a_registry_sends(
    tmp_path: Path, images: Path, registry: Registry, lie: str
) -> None:
    """Content is known by its digest: a lie about it is the liar's."""
    text = registry.manifest(tar(tmp_path / "good.tar").read_bytes())
    index, digest = _index(text), json.loads(text)["layers"][0]["digest"]
    liar = Registry()
    liar.answers |= registry.answers
    ref = liar.says("1", index, _INDEX)
    liar.says(_digest(index), index, _INDEX)
    if lie == "variant":
        huge = json.loads(text)
        huge["layers"][0]["size"] = 1 << 60
        liar.says(_digest(text), json.dumps(huge).encode())
    else:
        liar.says(_digest(text), text)
        liar.endless.add(f"/v2/app/blobs/{digest}")
    driver = driver_of(images, limits=SMALL)
    said = await problem(driver, ref)
    assert "the registry sends" in said
    liar.shutdown()
    liar.server_close()
    honest = registry.says("1", index, _INDEX)
    registry.says(_digest(index), index, _INDEX)
    registry.says(_digest(text), text)
    await converge(driver, honest)
    assert fact(driver, honest).digest == _digest(index)
