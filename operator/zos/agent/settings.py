"""What an agent is told at its start, by options or by the environment (ZOS_NODE for --node, and so on)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal

from zos.api.meta import parse_quantity

#: A guest that boots keeps about one processor busy: more at once would be up no sooner, each of them later, and where it is
#: emulated so late that its own watchdogs give up. Part of a boot is waiting for disks and libvirt, so a few may always.
_FEWEST = 4
START_PARALLEL = max(_FEWEST, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Times in seconds, sizes in bytes. ``capacity_*`` override what is found on the node."""

    node: str
    kubeconfig: str | None = None
    service_account: Path | None = None
    state: Path = Path("/var/lib/zos")
    run: Path = Path("/run/zos")
    service_dir: Path = Path("/run/service")
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    metrics: str | None = None
    libvirt_uri: str = "qemu+unix:///system?socket=/run/libvirt/libvirt-sock"
    wireguard_go: str = "wireguard-go"
    guest_dir: Path = Path("/usr/share/zos/guest")
    insecure_registries: tuple[str, ...] = ()
    egress_deny: tuple[str, ...] = ()
    registry_auth: Path | None = None
    image_dir: tuple[Path, ...] = ()
    image_network: tuple[IPv4Network | IPv6Network, ...] = ()
    image_size: int = 20 * 2**30
    image_cache: int = 100 * 2**30
    start_parallel: int = START_PARALLEL
    capacity_cpu: int | None = None
    capacity_memory: int | None = None
    capacity_storage: int | None = None
    reserve_memory: int = 2**30
    reserve_storage: int = 5 * 2**30
    heartbeat: float = 10.0
    lease: int = 40
    resync: float = 60.0
    log_level: str = "INFO"


class _Append(argparse.Action):
    """An option that may be given again; the first time it replaces what the environment said."""

    def __init__(self, *arguments: Any, **rest: Any) -> None:
        super().__init__(*arguments, **rest)
        self._found: tuple[Any, ...] = ()

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        self._found = (*self._found, *values)
        setattr(namespace, self.dest, self._found)


def _directory(text: str) -> Path:
    if not text.startswith("/"):
        raise ValueError(f"{text} is not an absolute path")
    return Path(text)


def parse(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Exits with a usage message when something is missing or malformed."""
    parser = argparse.ArgumentParser(prog="zos-agent", description="Makes this machine a node of the grid.")

    def option(name: str, **rest: object) -> None:
        variable = "ZOS_" + name.removeprefix("--").upper().replace("-", "_")
        if variable in environment:
            rest["default"] = environment[variable]
            rest["required"] = False
        parser.add_argument(name, **rest)  # type: ignore[arg-type]

    def listed(name: str, type: Callable[[str], Any], metavar: str, help: str) -> None:
        def parse(text: str) -> tuple[Any, ...]:
            return tuple(type(part) for part in text.split(",") if part)

        option(name, type=parse, action=_Append, default=(), metavar=f"{metavar},…", help=f"{help}; may be given again")

    defaults = Settings(node="")
    option("--node", required=True, help="name of this node's GridNode")
    option("--kubeconfig", default=None, help="default: the pod's service account")
    option(
        "--service-account",
        type=_directory,
        default=None,
        metavar="DIR",
        help="token and ca.crt of a pod that may ask for the token of this node's own account: that one is used, an hour each",
    )
    option("--state", type=Path, default=defaults.state, help="what must survive a reboot: keys, images, disks")
    option("--run", type=Path, default=defaults.run, help="what a reboot may lose")
    option("--service-dir", type=Path, default=defaults.service_dir, help="scan directory of the node's s6-svscan")
    option("--accelerator", choices=("auto", "kvm", "tcg"), default=defaults.accelerator)
    option("--metrics", default=None, metavar="ADDR:PORT", help="serve /metrics and /healthz there")
    option("--libvirt-uri", default=defaults.libvirt_uri)
    option("--wireguard-go", default=defaults.wireguard_go, help="userspace WireGuard, for kernels without")
    option("--guest-dir", type=Path, default=defaults.guest_dir, help="vmlinuz and initramfs of container machines")
    listed("--insecure-registries", str, "HOST[:PORT]", "may be spoken to in plain HTTP")
    option(
        "--registry-auth",
        type=Path,
        default=None,
        metavar="FILE",
        help="a containers-auth.json(5): opens the repositories that it names to everybody who has machines on this node",
    )
    listed("--image-dir", _directory, "DIR", "file:// images may be taken from below it; there is no other")
    listed("--image-network", ip_network, "CIDR", "images may be fetched from there, beside the Internet")
    option(
        "--image-size", type=parse_quantity, default=defaults.image_size, help="of an image at most, packed and unpacked alike"
    )
    option(
        "--image-cache",
        type=parse_quantity,
        default=defaults.image_cache,
        help="of unpacked images at most, beside those in use; a quarter of it for what is fetched, and one for flists' blocks",
    )
    option(
        "--start-parallel",
        type=_positive,
        default=defaults.start_parallel,
        metavar="N",
        help=f"guests that boot at once, as after a reboot of the node (default: as many as processors, {_FEWEST} at least)",
    )
    listed("--egress-deny", _cidr, "CIDR", "no machine may connect to these, like the pods and services of the cluster")
    option("--capacity-cpu", type=int, default=None, help="offer this many virtual CPUs")
    option("--capacity-memory", type=parse_quantity, default=None, help="offer this much memory, like 8Gi")
    option("--capacity-storage", type=parse_quantity, default=None, help="offer this much disk, like 100Gi")
    option("--reserve-memory", type=parse_quantity, default=defaults.reserve_memory, help="kept for the node itself")
    option("--reserve-storage", type=parse_quantity, default=defaults.reserve_storage, help="kept for the node itself")
    option("--heartbeat", type=float, default=defaults.heartbeat, help="seconds between renewals of the Lease")
    option("--lease", type=int, default=defaults.lease, help="seconds after which the node counts as lost")
    option("--resync", type=float, default=defaults.resync, help="seconds after which nothing seen so far is trusted")
    option("--log-level", default=defaults.log_level)
    return Settings(**vars(parser.parse_args(argv)))


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(f"{text} is less than 1")
    return number


def _cidr(text: str) -> str:
    return str(ip_network(text.strip()))
