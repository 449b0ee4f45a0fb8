"""Which drivers serve a node: the whole agent at one glance, beside `zos.kinds.registry`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zos.agent.settings import Settings
from zos.api.gridnode import NodeFeatures
from zos.drivers import DiskSource, DomainSource, Driver, ImageSource, PeerSource, PrefixSource, WayOutSource
from zos.drivers.accounts import Accounts
from zos.drivers.disk import DiskDriver
from zos.drivers.domain import DomainDriver
from zos.drivers.file import FileDriver
from zos.drivers.firewall import FirewallDriver
from zos.drivers.image import ImageDriver
from zos.drivers.keyring import Keyring
from zos.drivers.link import LinkDriver
from zos.drivers.meter import Limits
from zos.drivers.prefixes import PrefixDriver
from zos.drivers.segment import SegmentDriver
from zos.drivers.service import ServiceDriver, told_accounts
from zos.drivers.sources import Registries, Sources
from zos.drivers.sysctl import SysctlDriver
from zos.drivers.wayout import WayOutDriver
from zos.drivers.wgprobe import probe
from zos.drivers.wireguard import WireGuardDriver


@dataclass(frozen=True)
class Equipment:
    """The drivers of a node, and those among them that facts come from."""

    drivers: tuple[Driver, ...]
    images: ImageSource | None
    domains: DomainSource | None
    disks: DiskSource | None
    prefixes: PrefixSource | None
    way_out: WayOutSource | None
    peers: PeerSource | None
    features: Callable[[], NodeFeatures]


async def equip(settings: Settings, keyring: Keyring) -> Equipment:
    """Opens what the node has. Raises OSError where the node lacks something an agent can't do without."""
    logs = settings.state / "log"
    accounts = Accounts(settings.state, lambda: told_accounts(settings.service_dir))
    kind = await probe()
    domains = DomainDriver(
        settings.state, settings.run, settings.guest_dir, uri=settings.libvirt_uri, accelerator=settings.accelerator
    )
    prefixes, way_out = PrefixDriver(), WayOutDriver()
    wireguard = WireGuardDriver(settings.state, keyring, settings.service_dir, logs, settings.wireguard_go, kind)
    sources = Sources(
        Registries(settings.insecure_registries, settings.registry_auth),
        settings.image_dir,
        settings.image_network,
        Limits(settings.image_size),
    )
    disks = DiskDriver(settings.state / "disks", domains.resize_disk, domains.uses_disk)
    images = ImageDriver(settings.state / "images", sources, domains.images)
    drivers: tuple[Driver, ...] = (
        LinkDriver(),
        prefixes,
        way_out,
        SegmentDriver(),
        SysctlDriver(),
        FirewallDriver(settings.run),
        wireguard,
        FileDriver(settings.state),
        ServiceDriver(settings.service_dir, logs, accounts),
        images,
        disks,
        domains,
    )
    return Equipment(
        drivers,
        images,
        domains,
        disks,
        prefixes,
        way_out,
        wireguard,
        lambda: NodeFeatures(wireguard=kind, accelerator=domains.accelerator_found() or ""),
    )
