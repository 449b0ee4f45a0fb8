"""What resolving an object gives: values only. The controller carries them out, in the order of the fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zos.api.meta import Condition, Key, Reason, Status
from zos.api.nodeworkload import Part


@dataclass(frozen=True)
class Verdict:
    """How an object stands: becomes its Ready condition (and Reconciling or Stalled), and an event when it changes.
    ``stalled``: it waits for something that is itself Stalled, so nothing moves; some reasons say so by themselves."""

    ready: bool
    reason: Reason
    message: str
    stalled: bool = False


def ready(message: str = "") -> Verdict:
    return Verdict(True, Reason.SUCCEEDED, message)


def waiting(reason: Reason, message: str, *, stalled: bool = False) -> Verdict:
    """Not ready; the message says what is wrong and what to do."""
    return Verdict(False, reason, message, stalled)


@dataclass(frozen=True)
class Hold:
    """A share of a pool that one object must hold before anything that uses it is written.

    ``pool`` is the object whose status records it; ``entry`` is the record, with the holder's uid in ``entry.uid``
    (a `NodeHold` for GridNode.status.holds, a `NetworkAddress` for Network.status.addresses). The write is guarded by the
    pool's resourceVersion, so two leaders can't hand out the same thing.
    """

    pool: Key
    entry: Any


@dataclass(frozen=True)
class ClaimWanted:
    """An exclusive hold of a named thing: a Claim object called ``name``, whose creation is the lock."""

    name: str
    thing: str
    farm: str | None = None


@dataclass(frozen=True)
class Workload:
    """A NodeWorkload that must exist on ``node``. ``part`` None: what is there stays as it is, whatever it is.

    ``secrets`` are sealed to ``sealing_key``, the node's, by whoever writes it; None: those that are there stay. ``older``: the
    node's agent reads the form of release 0.2 only.
    """

    node: str
    part: Part | None
    secrets: tuple[SecretValue, ...] | None = ()
    sealing_key: str = ""
    older: bool = False


@dataclass(frozen=True)
class SecretValue:
    """A value that only the node may read. ``source`` identifies it (Secret uid/resourceVersion), as sealing is randomised."""

    name: str
    source: str
    value: str = field(repr=False)


#: Stands for the private key in the values of a `SecretWanted`.
PRIVATE_KEY = "{privateKey}"


@dataclass(frozen=True)
class SecretWanted:
    """A Secret that must exist in the owner's namespace, owned by it, with these values. ``values`` None: it stays as it is.

    ``key_pair``: it keeps a WireGuard key pair under ``privateKey`` and ``publicKey``. Whoever writes the Secret makes the
    pair if there is none yet (that randomness is not resolving's) and puts the private key where a value says
    `PRIVATE_KEY`.
    """

    name: str
    values: Mapping[str, str] | None = field(hash=False)
    key_pair: bool = False


@dataclass(frozen=True)
class Notice:
    """Something that happened and that a person will want to find in the object's events.

    Of all notices of one object with the same reason and ``once`` one is told, whoever resolves and how often: ``once`` says
    what it is about (the node, the address, the time of the start).
    """

    reason: Reason
    message: str
    once: str


@dataclass(frozen=True)
class Resolution:
    """Everything that follows from one object and the world. None leaves things as they are; a tuple means these and no others.
    So a resolution that waits, or that failed, takes nothing away.

    verdict: how it stands.
    status: the kind's own status fields (conditions and observedGeneration are added by the writer).
    guarded: the status is a pool that others hold shares of: write it only over the resourceVersion it was made from.
    holds: shares of pools, taken first. releases: pools in which this object's share must be dropped.
    claims: exclusive holds that the object must have; those it has and that are not listed are released.
    objects: other Kubernetes objects that must exist (applied as they are); applied again when ``basis`` changes.
    secrets, workloads: what must exist in the object's namespace and on nodes.
    recorded: nodes go by the status, so it is written before them.
    conditions: further conditions beside Ready (type, status, reason, message).
    notices: for the events.
    obsolete: an internal object that serves nothing any more and is deleted.
    let_go: a NodeWorkload that is being deleted without the word to take things away: nobody has to act on it any more.
    waits_for: while being deleted, whom the deletion waits for; empty lets it go on.
    dismantled: other Kubernetes objects that go before the object does.
    """

    verdict: Verdict
    status: Status | None = None
    guarded: bool = False
    holds: tuple[Hold, ...] = ()
    releases: tuple[Key, ...] = ()
    claims: tuple[ClaimWanted, ...] | None = None
    obsolete: bool = False
    let_go: bool = False
    objects: tuple[Mapping[str, Any], ...] = ()
    basis: str = ""
    secrets: tuple[SecretWanted, ...] | None = None
    workloads: tuple[Workload, ...] | None = None
    recorded: bool = False
    conditions: tuple[Condition, ...] = ()
    notices: tuple[Notice, ...] = ()
    waits_for: tuple[str, ...] = ()
    dismantled: tuple[Mapping[str, Any], ...] = ()
