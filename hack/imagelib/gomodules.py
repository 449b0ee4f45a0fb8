"""Which modules a Go program was built of, by what its linker wrote into it (Go's debug/buildinfo)."""

from __future__ import annotations

from pathlib import Path

_MAGIC = b"\xff Go buildinf:"
_HEADER = 32
#: In front of and behind the text: so that it is found in any file.
_FRAME = 16


def modules(program: Path) -> list[tuple[str, str]]:
    """Path and version of each, its own first; [] of what is not built by Go 1.18 or later."""
    content = program.read_bytes()
    at = content.find(_MAGIC)
    if at < 0 or not content[at + 15] & 2:
        return []
    _, at = _text(content, at + _HEADER)
    told, _ = _text(content, at)
    lines = (line.split("\t") for line in told[_FRAME:-_FRAME].decode().split("\n"))
    return [(words[1], words[2]) for words in lines if words[0] in ("mod", "dep", "=>")]


def _text(content: bytes, at: int) -> tuple[bytes, int]:
    """A text with its length in front (a varint), and where it ends."""
    length = shift = 0
    while True:
        byte = content[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return content[at : at + length], at + length
