"""What a node needs for guests, and whether it has it. Each finding says what is missing, what it is for, and what to do.

It looks from a pod with the host's processes and network: what the host mounts is seen through its first process. What the
kernel offers is tried (`trials`). Nothing is changed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zos.programs.node import layout, trials

_GIB = 2**30
#: mount_setattr(2) is of 5.12; confined programs ask for nothing newer.
_KERNEL = (5, 12)
#: Of the node's disk: less is too little for the image's copy; less than the second for much more than that.
_LEAST, _SPACE = 1, 10
#: CAP_NET_ADMIN, CAP_SYS_ADMIN; `privileged` gives all.
_CAPABILITIES = 1 << 12 | 1 << 21
#: Where nodes have their WireGuard ports unless their GridNode says otherwise (`spec.wireguardPorts`).
_PORTS = (52000, 53999)
_KEEP_SIZE = 1  # fallocate(2)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Finding:
    """``fatal``: nothing works without it. ``what`` says how it is, what it is for, and what helps."""

    fatal: bool
    what: str


@dataclass(frozen=True)
class _Need:
    """``part``: of the kernel; ``use``: what it is for; ``names``: modules, options of the kernel where they are built in."""

    fatal: bool
    part: str
    use: str
    names: str


#: Of what is tried. The kernel loads modules by itself where they are installed.
_NEEDS: Mapping[str, _Need] = {
    trials.NETWORK: _Need(True, "network namespaces", "each Network has its router in one", "CONFIG_NET_NS"),
    "veth": _Need(True, "veth pairs", "machines and routers are joined by them", "veth (CONFIG_VETH)"),
    "bridge": _Need(True, "bridges", "the machines of a Network share one", "bridge (CONFIG_BRIDGE)"),
    "redirect": _Need(
        True,
        "redirection by traffic control",
        "what a machine sends goes to its Network by it",
        "sch_ingress, cls_u32 and act_mirred (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)",
    ),
    "inet": _Need(
        True,
        "nftables with NAT and connection tracking",
        "a Network's way out and its bounds are such rules",
        "nf_tables, nft_ct, nft_masq, nft_limit (CONFIG_NF_TABLES_INET, CONFIG_NFT_MASQ, CONFIG_NF_CONNTRACK)",
    ),
    "fence": _Need(
        True,
        "nftables that look up and reject",
        "what fetches images is kept out of the node's networks by it",
        "nft_fib_inet, nft_reject_inet (CONFIG_NFT_FIB_INET, CONFIG_NFT_REJECT)",
    ),
    "guard": _Need(
        True, "nftables for bridges", "machines are held to their own addresses by it", "nf_tables (CONFIG_NF_TABLES_BRIDGE)"
    ),
    "wireguard": _Need(
        False,
        "WireGuard",
        "Networks span nodes by it; on this node wireguard-go does, at a fraction of the speed",
        "wireguard (CONFIG_WIREGUARD)",
    ),
    "ext4": _Need(False, "ext4", "volumes of programs are formatted with it", "ext4 (CONFIG_EXT4_FS)"),
    "fuse": _Need(False, "FUSE", "flists are served by it", "fuse (CONFIG_FUSE_FS)"),
}


def passed() -> bool:
    """Says what was found; gives whether guests can be had here."""
    findings = list(look())
    for finding in findings:
        print(f"{'NOT MET' if finding.fatal else 'note'}: {finding.what}", flush=True)
    if not findings:
        print("this node has all that is needed", flush=True)
    return not any(finding.fatal for finding in findings)


def look(
    host: Path = Path("/proc/1/root"),
    proc: Path = Path("/proc"),
    release: str | None = None,
    tried: Callable[[], Mapping[str, str]] = trials.run,
) -> Iterator[Finding]:
    """``host``: the root of the host; ``proc``: where the kernel tells of itself; ``release``: its version, None to ask it;
    ``tried``: what it did not make, and what it said. What fails to be looked at is a finding too."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _pod(proc),
        lambda: _kernel(release or os.uname().release),
        lambda: _offers(tried()),
        lambda: _devices(host / "dev"),
        lambda: _settings(proc / "sys"),
        lambda: _disk(host / layout.STATE.relative_to("/")),
        lambda: _names(host / "etc/resolv.conf"),
    )
    for check in checks:
        try:
            yield from check()
        except (OSError, ValueError) as error:
            where, why = (error.filename, error.strerror) if isinstance(error, OSError) else (None, error)
            yield Finding(False, f"{where or 'something'} could not be looked at: {why}")


def _pod(proc: Path) -> Iterator[Finding]:
    capabilities = re.search(r"^CapEff:\s*([0-9a-f]+)$", (proc / "self/status").read_text(), re.MULTILINE)
    if capabilities is None or int(capabilities[1], 16) & _CAPABILITIES != _CAPABILITIES:
        yield Finding(
            True, "this pod may not do what nodes' pods do: it has to run as root, with securityContext.privileged: true"
        )
    if "kubepods" in (proc / "1/cgroup").read_text():
        yield Finding(True, "the first process that is seen is a pod's, not the host's: this pod needs hostPID: true")
    elif os.readlink(proc / "self/ns/net") != os.readlink(proc / "1/ns/net"):
        yield Finding(True, "this pod has a network of its own, and guests are on the host's: it needs hostNetwork: true")


