"""A machine that boots from a disk of its own, written once from its image: it doesn't need that any more then."""

from __future__ import annotations

from dataclasses import dataclass

from zos.api import names
from zos.api.meta import Reason, whole_quantity
from zos.api.zmount import boot_as_it_is
from zos.kinds.kind import Here
from zos.kinds.zmachine import mounted
from zos.kinds.zmachine.configuration import digest, interfaces, mount
from zos.kinds.zmachine.guest import config_of, disk_of, guest
from zos.kinds.zmachine.naming import resolution
from zos.kinds.zmachine.part import USER_DATA, DiskOnNode, FileSystemOnNode, MachineOnNode
from zos.plan.facts import DiskFact, DomainFact, ImageFact, Written
from zos.plan.items import Disk, DiskBoot, File, Image, Item, System
from zos.plan.lowered import Lowered, Problem
from zos.plan.seed import Seed


@dataclass(frozen=True)
class Boot:
    """The disk that the machine boots from, if it is a virtual one; ``fact`` is None as long as the disk is not here."""

    disk: DiskOnNode
    fact: DiskFact | None

    @property
    def written(self) -> Written | None:
        return self.fact.written if self.fact is not None else None


def boot_disk(here: Here[MachineOnNode]) -> Boot | None:
    """Raises Unknown where nobody could look at the node's disks."""
    machine = here.part
    disk = next((one for one in machine.disks if machine.boot_disk in (None, one.name)), None)
    if disk is None:
        return None
    return Boot(disk, here.facts.get(DiskFact, names.kept("mount", disk.mount_uid)))


def is_certain(here: Here[MachineOnNode], boot: Boot) -> bool:
    """Whether the machine boots from a disk that was written, whatever its image is: it has nothing else to do with it, or was
    named for it, or was written from that image. One that is to be mounted may be a container's."""
    machine, system = here.part, boot.written
    if system is None:
        return False
    return boot.disk.mount_path is None or machine.boot_disk is not None or system.ref == machine.image


def written(here: Here[MachineOnNode], boot: Boot) -> Lowered | Problem:
    """A virtual machine whose disk was written. Raises Unknown."""
    assert boot.fact is not None
    assert boot.written is not None
    runs = here.facts.get(DomainFact, names.domain(here.owner.uid))
    if boot.fact.plain and (runs is None or not runs.running):  # one that runs may do with its disk what it likes
        words = f"boot disk {boot.disk.name} holds {boot.fact.plain}{mounted.origin(boot.written)}"
        words += ", from which no machine can start: name another, or have it mounted (mountPath) by a container"
        return Problem(Reason.CONFLICT, words)
    return _lowered(here, boot, boot.written)


def from_image(here: Here[MachineOnNode], image: Image, fact: ImageFact, boot: Boot | None) -> Lowered | Problem:
    """A virtual machine whose disk is yet to be written. Raises Unknown."""
    assert fact.disk is not None
    needed = fact.disk.size
    if boot is None:
        words = "the image is a virtual machine's, which boots from a disk of its own"
        return Problem(Reason.INVALID_SPEC, f"{words}: apply a ZMount of {whole_quantity(needed)} or more and name it in disks")
    if boot.fact is not None and boot.fact.size < needed:
        has = whole_quantity(boot.fact.size, up=False)
        words = f"boot disk {boot.disk.name} has {has}, and the image needs {whole_quantity(needed)}"
        return Problem(Reason.INVALID_SPEC, f"{words}: make ZMount {boot.disk.name} larger")
    if boot.fact is not None and boot.fact.holds:
        return Problem(Reason.CONFLICT, _occupied(here, boot.disk, boot.fact))
    name = disk_of(boot.disk).disk
    system = System(
        owner=here.name,
        needs=(image.key, f"disk/{name}"),
        disk=name,
        image=fact.digest,
        ref=image.ref,
        firmware=fact.disk.firmware,
    )
    return _lowered(here, boot, Written(image=fact.digest, ref=image.ref, firmware=fact.disk.firmware), (image, system))


def _occupied(here: Here[MachineOnNode], disk: DiskOnNode, fact: DiskFact) -> str:
    words = f"boot disk {disk.name} holds {fact.holds}, which is not overwritten"
    words += f": name an empty disk, or delete ZMount {disk.name} and make it anew"
    if not fact.partitioned:
        return words
    return f"{words}; {boot_as_it_is(here.owner.namespace, disk.name, disk.mount_uid)}"


def _lowered(here: Here[MachineOnNode], boot: Boot, system: Written, before: tuple[Item, ...] = ()) -> Lowered | Problem:
    """``before`` is what there must be first. Raises Unknown."""
    machine, uid = here.part, here.owner.uid
    others = tuple(disk for disk in machine.disks if disk is not boot.disk)
    if (foreign := mounted.foreign(here, others)) is not None:
        return Problem(Reason.CONFLICT, f"{foreign}: take its mountPath out, and have the guest mount what is on it")
    seed = _seed(here, others)
    text = seed.render()
    config = File(owner=here.name, path=config_of(uid), content=text)
    how = DiskBoot(
        root=disk_of(boot.disk),
        config=config.path,
        config_digest=digest(text),
        fields=_fields_of(seed, here.facts.nameservers),
        firmware=machine.firmware or system.firmware,
    )
    return guest(here, how, others, (*before, *_root(here), config))


def _root(here: Here[MachineOnNode]) -> tuple[Disk, ...]:
    """Of the time when the machine was a container: it keeps what it holds, as long as the machine is there."""
    name = names.kept("root", here.owner.uid)
    fact = here.facts.get(DiskFact, name)
    if fact is None:
        return ()
    return (Disk(owner=here.name, name=name, size=fact.size, format="ext4", must_exist=True, origin=here.owner),)


def _seed(here: Here[MachineOnNode], disks: tuple[DiskOnNode, ...]) -> Seed:
    machine, nameservers = here.part, here.facts.nameservers
    servers, search = resolution(machine, nameservers)
    all_: tuple[DiskOnNode | FileSystemOnNode, ...] = (*disks, *machine.filesystems)
    in_order = sorted((one for one in all_ if one.mount_path is not None), key=lambda one: one.mount_path or "")
    return Seed(
        instance_id=here.owner.uid,
        hostname=machine.hostname,
        interfaces=interfaces(machine, nameservers),
        nameservers=servers,
        search=search,
        ssh_authorized_keys=machine.ssh_authorized_keys,
        mounts=tuple(mount(one) for one in in_order),
        user_data=here.secret(USER_DATA) if USER_DATA in here.sealed else machine.user_data or "",
    )


def _fields_of(seed: Seed, nameservers: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Digests of what a guest is told by the field of the user's spec that it comes from; ``nameservers`` are the node's, as
    `fields_of` has them."""
    parts: dict[str, object] = {
        "network": (seed.hostname, seed.interfaces, nameservers, ()),
        "disks": seed.mounts,
        "sshAuthorizedKeys": seed.ssh_authorized_keys,
        "userData": seed.user_data,
    }
    return tuple((field, digest(repr(part))[:16]) for field, part in parts.items())
