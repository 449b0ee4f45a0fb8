"""Whose what is on the node is, and what was said of it. Where nothing was said it stays: the words are the only way out.

- A NodeWorkload that says all that it wants is *settled*: whatever else is marked as its own goes, but for data.
- *Erased*: the user (``spec.erase``) or an administrator (``discard``) said that nothing of it is wanted: all of it goes.
- *Retired*: it ends, and what holds data stays (``spec.retain``, ``giveTo``). Of those that *left* (``spec.retain``) a disk
  that no guest ever had goes as well: that is the node's own knowledge, no word of the API makes a disk unused.
- Everybody else's things are left alone: an owner whose wishes can't be told just now, and *orphans*, whose NodeWorkload is
  gone, or going, without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from zos.api.nodeworkload import NodeWorkload, NodeWorkloadSpec, Owner
from zos.api.quarantine import Quarantined, QuarantinedNic, QuarantineOrder
from zos.plan.diff import Observed, Op
from zos.plan.items import Held

#: What the API server takes of `GridNode.status.quarantine`, and of each entry's interfaces.
_LIMIT, _NICS = 1024, 17


class Origin(Owner):
    """Whose something is, and the interfaces that were asked for last: what lets a guest's packets out goes by them."""

    nics: tuple[QuarantinedNic, ...] = ()

    @classmethod
    def of(cls, spec: NodeWorkloadSpec) -> Origin:
        owner, nics = spec.owner, spec.part.interfaces if spec.part is not None else ()
        return cls(kind=owner.kind, namespace=owner.namespace, name=owner.name, uid=owner.uid, nics=nics)


@dataclass(frozen=True)
class Fates:
    """Names of owners, by what was said of them and so becomes of their things. Of all others nothing is touched."""

    settled: frozenset[str] = frozenset()
    erased: frozenset[str] = frozenset()
    retired: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()

    def kept(self, owner: str) -> bool:
        """Whether nothing of theirs is touched. What has no owner was left half made by a crash."""
        return bool(owner) and not (owner in self.settled or owner in self.erased or owner in self.retired)


def released(workload: NodeWorkload) -> bool:
    """Deleted without a word: the agent lets go of it, and leaves what it has as it is."""
    return workload.deleting and not workload.spec.unwanted


def attributed(
    observed: Mapping[str, Observed], workloads: Mapping[str, NodeWorkload], origins: Mapping[str, Owner]
) -> Mapping[str, Observed]:
    """Each thing with its true owner's name. Uids count: what lost its mark is found by it, and what is marked with the name
    of somebody else's is not his. Where only the uid is known, it stands for the name."""
    marked = [thing for thing in observed.values() if thing.origin is not None and thing.origin.uid]
    if not marked:
        return observed
    by_uid = {origin.uid: name for name, origin in origins.items()}
    by_uid |= {workload.spec.owner.uid: name for name, workload in workloads.items()}
    true: dict[str, Observed] = {}
    for thing in marked:
        assert thing.origin is not None
        uid, workload = thing.origin.uid, workloads.get(thing.owner)
        if thing.owner and (workload is None or workload.spec.owner.uid in ("", uid)):
            continue
        true[thing.key] = replace(thing, owner=by_uid.get(uid, uid))
    return {**observed, **true} if true else observed


def orphans(
    observed: Mapping[str, Observed], workloads: Mapping[str, NodeWorkload], wanted: Iterable[str]
) -> dict[str, tuple[Observed, ...]]:
    """Things of owners without a NodeWorkload, by owner. What somebody wants is not among them, whoever made it."""
    gone = {owner for owner in {thing.owner for thing in observed.values()} if _is_gone(owner, workloads)}
    if not gone:
        return {}
    plan = frozenset(wanted)
    found: dict[str, list[Observed]] = {}
    for key, thing in observed.items():
        if thing.owner in gone and not thing.shared and key not in plan:
            found.setdefault(thing.owner, []).append(thing)
    return {name: tuple(sorted(things, key=lambda thing: thing.key)) for name, things in sorted(found.items())}


def _is_gone(owner: str, workloads: Mapping[str, NodeWorkload]) -> bool:
    workload = workloads.get(owner)
    return bool(owner) and (workload is None or released(workload))


