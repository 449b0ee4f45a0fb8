"""What every primitive of the node is and tells of itself, so that who compares, orders and keeps them knows none by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, unique
from statistics import median_low
from typing import ClassVar


@unique
class Rank(IntEnum):
    """In which order an owner's things are removed, the lowest first."""

    GUEST = 0
    PROGRAM = 1
    PORT = 2
    SETTING = 3
    ROUTE = 4
    TUNNEL = 5
    FIREWALL = 6
    LINK = 7
    SEGMENT = 8
    BRIDGE = 9
    NETNS = 10
    FILE = 11
    DATA = 12
    IMAGE = 13


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a thing takes of its node as it is now: what an object that had it would hold.

    ``alive``: it is at work by itself (a guest, a network, a program). ``memory`` and ``storage`` in bytes; cpu and memory only
    of what is alive. ``ports`` are UDP ports of the node, ``public_keys`` are WireGuard's, ``macs`` those of interfaces that
    have addresses in a network."""

    alive: bool = False
    cpu: int = 0
    memory: int = 0
    storage: int = 0
    ports: tuple[int, ...] = ()
    public_keys: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()

    def __add__(self, other: Held) -> Held:
        return Held(
            alive=self.alive or other.alive,
            cpu=self.cpu + other.cpu,
            memory=self.memory + other.memory,
            storage=self.storage + other.storage,
            ports=self.ports + other.ports,
            public_keys=self.public_keys + other.public_keys,
            macs=self.macs + other.macs,
        )


_NOTHING = Held()


@dataclass(frozen=True, kw_only=True)
class Item:
    """``owner`` is the NodeWorkload's name; ``needs`` are keys of items that must be in place first."""

    owner: str = field(default="", compare=False)
    needs: tuple[str, ...] = field(default=(), compare=False)

    #: First part of its key. Several classes may share one, where the node has one name for all of them.
    FAMILY: ClassVar[str]
    #: When it is removed among what its owner has (`Rank`), where `rank` says nothing else.
    RANK: ClassVar[int]
    #: True: what is behind it holds a user's data and is removed only for an explicit deletion.
    HOLDS_DATA: ClassVar[bool] = False
    #: True: several may want it, and it goes when nobody does and nothing stands on it, whoever it was made for.
    SHARED: ClassVar[bool] = False

    @property
    def key(self) -> str:
        raise NotImplementedError

    @property
    def rank(self) -> int:
        return self.RANK

    @property
    def shared(self) -> bool:
        """As `SHARED`, of this one."""
        return self.SHARED

    def grounds(self) -> Iterator[str]:
        """Keys of what it stands on by its nature, so that it must be gone before they go."""
        yield from ()

    def occupies(self) -> Iterator[str]:
        """Keys of what is not taken from under it while it is as it is, whoever wants that gone."""
        yield from ()

    def aliases(self) -> Iterator[str]:
        """Other keys under which it may be occupied."""
        yield from ()

    def heirs(self) -> Iterator[str]:
        """Keys of what takes over from it: where one comes, this goes after that is in place."""
        yield from ()

    def exclusives(self) -> Iterator[str]:
        """What only one thing on the node can have, in words that are the same for all who may have it."""
        yield from ()

    @property
    def adoptee(self) -> str:
        """Key of what becomes this one, if it belongs to nobody any more; empty where nothing does."""
        return ""

    @property
    def held(self) -> Held:
        return _NOTHING


def rank_in(family: str) -> int:
    """Of something too broken to say what it is: in the middle of its family, so after what may stand on it and before what it
    may stand on."""
    return median_low([item.RANK for item in _classes(Item) if family == getattr(item, "FAMILY", "")] or [Rank.PROGRAM])


def _classes(of: type[Item]) -> Iterator[type[Item]]:
    for item in of.__subclasses__():
        yield item
        yield from _classes(item)
