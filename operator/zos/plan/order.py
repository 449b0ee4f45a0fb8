"""In which order operations may run: a graph, in which whatever doesn't depend on each other runs in parallel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from zos.plan.diff import Observed, Op
from zos.plan.items import Item, rank_in


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
        blocked |= {ground: key for ground in (item.grounds() if item is not None else ()) if ground in removals}
    _order_contenders(by_key, removals, after)
    cycles = _cycles(after)
    blocked = {key: need for key, need in blocked.items() if key not in cycles}
    _spread(after, blocked, cycles)
    return Schedule(
        {key: frozenset(waits) for key, waits in after.items() if key not in blocked and key not in cycles}, blocked, cycles
    )


def _order_removals(by_key: Mapping[str, Op], removals: Mapping[str, Op], after: dict[str, set[str]]) -> None:
    for key in removals:
        after[key] = set()
    owned: dict[str, list[Op]] = {}
    for op in removals.values():
        assert op.observed is not None
        if op.observed.owner:
            owned.setdefault(op.observed.owner, []).append(op)
    for things in owned.values():
        ranks = {op.key: _rank(op) for op in things}
        for key, rank in ranks.items():
            after[key].update(earlier for earlier, other in ranks.items() if other < rank)
    for op in by_key.values():  # updates too: a disk goes after the guest that let go of it
        if op.observed is not None and op.observed.item is not None:
            for ground in op.observed.item.grounds():
                if ground in removals:
                    after[ground].add(op.key)
    for key, op in removals.items():
        if op.observed is not None and op.observed.item is not None:
            heirs = (by_key.get(heir) for heir in op.observed.item.heirs())
            after[key].update(heir.key for heir in heirs if heir is not None and heir.item is not None)


def _rank(op: Op) -> int:
    item = op.observed.item if op.observed is not None else None
    return item.rank if item is not None else rank_in(op.key.split("/", 1)[0])


def _order_contenders(by_key: Mapping[str, Op], removals: Mapping[str, Op], after: dict[str, set[str]]) -> None:
    holders: dict[str, str] = {}
    for key, op in removals.items():
        if op.observed is not None and op.observed.item is not None:
            holders.update(dict.fromkeys(op.observed.item.exclusives(), key))
    for key, op in by_key.items():
        if op.verb == "create" and op.item is not None:
            after[key].update(holders[thing] for thing in op.item.exclusives() if thing in holders)


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
