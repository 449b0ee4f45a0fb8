"""The node's vocabulary: the primitives that every workload is lowered to.

Items are values. Two items with the same key describe the same thing on the node; equality (without ``owner`` and
``needs``) says whether it is already right. What is to be known of one beside what it asks for (its place in the order of
removals, what it stands on, what it holds of the node) it tells itself: a new primitive is one class here and one driver.
"""

from __future__ import annotations

from zos.plan.items.domain import ContainerBoot, DiskBoot, Domain, GuestDisk, GuestNic, GuestShare
from zos.plan.items.flist import Fence, Flist
from zos.plan.items.item import Held, Item, Rank, rank_in
from zos.plan.items.network import Bridge, Firewall, Netns, Route, Segment, Sysctl, Tap, Veth
from zos.plan.items.service import MetricsEndpoint, Readiness, Service, ServiceFile, ServiceLimits, Shown
from zos.plan.items.storage import Disk, File, Image, Kernel, System, Volume
from zos.plan.items.wireguard import WireGuard, WireGuardPeer

__all__ = [
    "Bridge",
    "ContainerBoot",
    "Disk",
    "DiskBoot",
    "Domain",
    "Fence",
    "File",
    "Firewall",
    "Flist",
    "GuestDisk",
    "GuestNic",
    "GuestShare",
    "Held",
    "Image",
    "Item",
    "Kernel",
    "MetricsEndpoint",
    "Netns",
    "Rank",
    "Readiness",
    "Route",
    "Segment",
    "Service",
    "ServiceFile",
    "ServiceLimits",
    "Shown",
    "Sysctl",
    "System",
    "Tap",
    "Veth",
    "Volume",
    "WireGuard",
    "WireGuardPeer",
    "rank_in",
]
