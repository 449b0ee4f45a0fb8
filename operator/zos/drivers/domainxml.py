"""A guest as libvirt's domain XML (libvirt.org/formatdomain.html), with what it was made from in its metadata."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from zos.drivers.imagecache import tree_of
from zos.drivers.virtiofsd import launcher_of
from zos.plan.items import ContainerBoot, DiskBoot, Domain, GuestDisk, GuestNic, GuestShare
from zos.plan.items.domain import STOP_SECONDS
from zos.plan.seed import STATUS

NAMESPACE = "https://zos.grid.tf/domain/v1alpha1"
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
#: With this, libvirt asks a new guest's processor for each of its features by itself, and without for all at once (ADR 0032).
_EACH_FEATURE = "cpu-unavailable-features"
Accelerator = Literal["kvm", "tcg"]
T = TypeVar("T")
#: The tag under which a guest's init finds its image.
_IMAGE = "zos-image"
_BOOTS: Mapping[str, type[ContainerBoot | DiskBoot]] = {boot.MODE: boot for boot in (ContainerBoot, DiskBoot)}

#: A kernel that fails ends at once, and with it the guest: the node sees a crash. It does not try whether the timer ticks (with
#: KVM it never does): on a busy node an emulated one is late, which it takes for broken hardware, tells, and may give up.
KERNEL_ARGUMENTS = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic no_timer_check"
#: Of the kernel in a file of that name (`zos.drivers.kernel`).
VMLINUZ = "vmlinuz-"
#: An image's own init finds its interfaces set up, by these names: nobody is to give them others.
_OWN_INIT = "net.ifnames=0"

#: MiB for the code that an emulated guest's processors have been translated to, by how it boots, and for each processor beyond
#: the first; and the most. QEMU takes what it is given (an eighth of the node's memory, up to 1 GiB, if nothing is said) and
#: throws all of it away when it is full. A container's first output comes 11 % later with 16 than with all it can use, 7 % with
#: 24, but with 24 it takes 63 MiB beside its own memory, and is to take 60. A whole system of its own, cloud-init and all,
#: takes 19 % longer with 40, 7 % with 64, and no longer with 96 (hack/bench guests machines).
TRANSLATED: Mapping[type[ContainerBoot | DiskBoot], int] = {ContainerBoot: 16, DiskBoot: 64}
_MORE, _MOST = 8, 128


@dataclass(frozen=True, kw_only=True)
class Start:
    """One run of a guest: what it was started with, when (seconds since the epoch), and the boot of the node it belongs to."""

    item: Domain
    started_at: float
    boot: str
    accelerator: Accelerator


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where on the node the parts of a guest are. ``machine`` is its own directory."""

    state: Path
    machine: Path
    kernel: Path
    initramfs: Path
    virtiofsd: Path
    firmware: Path = Path("/usr/share/OVMF")  # of Debian's ovmf

    def disk(self, name: str) -> Path:
        return self.state / "disks" / f"{name}.raw"

    def image(self, digest: str) -> Path:
        return tree_of(self.state / "images", digest)

    @property
    def seed(self) -> Path:
        return self.machine / "seed.iso"


def item_text(item: Domain) -> dict[str, object]:
    """A container's boot stands among the item's own fields: so earlier agents wrote it, whose guests run, and so they read
    it."""
    text = dataclasses.asdict(item) | {"needs": []}
    boot = text.pop("boot")
    del text["runs_on"]  # is seen, and not what it was started with
    if not item.shares:
        del text["shares"]
    if item.stop_seconds == STOP_SECONDS:
        del text["stop_seconds"]
    if isinstance(item.boot, ContainerBoot) and not item.boot.kernel:
        del boot["kernel"], boot["init"]
    return text | (boot if isinstance(item.boot, ContainerBoot) else {"boot": {"mode": item.boot.MODE, **boot}})


def item_of(text: dict[str, Any]) -> Domain:
    """Raises AttributeError, KeyError, TypeError or ValueError for what is no item. What a newer agent wrote more is passed
    over: a guest is none the worse for having been started by it. One that boots in a way that this agent doesn't know is no
    item."""
    fields = {**text, "needs": ()}
    boot = dict(text.get("boot", text))
    boot["root"] = known(GuestDisk, boot["root"])
    boot["fields"] = tuple((name, digest) for name, digest in boot.get("fields", ()))
    fields["boot"] = known(_BOOTS[boot.get("mode", ContainerBoot.MODE)], boot)
    fields["disks"] = tuple(known(GuestDisk, disk) for disk in text["disks"])
    fields["nics"] = tuple(known(GuestNic, nic) for nic in text["nics"])
    fields["shares"] = tuple(known(GuestShare, share) for share in text.get("shares", ()))
    return known(Domain, fields)


