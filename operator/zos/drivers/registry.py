"""Images from registries: skopeo speaks to them, umoci unpacks what it brought."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re

from zos.drivers import DriverError
from zos.drivers.beside import beside
from zos.drivers.confined import AT, fetcher, unpacker
from zos.drivers.fencerules import Ground, closed_in
from zos.drivers.imageconfig import Config, read
from zos.drivers.meter import Limits, Meter
from zos.drivers.process import ProcessError, lines, run
from zos.drivers.sources import Pull

#: Seconds for a whole image, and for an answer.
_WHOLE = 3600.0
_ANSWER = 60.0

#: What to do where the fence stood in the way.
CLOSED = (
    "it is at an address that this node closes to images (private, of the node itself or of its links); the node's owner can "
    "open it with --image-network"
)

#: What registries and skopeo say, and what a person can do about it.
_ERRORS = {
    r"manifest unknown|name unknown|repository name not known|not found": "it does not exist there; check name and tag",
    r"unauthorized|authentication required|(?<!permission )denied|status 40[13]|invalid username": (
        "the registry refuses access; the image must be public, or the node's owner must open its repository to everybody on "
        "this node (--registry-auth)"
    ),
    r"server gave HTTP response to HTTPS client": (
        "the registry speaks plain HTTP; the node must be told to allow that (--insecure-registries)"
    ),
    r"x509|certificate": "the registry's certificate is not trusted by the node",
    r"no such host|server misbehaving": "the registry's name can't be resolved",
    r"connection re(fused|set)|no route to host|network is unreachable|permission denied|i/o timeout|deadline exceeded"
    r"|not done after": "the registry can't be reached",
    r"no image found in (manifest list|image index)": "it has no variant for linux/amd64",
    r"unsupported|not a valid image|invalid mixed OCI|MIME type": "it is not a container image",
}


async def inspect(pull: Pull) -> str | None:
    """``sha256:<hex>`` of the content, before it is fetched. Raises DriverError."""
    reference, registries, limits = _reference(pull), pull.sources.registries, pull.sources.limits
    await asyncio.to_thread(registries.give, reference, pull.fetched)
    command = ["skopeo", "inspect", "--no-tags", *registries.options(reference), f"docker://{reference}"]
    try:
        shown = await pull.fence.around(lambda: run(*fetcher(pull.fetched, limits.size, *command), timeout=_ANSWER))
        digest = str(json.loads(shown.stdout).get("Digest", ""))
    except ProcessError as error:
        raise _meaning(error, pull.fence.ground) from error
    except (ValueError, AttributeError) as error:
        raise DriverError(f"the registry's answer can't be understood: {error}") from error
    return digest if re.fullmatch(r"sha256:[0-9a-f]{64}", digest) else None


async def fetch(pull: Pull, digest: str | None) -> tuple[str, Config]:
    """Fills ``rootfs`` in the room, after `inspect`. Raises DriverError."""
    reference, registries, limits = _reference(pull), pull.sources.registries, pull.sources.limits
    pinned = _pinned(reference, digest) if digest else reference  # the tag may move while we pull
    options = ["--override-os=linux", *registries.options(reference, "src-")]
    copy = fetcher(pull.fetched, limits.size, "skopeo", "copy", *options, f"docker://{pinned}", f"oci:{AT}/oci:image")
    pull.say("pulling")
    meter = Meter(pull.fetched, limits, "packed, it has", trickle=True)
    try:
        await pull.fence.around(lambda: beside(lambda: _follow(pull, copy), meter.watch))
    except ProcessError as error:
        _check_file(error, limits, "packed, it has")
        raise _meaning(error, pull.fence.ground) from error
    await meter.check()
    manifest, config = await asyncio.to_thread(read, pull.fetched / "oci")
    pull.say("unpacking")
    await _unpack(pull, limits)
    return digest or manifest, config


async def _follow(pull: Pull, command: list[str]) -> None:
    layers = 0
    async with contextlib.aclosing(lines(*command, timeout=_WHOLE)) as output:
        async for line in output:
            if line.startswith("Copying blob"):
                layers += 1
                pull.say(f"pulling, layer {layers}")


async def _unpack(pull: Pull, limits: Limits) -> None:
    root = pull.room / "rootfs"
    await asyncio.to_thread(root.mkdir, mode=0o755)
    command = ["umoci", "raw", "unpack", "--image", f"{pull.fetched}/oci:image", str(root)]
    meter = Meter(root, limits, "it unpacks to")
    try:
        unpack = unpacker(pull.room, limits.size, *command)
        await beside(lambda: run(*unpack, timeout=_WHOLE), meter.watch)
    except ProcessError as error:
        _check_file(error, limits, "it unpacks to")
        raise DriverError(f"it can't be unpacked: {last_line(error)}") from error


def _check_file(error: ProcessError, limits: Limits, what: str) -> None:
    """Raises TooBig for a program that met the limit of a single file."""
    if "file too large" in f"{error.stderr}{error.stdout}":
        limits.check(limits.size + 1, 0, what)


def _reference(pull: Pull) -> str:
    """As skopeo takes it: with a digest, which says it all, without the tag beside it."""
    reference = pull.ref.removeprefix("oci://")
    _, at, digest = reference.partition("@")
    return _pinned(reference, digest) if at else reference


def _pinned(reference: str, digest: str) -> str:
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{digest}"


def _meaning(error: ProcessError, ground: Ground) -> DriverError:
    said = f"{error.stderr}\n{error.stdout}\n{error}"
    if "no space left" in said:
        return DriverError("the node's disk is full")
    if closed_in(said, ground):
        return DriverError(CLOSED)
    for pattern, meaning in _ERRORS.items():
        if re.search(pattern, said, re.IGNORECASE):
            return DriverError(meaning)
    return DriverError(last_line(error))


def last_line(error: ProcessError) -> str:
    """What a program said last, without the log format of skopeo and umoci."""
    if late := re.search(r"not done after [\d.]+ s", str(error)):
        return f"it takes too long: {late[0]}"
    said = ((error.stderr or error.stdout).strip() or str(error)).splitlines()[-1]
    found = re.search(r'msg="?(.*?)"?$', said)
    return (found[1] if found else said).removeprefix("Error: ")[:400]
