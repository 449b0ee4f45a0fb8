"""Which modules of a kernel must be loaded for some others, and in which order, by what depmod(8) has written of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


class NoModule(Exception):
    """Its name: the kernel has none, and it is not built in."""


@dataclass(frozen=True)
class Modules:
    """``needs``: what each needs, by its path, in the reverse of the order of loading, all of it and not the next alone.
    ``by_name`` are paths, ``built_in`` names; a name has underscores where its file may have hyphens."""

    needs: Mapping[str, tuple[str, ...]]
    by_name: Mapping[str, str]
    built_in: frozenset[str]

    @classmethod
    def read(cls, dependencies: str, built_in: str) -> Modules:
        """Of the texts of ``modules.dep`` and ``modules.builtin``. Nonsense in them names nothing that anybody asks for."""
        needs: dict[str, tuple[str, ...]] = {}
        for line in dependencies.splitlines():
            path, _, others = line.partition(":")
            needs[path.strip()] = tuple(others.split())
        return cls(needs, {name_of(path): path for path in needs}, frozenset(name_of(path) for path in built_in.split()))

    def has(self, name: str) -> bool:
        return name in self.by_name or name in self.built_in

    def order(self, names: Iterable[str]) -> tuple[str, ...]:
        """Paths of what must be loaded for all of these, each behind what it needs. Raises NoModule."""
        found: dict[str, None] = {}
        for name in names:
            path = self.by_name.get(name)
            if path is not None:
                found |= dict.fromkeys((*reversed(self.needs[path]), path))
            elif name not in self.built_in:
                raise NoModule(name)
        return tuple(found)


def name_of(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")
