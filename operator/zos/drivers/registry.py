"""Images from registries: skopeo speaks to them, and what it brought is unpacked."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from zos.drivers import DriverError, Unavailable, imageconfig, manifest
from zos.drivers.beside import beside
from zos.drivers.confined import AT, fetcher
from zos.drivers.fencerules import closed_in
from zos.drivers.halffetched import look_over
from zos.drivers.imageconfig import Config
from zos.drivers.manifest import Manifest
from zos.drivers.meter import Lie, Limits, Meter, Refused, TooBig, in_words, tree_size
from zos.drivers.process import ProcessError, run
from zos.drivers.sources import Pull
from zos.drivers.thread import in_thread
from zos.drivers.unpacking import last_line, unpack

#: Seconds for a whole image, and for an answer.
_WHOLE = 3600.0
_ANSWER = 60.0
#: Seconds between two words of how far it is.
_TELL = 0.5

#: What to do where the fence stood in the way.
CLOSED = (
    "it is at an address that this node closes to images (private, of the node itself or of its links); the node's owner can "
    "open it with --image-network"
)

_REFUSES = (
    "the registry refuses access: name a Secret with credentials for it in imagePullSecrets; or the image must be public, or "
    "opened to everybody on this node by its owner (--registry-auth)"
)
_WRONG_CREDENTIALS = (
    "the registry refuses the credentials that imagePullSecrets gives for it, or they do not open this repository: correct the "
    "Secret"
)
_UNRESOLVED, _UNREACHED = "the registry's name can't be resolved", "the registry can't be reached"
_TROUBLED = "the registry has trouble of its own, or is asked too often"
#: Nothing is wrong with the image then, as far as anybody knows.
_PASSING = frozenset({_UNRESOLVED, _UNREACHED, _TROUBLED})
#: What registries and skopeo say, and what a person can do about it.
_ERRORS = {
    r"manifest unknown|name unknown|repository name not known|not found": "it does not exist there; check name and tag",
    r"unauthorized|authentication required|(?<!permission )denied|status 40[13]|invalid username": _REFUSES,
    r"server gave HTTP response to HTTPS client": (
        "the registry speaks plain HTTP; the node must be told to allow that (--insecure-registries)"
    ),
    r"x509|certificate": "the registry's certificate is not trusted by the node",
    r"no such host|server misbehaving": _UNRESOLVED,
    r"toomanyrequests|status:? (code )?(5\d\d|429)": _TROUBLED,
    r"connection re(fused|set)|no route to host|network is unreachable|permission denied|i/o timeout|deadline exceeded"
    r"|not done after": _UNREACHED,
    r"no image found in (manifest list|image index)": "it has no variant for linux/amd64",
    r"unsupported|not a valid image|invalid mixed OCI|MIME type": "it is not a container image",
}


async def inspect(pull: Pull) -> Manifest:
    """What the content is, before it is fetched. Who is told it may have the image: it asks with the pull's own credentials.
    Raises DriverError."""
    reference, registries = _reference(pull), pull.sources.registries
    await asyncio.to_thread(registries.give, reference, pull.fetched, pull.auth)
    text = await _manifest(pull, reference)
    digest = manifest.digest_of(text)
    if (variant := manifest.variant(text)) is not None:
        text = await _manifest(pull, _pinned(reference, variant))
    return Manifest(digest, manifest.layers(text))


async def _manifest(pull: Pull, reference: str) -> str:
    options = pull.sources.registries.options(reference)
    command = fetcher(pull.fetched, pull.sources.limits.size, "skopeo", "inspect", "--raw", *options, f"docker://{reference}")
    try:
        text = (await pull.fence.around(lambda: run(*command, timeout=_ANSWER))).stdout
    except ProcessError as error:
        raise _meaning(error, pull) from error
    # What the registry calls it is its word; skopeo looks at that only when it copies.
    if (digest := reference.partition("@")[2]) and manifest.digest_of(text) != digest:
        raise DriverError("the registry sends something else than what has the digest that was asked for")
    return text


async def fetch(pull: Pull, known: Manifest) -> tuple[str, Config]:
    """Fills ``rootfs`` in the room, after `inspect`. Raises DriverError."""
    reference, registries, limits = _reference(pull), pull.sources.registries, pull.sources.limits
    packed = sum(known.layers.values())
    limits.check(packed, 0, "packed, it has")
    options = ["--override-os=linux", *registries.options(reference, "src-")]
    pinned = _pinned(reference, known.digest)  # the tag may move while we pull
    copy = fetcher(pull.fetched, limits.size, "skopeo", "copy", *options, f"docker://{pinned}", f"oci:{AT}/oci:image")
    layout = pull.fetched / "oci"
    lent = await in_thread(pull.kept.lend, layout, known.layers, pull.access)
    had = sum(known.layers[digest] for digest in lent)
    keep = True
    try:
        await _copy(pull, copy, layout, packed, had)
        await in_thread(look_over, layout)
        config = await asyncio.to_thread(_config, layout)
        await _unpack(pull, layout, packed)
    except Refused:
        keep = False
        raise
    finally:
        if keep:
            await in_thread(pull.kept.keep, layout, known.layers.keys() - lent, pull.access)
    return known.digest, config


async def _copy(pull: Pull, command: list[str], layout: Path, packed: int, had: int) -> None:
    limits = pull.sources.limits
    meter = Meter(pull.fetched, limits, "packed, it has", trickle=True)
    with pull.space.hold(packed - had) as hold:

        async def tell() -> None:
            while True:
                hold.written = max(0, await asyncio.to_thread(tree_size, layout) - had)
                pull.tell("pulling", min(had + hold.written, packed), packed)
                await asyncio.sleep(_TELL)

        try:
            await pull.fence.around(lambda: beside(lambda: beside(lambda: run(*command, timeout=_WHOLE), meter.watch), tell))
            await meter.check()
        except TooBig as error:
            raise _lie(limits) from error
        except ProcessError as error:
            raise (_lie(limits) if _met_limit(error) else _meaning(error, pull)) from error


def _lie(limits: Limits) -> DriverError:
    """What the manifest says was looked at before: it is the registry's doing."""
    return Lie(
        f"the registry sends more than the image's manifest tells of, and than the {in_words(limits.size)} that this node takes"
    )


