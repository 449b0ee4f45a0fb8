"""ZMachine: a container or virtual machine, decided by the image's content."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from zos.api.image import LONGEST, PullSecret, image_rules
from zos.api.meta import DeletionPolicy, Model, Object, Quantity, Status
from zos.api.schema import AGE, READY, REASON, Column, Rule, at_least, ipv4, keyed, named, never_less, no_control, rules
from zos.api.text import Argument, Count, Digest, Ipv4, Ipv6, Line, Name, Path, SshKey, Time, UserData, otherwise
from zos.api.usage import MachineUsage


class RunPolicy(StrEnum):
    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    ONCE = "Once"
    HALTED = "Halted"


class MachineNetwork(Model):
    name: str = Field(min_length=1, max_length=253, json_schema_extra=rules(named("network.name")))
    """A Network of the same namespace."""

    ip: str | None = Field(default=None, max_length=15, json_schema_extra=rules(ipv4("network.ip")))
    """A private IPv4 address like 10.20.5.7, inside the sub-range of the machine's node and not its first (the gateway).
    Absent: the lowest free one, kept for the machine's life."""


#: Where a disk would break the machine: in the kernel's own file systems, on which its init stands; over its accounts, programs
#: and libraries, which an empty disk hides; over files that are written at each boot.
_KERNELS = "^/(proc|sys|dev)(/|$)"
_NEEDED = "^/(etc|usr|bin|sbin|lib|lib32|lib64|libx32|usr/s?bin|usr/lib(32|64|x32)?)$"
_WRITTEN = "^/(etc/(hostname|hosts|resolv[.]conf)|root/[.]ssh/authorized_keys)(/|$)"
#: All of them.
NO_PLACE_FOR_A_DISK = (_KERNELS, _NEEDED, _WRITTEN)


def _mount_path(of: str) -> JsonDict:
    """Rules for where something is mounted in the machine; ``of`` is the list that it is in."""
    return rules(
        Rule("self.startsWith('/')", f"{of}[].mountPath must be absolute, like /data"),
        no_control(f"{of}[].mountPath"),
        Rule("self != '/'", f"{of}[].mountPath must not be /: the root comes from the image"),
        Rule(
            "self == '/' || !(self.endsWith('/') || self.contains('//') || self.matches(r'(^|/)[.][.]?(/|$)'))",
            f"{of}[].mountPath must be written plainly: without a trailing slash, empty parts, '.' or '..'",
        ),
        Rule(
            f"!self.matches('{_KERNELS}')",
            f"{of}[].mountPath must not be in /proc, /sys or /dev: these are the kernel's, and the machine would not start",
        ),
        Rule(
            f"!self.matches('{_NEEDED}')",
            f"{of}[].mountPath must not hide the image's programs or accounts (/etc, /usr, /bin, /lib …): take a directory "
            "below, like /etc/app, or another",
        ),
        Rule(
            f"!self.matches('{_WRITTEN}')",
            f"{of}[].mountPath must not be a file that each boot writes: /etc/hostname, /etc/hosts, /etc/resolv.conf, "
            "/root/.ssh/authorized_keys",
        ),
        Rule("!self.matches('/[^/]{256}')", f"{of}[].mountPath must not have a part of more than 255 characters"),
    )


class MachineDisk(Model):
    """A ZMount that the machine uses, and where in its file system."""

    name: str = Field(min_length=1, max_length=253, json_schema_extra=rules(named("disks[].name")))
    """A ZMount of the same namespace, used by no other machine."""

    mount_path: str | None = Field(default=None, max_length=1024, json_schema_extra=_mount_path("disks"))
    """Directory in the machine where it is mounted, like /data. Absolute, not ``/``, different for each disk. A disk may lie in
    another: /data is mounted before /data/sub, whatever their order here. A container needs one for each disk; the disk that a
    virtual machine boots from has none."""


class MachineFileSystem(Model):
    """A file system of another object on the machine's node, that the machine shares with it."""

    kind: str = Field(
        max_length=63,
        json_schema_extra=rules(Rule("self.matches('^[A-Z][A-Za-z0-9]*$')", "filesystems[].kind must be a kind of object")),
    )
    """Kind of an object that has a file system to give."""

    name: str = Field(min_length=1, max_length=253, json_schema_extra=rules(named("filesystems[].name")))
    """An object of that kind in the same namespace. The machine runs on its node."""

    mount_path: str = Field(max_length=1024, json_schema_extra=_mount_path("filesystems"))
    """Directory in the machine where it is mounted, as of a disk."""

    read_only: bool = False
    """Whether the machine may only read."""


