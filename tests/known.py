"""Facts as tests write them down: what is known of each kind by a word of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from zos.plan.facts import (
    ConnectedFact,
    DiskFact,
    DiskUseFact,
    DomainFact,
    Fact,
    Facts,
    FlistFact,
    ImageFact,
    ImageProblem,
    KernelFact,
    KernelProblem,
    LostKeyFact,
    ServiceFact,
    ShutFact,
    SilentFact,
    UnusedDiskFact,
    VolumeFact,
)

_FAMILIES: Mapping[str, type[Fact]] = {
    "image": ImageFact,
    "kernel": KernelFact,
    "domain": DomainFact,
    "service": ServiceFact,
    "volume": VolumeFact,
    "disk": DiskFact,
}


def facts(
    base: Facts | None = None,
    *,
    images: Mapping[str, ImageFact] | None = None,
    image_problems: Mapping[str, ImageProblem] | None = None,
    kernels: Mapping[str, KernelFact] | None = None,
    kernel_problems: Mapping[str, KernelProblem] | None = None,
    flists: Mapping[str, FlistFact] | None = None,
    domains: Mapping[str, DomainFact] | None = None,
    prefixes: tuple[str, ...] | None = None,
    shut: Mapping[str, str] | None = None,
    silent: Mapping[str, Collection[str]] | None = None,
    lost_keys: Collection[str] | None = None,
    unused_disks: Collection[str] | None = None,
    disks: Mapping[str, DiskFact] | None = None,
    disk_use: Mapping[str, int] | None = None,
    services: Mapping[str, ServiceFact] | None = None,
    volumes: Mapping[str, VolumeFact] | None = None,
    unknown: Mapping[str, str] | None = None,
    **others: Any,
) -> Facts:
    """``base``, with what is said here in place of what it says of that. ``unknown`` is by family of items."""
    base = base or Facts(node="n", now=0.0)
    known: dict[type[Fact], Mapping[str, Any]] = dict(base.known)
    said: tuple[tuple[type[Fact], Mapping[str, Any] | None], ...] = (
        (ImageFact, images),
        (ImageProblem, image_problems),
        (KernelFact, kernels),
        (KernelProblem, kernel_problems),
        (FlistFact, flists),
        (DomainFact, domains),
        (ConnectedFact, {"": ConnectedFact(prefixes)} if prefixes is not None else None),
        (ShutFact, {name: ShutFact(by) for name, by in shut.items()} if shut is not None else None),
        (SilentFact, {name: SilentFact(frozenset(peers)) for name, peers in silent.items()} if silent is not None else None),
        (LostKeyFact, dict.fromkeys(lost_keys, LostKeyFact()) if lost_keys is not None else None),
        (ServiceFact, services),
        (VolumeFact, volumes),
        (DiskFact, disks),
        (DiskUseFact, {name: DiskUseFact(used) for name, used in disk_use.items()} if disk_use is not None else None),
        (UnusedDiskFact, dict.fromkeys(unused_disks, UnusedDiskFact()) if unused_disks is not None else None),
    )
    known |= {fact: about for fact, about in said if about is not None}
    blind = {_FAMILIES[family]: why for family, why in unknown.items()} if unknown is not None else base.unknown
    if ImageFact in blind:
        blind = {**blind, ImageProblem: blind[ImageFact], FlistFact: blind[ImageFact]}
    if KernelFact in blind:
        blind = {**blind, KernelProblem: blind[KernelFact]}
    return dataclasses.replace(base, known=known, unknown=blind, **others)