def _kernel(release: str) -> Iterator[Finding]:
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None or tuple(map(int, found.groups())) < _KERNEL:
        least = ".".join(map(str, _KERNEL))
        yield Finding(
            True, f"the kernel is {release}, and programs can't be confined with less than {least}: install a newer one"
        )


def _offers(failed: Mapping[str, str]) -> Iterator[Finding]:
    if said := failed.get(trials.PODS_GROUP):
        yield Finding(
            True,
            f"the kubelet's control groups are not found ({said}), and guests would end with this pod: leave cgroupsPerQOS of "
            "the kubelet's configuration on",
        )
    for name, need in _NEEDS.items():
        if said := failed.get(name):
            yield Finding(
                need.fatal,
                f"the kernel makes no {need.part} ({said}): {need.use}. Install or build {need.names}; a module that is "
                "not loaded when it is wanted is named in /etc/modules-load.d (on Talos: machine.kernel.modules)",
            )


def _devices(dev: Path) -> Iterator[Finding]:
    if not (dev / "net/tun").exists():
        yield Finding(True, "/dev/net/tun is missing, by which guests have their network: load the module tun at boot")
    if not (dev / "kvm").exists():
        yield Finding(
            False,
            "/dev/kvm is missing: guests are emulated, many times slower. Switch virtualisation on in the firmware, and load "
            "kvm_intel or kvm_amd at boot; of a virtual node, its host has to allow nesting",
        )
    if not (dev / "fuse").exists():
        yield Finding(False, "/dev/fuse is missing: flists can't be served. Load the module fuse at boot")
    if not (dev / "loop-control").exists():
        yield Finding(False, "/dev/loop-control is missing: programs' volumes can't be mounted. Load the module loop at boot")


def _settings(sys: Path) -> Iterator[Finding]:
    instances = sys / "fs/inotify/max_user_instances"
    if int(instances.read_text()) < 1024 and not os.access(instances, os.W_OK):
        yield Finding(
            False,
            f"fs.inotify.max_user_instances is {instances.read_text().strip()}, and can't be raised from here: Networks beyond "
            "some hundred won't start. Set it to 8192 in /etc/sysctl.d",
        )
    if not (sys / "net/ipv6").exists():
        yield Finding(
            False,
            "the kernel has no IPv6: public IPv6 addresses can't be had here, nor nodes reached that have no others. Boot "
            "without ipv6.disable=1",
        )
    first, last = map(int, (sys / "net/ipv4/ip_local_port_range").read_text().split())
    kept = _ranges((sys / "net/ipv4/ip_local_reserved_ports").read_text())
    if first <= _PORTS[1] and last >= _PORTS[0] and not any(a <= _PORTS[0] and b >= _PORTS[1] for a, b in kept):
        yield Finding(
            False,
            "the kernel may give UDP ports of WireGuard to any program that asks for one, and a Network waits as long as that "
            "has it: set net.ipv4.ip_local_reserved_ports={}-{} in /etc/sysctl.d, or what spec.wireguardPorts of the GridNode "
            "says".format(*_PORTS),
        )


def _ranges(text: str) -> list[tuple[int, int]]:
    """Of a text like 8080,52000-53999."""
    parts = [part.partition("-") for part in text.strip().split(",") if part]
    return [(int(first), int(last or first)) for first, _, last in parts]


def _disk(state: Path) -> Iterator[Finding]:
    place = next(path for path in (state, *state.parents) if path.exists())
    found = os.statvfs(place)
    if found.f_flag & os.ST_RDONLY:
        yield Finding(True, f"{layout.STATE} can't be written to: mount a disk there")
        return
    if found.f_flag & os.ST_NOEXEC:
        yield Finding(True, f"{layout.STATE} is mounted noexec, and the node's programs run from there: mount it with exec")
    if not _reserves(place):
        yield Finding(
            True,
            f"the file system of {layout.STATE} can't reserve space, and disks are reserved: have ext4, XFS or btrfs there",
        )
    free = found.f_bavail * found.f_frsize / _GIB
    if free < _SPACE:
        # Guests of a node that has its copy are to come back after a boot, however full it is by now.
        copied = any((state / layout.RUNTIME.relative_to(layout.STATE)).glob("[!.]*/complete"))
        yield Finding(
            free < _LEAST and not copied,
            f"{layout.STATE} has {free:.1f} GiB free, for the node's programs, images and disks, and 5 of the node's are kept: "
            "mount a larger disk there before the node is used",
        )


def _reserves(directory: Path) -> bool:
    """Tried with a file without a name, where such can be had."""
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:
        return True
    try:
        done = _libc.fallocate(fd, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(4096)) == 0
        return done or ctypes.get_errno() not in (errno.EOPNOTSUPP, errno.ENOSYS)
    finally:
        os.close(fd)


def _names(resolv: Path) -> Iterator[Finding]:
    if not resolv.exists() and not resolv.is_symlink():
        yield Finding(
            False, "the host has no /etc/resolv.conf, so its guests can look up no names: name the node's servers in it"
        )
