"""A look at all there is, without the watches: what is served, what exists, and whether it is older than what was heard of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zos.api.meta import Key, version_number
from zos.kube.client import ApiError, Client, NotFound
from zos.kube.watches import Watched


class Heard(NamedTuple):
    """What was heard of an object last."""

    uid: str
    version: str


@dataclass(frozen=True)
class Look:
    """What there is: objects with their versions. ``unserved``: kinds that could not be looked at, and why. ``versions``: of
    the lists, by kind. ``back``: it is an older state than was heard of before."""

    keys: Mapping[Key, str]
    served: tuple[Watched, ...]
    unserved: Mapping[str, str]
    versions: Mapping[str, int]
    back: bool

    def lacks(self, key: Key) -> bool:
        """Whether an object is not there. Of kinds that could not be looked at it is not known what is gone."""
        return key not in self.keys and any(key.kind == watched.model.KIND for watched in self.served)

    def unheard(self, before: Mapping[Key, Heard]) -> frozenset[Key]:
        """Of what is there: what was not heard of, or not as it is."""
        return frozenset(
            key for key, version in self.keys.items() if (heard := before.get(key)) is None or heard.version != version
        )


async def look(client: Client, watched: Sequence[Watched], known: Mapping[Key, Heard], highest: Mapping[str, int]) -> Look:
    """``known`` is what was heard of before, ``highest`` the highest version heard or answered, by kind. Raises Unavailable."""
    keys: dict[Key, str] = {}
    served: list[Watched] = []
    unserved: dict[str, str] = {}
    versions: dict[str, int] = {}
    for one in watched:
        kind = one.model.KIND
        try:
            found = await client.keys(one.model, one.namespace, name=one.name, labels=one.labels)
        except NotFound:
            unserved[kind] = "its CRD is not there"
            continue
        except ApiError as error:
            unserved[kind] = str(error)
            continue
        keys |= found
        served.append(one)
        versions[kind] = version_number(found.version)
    back = any(0 < version < highest.get(kind, 0) for kind, version in versions.items()) or any(
        0 < version_number(version) < version_number(heard.version)
        for key, version in keys.items()
        if (heard := known.get(key)) is not None
    )
    return Look(keys, tuple(served), unserved, versions, back)