class Firmware(StrEnum):
    AUTO = "Auto"
    BIOS = "BIOS"
    UEFI = "UEFI"


class BootDisk(Model):
    name: str = Field(min_length=1, max_length=253, json_schema_extra=rules(named("bootDisk.name")))
    """One of ``disks``."""


class SecretKeyRef(Model):
    name: str = Field(min_length=1, max_length=253, json_schema_extra=rules(named("secretKeyRef.name")))
    """A Secret of the same namespace."""

    key: str = Field(min_length=1, max_length=253)
    """The key of the Secret's ``data`` whose value is taken. The machine waits until it is there."""


class EnvSource(Model):
    secret_key_ref: SecretKeyRef
    """One key of a Secret. Its value travels to the node sealed, so that only that node can read it."""


class EnvVar(Model):
    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("has(self.value) != has(self.valueFrom)", "env[] must have exactly one of value and valueFrom")
        )
    )

    name: str = Field(
        max_length=253,
        json_schema_extra=rules(
            Rule(
                "self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",
                "env[].name must be letters, digits and underscores, not beginning with a digit",
            )
        ),
    )
    """The variable, like ``GREETING``. It replaces one of the same name in the image."""

    value: Argument | None = Field(default=None)
    """Its value, taken literally. Give this or ``valueFrom``."""

    value_from: EnvSource | None = None
    """Where its value comes from instead: for passwords and the like."""


