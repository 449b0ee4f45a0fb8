"""Gets an image from where its ref says into a directory: registry, archive or directory tree."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from zos.drivers import DriverError
from zos.drivers.process import ProcessError, lines, run
from zos.drivers.thread import in_thread

Progress = Callable[[str], None]

#: Seconds for a whole image; a stalled transfer is noticed much earlier.
_WHOLE = 3600.0
_STALLED = 60.0
_ANSWER = 60.0

#: What registries and skopeo say, and what a person can do about it.
_REGISTRY_ERRORS = {
    r"manifest unknown|name unknown|repository name not known|not found": "it does not exist there; check name and tag",
    r"unauthorized|authentication required|denied|status 40[13]|invalid username": (
        "the registry refuses access; the image must be public, or the node needs credentials (--registry-auth)"
    ),
    r"server gave HTTP response to HTTPS client": (
        "the registry speaks plain HTTP; the node must be told to allow that (--insecure-registries)"
    ),
    r"x509|certificate": "the registry's certificate is not trusted by the node",
    r"no such host|server misbehaving": "the registry's name can't be resolved",
    r"connection re(fused|set)|no route to host|network is unreachable|i/o timeout|deadline exceeded|not done after": (
        "the registry can't be reached"
    ),
    r"no image found in (manifest list|image index)": "it has no variant for linux/amd64",
    r"unsupported|not a valid image|invalid mixed OCI|MIME type": "it is not a container image",
}


@dataclass(frozen=True)
class Config:
    """The parts of an OCI image config (opencontainers/image-spec config.md) that a machine uses."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    working_dir: str = "/"
    user: str = ""
    stop_signal: int = signal.SIGTERM


@dataclass(frozen=True)
class Registries:
    """``insecure``: ``host[:port]`` of registries that may be spoken to in plain HTTP; literal addresses that are private or
    for documentation may always. ``auth``: credentials, a containers-auth.json(5)."""

    insecure: Sequence[str] = ()
    auth: Path | None = None

    def options(self, reference: str, direction: str = "") -> list[str]:
        registry = reference.split("/", 1)[0]
        options = []
        if self.plain(registry):
            options.append(f"--{direction}tls-verify=false")
        if self.auth is not None:
            options.append(f"--{direction}authfile={self.auth}")
        return options

    def plain(self, registry: str) -> bool:
        host = urlsplit(f"//{registry}").hostname or ""
        if registry in self.insecure or host in self.insecure or host == "localhost":
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(host).is_private
        return False


async def digest_of(ref: str, registries: Registries) -> str | None:
    """``sha256:<hex>`` of the content where the source tells it before it is fetched, else None. Raises DriverError."""
    if not ref.startswith("oci://"):
        return None
    reference = ref.removeprefix("oci://")
    try:
        shown = await run(
            "skopeo", "inspect", "--no-tags", *registries.options(reference), f"docker://{reference}", timeout=_ANSWER
        )
    except ProcessError as error:
        raise _registry_error(ref, error) from error
    found = re.fullmatch(r"sha256:[0-9a-f]{64}", str(json.loads(shown.stdout).get("Digest", "")))
    return found[0] if found else None


async def fetch(ref: str, digest: str | None, room: Path, registries: Registries, progress: Progress) -> tuple[str, Config]:
    """Fills ``room/rootfs`` and gives the content's digest and the image's config. ``room`` is an empty directory of the
    caller's, who throws it away when this fails. Raises DriverError with a text that says what to do."""
    scheme, _, rest = ref.partition("://")
    match scheme:
        case "oci":
            return await _fetch_oci(ref, digest, room, registries, progress)
        case "file" if await asyncio.to_thread(os.path.isdir, rest):
            return await _copy(ref, Path(rest), room, progress), Config()
        case "file":
            return await _unpack(ref, Path(rest), room, progress), Config()
        case "https":
            archive = room / "archive"
            await _download(ref, archive, progress)
            found = await _unpack(ref, archive, room, progress)
            await asyncio.to_thread(archive.unlink)
            return found, Config()
        case _:
            raise DriverError(f"image {ref}: it must begin with oci://, https:// or file://")


async def _fetch_oci(
    ref: str, digest: str | None, room: Path, registries: Registries, progress: Progress
) -> tuple[str, Config]:
    reference = ref.removeprefix("oci://")
    pinned = _pinned(reference, digest) if digest else reference  # the tag may move while we pull
    copy = [
        "skopeo",
        "copy",
        "--override-os=linux",
        *registries.options(reference, "src-"),
        f"docker://{pinned}",
        f"oci:{room}/oci:image",
    ]
    layers = 0
    progress("pulling")
    try:
        async with contextlib.aclosing(lines(*copy, timeout=_WHOLE)) as output:
            async for line in output:
                if line.startswith("Copying blob"):
                    layers += 1
                    progress(f"pulling, layer {layers}")
    except ProcessError as error:
        raise _registry_error(ref, error) from error
    manifest, config = await asyncio.to_thread(_oci_config, ref, room / "oci")
    progress("unpacking")
    try:
        await run("umoci", "raw", "unpack", "--image", f"{room}/oci:image", str(room / "rootfs"), timeout=_WHOLE)
    except ProcessError as error:
        raise DriverError(f"image {ref}: it can't be unpacked: {_last_line(error)}") from error
    return digest or manifest, config


