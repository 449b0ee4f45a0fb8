"""A machine on its node: image, root disk, config, tap with its guard, and the guest."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import PurePosixPath

from zos.api import names
from zos.api.meta import Reason
from zos.api.network import WIREGUARD_RANGE
from zos.api.zmachine import NO_PLACE_FOR_A_DISK
from zos.kinds.kind import Here
from zos.kinds.zmachine.lifecycle import course
from zos.kinds.zmachine.part import ENV, DiskOnNode, MachineOnNode
from zos.plan import guard, wayout
from zos.plan.facts import DomainFact, Facts, ImageFact, ImageProblem, Unknown
from zos.plan.guest import LIMIT, GuestConfig, GuestFile, GuestInterface, GuestMount, GuestRoute, GuestShareMount
from zos.plan.items import (
    Bridge,
    ContainerBoot,
    Disk,
    Domain,
    File,
    Firewall,
    GuestDisk,
    GuestNic,
    Image,
    Item,
    Netns,
    Segment,
    Tap,
    Veth,
)
from zos.plan.lowered import Lowered, Problem

#: Where a machine finds its programs when its image does not say.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ROOT = "zos-root"
_PUBLIC_MTU = 1500


def lower(here: Here[MachineOnNode]) -> Lowered:
    image = Image(owner=here.name, ref=here.part.image)
    try:
        return _with_image(here, image)
    except Unknown as unknown:
        return _as_it_is(image, Problem(Reason.PROGRESSING, str(unknown)))


def _as_it_is(image: Image, problem: Problem | None) -> Lowered:
    """Nothing can be said of the machine for now but the image that it needs; whatever there is of it goes on."""
    return Lowered((image,), problem, whole=False)


def _with_image(here: Here[MachineOnNode], image: Image) -> Lowered:
    machine, facts, uid, owner = here.part, here.facts, here.owner.uid, here.name
    fact = facts.get(ImageFact, machine.image)
    if fact is None:
        told = facts.get(ImageProblem, machine.image)
        return _as_it_is(image, Problem(Reason.IMAGE_INVALID, told.why) if told is not None else None)
    if fact.has_disk_image:
        return _as_it_is(
            image, Problem(Reason.IMAGE_INVALID, "the image is a virtual machine's (/image.raw): not supported yet")
        )
    environment = _environment(here, fact)
    argv = machine.entrypoint or (*fact.entrypoint, *fact.command)
    wrong = _missing(argv, fact, environment) or _misplaced(machine.disks, fact)
    if wrong is not None:
        return _as_it_is(image, Problem(Reason.INVALID_SPEC, wrong))
    guest = _config(machine, fact, argv, environment, facts)
    text = guest.render()
    if len(text) > LIMIT:
        return _as_it_is(
            image,
            Problem(
                Reason.INVALID_SPEC,
                "env, keys and entrypoint together, those of the image too, are too large: make them smaller",
            ),
        )
    known = facts.get(DomainFact, names.domain(uid))
    path = f"machines/{uid}/config"
    config = File(owner=owner, path=path, content=text)
    root = Disk(
        owner=owner,
        name=f"root-{uid}",
        size=machine.root_size,
        format="ext4",
        must_exist=known is not None and known.started_at is not None,  # what it has written is there
        adopt=machine.adopt or "",
        origin=here.owner,
    )
    wanted = _nics(machine, uid)
    # What a guest that runs was started with is what its interfaces and their guards are for, until it has ended.
    runs = known.runs if known is not None and known.running else None
    ports = _ports(runs.nics if runs is not None and all(nic.told for nic in runs.nics) else wanted, uid, owner)
    domain = Domain(
        owner=owner,
        needs=(
            image.key,
            root.key,
            config.key,
            *(tap.key for tap in ports.taps),
            *(item.key for item in ports.joined),
            *(f"disk/mount-{disk.mount_uid}" for disk in machine.disks),
        ),
        name=names.domain(uid),
        uuid=uid,
        cpu=machine.cpu,
        memory=machine.memory,
        boot=ContainerBoot(
            image=fact.digest,
            root=GuestDisk(disk=root.name, serial=_ROOT),
            config=path,
            config_digest=_digest(text),
            fields=fields_of(guest),
        ),
        disks=tuple(GuestDisk(disk=f"mount-{disk.mount_uid}", serial=_serial(disk.mount_uid)) for disk in machine.disks),
        nics=wanted,
        running=False,
        incarnation=machine.restarted_at or "",
    )
    mended = known is not None and known.recipe not in ("", domain.recipe)
    asked = course(machine.run_policy, known, facts.now, uid, mended=mended)
    problem = asked.problem
    restarts = asked.running and runs is not None and runs.incarnation != domain.incarnation
    if restarts:
        problem = Problem(Reason.PROGRESSING, "it is stopped to be started again")
    running = asked.running and not restarts
    domain = replace(domain, running=running, needs=domain.needs if running else ())  # to stop needs nothing
    items: tuple[Item, ...] = (image, root, config, *ports.segments, *ports.taps, *ports.joined, domain)
    return Lowered(items, problem, asked.wake_at)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def fields_of(guest: GuestConfig) -> tuple[tuple[str, str], ...]:
    """Digests of a guest's configuration by the field of the user's spec that it comes from."""
    parts: dict[str, object] = {
        "network": (guest.hostname, guest.interfaces, guest.nameservers),
        "disks": guest.mounts,
        "entrypoint": (guest.argv, guest.working_dir, guest.user, guest.stop_signal),
        "env": guest.environment,
        "sshAuthorizedKeys": guest.files,
    }
    if shares := tuple(mount for mount in guest.mounts if isinstance(mount, GuestShareMount)):
        parts |= {"disks": tuple(mount for mount in guest.mounts if isinstance(mount, GuestMount)), "filesystems": shares}
    return tuple((field, _digest(repr(part))[:16]) for field, part in parts.items())


def _serial(mount_uid: str) -> str:
    return names.ident(mount_uid, 16)


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
    return GuestConfig(
        hostname=machine.hostname,
        argv=argv,
        environment=tuple(sorted(environment.items())),
        working_dir=image.working_dir,
        user=image.user,
        interfaces=_interfaces(machine, facts.nameservers),
        mounts=tuple(
            GuestMount(serial=_serial(disk.mount_uid), path=disk.mount_path) for disk in _outer_first(machine.disks, image)
        ),
        nameservers=facts.nameservers,
        files=(GuestFile(path="/root/.ssh/authorized_keys", content=keys, mode=0o600),) if keys else (),
        stop_signal=image.stop_signal,
        root=_ROOT,
    )


def _nics(machine: MachineOnNode, uid: str) -> tuple[GuestNic, ...]:
    found = [
        GuestNic(tap=names.tap(uid, number), mac=nic.mac, network=nic.network_uid, mtu=nic.mtu, ipv4=nic.ip)
        for number, nic in enumerate(machine.nics)
    ]
    if (public := machine.public_nic) is not None:
        found.append(
            GuestNic(
                tap=names.tap(uid, len(found)),
                mac=public.mac,
                interface=public.interface,
                mtu=_PUBLIC_MTU,
                ipv4=public.ipv4_address or "",
                ipv6=public.ipv6_address or "",
            )
        )
    return tuple(found)


def _place(disk: DiskOnNode, image: ImageFact) -> str:
    """Where a disk is mounted, with the image's links followed."""
    return image.real(disk.mount_path) or disk.mount_path