class ZMachineSpec(Model):
    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.rootSize) || quantity(string(self.rootSize)).compareTo(quantity('0')) == 0"
                " || quantity(string(self.rootSize)).compareTo(quantity("
                "quantity(string(self.memory)).asApproximateFloat() * double(self.cpu) < 8589934592.0"
                " ? '500Mi' : '2Gi')) >= 0",
                "rootSize must be 0 (the minimum) or at least the minimum: 500Mi, or 2Gi where cpu × memory is 8Gi or more",
                ".rootSize",
            ),
            Rule(
                "!has(self.disks) || self.disks.all(d, !has(d.mountPath)"
                " || self.disks.exists_one(e, has(e.mountPath) && e.mountPath == d.mountPath))",
                "disks[].mountPath must be different for each disk",
                ".disks",
            ),
            Rule(
                "!has(self.disks) || !has(self.filesystems)"
                " || self.disks.all(d, !has(d.mountPath) || !self.filesystems.exists(f, f.mountPath == d.mountPath))",
                "filesystems[].mountPath must be another than that of a disk",
                ".filesystems",
            ),
            Rule(
                "!has(self.bootDisk) || has(self.disks) && self.disks.exists(d, d.name == self.bootDisk.name)",
                "bootDisk.name must be one of disks",
                ".bootDisk",
            ),
            Rule(
                "!has(self.userData) || !has(self.userDataFrom)",
                "userData and userDataFrom: give one of them",
                ".userData",
            ),
            Rule(
                "!has(self.nodeName) || !has(oldSelf.nodeName) || self.nodeName == oldSelf.nodeName",
                "nodeName is immutable: a machine's root does not move between nodes; delete it and make it there",
                ".nodeName",
            ),
        )
    )

    image: str = Field(max_length=LONGEST, json_schema_extra=image_rules("image"))
    """What it runs: ``oci://registry/repository:tag`` (anything docker builds, ``@sha256:…`` pins it), ``https://…`` (a tar or
    a disk image, raw or qcow2, plain or packed with gzip, xz, bzip2 or zstd; ``#sha256:…`` behind it is the file's checksum) or
    ``file:///…`` (the same, or a directory: a path on the node, in a directory that its owner opens). One called ``….fl`` is
    an flist (rfs v2), whose contents are fetched when they are first read. Its content decides
    the mode: a virtual machine boots from a disk image, or from exactly one of ``/image.raw``, ``/image.qcow2``,
    ``/disk/*.img`` and ``/disk/*.qcow2`` in it; anything else is a container, which runs the kernel at ``/boot/vmlinuz`` if its
    image has one, else the node's. A change takes effect at the next restart; a virtual machine's boot disk, once it is
    written, stays."""

    image_pull_secrets: tuple[PullSecret, ...] = Field(default=(), max_length=8, json_schema_extra=keyed("name"))
    """Credentials for the registry of an ``oci://`` image, as ``kubectl create secret docker-registry`` makes them. The machine
    waits until all of them are there. Of all entries that nearest to the repository is taken; its node alone can read it, and
    uses it for this machine alone. Where none is for the registry, the image is fetched as by anybody."""

    cpu: int = Field(default=1, le=255, json_schema_extra=rules(Rule("self >= 1", "cpu must be at least 1")))
    """Virtual CPUs, counted against what the node has free. A change takes effect at the next restart."""

    memory: Quantity = Field(default=512 * 2**20, json_schema_extra=rules(at_least("memory", "250Mi")))
    """RAM in bytes, at least 250Mi, like 2Gi. The node sets aside 128Mi more to run the guest. A change takes effect at the
    next restart."""

    root_size: Quantity = Field(default=0)
    """Room in bytes for what the machine writes to its root file system; it can grow, but not become less than it is. 0 is the
    minimum: 500Mi, or 2Gi where cpu × memory is 8Gi or more."""

    network: MachineNetwork
    """The one private network that the machine is in."""

    public_ip: str | None = Field(default=None, alias="publicIP", max_length=253, json_schema_extra=rules(named("publicIP")))
    """A PublicIP of the same namespace that no other machine uses; the machine then goes to a node of that farm. Absent: it is
    reached through its private network only."""

    disks: tuple[MachineDisk, ...] = Field(default=(), max_length=24, json_schema_extra=keyed("name"))
    """Disks that outlive the machine, in the order of the guest's devices. The machine runs on the node where they are."""

    boot_disk: BootDisk | None = None
    """Which of ``disks`` a virtual machine boots from; absent: the first. The image's disk is written to it once, if it is
    empty and at least as large; what it holds from then on outlives the machine."""

    firmware: Firmware = Firmware.AUTO
    """What a virtual machine boots by. ``Auto``: UEFI where its image has an EFI system partition and nothing for a BIOS. A
    change takes effect at the next restart."""

    filesystems: tuple[MachineFileSystem, ...] = Field(default=(), max_length=16, json_schema_extra=keyed("mountPath"))
    """File systems of other objects, which the machine shares with them, from its next start on."""

    entrypoint: tuple[Argument, ...] | None = Field(default=None, min_length=1, max_length=256)
    """Program and arguments, one per item, run without a shell, like ``["/bin/server", "--port", "80"]``. Absent: the image's
    own; of an image that names none and brings a kernel: ``/sbin/init``, which is the machine's first process then."""

    env: tuple[EnvVar, ...] = Field(default=(), max_length=256, json_schema_extra=keyed("name"))
    """Environment of the entrypoint, added to the image's own. A variable has at most 128 KiB, all of them 512 KiB together,
    values from Secrets included. A change takes effect at the next restart."""

    ssh_authorized_keys: tuple[SshKey, ...] = Field(default=(), max_length=64)
    """Public keys as in ``~/.ssh/id_ed25519.pub``, put into ``/root/.ssh/authorized_keys``, by a virtual machine's cloud-init
    also into those of its default user. The image has to bring the SSH server."""

    user_data: UserData | None = None
    """What a virtual machine's cloud-init is told, in any of its formats, up to 64 KiB. The machine's own settings (addresses,
    keys, disks) come as vendor-data and network-config, beside it."""

    user_data_from: EnvSource | None = None
    """Where that comes from instead: for what holds passwords."""

    stop_seconds: int = Field(default=30, le=3600, json_schema_extra=rules(Rule("self >= 1", "stopSeconds must be at least 1")))
    """Seconds that it gets to end when it is stopped, before it is switched off."""

    run_policy: RunPolicy = RunPolicy.ALWAYS
    """What follows when the entrypoint ends or the guest dies. ``Always``: it starts again; ``OnFailure``: unless the exit code
    is 0; ``Once``: it stays down. ``Halted``: it is stopped now."""

    node_name: str | None = Field(default=None, max_length=253, json_schema_extra=rules(named("nodeName")))
    """The GridNode to run on; can't be changed. Absent: where its disks or its public address are, else where it fits best."""

    deletion_policy: DeletionPolicy = DeletionPolicy.ERASE
    """What becomes of the machine's root when this object is deleted. ``Erase``: it is gone. ``Retain``: it stays on its node
    in quarantine, until an administrator gives it to another machine or discards it."""


