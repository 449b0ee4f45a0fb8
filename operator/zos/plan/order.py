"""In which order operations may run: a graph, in which whatever doesn't depend on each other runs in parallel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from zos.api import names
from zos.plan.diff import Observed, Op
from zos.plan.items import Bridge, Domain, Firewall, Image, Item, Netns, Route, Sysctl, Tap, Veth, WireGuard

#: What is removed first stands first. By the key's first part, and for links by what kind of link it is.
_REMOVAL = (
    "domain",
    "service",
    "tap",
    "sysctl",
    "route",
    "wireguard",
    "firewall",
    "link",
    "segment",
    "bridge",
    "netns",
    "file",
    "disk",
    "image",
)
_RANK = {name: rank for rank, name in enumerate(_REMOVAL)}


@dataclass(frozen=True)
class Schedule:
    """``after``: op key → keys of the ops that must succeed before it. ``blocked``: key → the key it waits for and that
    nothing here brings about. ``cycles``: key → the circle of needs that it is part of. Every op is in exactly one."""

    after: Mapping[str, frozenset[str]] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    cycles: Mapping[str, str] = field(default_factory=dict)


def schedule(
    ops: Iterable[Op], wanted: Mapping[str, Item], observed: Mapping[str, Observed], held: frozenset[str] = frozenset()
) -> Schedule:
    """Orders ``ops`` (at most one for a key).

    Creations and updates wait for what they need; a need that is neither wanted nor on the node, or that is on its way
    out, blocks. ``held`` are keys that won't become right for now (a failure that waits for its retry, a pull that runs);
    their ops must not be among ``ops``, and what they stand on is not removed. Removals run in the reverse order of needs.
    What can't exist twice (a UDP port, an address) is created after its old holder is gone.
    """
    by_key = {op.key: op for op in ops}
    removals = {key: op for key, op in by_key.items() if op.verb == "remove"}
    after: dict[str, set[str]] = {}
    blocked: dict[str, str] = {}
    for key, op in by_key.items():
        if op.item is None:
            continue
        waits: set[str] = set()
        for need in op.item.needs:
            if need in by_key and need not in removals:
                waits.add(need)
            elif need in held or need in removals or (need not in wanted and need not in observed):
                blocked.setdefault(key, need)
        after[key] = waits
    _order_removals(by_key, removals, after)
    for key in held & observed.keys():
        item = observed[key].item
        blocked |= {ground: key for ground in (stands_on(item) if item is not None else ()) if ground in removals}
    _order_contenders(by_key, removals, after)
    cycles = _cycles(after)
    blocked = {key: need for key, need in blocked.items() if key not in cycles}
    _spread(after, blocked, cycles)
    return Schedule(
        {key: frozenset(waits) for key, waits in after.items() if key not in blocked and key not in cycles}, blocked, cycles
    )


def stands_on(item: Item) -> Iterator[str]:
    """Keys of what a thing stands on by its nature, so that it must be gone before they go."""
    match item:
        case Tap(bridge=None):
            yield f"link//{item.wired_to}"
        case Tap(bridge=str(bridge)):
            yield f"link//{bridge}"
            yield f"segment/{bridge}"
            yield f"firewall//bridge/{names.guard(item.name)}"
            yield f"link//{names.way_in(bridge)}"
        case Bridge() | Firewall() | Sysctl():
            yield f"netns/{item.netns}"
        case Veth():
            yield f"netns/{item.netns}"
            yield f"netns/{item.peer_netns}"
            if item.bridge is not None:
                yield f"link/{item.netns}/{item.bridge}"
            if item.peer_bridge is not None:
                yield f"link/{item.peer_netns}/{item.peer_bridge}"
                yield f"firewall/{item.peer_netns}/bridge/{names.guard(item.peer_name)}"
        case Route():
            yield f"netns/{item.netns}"
            yield f"link/{item.netns}/{item.device}"
            yield f"wireguard/{item.netns}/{item.device}"
        case WireGuard():
            yield f"netns/{item.netns}"
        case Domain():
            yield from (f"link//{nic.tap}" for nic in item.nics)
            yield from (f"disk/{disk.disk}" for disk in (item.root, *item.disks))
            yield f"file/{item.config}"
        case _:
            pass


def _order_removals(by_key: Mapping[str, Op], removals: Mapping[str, Op], after: dict[str, set[str]]) -> None:
    for key in removals:
        after[key] = set()
    owned: dict[str, list[Op]] = {}
    for op in removals.values():
        assert op.observed is not None
        if op.observed.owner:
            owned.setdefault(op.observed.owner, []).append(op)
    for things in owned.values():
        ranked = sorted(things, key=_rank)
        for op in ranked:
            after[op.key].update(earlier.key for earlier in ranked if _rank(earlier) < _rank(op))
    for op in by_key.values():  # updates too: a disk goes after the guest that let go of it
        if op.observed is not None and op.observed.item is not None:
            for ground in stands_on(op.observed.item):
                if ground in removals:
                    after[ground].add(op.key)
    for key, op in removals.items():
        if op.observed is not None and isinstance(pair := op.observed.item, Veth):
            heir = by_key.get(f"link/{pair.peer_netns}/{pair.peer_name}")
            if heir is not None and heir.item is not None:  # what comes in place of the far end takes over from it
                after[key].add(heir.key)


def _rank(op: Op) -> int:
    match op.observed.item if op.observed else None:
        case Tap() | Veth(peer_bridge=str()):  # a machine's port goes before its guard
            return _RANK["tap"]
        case Bridge():
            return _RANK["bridge"]
        case Netns():
            return _RANK["netns"]
        case Image():
            return _RANK["image"]
        case _:
            return _RANK.get(op.key.split("/", 1)[0], _RANK["service"])


def _order_contenders(by_key: Mapping[str, Op], removals: Mapping[str, Op], after: dict[str, set[str]]) -> None:
    holders: dict[str, str] = {}
    for key, op in removals.items():
        if op.observed is not None and op.observed.item is not None:
            holders.update(dict.fromkeys(_exclusive(op.observed.item), key))
    for key, op in by_key.items():
        if op.verb == "create" and op.item is not None:
            after[key].update(holders[thing] for thing in _exclusive(op.item) if thing in holders)


def _exclusive(item: Item) -> Iterator[str]:
    """What only one thing on the node can have."""
    match item:
        case WireGuard():
            yield f"port {item.listen_port}"
        case Veth():
            yield from (f"address {item.netns} {address}" for address in item.addresses)
            yield from (f"address {item.peer_netns} {address}" for address in item.peer_addresses)
        case _:
            pass


def _cycles(after: Mapping[str, set[str]]) -> dict[str, str]:
    """Members of circles, each with its circle spelled out."""
    left = {key: set(waits) for key, waits in after.items()}
    dependents: dict[str, list[str]] = {}
    for key, waits in left.items():
        for need in waits:
            dependents.setdefault(need, []).append(key)
    ready = [key for key, waits in left.items() if not waits]
    while ready:
        done = ready.pop()
        del left[done]
        for key in dependents.get(done, ()):
            left[key].discard(done)
            if not left[key]:
                ready.append(key)
    found: dict[str, str] = {}
    for start in left:  # whatever is left is in a circle or behind one: walking along needs ends in a circle
        path: list[str] = []
        key = start
        while key not in path and key not in found:
            path.append(key)
            key = min(left[key])
        if key in path:
            circle = path[path.index(key) :]
            found.update(dict.fromkeys(circle, " → ".join([*circle, key])))
    return found


def _spread(after: Mapping[str, set[str]], blocked: dict[str, str], cycles: Mapping[str, str]) -> None:
    """What waits for something blocked is blocked as well."""
    dependents: dict[str, list[str]] = {}
    for key, waits in after.items():
        for need in sorted(waits):
            dependents.setdefault(need, []).append(key)
    stuck = [*blocked, *cycles]
    while stuck:
        need = stuck.pop()
        for key in dependents.get(need, ()):
            if key not in blocked and key not in cycles:
                blocked[key] = need
                stuck.append(key)