def known(kind: type[T], text: Mapping[str, Any]) -> T:
    """A dataclass from those of the fields that this version has."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in text.items() if name in names})


def start_text(start: Start) -> str:
    return json.dumps({**dataclasses.asdict(start), "item": item_text(start.item)})


def start_of(text: str) -> Start:
    """Raises AttributeError, KeyError, TypeError or ValueError for what is none."""
    fields = json.loads(text)
    return known(Start, {**fields, "item": item_of(fields["item"])})


def item_of_xml(text: str, state: Path) -> Domain:
    """A guest that runs as libvirt describes it: all that can be told where its metadata can't be read. It has no owner, no
    configuration and no incarnation, and what its shares are of is not known. Raises ValueError."""
    try:
        root = ElementTree.fromstring(text)
        disks = [
            GuestDisk(disk=Path(source).stem, serial=disk.findtext("serial") or "")
            for disk in root.iterfind("devices/disk")
            if (source := _attribute(disk, "source", "file")) and Path(source).parent == state / "disks"
        ]
        shared = {_attribute(one, "target", "dir"): one for one in root.iterfind("devices/filesystem")}
        image = shared.pop(_IMAGE, None)
        return Domain(
            name=root.findtext("name") or "",
            uuid=root.findtext("uuid") or "",
            cpu=int(root.findtext("vcpu") or 0),
            memory=int(root.findtext("memory") or 0) * 1024,  # libvirt says KiB
            boot=_boot_of_xml(root, disks, image),
            disks=tuple(disks[1:] if image is None else disks[:-1]),
            nics=tuple(
                GuestNic(tap=_attribute(nic, "target", "dev"), mac=_attribute(nic, "mac", "address"))
                for nic in root.iterfind("devices/interface")
            ),
            shares=tuple(
                GuestShare(tag=tag, path=os.path.relpath(_attribute(one, "source", "dir"), state), ground="")
                for tag, one in shared.items()
            ),
            running=True,
        )
    except ElementTree.ParseError as error:
        raise ValueError(f"no domain: {error}") from error


def _boot_of_xml(root: Element, disks: list[GuestDisk], image: Element | None) -> ContainerBoot | DiskBoot:
    none = GuestDisk(disk="", serial="")
    if image is None:
        firmware: Literal["bios", "uefi"] = "bios" if root.find("os/loader") is None else "uefi"
        return DiskBoot(root=disks[0] if disks else none, config="", config_digest="", firmware=firmware)
    digest = Path(_attribute(image, "source", "dir")).parent.name.replace("-", ":", 1)
    kernel = Path(root.findtext("os/kernel") or "").name
    return ContainerBoot(
        image=digest,
        kernel=kernel.removeprefix(VMLINUZ) if kernel.startswith(VMLINUZ) else "",
        init=_OWN_INIT in (root.findtext("os/cmdline") or ""),
        root=disks[-1] if disks else none,
        config="",
        config_digest="",
    )


def _attribute(parent: Element, tag: str, name: str) -> str:
    child = parent.find(tag)
    return child.get(name, "") if child is not None else ""


def domain_xml(start: Start, places: Places) -> str:
    item = start.item
    domain = Element("domain", type="kvm" if start.accelerator == "kvm" else "qemu")
    _text(domain, "name", item.name)
    _text(domain, "uuid", item.uuid)
    for prefix, uri in (("zos", NAMESPACE), ("qemu", _QEMU)):
        ElementTree.register_namespace(prefix, uri)
    _text(SubElement(domain, "metadata"), f"{{{NAMESPACE}}}start", start_text(start))
    _text(domain, "memory", str(item.memory), unit="b")
    backing = SubElement(domain, "memoryBacking")  # virtiofsd reads the guest's memory
    SubElement(backing, "source", type="memfd")
    SubElement(backing, "access", mode="shared")
    _text(domain, "vcpu", str(item.cpu))
    SubElement(domain, "cpu", mode="host-passthrough" if start.accelerator == "kvm" else "maximum")
    system = SubElement(domain, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    if isinstance(item.boot, ContainerBoot):
        _text(system, "kernel", str(places.kernel))
        _text(system, "initrd", str(places.initramfs))
        _text(system, "cmdline", f"{KERNEL_ARGUMENTS} {_OWN_INIT}" if item.boot.init else KERNEL_ARGUMENTS)
    elif item.boot.firmware == "uefi":
        _text(system, "loader", str(places.firmware / "OVMF_CODE_4M.fd"), readonly="yes", type="pflash")
        _text(system, "nvram", str(places.machine / "nvram.fd"), template=str(places.firmware / "OVMF_VARS_4M.fd"))
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    if start.accelerator == "tcg":
        _text(SubElement(features, "tcg"), "tb-cache", str(_translated(item)), unit="MiB")
    SubElement(domain, "clock", offset="utc")
    reboot = "destroy" if isinstance(item.boot, ContainerBoot) and not item.boot.init else "restart"
    for event, action in (("poweroff", "destroy"), ("reboot", reboot), ("crash", "destroy")):
        _text(domain, f"on_{event}", action)
    _devices(SubElement(domain, "devices"), item, places)
    SubElement(SubElement(domain, f"{{{_QEMU}}}capabilities"), f"{{{_QEMU}}}del", capability=_EACH_FEATURE)
    return ElementTree.tostring(domain, encoding="unicode")


def _translated(item: Domain) -> int:
    return min(_MOST, TRANSLATED[type(item.boot)] + _MORE * (item.cpu - 1))


def _devices(devices: Element, item: Domain, places: Places) -> None:
    boot = item.boot
    addresses = _addresses()
    SubElement(devices, "controller", type="usb", model="none")
    # The user's disks come first: vda and so on, as the API says. A container's init finds all of them by their serials.
    first, last = ((), (boot.root,)) if isinstance(boot, ContainerBoot) else ((boot.root,), ())
    disks = [(places.disk(disk.disk), disk.serial) for disk in (*first, *item.disks, *last)]
    disks.append((places.machine / "status", STATUS))
    for index, (path, serial) in enumerate(disks):
        _disk(devices, index, path, serial, next(addresses), first=index == 0 and isinstance(boot, DiskBoot))
    told = (places.state / boot.config, "zos-config") if isinstance(boot, ContainerBoot) else (places.seed, "zos-seed")
    _disk(devices, len(disks), *told, next(addresses), readonly=True)
    if isinstance(boot, ContainerBoot):
        binary = _filesystem(devices, places.image(boot.image), _IMAGE, places.virtiofsd, next(addresses))
        binary.set("xattr", "on")
        SubElement(binary, "cache", mode="always")  # nobody changes an unpacked image
    for nic in item.nics:
        interface = SubElement(devices, "interface", type="ethernet")
        SubElement(interface, "mac", address=nic.mac)
        SubElement(interface, "target", dev=nic.tap, managed="no")
        SubElement(interface, "model", type="virtio")
        SubElement(interface, "driver", name="qemu")  # not every node has /dev/vhost-net
        SubElement(interface, "rom", enabled="no")
        interface.append(next(addresses))
    for share in item.shares:
        _filesystem(devices, places.state / share.path, share.tag, launcher_of(share, places.virtiofsd), next(addresses))
    if isinstance(boot, DiskBoot):  # for a guest agent, if there is one
        channel = SubElement(devices, "channel", type="unix")
        SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
        rng = SubElement(devices, "rng", model="virtio")
        _text(rng, "backend", "/dev/urandom", model="random")
        rng.append(next(addresses))
    console = SubElement(devices, "serial", type="pty")
    SubElement(console, "log", file=str(places.machine / "console.log"), append="on")
    SubElement(console, "target", type="isa-serial", port="0")
    SubElement(devices, "memballoon", model="none")
    # libvirt's default for the audio backend asks the host; the guest has no sound at all.
    SubElement(devices, "audio", id="1", type="none")


def _disk(
    devices: Element, index: int, path: Path, serial: str, address: Element, *, readonly: bool = False, first: bool = False
) -> None:
    disk = SubElement(devices, "disk", type="file", device="disk")
    # Without discard: what is reserved for a disk stays reserved.
    # Where the node's file system is full the guest waits (`zos.drivers.diskfull`); other errors are the guest's to know.
    driver = SubElement(disk, "driver", name="qemu", type="raw", discard="ignore")
    if not readonly:
        driver.set("error_policy", "enospace")
    SubElement(disk, "source", file=str(path))
    SubElement(disk, "target", dev=device_name(index), bus="virtio")
    if first:
        SubElement(disk, "boot", order="1")
    _text(disk, "serial", serial)
    if readonly:
        SubElement(disk, "readonly")
    disk.append(address)


def _filesystem(devices: Element, source: Path, tag: str, launcher: Path, address: Element) -> Element:
    """Gives the part about the daemon that shares it."""
    shared = SubElement(devices, "filesystem", type="mount", accessmode="passthrough")
    SubElement(shared, "driver", type="virtiofs")
    binary = SubElement(shared, "binary", path=str(launcher))
    SubElement(shared, "source", dir=str(source))
    SubElement(shared, "target", dir=tag)
    shared.append(address)
    return binary


def device_name(index: int) -> str:
    """vda, …, vdz, vdaa, …"""
    letters = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"vd{letters}"


def _addresses() -> Iterator[Element]:
    """On the root bus, eight to a slot: libvirt would give each a bridge of its own, which a guest takes its time to scan."""
    for number in range(1 * 8, 31 * 8):
        slot, function = divmod(number, 8)
        address = {"type": "pci", "domain": "0", "bus": "0", "slot": str(slot), "function": str(function)}
        yield Element("address", address | ({"multifunction": "on"} if function == 0 else {}))


def _text(parent: Element, tag: str, text: str, **attributes: str) -> None:
    SubElement(parent, tag, attributes).text = text
