"""A block of a file as it is stored: compressed (raw snappy), then encrypted with its own digest (AES-256-GCM).

Who has a block's id and key knows exactly which bytes must come of it: nothing in between needs to be trusted. The same plain
bytes give the same stored bytes everywhere, so that they are stored once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cramjam
from nacl.bindings import crypto_aead_aes256gcm_decrypt, crypto_aead_aes256gcm_encrypt
from nacl.exceptions import CryptoError

#: Bytes of a file in each of its blocks but the last.
BLOCK = 512 << 10
#: Bytes of an id and of a key.
DIGEST = 32
_NONCE, _TAG = 12, 16
#: Bytes that a block takes where it is stored, at the most: snappy makes what it can't compress somewhat larger.
STORED = 32 + BLOCK + BLOCK // 6 + _TAG


class Damaged(Exception):
    """It is not the block that it should be."""


@dataclass(frozen=True)
class Block:
    """``id``: digest of the stored bytes. ``key``: that of the plain ones. ``size``: how many plain bytes there are."""

    id: bytes
    key: bytes
    size: int


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def seal(plain: bytes) -> tuple[Block, bytes]:
    """The block, and its stored bytes."""
    key = digest(plain)
    packed = bytes(cramjam.snappy.compress_raw(plain))
    stored = crypto_aead_aes256gcm_encrypt(packed, None, key[:_NONCE], key)
    return Block(digest(stored), key, len(plain)), stored


def check(block: Block, stored: bytes) -> None:
    """Raises Damaged where these are not the stored bytes of the block."""
    if len(stored) > STORED or digest(stored) != block.id:
        raise Damaged("its stored bytes are not those that its id names")


def unseal(block: Block, stored: bytes) -> bytes:
    """The plain bytes. Raises Damaged: whoever made the flist did not store what it says."""
    check(block, stored)
    try:
        packed = crypto_aead_aes256gcm_decrypt(stored, None, block.key[:_NONCE], block.key)
    except (CryptoError, ValueError, TypeError):
        raise Damaged("its key does not open it") from None
    try:
        # What it says of its length is looked at before there is room for it: a few bytes can claim four gigabytes.
        if cramjam.snappy.decompress_raw_len(packed) != block.size:
            raise Damaged("it does not unpack to as many bytes as the file has there")
        plain = bytes(cramjam.snappy.decompress_raw(packed))
    except cramjam.DecompressionError:
        raise Damaged("it can't be unpacked") from None
    if len(plain) != block.size or digest(plain) != block.key:
        raise Damaged("its bytes are not those that its key names")
    return plain
