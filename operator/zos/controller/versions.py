"""Which of the things said of an object is the newest, even when the API server's versions have gone back."""

from __future__ import annotations

from collections.abc import Iterable

from zos.api.meta import Key, Object, version_number
from zos.kube.client import Raw


class Versions:
    """The watch tells what the answers to our own writes told already, and an answer may be behind the watch."""

    def __init__(self) -> None:
        self._doubted: set[Key] = set()

    def rewound(self, known: Iterable[Key]) -> None:
        """The API server shows an older state than before: what it says next of each of these is news, whatever the version."""
        self._doubted = set(known)

    def news(self, raw: Raw, current: Object | None) -> bool:
        """Whether ``raw`` is newer than what is known."""
        if current is None:
            return True
        if current.key in self._doubted:
            self._doubted.discard(current.key)
            return True
        said = version_number(raw["metadata"]["resourceVersion"])
        return not 0 < said <= version_number(current.metadata.resource_version)
