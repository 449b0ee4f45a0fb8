"""Laptops of a network: which node each connects to, and the Secret with its file, the only copy of its private key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from zos.api import names
from zos.api.core import Secret
from zos.api.meta import Reason
from zos.api.network import Network, NetworkAccess, NetworkAccessStatus
from zos.api.text import is_key, is_name
from zos.kinds.network import keys
from zos.kinds.network.problems import Problem, Problems, Rank
from zos.kinds.network.topology import Member, laptop_file
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import PRIVATE_KEY, SecretWanted

INDEXES = (Indexes(Secret),)


@dataclass(frozen=True)
class Laptop:
    """``frozen``: the private key in its Secret is none, so the file that has the right one is left as it is."""

    entry: NetworkAccessStatus
    frozen: bool = False


def access(
    network: Network,
    members: Mapping[str, Member],
    ranges: Mapping[str, str],
    relay: str | None,
    alive: Mapping[str, bool | None],
    world: Reader,
) -> tuple[tuple[Laptop, ...], Problems]:
    """Those that have a sub-range. ``ranges`` by laptop."""
    before = {entry.name: entry for entry in network.status.access}
    found: list[Laptop] = []
    problems: list[Problem] = []

    def complain(laptop: NetworkAccess, reason: Reason, message: str) -> str:
        problems.append(Problem(Rank.LAPTOPS, reason, f"laptop {laptop.name}: {message}"))
        return message

    for laptop in network.spec.access:
        subnet = ranges.get(laptop.name)
        if subnet is None:
            continue
        secret = secret_name(network, laptop.name)
        kept = _kept(network, secret, world)
        damaged = "" if laptop.public_key else kept.damaged
        public_key = laptop.public_key or kept.public_key
        message: str | None = None
        if kept.foreign:
            why = f"Secret {secret} exists and belongs to something else: delete it or rename the laptop"
            message = complain(laptop, Reason.CONFLICT, why)
        elif damaged:
            public_key = before[laptop.name].public_key if laptop.name in before else None
            why = (
                f"key {damaged} of Secret {secret} is no WireGuard key: put back the one it had, or delete the Secret to "
                "have a new pair made (the laptop then needs the new file)"
            )
            message = complain(laptop, Reason.INVALID_SPEC, why)
        asked = laptop.node
        if asked is not None and not is_name(asked):  # from before admission looked at it
            complain(laptop, Reason.INVALID_SPEC, f"no node can be called {asked}: correct access[].node")
            asked = None
        node = _access_node(asked, before.get(laptop.name), members, relay)
        if node is None or not _fit(node, members):
            message = complain(laptop, Reason.DEPENDENCY_NOT_READY, message or _no_access(node, members))
        elif alive.get(node) is False:
            why = f"its access node {node} is down; set access[].node to move it and fetch the Secret again"
            message = complain(laptop, Reason.NODE_UNREACHABLE, why)
        entry = NetworkAccessStatus(
            name=laptop.name,
            subnet=subnet,
            public_key=public_key,
            node=node,
            secret=None if kept.foreign else secret,
            message=message,
        )
        found.append(Laptop(entry, frozen=damaged == "privateKey"))
    entries, doubled = keys.alone(network, tuple(laptop.entry for laptop in found), members.values())
    told = tuple(replace(laptop, entry=entry) for laptop, entry in zip(found, entries, strict=True))
    return told, (*problems, *doubled)


def secret_name(network: Network, laptop: str) -> str:
    """Of the Secret with a laptop's file; shortened where the two names are too long for one."""
    plain = f"{network.name}-{laptop}-wireguard"
    return plain if is_name(plain) else names.readable(plain, plain, 253)


@dataclass(frozen=True)
class _Kept:
    """What a laptop's Secret holds. ``foreign``: it is somebody else's; ``damaged``: the key whose value is no such key."""

    public_key: str | None = None
    foreign: bool = False
    damaged: str = ""


def _kept(network: Network, secret: str, world: Reader) -> _Kept:
    def look(obj: Secret) -> _Kept:
        if not any(owner.uid == network.uid for owner in obj.metadata.owner_references):
            return _Kept(foreign=True)
        if "privateKey" not in obj.data and "publicKey" not in obj.data:
            return _Kept()  # the laptop's own pair, of which nothing is here
        for name in ("privateKey", "publicKey"):
            if not is_key(obj.text(name)):
                return _Kept(damaged=name)
        return _Kept(obj.text("publicKey"))

    return world.view(Secret, network.namespace, secret, look) or _Kept()


def _access_node(
    asked: str | None, before: NetworkAccessStatus | None, members: Mapping[str, Member], relay: str | None
) -> str | None:
    """A laptop's file names its access node, so it stays for life, fit or not for the moment, unless the user moves it."""
    if asked is not None:
        return asked
    return before.node if before is not None and before.node is not None else relay


def _fit(node: str, members: Mapping[str, Member]) -> bool:
    """Whether a laptop can connect to a node: laptops' files name an IPv4 endpoint."""
    return node in members and members[node].ipv4 is not None


def _no_access(node: str | None, members: Mapping[str, Member]) -> str:
    if node is None:
        return "no node of the network has an IPv4 endpoint that it could connect to"
    why = "is not a node of this network" if node not in members else "has no IPv4 endpoint"
    return f"access node {node} {why}: mend that, or set access[].node to move the laptop and fetch the Secret again"


def secrets(network: Network, members: Mapping[str, Member], found: tuple[Laptop, ...]) -> tuple[SecretWanted, ...]:
    """A laptop's Secret is the only copy of its private key: it stays as long as the laptop is in the spec."""
    own_keys = {laptop.name for laptop in network.spec.access if laptop.public_key}

    asking = {laptop.name for laptop in network.spec.access if laptop.dns}

    def file(laptop: Laptop) -> Mapping[str, str] | None:
        entry = laptop.entry
        if laptop.frozen or entry.node is None or not _fit(entry.node, members):
            return None
        key = None if entry.name in own_keys else PRIVATE_KEY
        domain = names.domain_name(network.name) if entry.name in asking else None
        text = laptop_file(network.spec.ip_range, entry.subnet, members[entry.node], key, network.spec.mtu, domain)
        return {"wg0.conf": text}

    wanted = [
        SecretWanted(laptop.entry.secret, file(laptop), laptop.entry.name not in own_keys)
        for laptop in found
        if laptop.entry.secret
    ]
    placed = {laptop.entry.name for laptop in found}
    waiting_ = [laptop.name for laptop in network.spec.access if laptop.name not in placed]
    return (*wanted, *(SecretWanted(secret_name(network, name), None) for name in waiting_))
