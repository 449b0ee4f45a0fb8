"""The node's private keys. They are made here, lie in one directory with mode 0600, and never leave the node."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

_SUFFIX = ".key"
_SEALING = "sealing.key"


class Keyring:
    """WireGuard (X25519) pairs by public key, and the pair that secrets for this node are sealed to.

    Keys are base64 as WireGuard writes them. A pair's file is named after its public key in base64's URL-safe alphabet.
    """

    def __init__(self, directory: Path) -> None:
        self._wireguard = directory / "wireguard"
        self._sealing = directory / _SEALING
        self._wireguard.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.chmod(0o700)
        for half_made in (*directory.glob("*.new"), *self._wireguard.glob("*.new")):
            half_made.unlink()

    def publics(self) -> frozenset[str]:
        """Public keys of all WireGuard pairs."""
        return frozenset(_public_of(path.name) for path in self._wireguard.glob(f"*{_SUFFIX}"))

    def create(self) -> str:
        """A fresh WireGuard pair, safely on disk before its public key is told to anyone."""
        pair = PrivateKey.generate()
        public = base64.b64encode(bytes(pair.public_key)).decode()
        _write(self._path(public), base64.b64encode(bytes(pair)).decode())
        return public

    def private(self, public: str) -> str | None:
        """The private half, None where this node has none."""
        try:
            return self._path(public).read_text().strip()
        except FileNotFoundError:
            return None

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
        if not self._sealing.exists():
            _write(self._sealing, base64.b64encode(bytes(PrivateKey.generate())).decode())
        return PrivateKey(base64.b64decode(self._sealing.read_text()))

    def _path(self, public: str) -> Path:
        try:
            raw = base64.b64decode(public, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{public!r} is not a WireGuard key") from error
        if len(raw) != 32:
            raise ValueError(f"{public!r} is not a WireGuard key")
        return self._wireguard / (base64.urlsafe_b64encode(raw).decode() + _SUFFIX)


def _public_of(name: str) -> str:
    return base64.b64encode(base64.urlsafe_b64decode(name.removesuffix(_SUFFIX))).decode()


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and on the disk when this returns: a key that others were told must survive a power cut."""
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, text.encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
