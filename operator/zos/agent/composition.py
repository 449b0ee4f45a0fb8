"""Which drivers serve a node: the whole agent at one glance, beside `zos.kinds.registry`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from zos.agent.settings import Settings
from zos.api.gridnode import NodeFeatures
from zos.drivers import Driver
from zos.drivers.accounts import Accounts
from zos.drivers.disk import DiskDriver
from zos.drivers.diskuse import Usage
from zos.drivers.domain import DomainDriver
from zos.drivers.fences import FenceDriver
from zos.drivers.file import FileDriver
from zos.drivers.firewall import FirewallDriver
from zos.drivers.gueststats import GuestUse
from zos.drivers.image import ImageDriver
from zos.drivers.imageprogress import ImageMeasures
from zos.drivers.kernels import INIT, KernelDriver
from zos.drivers.keyring import Keyring
from zos.drivers.link import LinkDriver
from zos.drivers.meter import Limits
from zos.drivers.prefixes import PrefixDriver
from zos.drivers.segment import SegmentDriver
from zos.drivers.service import MetricsSource, ServiceDriver, told_accounts
from zos.drivers.sources import Registries, Sources
from zos.drivers.sysctl import SysctlDriver
from zos.drivers.systems import SystemDriver
from zos.drivers.volume import VolumeDriver
from zos.drivers.wayout import WayOutDriver
from zos.drivers.wgprobe import probe
from zos.drivers.wireguard import WireGuardDriver
from zos.plan.facts import DomainFact
from zos.plan.items.flist import FLISTS


@dataclass(frozen=True)
class Equipment:
    """``features`` gives what the drivers have found out of the node by now, ``endpoints`` where services tell metrics,
    ``usage`` how much of each disk is used (it blocks), ``images`` how much there is of images; ``guest_use`` is what guests
    that run have used, ``guests`` what is known of them, by their names."""

    drivers: tuple[Driver, ...]
    features: Callable[[], NodeFeatures]
    endpoints: Callable[[], Iterable[MetricsSource]]
    usage: Callable[[], Iterable[Usage]]
    images: Callable[[], ImageMeasures]
    guest_use: Callable[[], Awaitable[Mapping[str, GuestUse]]]
    guests: Callable[[], Mapping[str, DomainFact]]


async def equip(settings: Settings, keyring: Keyring) -> Equipment:
    """Opens what the node has. Raises OSError where the node lacks something an agent can't do without."""
    logs = settings.state / "log"
    accounts = Accounts(settings.state, lambda: (*told_accounts(settings.service_dir), *volumes.accounts()))
    volumes = VolumeDriver(settings.state, accounts.uid, lambda name: services.vacate(name))
    fences = FenceDriver((FLISTS,), accounts.uid, settings.image_network)
    services = ServiceDriver(settings.service_dir, logs, accounts, volumes.data, meaning=fences.meaning)
    kind = await probe()
    domains = DomainDriver(
        settings.state,
        settings.run,
        settings.guest_dir,
        uri=settings.libvirt_uri,
        accelerator=settings.accelerator,
        start_parallel=settings.start_parallel,
    )
    sources = Sources(
        Registries(settings.insecure_registries, settings.registry_auth),
        settings.image_dir,
        settings.image_network,
        Limits(settings.image_size),
    )
    images = ImageDriver(settings.state / "images", sources, domains.images, bound=settings.image_cache)
    disks = DiskDriver(settings.state / "disks", domains.resize_disk, domains.uses_disk)
    drivers: tuple[Driver, ...] = (
        LinkDriver(),
        PrefixDriver(),
        WayOutDriver(),
        SegmentDriver(),
        SysctlDriver(),
        FirewallDriver(settings.run),
        WireGuardDriver(settings.state, keyring, settings.service_dir, logs, settings.wireguard_go, kind),
        FileDriver(settings.state),
        fences,
        services,
        images,
        KernelDriver(settings.state / "images", settings.guest_dir / INIT),
        disks,
        volumes,
        SystemDriver(settings.state / "disks", settings.state / "images"),
        domains,
    )

    def features() -> NodeFeatures:
        return NodeFeatures(wireguard=kind, accelerator=domains.accelerator_found() or "")

    return Equipment(drivers, features, services.endpoints, disks.usage, images.measures, domains.use, domains.known)
