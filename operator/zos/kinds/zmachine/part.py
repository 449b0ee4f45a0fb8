"""What a ZMachine asks of a node, and what the node says of it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from zos.api.meta import Model, Quantity
from zos.api.nodeworkload import Nic, Offer, Part, Run, RunningNic, RunningPublicNic, State
from zos.api.quarantine import QuarantinedNic
from zos.api.schema import at_most
from zos.api.text import (
    Argument,
    Cidr,
    Count,
    Digest,
    Interface,
    Ipv4,
    KindName,
    Line,
    Mac,
    Name,
    Path,
    SshKey,
    Time,
    Uid,
    UserData,
    host,
    otherwise,
)  # fmt: skip
from zos.api.zmachine import RunPolicy

#: What a machine's secrets that are variables are called: this, and the variable's name; and the one that is its user-data.
ENV = "env/"
USER_DATA = "user-data"
#: Of the segments of all farms.
PUBLIC_MTU = 1500


class PublicNic(Model):
    """A machine's interface on the segment of its farm. Nothing but its own addresses may leave through it."""

    interface: Interface
    """The node's bridge or NIC on that segment."""

    mac: Mac
    ipv4: Cidr | None = None
    """With prefix length."""

    gateway: Ipv4 | None = None
    """IPv4: the default route."""

    ipv6: Cidr | None = None
    """With prefix length. The guest gives it to itself (SLAAC)."""

    @property
    def ipv4_address(self) -> str | None:
        return host(self.ipv4) if self.ipv4 else None

    @property
    def ipv6_address(self) -> str | None:
        return host(self.ipv6) if self.ipv6 else None


class DiskOnNode(Model):
    """A disk of a machine."""

    name: Name
    """The ZMount."""

    mount_uid: Uid
    """The ZMount's uid names the file on the node."""

    mount_path: Path | None = None
    """Directory in the guest. Absent: it is mounted nowhere."""


class FileSystemOnNode(Offer):
    """What another object on the node gives to a machine."""

    kind: KindName
    name: Name
    uid: Uid
    mount_path: Path
    """Directory in the guest."""


class MachineOnNode(Part):
    """A ZMachine, with everything it refers to looked up. The node's secrets called ``env/NAME`` are variables,
    that called ``image/…`` is what its image is fetched with."""

    SINCE: ClassVar[tuple[int, int]] = (0, 1)

    hostname: Name
    image: Line
    cpu: Count
    memory: Quantity
    root_size: Quantity
    """Bytes. 0: a virtual machine, which has none."""

    nics: tuple[Nic, ...] = Field(default=(), json_schema_extra=at_most(16))
    public_nic: PublicNic | None = None
    disks: tuple[DiskOnNode, ...] = Field(default=(), json_schema_extra=at_most(64))
    boot_disk: Name | None = None
    """The one that a virtual machine boots from. Absent: the first."""

    firmware: Annotated[Literal["bios", "uefi"] | None, otherwise(None)] = None
    """What a virtual machine boots by. Absent: as its image has it."""

    user_data: UserData | None = None
    """For cloud-init, where it is no secret."""

    stop_seconds: Count | None = None
    """Seconds to end in when it is stopped. Absent: 30."""

    filesystems: tuple[FileSystemOnNode, ...] = Field(default=(), json_schema_extra=at_most(16))
    entrypoint: tuple[Argument, ...] | None = Field(default=None, json_schema_extra=at_most(256))
    """Absent: the image's own."""

    env: dict[str, Argument] = Field(default_factory=dict, json_schema_extra={"maxProperties": 256})
    ssh_authorized_keys: tuple[SshKey, ...] = Field(default=(), json_schema_extra=at_most(64))
    run_policy: RunPolicy = RunPolicy.ALWAYS
    """What follows when the entrypoint ends or the guest dies."""

    maintenance: bool = False
    """The node is under maintenance: no guest runs there until that ends, whatever ``run_policy`` says."""

    restarted_at: Line | None = None
    """The object's annotation of that name: a new value asks for a restart."""

    adopt: Uid | None = None
    """Uid of a machine of the node's quarantine whose root an administrator gives to this one."""

    @property
    def rests(self) -> bool:
        return self.maintenance

    @property
    def run(self) -> Run:
        public = self.public_nic
        return Run(
            cpu=self.cpu,
            memory=self.memory,
            nics=tuple(RunningNic(network_uid=nic.network_uid, ip=nic.ip) for nic in self.nics),
            public_nic=RunningPublicNic(mac=public.mac, ipv4=public.ipv4_address, ipv6=public.ipv6_address)
            if public is not None
            else None,
            disks=tuple(disk.mount_uid for disk in self.disks),
        )

    @property
    def interfaces(self) -> tuple[QuarantinedNic, ...]:
        public = self.public_nic
        return (
            *super().interfaces,
            *((QuarantinedNic(mac=public.mac, ipv4=public.ipv4_address),) if public is not None else ()),
        )


class ImagePull(Model):
    seconds: Count
    """How long it took, rounded up."""

    size: Quantity = 0
    """Bytes that it has unpacked. 0: not known."""


class MachineState(State):
    """What the agent sees of a machine."""

    state: Annotated[Literal["Pending", "Running", "Stopped", "Crashed", "Completed"], otherwise("Pending")] = "Pending"
    mode: Annotated[Literal["container", "vm"] | None, otherwise(None)] = None
    kernel: Annotated[Line | None, otherwise(None)] = None
    """Version of the image's own kernel, which the machine runs. Absent: it runs the node's, or what its disk has."""

    restarts: Count = 0
    """Restarts that were asked for don't count."""

    started_at: Time | None = None
    """RFC 3339, UTC."""

    console: Path | None = None
    """Path of the console log, on the node."""

    started_because: Line | None = None
    """What made it start again, in words. Absent: it is its first start, or nobody knows."""

    image_digest: Digest | None = None
    image_pull: ImagePull | None = None
    """How the image came to the node. Absent: it was there before the machine, or the agent has begun anew since."""

    accelerator: Annotated[Literal["kvm", "tcg"] | None, otherwise(None)] = None
    """What the guest was started with; ``tcg`` is emulation in software."""

    root_size: Quantity | None = None
    """Bytes that are reserved for its root. Absent: it is not there, or the node does not say."""

    runs: Run | None = None
    """Absent: no guest runs. While ``state`` is ``Running``, absent: the node does not say."""

    @property
    def running(self) -> tuple[bool, Run | None]:
        return self.state == "Running", self.runs
