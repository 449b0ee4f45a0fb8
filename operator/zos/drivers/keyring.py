"""The node's private keys. They are made here, lie in one directory with mode 0600, and never leave the node."""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

from zos.files import Durability, write

log = logging.getLogger("zos.agent")

_SUFFIX = ".key"
_SEALING = "sealing.key"


class Keyring:
    """WireGuard (X25519) pairs by public key, and the pair that secrets for this node are sealed to.

    Keys are base64 as WireGuard writes them. A pair's file is named after its public key in base64's URL-safe alphabet. A file
    that is something else, or whose content is not that key's private half, is passed over.
    """

    def __init__(self, directory: Path) -> None:
        self._wireguard = directory / "wireguard"
        self._sealing = directory / _SEALING
        self._halves: dict[str, tuple[tuple[int, int], str]] = {}  # by public key: what was read, and of which file
        self._wireguard.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.chmod(0o700)
        for half_made in (*directory.glob("*.new"), *self._wireguard.glob("*.new")):
            with contextlib.suppress(IsADirectoryError):
                half_made.unlink(missing_ok=True)

    def publics(self) -> frozenset[str]:
        """Public keys of all WireGuard pairs."""
        named = (_public_of(path.name) for path in self._wireguard.glob(f"*{_SUFFIX}"))
        return frozenset(public for public in named if public is not None and self.private(public) is not None)

    def create(self) -> str:
        """A fresh WireGuard pair, safely on disk before its public key is told to anyone."""
        pair = PrivateKey.generate()
        public = base64.b64encode(bytes(pair.public_key)).decode()
        write(self._path(public), base64.b64encode(bytes(pair)) + b"\n", Durability.DURABLE)
        return public

    def private(self, public: str) -> str | None:
        """The private half, None where this node has none. Raises ValueError for what is no key, OSError where the file is
        there and can't be read: that is no loss."""
        path = self._path(public)
        try:
            info = path.stat()
            read = self._halves.get(public)
            if read is None or read[0] != (info.st_ino, info.st_mtime_ns):
                read = (info.st_ino, info.st_mtime_ns), _half_of(public, path.read_bytes())
                self._halves[public] = read
        except (FileNotFoundError, IsADirectoryError):
            self._halves.pop(public, None)
            return None
        return read[1] or None

    def lacks(self, public: str) -> bool:
        """Whether the private half is lost. A key that is none never had one; a file that can't be read may be whole."""
        try:
            return self.private(public) is None
        except (ValueError, OSError):
            return False

    def forget(self, public: str) -> None:
        """Deletes a pair for good."""
        self._path(public).unlink(missing_ok=True)

    def sealing_key(self) -> str:
        """The public key to seal this node's secrets to; its pair is made on first use."""
        return base64.b64encode(bytes(self._sealing_pair().public_key)).decode()

    def unseal(self, sealed: str) -> str:
        """Opens a libsodium sealed box (base64). Raises ValueError when it was not sealed to this node."""
        try:
            return SealedBox(self._sealing_pair()).decrypt(base64.b64decode(sealed, validate=True)).decode()
        except (CryptoError, binascii.Error, UnicodeDecodeError) as error:
            raise ValueError("the value is not sealed to this node's key") from error

    def _sealing_pair(self) -> PrivateKey:
        """A lost pair is replaced: the controller seals to the new one what was sealed to the old."""
        try:
            return PrivateKey(base64.b64decode(self._sealing.read_bytes().strip(), validate=True))
        except FileNotFoundError:
            pass
        except (IsADirectoryError, binascii.Error, TypeError, ValueError) as error:
            aside = next(
                path
                for number in range(1, 1000)
                if not (path := self._sealing.with_name(f"{_SEALING}.broken-{number}")).exists()
            )
            self._sealing.rename(aside)
            log.warning("%s holds no key (%s): kept as %s, a new one is made", self._sealing, error, aside.name)
        pair = PrivateKey.generate()
        write(self._sealing, base64.b64encode(bytes(pair)) + b"\n", Durability.DURABLE)
        return pair

    def _path(self, public: str) -> Path:
        try:
            raw = base64.b64decode(public, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{public!r} is not a WireGuard key") from error
        if len(raw) != 32:
            raise ValueError(f"{public!r} is not a WireGuard key")
        return self._wireguard / (base64.urlsafe_b64encode(raw).decode() + _SUFFIX)


def _public_of(name: str) -> str | None:
    """None for a file that is named after no key."""
    try:
        raw = base64.b64decode(name.removesuffix(_SUFFIX), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return base64.b64encode(raw).decode() if len(raw) == 32 else None


def _half_of(public: str, content: bytes) -> str:
    """The private half of a public key, empty where the content is something else."""
    try:
        pair = PrivateKey(base64.b64decode(content.strip(), validate=True))
    except (binascii.Error, TypeError, ValueError):
        return ""
    return content.strip().decode() if base64.b64encode(bytes(pair.public_key)).decode() == public else ""
