"""A stream as tarfile wants a file: read from its beginning to its end, passing over what nobody wants.

tarfile's own streams copy what is left of their buffer at each read, up to a mebibyte for each header of 512 bytes: with many
small files that is more work than unpacking them.
"""

from __future__ import annotations

from zos.programs.packed import PIECE, Content


class Forward:
    def __init__(self, content: Content) -> None:
        self._content = content
        self._piece = memoryview(b"")
        self._at = 0

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        """So many bytes; fewer at the end alone. Raises BadContent."""
        if size <= len(self._piece):
            return bytes(self._take(size))
        parts, left = [], size
        while left and (self._piece or self._more()):
            part = self._take(left)
            left -= len(part)
            parts.append(part)
        return b"".join(parts)

    def seek(self, position: int) -> None:
        """Forward only. Beyond the end there is nothing to read. Raises BadContent."""
        if position < self._at:
            raise ValueError("what was read is gone")
        while self._at < position and (self._piece or self._more()):
            self._take(position - self._at)

    def _take(self, size: int) -> memoryview:
        taken, self._piece = self._piece[:size], self._piece[size:]
        self._at += len(taken)
        return taken

    def _more(self) -> bool:
        self._piece = memoryview(self._content.read(PIECE))
        return len(self._piece) > 0
