"""WireGuard keys of a network: by its key a peer is told from all others, so each key is one node's or one laptop's alone.

In two networks a laptop may have the same key: each is an interface of its own on nodes and laptop.
"""

from __future__ import annotations

from collections.abc import Iterable

from zos.api.meta import Reason
from zos.api.network import Network, NetworkAccessStatus
from zos.api.text import is_half, is_key
from zos.kinds.network.problems import Problem, Problems, Rank
from zos.kinds.network.topology import Member


class Taken:
    """Keys in use in a network: of nodes, the first that had it where two have one, and of laptops."""

    def __init__(self, network: Network) -> None:
        self._nodes: dict[str, str] = {}
        for entry in network.status.nodes:
            self.take(entry.public_key, entry.name)
        self._laptops = {
            *(laptop.public_key for laptop in network.spec.access),
            *(laptop.public_key for laptop in network.status.access),
        }

    def take(self, key: str | None, node: str) -> None:
        if key:
            self._nodes.setdefault(key, node)

    def by_another(self, key: str | None, node: str) -> bool:
        """Whether another node has the key."""
        return key is not None and self._nodes.get(key, node) != node

    def fits(self, key: str, node: str) -> bool:
        """Whether a node may take the key."""
        return key not in self._laptops and not self.by_another(key, node)


def alone(
    network: Network, access: tuple[NetworkAccessStatus, ...], members: Iterable[Member]
) -> tuple[tuple[NetworkAccessStatus, ...], Problems]:
    """The laptops, without key and with the reason where theirs is not theirs alone: such a laptop is nobody's peer, and all
    others are served. A node goes before a laptop, and who has had the key before those who come."""
    had = {entry.name: entry.public_key for entry in network.status.access}
    own = {laptop.name for laptop in network.spec.access if laptop.public_key}
    holders = {member.public_key: f"node {member.name}" for member in members}
    refused: dict[str, str] = {}
    problems: list[Problem] = []
    for entry in sorted(access, key=lambda entry: had.get(entry.name) != entry.public_key):
        key = entry.public_key
        if not key:
            continue
        mend = "set another in access[].publicKey, of a pair that `wg genkey` makes"
        if entry.name not in own:
            mend = f"delete Secret {entry.secret} to have a new pair made (the laptop then needs the new file)"
        if is_key(key) and not is_half(key):
            refused[entry.name] = f"no private key belongs to its public key {key}: {mend}"
            problems.append(Problem(Rank.LAPTOP_KEYS, Reason.INVALID_SPEC, f"laptop {entry.name}: {refused[entry.name]}"))
        elif key in holders:
            refused[entry.name] = f"its public key is that of {holders[key]} as well: {mend}"
            problems.append(Problem(Rank.LAPTOP_KEYS, Reason.CONFLICT, f"laptop {entry.name}: {refused[entry.name]}"))
        else:
            holders[key] = f"laptop {entry.name}"
    served = tuple(
        entry.model_copy(update={"public_key": None, "message": refused[entry.name]}) if entry.name in refused else entry
        for entry in access
    )
    return served, tuple(problems)
