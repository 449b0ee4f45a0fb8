"""What a disk begins as: another disk that is there, stands still, and fits, or an image with what opens it."""

from __future__ import annotations

from dataclasses import dataclass

from zos.api.meta import Reason, whole_quantity
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.world import pullsecrets
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import SecretValue, Verdict, waiting


def _asked(mount: ZMount) -> str | None:
    source = mount.spec.source
    return source.zmount.name if source is not None and source.zmount is not None else None


def _copied(mount: ZMount) -> list[str]:
    """Of what it is to become a copy; of nothing any more when it has."""
    name = _asked(mount)
    return [f"{mount.namespace}/{name}"] if name is not None and mount.status.size is None and not mount.deleting else []


INDEXES = (
    *pullsecrets.INDEXES,
    Indexes(ZMount, {"source": _copied}),
)


@dataclass(frozen=True)
class Source:
    """The disk of another ZMount, that is there and stands still as far as its machine tells."""

    uid: str
    node: str
    size: int


@dataclass(frozen=True)
class Pulled:
    """An image, and what it is fetched with."""

    image: str
    secrets: tuple[SecretValue, ...]


def find(mount: ZMount, world: Reader) -> Source | Pulled | Verdict | None:
    """None: it begins empty. To be asked of a disk that is not there yet."""
    asked = mount.spec.source
    if asked is not None and asked.image is not None:
        secrets = pullsecrets.find(mount, asked.image, asked.image_pull_secrets, world)
        return secrets if isinstance(secrets, Verdict) else Pulled(asked.image, secrets)
    if (name := _asked(mount)) is None:
        return None
    if name == mount.name:
        return waiting(Reason.INVALID_SPEC, "source names the disk itself: make it anew with another one, or without")
    seen = world.view(ZMount, mount.namespace, name, _seen)
    if seen is None:
        message = f"source disk {name} does not exist: apply a ZMount of that name, or make this one anew without source"
        return waiting(Reason.DEPENDENCY_NOT_READY, message)
    if seen.node is None or seen.size is None:
        return waiting(Reason.DEPENDENCY_NOT_READY, f"source disk {name} is not there yet: its own conditions say why")
    if mount.spec.node_name not in (None, seen.node):
        message = (
            f"source disk {name} is on node {seen.node}, and a disk is copied on its own node: make this one anew with "
            f"nodeName {seen.node}, or without"
        )
        return waiting(Reason.CONFLICT, message)
    if mount.spec.size < seen.size:
        message = f"source disk {name} has {whole_quantity(seen.size)}: set size to that or more"
        return waiting(Reason.INVALID_SPEC, message)
    if seen.user is not None and world.view(ZMachine, mount.namespace, seen.user, _runs):
        message = f"source disk {name} is used by ZMachine {seen.user}, which runs: set its runPolicy to Halted meanwhile"
        return waiting(Reason.DEPENDENCY_NOT_READY, message)
    return Source(seen.uid, seen.node, seen.size)


def copies(mount: ZMount, world: Reader) -> tuple[str, ...]:
    """Disks that are still to become a copy of this one."""
    return world.views(ZMount, _name, source=f"{mount.namespace}/{mount.name}")


@dataclass(frozen=True)
class _Seen:
    uid: str
    node: str | None
    size: int | None
    user: str | None


def _seen(mount: ZMount) -> _Seen:
    status = mount.status
    return _Seen(mount.uid, status.node_name, status.size, status.used_by)


def _runs(machine: ZMachine) -> bool:
    return machine.status.state == "Running"


def _name(mount: ZMount) -> str:
    return mount.name