def _pinned(reference: str, digest: str) -> str:
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{digest}"


def _oci_config(ref: str, layout: Path) -> tuple[str, Config]:
    """Digest of the manifest and the image's config, from an OCI layout with one image."""
    try:
        digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
        manifest = json.loads(_blob(layout, digest))
        media = manifest["config"].get("mediaType", "")
        if media != "application/vnd.oci.image.config.v1+json":
            raise DriverError(f"image {ref}: it is not a container image ({media or 'no type given'})")
        whole = json.loads(_blob(layout, manifest["config"]["digest"]))
        config = whole.get("config") or {}
        if not manifest.get("layers"):
            raise DriverError(f"image {ref}: it has no layers")
        if whole.get("architecture", "amd64") != "amd64" or whole.get("os", "linux") != "linux":
            raise DriverError(f"image {ref}: it is for {whole.get('os')}/{whole.get('architecture')}, this node is linux/amd64")
        return digest, Config(
            tuple(config.get("Entrypoint") or ()),
            tuple(config.get("Cmd") or ()),
            tuple(config.get("Env") or ()),
            config.get("WorkingDir") or "/",
            config.get("User") or "",
            _signal(config.get("StopSignal") or ""),
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DriverError(f"image {ref}: its manifest or config is broken ({error})") from error


def _blob(layout: Path, digest: str) -> bytes:
    algorithm, _, value = digest.partition(":")
    if not re.fullmatch(r"sha\d+", algorithm) or not re.fullmatch(r"[0-9a-f]+", value):
        raise ValueError(f"digest {digest!r}")
    return (layout / "blobs" / algorithm / value).read_bytes()


def _signal(name: str) -> int:
    if name.isdigit() and 0 < int(name) < 65:
        return int(name)
    with contextlib.suppress(KeyError):
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    return signal.SIGTERM


async def _copy(ref: str, source: Path, room: Path, progress: Progress) -> str:
    progress("copying")
    try:
        await run("cp", "-a", "--reflink=auto", f"{source}/.", str(room / "rootfs"), timeout=_WHOLE)
    except ProcessError as error:
        raise DriverError(f"image {ref}: it can't be copied: {_last_line(error)}") from error
    return await in_thread(_tree_digest, room / "rootfs")


def _tree_digest(root: Path) -> str:
    """Names, modes, owners, links, sizes and times of everything: contents are as different as their times."""
    digest = hashlib.sha256()
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in sorted((*directories, *files)):
            path = f"{directory}/{name}"
            info = os.lstat(path)
            link = os.readlink(path) if os.path.islink(path) else ""
            fact = (path[len(str(root)) :], info.st_mode, info.st_uid, info.st_gid, info.st_size, link, info.st_mtime_ns)
            digest.update(repr(fact).encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()}"


async def _unpack(ref: str, archive: Path, room: Path, progress: Progress) -> str:
    progress("unpacking")
    try:
        digest = await in_thread(_file_digest, archive)
    except FileNotFoundError:
        raise DriverError(f"image {ref}: there is no {archive} on this node") from None
    except OSError as error:
        raise DriverError(f"image {ref}: {error.strerror or error}") from error
    root = room / "rootfs"
    await asyncio.to_thread(root.mkdir, mode=0o755)
    try:
        await run(sys.executable, "-P", "-m", "zos.programs.untar", str(archive), str(root), timeout=_WHOLE)
    except ProcessError as error:
        raise DriverError(f"image {ref}: {_last_line(error)}") from error
    return digest


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


async def _download(ref: str, target: Path, progress: Progress) -> None:
    progress("downloading")
    timeout = aiohttp.ClientTimeout(total=_WHOLE, sock_connect=_ANSWER, sock_read=_STALLED)
    got = 0
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session, session.get(ref) as response:
            if response.status != 200:
                raise DriverError(f"image {ref}: the server answers {response.status} {response.reason}")
            if response.url.scheme != "https":
                raise DriverError(f"image {ref}: the server sends on to {response.url}, which is not https")
            whole = response.content_length
            with open(target, "wb") as file:  # noqa: ASYNC230 - in pieces of what one read gives
                async for piece in response.content.iter_chunked(1 << 20):
                    await asyncio.to_thread(file.write, piece)
                    got += len(piece)
                    progress(f"downloading, {100 * got // whole} %" if whole else f"downloading, {got >> 20} MiB")
    except TimeoutError:
        raise DriverError(f"image {ref}: the server does not go on sending") from None
    except aiohttp.ClientError as error:
        raise DriverError(f"image {ref}: it can't be downloaded: {error}") from error


def _registry_error(ref: str, error: ProcessError) -> DriverError:
    said = f"{error.stderr}\n{error}"
    if "no space left" in said:
        return DriverError(f"image {ref}: the node's disk is full")
    for pattern, meaning in _REGISTRY_ERRORS.items():
        if re.search(pattern, said, re.IGNORECASE):
            return DriverError(f"image {ref}: {meaning}")
    return DriverError(f"image {ref}: {_last_line(error)}")


def _last_line(error: ProcessError) -> str:
    """What a program said last, without the log format of skopeo and umoci."""
    said = (error.stderr or error.stdout or str(error)).strip().splitlines()[-1]
    found = re.search(r'msg="?(.*?)"?$', said)
    return (found[1] if found else said).removeprefix("Error: ")[:400]