def fates(
    workloads: Mapping[str, NodeWorkload],
    whole: Iterable[str],
    orphaned: Mapping[str, tuple[Observed, ...]],
    origins: Mapping[str, Owner],
    orders: Iterable[QuarantineOrder],
) -> Fates:
    """``whole`` are the workloads of which all that they want is known; ``orders`` count for orphans only, and a gift only for
    one of the kind that can take it."""
    told = {order.uid: order for order in orders}
    ordered = {}
    for name, things in orphaned.items():
        origin = _origin(name, things, origins)
        order = told.get(origin.uid)
        if order is not None and (order.give_to is None or origin.kind in ("", order.give_to.kind)):
            ordered[name] = order
    going = {name: workload for name, workload in workloads.items() if workload.deleting and workload.spec.unwanted}
    erased = {name for name, workload in going.items() if not workload.spec.retain}
    erased |= {name for name, order in ordered.items() if order.discard and order.give_to is None}
    left = {name for name, workload in going.items() if workload.spec.retain}
    retired = left | {name for name, order in ordered.items() if order.give_to is not None}
    return Fates(frozenset(whole), frozenset(erased), frozenset(retired), frozenset(left))


def spared(ops: Iterable[Op], observed: Mapping[str, Observed]) -> tuple[list[Op], dict[str, str]]:
    """The operations without those that would take the ground from under a thing that stays, like a guest's disk or the segment
    that its tap is on (all may be another's). And why: what stays by what stands on it."""
    ops, kept = list(ops), dict[str, str]()
    while more := _occupied(ops, observed):  # what stays for that may stand on something itself
        kept |= more
        ops = [op for op in ops if op.key not in more]
    return ops, kept


def _occupied(ops: list[Op], observed: Mapping[str, Observed]) -> dict[str, str]:
    """What is to be removed, and by whom it is occupied that stays."""
    if all(op.item is not None for op in ops):
        return {}
    touched = {op.key for op in ops}
    users: dict[str, str] = {}
    for key, thing in observed.items():
        if key not in touched and thing.item is not None:
            users.update(dict.fromkeys(thing.item.occupies(), key))
    kept: dict[str, str] = {}
    for op in ops:
        if op.item is None:
            item = op.observed.item if op.observed is not None else None
            known_as = (op.key, *(item.aliases() if item is not None else ()))
            if (user := next((users[key] for key in known_as if key in users), None)) is not None:
                kept[op.key] = user
    return kept


def quarantine(orphaned: Mapping[str, tuple[Observed, ...]], origins: Mapping[str, Owner]) -> tuple[Quarantined, ...]:
    """What the node shows of its orphans."""
    found = [_entry(_origin(name, things, origins), things, origins.get(name)) for name, things in orphaned.items()]
    found.sort(key=lambda entry: (not entry.running, entry.kind, entry.namespace, entry.name, entry.uid))
    return tuple(found[:_LIMIT])


def _entry(origin: Owner, things: tuple[Observed, ...], remembered: Owner | None) -> Quarantined:
    held = sum((thing.item.held for thing in things if thing.item is not None), Held())
    return Quarantined(
        uid=origin.uid,
        kind=origin.kind,
        namespace=origin.namespace,
        name=origin.name,
        running=held.alive,
        cpu=held.cpu,
        memory=held.memory,
        storage=held.storage,
        listen_port=held.ports[0] if held.ports else None,
        nics=_nics(held.macs, remembered),
    )


def _nics(macs: Iterable[str], remembered: Owner | None) -> tuple[QuarantinedNic, ...]:
    """Interfaces, with their addresses as far as they are remembered."""
    known = {nic.mac: nic for nic in remembered.nics} if isinstance(remembered, Origin) else {}
    found = {mac: known.get(mac, QuarantinedNic(mac=mac)) for mac in macs}
    return tuple({**found, **known}.values())[:_NICS] if found else ()


def _origin(name: str, things: Iterable[Observed], origins: Mapping[str, Owner]) -> Owner:
    """Whose the things are, as far as anything on the node still tells; at least what to call it by."""
    told = [thing.origin for thing in things if thing.origin is not None]
    known = [origin for origin in (origins.get(name), *told) if origin is not None]
    unknown = Owner(kind="", namespace="", name="", uid=name[:64])
    return max(known, key=lambda origin: (bool(origin.uid), bool(origin.name), bool(origin.kind)), default=unknown)
