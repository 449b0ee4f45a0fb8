"""What a machine's guest is told: what it runs and with which variables, its interfaces, and where its disks are."""

from __future__ import annotations

import hashlib
import re
from ipaddress import ip_address
from pathlib import PurePosixPath

from zos.api import names
from zos.api.meta import Reason
from zos.api.network import WIREGUARD_RANGE
from zos.api.zmachine import NO_PLACE_FOR_A_DISK
from zos.kinds.kind import Here
from zos.kinds.zmachine.naming import resolution
from zos.kinds.zmachine.part import ENV, PUBLIC_MTU, DiskOnNode, FileSystemOnNode, MachineOnNode
from zos.plan.facts import Facts, ImageFact
from zos.plan.guest import GuestConfig, GuestFile, GuestInterface, GuestMount, GuestRoute, GuestShareMount
from zos.plan.items.domain import STOP_SECONDS
from zos.plan.lowered import Problem

#: Where a machine finds its programs when its image does not say.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What runs under an image's own kernel where nobody says what: as the guest's first process.
INIT = "/sbin/init"
#: The serial number of its root disk.
ROOT = "zos-root"

#: What its init needs for the rest when the machine is stopped: to kill what does not end, and to unmount.
_LAST_SECONDS = 5

_Mounted = DiskOnNode | FileSystemOnNode


def configured(here: Here[MachineOnNode], image: ImageFact) -> GuestConfig | Problem:
    """Raises Unknown for a secret that can't be opened."""
    environment = _environment(here, image)
    argv = here.part.entrypoint or (*image.entrypoint, *image.command) or ((INIT,) if image.has_kernel else ())
    wrong = (
        _missing(argv, image, environment)
        or _unplaced(here.part)
        or _misplaced((*here.part.disks, *here.part.filesystems), image)
    )
    if wrong is not None:
        return Problem(Reason.INVALID_SPEC, wrong)
    return _config(here.part, image, argv, environment, here.facts)


