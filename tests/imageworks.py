"""Images for tests: archives as their authors make them, a registry to push them to, and the driver that takes them."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import io
import json
import socket
import ssl
import subprocess
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from apiserver import free_port
from bound import KILLED
from zos.drivers import DriverError
from zos.drivers.image import ImageDriver
from zos.drivers.meter import Limits
from zos.drivers.sources import Registries, Sources
from zos.plan.diff import diff
from zos.plan.facts import ImageFact, ImageProblem
from zos.plan.items import Image


def entry(
    name: str, content: bytes = b"", mode: int = 0o644, *, link: str = "", type: bytes = tarfile.REGTYPE
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.linkname, info.size = mode, type, link, len(content)
    info.pax_headers = {"content": content.decode("latin-1")}
    return info


def tar(path: Path, *entries: tarfile.TarInfo, base: bool = True) -> Path:
    """A tar of the entries, after a busybox' worth of a root file system."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        if base:
            archive.add("/bin/busybox", "bin/busybox")
            archive.addfile(entry("bin/sh", link="busybox", type=tarfile.SYMTYPE))
            archive.addfile(entry("sbin", link="/bin", type=tarfile.SYMTYPE))
        for info in entries:
            archive.addfile(info, io.BytesIO(info.pax_headers["content"].encode("latin-1")))
    return path


def driver_of(
    images: Path, limits: Limits | None = None, directories: Sequence[Path] | None = None, **rest: Any
) -> ImageDriver:
    """Takes archives and trees that lie beside its own directory, and images from a registry on loopback."""
    opened = (images.parent,) if directories is None else directories
    sources = Sources(Registries(("127.0.0.1",)), opened, (ip_network("127.0.0.1/32"),), limits or Limits())
    return ImageDriver(images, sources, **rest)


async def converge(driver: ImageDriver, *refs: str | Image) -> list[str]:
    wanted = [ref if isinstance(ref, Image) else Image(ref=ref, owner="w-1") for ref in refs]
    ops = diff(wanted, await driver.observe(wanted))
    await asyncio.gather(*(driver.apply(op) for op in ops))
    return sorted(f"{op.verb} {op.key}" for op in ops)


async def problem(driver: ImageDriver, ref: str | Image, *, passing: bool = False) -> str:
    """``passing``: nothing is wrong with the image; it can't be had for now."""
    with pytest.raises(DriverError) as caught:
        await converge(driver, ref)
    assert driver.facts()[ImageProblem][ref.name if isinstance(ref, Image) else ref] == ImageProblem(str(caught.value), passing)
    return str(caught.value)


def fact(driver: ImageDriver, ref: str) -> ImageFact:
    found = driver.facts()[ImageFact][ref]
    assert isinstance(found, ImageFact), found
    return found


def leftovers(images: Path) -> list[str]:
    """What is there of images, whole or not; nothing must be kept but what may be gone on with."""
    unpacked = [path.name for path in images.iterdir() if path.name not in ("refs", "fetched")]
    return unpacked + [path.name for path in images.glob("fetched/files/*")]


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def certified(*addresses: str) -> Iterator[Path]:
    """A directory with cert.pem and key.pem of 127.0.0.1 and 127.0.0.2, or of others. Not below /tmp, where fetchers see their
    own room."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        directory = Path(place)
        directory.chmod(0o755)
        names = "subjectAltName=" + ",".join(f"IP:{each}" for each in addresses or ("127.0.0.1", "127.0.0.2"))
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        files = ["-keyout", f"{place}/key.pem", "-out", f"{place}/cert.pem"]
        subprocess.run([*make, "-subj", "/CN=images", "-addext", names, *files], check=True, capture_output=True)
        yield directory


@contextlib.contextmanager
def https_server(certificate: Path, handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    """Port of a server on all of loopback."""
    server = http.server.ThreadingHTTPServer(("", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def serving(directory: Path, *, login: str = "") -> Iterator[str]:
    """Address of an empty registry; ``login`` (a line of an htpasswd file) is needed for all that it does."""
    address = f"127.0.0.1:{free_port()}"
    config = directory / "registry.yml"
    auth = f"auth: {{htpasswd: {{realm: r, path: {directory}/htpasswd}}}}\n" if login else ""
    (directory / "htpasswd").write_text(f"{login}\n")
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}/registry}}}}\nhttp: {{addr: '{address}'}}\n{auth}"
    )
    process = subprocess.Popen(
        [*KILLED, "docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    yield address
    process.terminate()
    process.wait()


def push(
    tmp_path: Path, reference: str, layers: list[Path], architecture: str = "amd64", creds: str = "", **config: object
) -> str:
    """Builds an image of the layers with umoci and pushes it; gives its digest."""
    to, of = ([f"--dest-creds={creds}"], [f"--creds={creds}"]) if creds else ([], [])
    layout = tmp_path / f"layout-{time.monotonic_ns()}"
    subprocess.run(["umoci", "init", "--layout", layout], check=True)
    subprocess.run(["umoci", "new", "--image", f"{layout}:x"], check=True)
    for layer in layers:
        subprocess.run(["umoci", "raw", "add-layer", "--image", f"{layout}:x", layer], check=True)
    options = [
        f"--config.{key}={value}"
        for key, values in config.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    subprocess.run(["umoci", "config", "--image", f"{layout}:x", f"--architecture={architecture}", *options], check=True)
    copy = ["skopeo", "copy", "-q", "--dest-tls-verify=false", *to, f"oci:{layout}:x", f"docker://{reference}"]
    subprocess.run(copy, check=True)
    shown = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", *of, f"docker://{reference}"], check=True, capture_output=True, text=True
    )
    return str(json.loads(shown.stdout)["Digest"])


def listed(registry: str, name: str, tag: str, variants: dict[str, str]) -> None:
    """Pushes an image index (opencontainers/image-spec image-index.md): digests by architecture."""
    media = "application/vnd.oci.image.index.v1+json"
    base = f"http://{registry}/v2/{name}/manifests"
    manifests = []
    for architecture, digest in variants.items():
        accepting = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        with urllib.request.urlopen(urllib.request.Request(f"{base}/{digest}", headers=accepting)) as answer:
            kind, size = answer.headers["Content-Type"], len(answer.read())
        platform = {"os": "linux", "architecture": architecture}
        manifests.append({"mediaType": kind, "digest": digest, "size": size, "platform": platform})
    body = json.dumps({"schemaVersion": 2, "mediaType": media, "manifests": manifests}).encode()
    request = urllib.request.Request(f"{base}/{tag}", data=body, headers={"Content-Type": media}, method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201