def _config(layout: Path) -> Config:
    try:
        return imageconfig.read(layout)
    except DriverError as error:
        raise Refused(str(error)) from error


async def _unpack(pull: Pull, layout: Path, packed: int) -> None:
    pull.say("unpacking")
    digests = await asyncio.to_thread(imageconfig.layers, layout)
    blobs = os.open(layout / "blobs" / "sha256", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        await unpack(pull, "layers", blobs, packed, *digests)
    finally:
        os.close(blobs)


def _met_limit(error: ProcessError) -> bool:
    """The limit of a single file."""
    return "file too large" in f"{error.stderr}{error.stdout}"


def _reference(pull: Pull) -> str:
    """As skopeo takes it: with a digest, which says it all, without the tag beside it."""
    reference = pull.ref.removeprefix("oci://")
    _, at, digest = reference.partition("@")
    return _pinned(reference, digest) if at else reference


def _pinned(reference: str, digest: str) -> str:
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{digest}"


def _meaning(error: ProcessError, pull: Pull) -> DriverError:
    said = f"{error.stderr}\n{error.stdout}\n{error}"
    if "no space left" in said:
        return Unavailable("the node's disk is full")
    if closed_in(said, pull.fence.ground):
        return DriverError(CLOSED)
    for pattern, meaning in _ERRORS.items():
        if re.search(pattern, said, re.IGNORECASE):
            kind = Unavailable if meaning in _PASSING else DriverError
            return kind(_WRONG_CREDENTIALS if meaning is _REFUSES and pull.auth else meaning)
    return DriverError(last_line(error))