def fields_of(guest: GuestConfig, nameservers: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Digests of a guest's configuration by the field of the user's spec that it comes from. ``nameservers`` are the node's,
    which guests asked before there was a resolver in their network: who was started so is not outdated by that."""
    parts: dict[str, object] = {
        "network": (guest.hostname, guest.interfaces, nameservers),
        "disks": guest.mounts,
        "entrypoint": (guest.argv, guest.working_dir, guest.user, guest.stop_signal),
        "env": guest.environment,
        "sshAuthorizedKeys": guest.files,
    }
    if shares := tuple(mount for mount in guest.mounts if isinstance(mount, GuestShareMount)):
        parts |= {"disks": tuple(mount for mount in guest.mounts if isinstance(mount, GuestMount)), "filesystems": shares}
    if guest.stop_seconds != GuestConfig.stop_seconds:  # an earlier agent's guests have the usual, and don't say so
        parts |= {"stopSeconds": guest.stop_seconds}
    return tuple((field, digest(repr(part))[:16]) for field, part in parts.items())


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def serial(mount_uid: str) -> str:
    return names.ident(mount_uid, 16)


def tag(shared: FileSystemOnNode) -> str:
    """What a guest finds a share by. One that is mounted twice is shared twice."""
    return names.ident(f"{shared.uid} {shared.mount_path}", 16)


def _environment(here: Here[MachineOnNode], image: ImageFact) -> dict[str, str]:
    """The image's variables, overridden by the user's. Raises Unknown for a secret that can't be opened."""
    found = {"PATH": _PATH}
    found |= dict(entry.split("=", 1) for entry in image.environment if "=" in entry)
    found |= here.part.env
    return found | {name.removeprefix(ENV): here.secret(name) for name in here.sealed if name.startswith(ENV)}


def _missing(argv: tuple[str, ...], image: ImageFact, environment: dict[str, str]) -> str | None:
    """Why the entrypoint can't be run, as far as the image tells."""
    if not argv or not argv[0]:
        return "the image names no entrypoint: set spec.entrypoint"
    program = argv[0]
    if image.provides(program, environment["PATH"]) is not False:
        return None
    where = str(PurePosixPath("/", image.working_dir, program)) if "/" in program else f"PATH ({environment['PATH']})"
    return f"entrypoint {program} not found in the image: no executable at {where}; set spec.entrypoint to one that exists"


def _config(
    machine: MachineOnNode, image: ImageFact, argv: tuple[str, ...], environment: dict[str, str], facts: Facts
) -> GuestConfig:
    keys = "".join(f"{key}\n" for key in machine.ssh_authorized_keys)
    init = image.has_kernel and argv[0] == INIT
    servers, search = resolution(machine, facts.nameservers)
    return GuestConfig(
        hostname=machine.hostname,
        argv=argv,
        environment=tuple(sorted(environment.items())),
        working_dir="" if init else image.working_dir,
        user="" if init else image.user,
        interfaces=interfaces(machine, facts.nameservers),
        mounts=tuple(mount(one) for one in _outer_first((*machine.disks, *machine.filesystems), image)),
        nameservers=servers,
        search=search,
        files=(GuestFile(path="/root/.ssh/authorized_keys", content=keys, mode=0o600),) if keys else (),
        stop_signal=image.stop_signal,
        stop_seconds=max(1, (machine.stop_seconds or STOP_SECONDS) - _LAST_SECONDS),
        root=ROOT,
        init=init,
    )


def _unplaced(machine: MachineOnNode) -> str | None:
    """Why a container can't have a disk."""
    for disk in machine.disks:
        if disk.mount_path is None:
            return (
                f"disk {disk.name} has no mountPath, which a container's disks need (the image is a container's): give it one"
            )
    return None


def _path(one: _Mounted) -> str:
    assert one.mount_path is not None
    return one.mount_path


def _place(disk: _Mounted, image: ImageFact) -> str:
    """Where a disk is mounted, with the image's links followed."""
    return image.real(_path(disk)) or _path(disk)


def mount(one: _Mounted) -> GuestMount | GuestShareMount:
    if isinstance(one, DiskOnNode):
        return GuestMount(serial=serial(one.mount_uid), path=_path(one))
    return GuestShareMount(tag=tag(one), path=one.mount_path, read_only=one.read_only, inside=one.inside)


def _misplaced(mounted: tuple[_Mounted, ...], image: ImageFact) -> str | None:
    """Why disks and file systems can't be mounted, as far as the image tells."""
    there: dict[str, _Mounted] = {}
    for one in mounted:
        place, what = _place(one, image), "disk" if isinstance(one, DiskOnNode) else "file system"
        if place == "/" or any(re.search(rule, place) for rule in NO_PLACE_FOR_A_DISK):
            return f"{what} {one.mount_path} can't be mounted: by the image's links it is {place}; give it another mountPath"
        other = there.setdefault(place, one)
        if other is not one:
            return (
                f"{what}s {other.mount_path} and {one.mount_path} would hide each other: by the image's links both are "
                f"{place}; give one of them another mountPath"
            )
    return None


def _outer_first(disks: tuple[_Mounted, ...], image: ImageFact) -> tuple[_Mounted, ...]:
    """A disk that was mounted inside another's directory before that one would be hidden, and what goes there would go to the
    wrong disk. Those that don't lie in one another keep their order: another order would be another configuration."""
    found: list[_Mounted] = []
    places = {disk: _place(disk, image) for disk in disks}
    for disk in disks:
        around = [other for other in disks if places[disk].startswith(f"{places[other]}/")]
        for one in (*sorted(around, key=lambda other: len(places[other])), disk):
            if one not in found:
                found.append(one)
    return tuple(found)


def interfaces(machine: MachineOnNode, nameservers: tuple[str, ...]) -> tuple[GuestInterface, ...]:
    """With a public IPv4 address, its gateway is the way to the world and the private one only that to the network."""
    public = machine.public_nic
    away = public is not None and public.gateway is not None
    found = [
        GuestInterface(
            mac=nic.mac,
            mtu=nic.mtu,
            addresses=(f"{nic.ip}/{nic.prefixlen}",),
            routes=tuple(
                GuestRoute(destination=destination, gateway=nic.gateway)
                for destination in (_private(nic.ip_range, nameservers) if away else ("0.0.0.0/0",))
            ),
        )
        for nic in machine.nics
    ]
    if public is not None:
        route = GuestRoute(destination="0.0.0.0/0", gateway=public.gateway or "")
        found.append(
            GuestInterface(
                mac=public.mac,
                mtu=PUBLIC_MTU,
                ipv6="slaac" if public.ipv6 else "off",
                addresses=(public.ipv4,) if public.ipv4 else (),
                routes=(route,) if public.gateway else (),
            )
        )
    return tuple(found)


def _private(ip_range: str, nameservers: tuple[str, ...]) -> tuple[str, ...]:
    """What is reached through the private network: its range, its laptops, and name servers that only the node can reach."""
    local = (server for server in nameservers if (ip := ip_address(server)).version == 4 and not ip.is_global)
    return (ip_range, WIREGUARD_RANGE, *(f"{server}/32" for server in local))