class ZMachineStatus(Status):
    """How the machine stands, and what it runs with. What of its spec was changed meanwhile waits for its restart, all of it
    together. Further conditions: ``ImageReady``, ``Running`` (its entrypoint was started; of a virtual machine: its processors
    run), ``GuestReady`` (a virtual machine's cloud-init is done), ``ImageChanged`` (its boot disk was written from another
    image), ``NotApplicable`` (names fields that mean nothing in its mode), ``SoftwareEmulation`` (the node has no usable KVM),
    ``RestartRequired`` (it runs with an older spec; names the fields), ``PublicAddressBlocked`` (the node's firewall lets
    nothing pass to or from its public address)."""

    node_name: Name | None = None
    """The GridNode that it is on, for the machine's life. Absent: not placed yet."""

    mode: Annotated[Literal["container", "vm"] | None, otherwise(None)] = None
    """What the image's content makes of it. Absent: the image is not there yet."""

    kernel: Line | None = None
    """Version of the kernel that a container brings in its image (``/boot/vmlinuz``) and runs. Absent: it runs the node's."""

    network: Name | None = None
    """The Network that it is in. Another than ``spec.network.name``: until it is restarted."""

    ip: Ipv4 | None = None
    """Its private IPv4 address."""

    public_ipv4: Ipv4 | None = Field(default=None, alias="publicIPv4")
    """Its public IPv4 address, without prefix length."""

    public_ipv6: Ipv6 | None = Field(default=None, alias="publicIPv6")
    """Its public IPv6 address, without prefix length. The guest gives it to itself some seconds after it boots."""

    cpu: Count | None = None
    """Virtual CPUs of the guest that runs. Absent: none runs."""

    memory: Quantity | None = None
    """RAM of the guest that runs, in bytes. Absent: none runs."""

    root_size: Quantity | None = None
    """Room in bytes that its root has on the node; it never shrinks. Absent: not made yet."""

    console: Path | None = None
    """Path of the console log, on the node."""

    image_digest: Digest | None = None
    """Content of the image that ``spec.image`` stood for when it was fetched, like ``sha256:9f86…``."""

    restarts: Count = 0
    """How often it was started again after its entrypoint ended or the guest died. Restarts that were asked for don't count."""

    started_at: Time | None = None
    """When the guest was last started (RFC 3339, UTC)."""

    accelerator: Annotated[Literal["kvm", "tcg"] | None, otherwise(None)] = None
    """What the guest was started with; ``tcg`` is emulation in software."""

    state: Line | None = None
    """``Pending`` (not started yet), ``Running``, ``Stopped`` (it was asked to, or went down with the node), ``Crashed`` (it
    ended and should not have) or ``Completed`` (its entrypoint ended with 0, as ``runPolicy`` allows)."""

    usage: MachineUsage | None = None
    """What its guest uses of the node: told once a minute at most, and when it has changed by an eighth or more. Absent: none
    runs, or not for long enough."""


class ZMachine(Object):
    """A container or virtual machine on one node, decided by the image's content, with a private address and, if it asks for
    one, a public one."""

    KIND: ClassVar[str] = "ZMachine"
    PLURAL: ClassVar[str] = "zmachines"
    SHORT_NAMES = ("zm",)
    RULES = (
        never_less(
            "rootSize",
            "rootSize must be 0 (the minimum) or not less than what the root has, status.rootSize: for a smaller root delete "
            "the machine and make it anew",
        ),
    )
    COLUMNS = (
        Column("Node", ".status.nodeName"),
        Column("Mode", ".status.mode"),
        Column("IP", ".status.ip"),
        Column("State", ".status.state"),
        READY,
        REASON,
        Column("Image", ".spec.image", priority=1),
        Column("Public IPv4", ".status.publicIPv4", priority=1),
        Column("Public IPv6", ".status.publicIPv6", priority=1),
        Column("Kernel", ".status.kernel", priority=1),
        Column("Accelerator", ".status.accelerator", priority=1),
        Column("Restarts", ".status.restarts", "integer", 1),
        Column("Started", ".status.startedAt", "date", 1),
        AGE,
    )
    SELECTABLE = (".spec.nodeName", ".spec.network.name", ".status.nodeName")

    spec: ZMachineSpec
    status: ZMachineStatus = Field(default_factory=ZMachineStatus)


def minimum_root_size(cpu: int, memory: int) -> int:
    """Bytes. Source: zosbase ``pkg/gridtypes/zos/zmachine.go`` MinRootSize."""
    return 500 * 2**20 if cpu * memory // (8 * 2**30) == 0 else 2 * 2**30
