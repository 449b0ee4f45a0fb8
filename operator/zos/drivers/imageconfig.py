"""The config of an OCI image (opencontainers/image-spec config.md): a stranger's text, typed and bounded where it is read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zos.drivers import DriverError

_CONFIG = "application/vnd.oci.image.config.v1+json"
#: Bytes of a manifest or config.
_LONGEST_BLOB = 4 << 20
#: Words of an entrypoint or variables; characters of one of them (MAX_ARG_STRLEN); characters of a path or a user.
_MOST_WORDS, _LONGEST_WORD, _LONGEST_NAME = 1024, 131072, 4096


@dataclass(frozen=True)
class Config:
    """The parts that a machine uses. No text has a NUL or half a surrogate pair in it; names have no control characters."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    working_dir: str = "/"
    user: str = ""
    stop_signal: int = signal.SIGTERM


class _Broken(ValueError):
    pass


def read(layout: Path) -> Config:
    """The image's config, from an OCI layout with one image. Raises DriverError."""
    with _understood():
        manifest = _manifest(layout)
        media = manifest["config"].get("mediaType", "")
        if media != _CONFIG:
            raise DriverError(f"it is not a container image ({str(media)[:100] or 'no type given'})")
        whole = _object(_blob(layout, manifest["config"]["digest"]), "config")
        if not manifest.get("layers"):
            raise DriverError("it has no layers")
        system = f"{whole.get('os', 'linux')}/{whole.get('architecture', 'amd64')}"
        if system != "linux/amd64":
            raise DriverError(f"it is for {system[:100]}, this node is linux/amd64")
        return config_of(whole.get("config") or {})


def layers(layout: Path) -> list[str]:
    """Digests of the image's layers, the lowest first; one may be there twice. Raises DriverError."""
    with _understood():
        return [f"sha256:{_name_of(layer['digest'])}" for layer in _manifest(layout)["layers"]]


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise DriverError(f"its manifest or config is broken ({error})") from error


def _manifest(layout: Path) -> dict[str, Any]:
    digest = _object(_file(layout / "index.json"), "index")["manifests"][0]["digest"]
    return _object(_blob(layout, digest), "manifest")


def config_of(config: Any) -> Config:
    """Raises ValueError naming the field that is not as it must be."""
    if not isinstance(config, dict):
        raise _Broken("config is not an object")
    environment = _words(config, "Env")
    if odd := next((text for text in environment if not re.fullmatch(r"[^=\x00-\x20\x7f]+=.*", text, re.DOTALL)), None):
        raise _Broken(f"Env has {odd[:60]!r}, which is not NAME=value")
    return Config(
        _words(config, "Entrypoint"),
        _words(config, "Cmd"),
        environment,
        _name(config, "WorkingDir") or "/",
        _name(config, "User"),
        _signal(_name(config, "StopSignal")),
    )


def _words(config: dict[str, Any], field: str) -> tuple[str, ...]:
    words = config.get(field) or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _Broken(f"{field} is not a list of texts")
    if len(words) > _MOST_WORDS or any(len(word) > _LONGEST_WORD for word in words):
        raise _Broken(f"{field} has more than {_MOST_WORDS} words, or one of more than {_LONGEST_WORD} characters")
    if not all(_is_text(word) for word in words):
        raise _Broken(f"{field} has a NUL or half a character in it")
    return tuple(words)


def _name(config: dict[str, Any], field: str) -> str:
    text = config.get(field) or ""
    if not isinstance(text, str) or len(text) > _LONGEST_NAME or not _is_text(text) or re.search(r"[\x00-\x1f\x7f]", text):
        raise _Broken(f"{field} is not a text of up to {_LONGEST_NAME} printable characters")
    return text


def _is_text(text: str) -> bool:
    with contextlib.suppress(UnicodeEncodeError):
        return b"\0" not in text.encode()
    return False


def _signal(name: str) -> int:
    if name.isascii() and name.isdigit() and len(name) < 3 and 0 < int(name) < 65:
        return int(name)
    with contextlib.suppress(KeyError):
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    return signal.SIGTERM


def _object(text: bytes, what: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise _Broken(f"the {what} is not an object")
    return found


def _blob(layout: Path, digest: Any) -> bytes:
    return _file(layout / "blobs" / "sha256" / _name_of(digest))


def _name_of(digest: Any) -> str:
    if not isinstance(digest, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise _Broken(f"digest {str(digest)[:80]!r}")
    return digest.removeprefix("sha256:")


def _file(path: Path) -> bytes:
    """Written by a fetcher, which is not to be trusted with where a link leads."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _Broken(f"{path.name} is not a file")
        text = file.read(_LONGEST_BLOB + 1)
    if len(text) > _LONGEST_BLOB:
        raise _Broken(f"{path.name[:16]} is larger than {_LONGEST_BLOB >> 20} MiB")
    return text