def _misplaced(disks: tuple[DiskOnNode, ...], image: ImageFact) -> str | None:
    """Why disks can't be mounted, as far as the image tells."""
    there: dict[str, DiskOnNode] = {}
    for disk in disks:
        place = _place(disk, image)
        if place == "/" or any(re.search(rule, place) for rule in NO_PLACE_FOR_A_DISK):
            return f"disk {disk.mount_path} can't be mounted: by the image's links it is {place}; give it another mountPath"
        other = there.setdefault(place, disk)
        if other is not disk:
            return (
                f"disks {other.mount_path} and {disk.mount_path} would hide each other: by the image's links both are {place}; "
                "give one of them another mountPath"
            )
    return None


def _outer_first(disks: tuple[DiskOnNode, ...], image: ImageFact) -> tuple[DiskOnNode, ...]:
    """A disk that was mounted inside another's directory before that one would be hidden, and what goes there would go to the
    wrong disk. Those that don't lie in one another keep their order: another order would be another configuration."""
    found: list[DiskOnNode] = []
    places = {disk: _place(disk, image) for disk in disks}
    for disk in disks:
        around = [other for other in disks if places[disk].startswith(f"{places[other]}/")]
        for one in (*sorted(around, key=lambda other: len(places[other])), disk):
            if one not in found:
                found.append(one)
    return tuple(found)


@dataclass(frozen=True)
class _Ports:
    """A machine's taps with what joins them to something and guards them there, and what else they stand on."""

    taps: tuple[Tap, ...]
    joined: tuple[Firewall | Veth, ...]
    segments: tuple[Segment, ...]


def _ports(nics: tuple[GuestNic, ...], uid: str, owner: str) -> _Ports:
    """A network's bridge is in its router, where no rules of the node's reach; taps stay in the node's namespace, where the
    guests are, whatever becomes of the router."""
    taps: list[Tap] = []
    joined: list[Firewall | Veth] = []
    segments: list[Segment] = []
    for index, nic in enumerate(nics):
        if nic.network:
            router = names.router(nic.network)
            netns, lan = Netns(name=router), Bridge(netns=router, name="lan", mtu=nic.mtu)
            rules = _guard(nic, owner=owner, needs=(netns.key,), netns=router)
            port = Veth(
                owner=owner,
                needs=(netns.key, lan.key, rules.key),
                name=names.wire(uid, index),
                peer_netns=router,
                peer_name=nic.tap,
                peer_bridge=lan.name,
                mtu=nic.mtu,
            )
            joined += [rules, port]
            taps.append(Tap(owner=owner, needs=(port.key, rules.key), name=nic.tap, wired_to=port.name, mtu=nic.mtu))
        else:
            segment, rules = Segment(owner=owner, interface=nic.interface), _guard(nic, owner=owner)
            segments.append(segment)
            joined.append(rules)
            taps.append(Tap(owner=owner, needs=(segment.key, rules.key), name=nic.tap, bridge=nic.interface, mtu=nic.mtu))
    return _Ports(tuple(taps), tuple(joined), tuple(segments))


def _guard(nic: GuestNic, *, owner: str, needs: tuple[str, ...] = (), netns: str = "") -> Firewall:
    body = guard.body(nic.tap, nic.mac, nic.ipv4 or None, nic.ipv6 or None)
    if not netns:  # on a bridge of the node's
        body += wayout.bridged(nic.tap, [family for family, address in (("ip", nic.ipv4), ("ip6", nic.ipv6)) if address])
    return Firewall(owner=owner, needs=needs, netns=netns, family="bridge", name=names.guard(nic.tap), body=body)


def _interfaces(machine: MachineOnNode, nameservers: tuple[str, ...]) -> tuple[GuestInterface, ...]:
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
                mtu=_PUBLIC_MTU,
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
