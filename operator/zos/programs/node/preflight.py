"""What a node needs for guests, and whether it has it. Said in plain words, each with what to do.

It looks from a pod with the host's processes and network: what the host mounts is seen through its first process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zos.programs.node import layout

_GIB = 2**30
#: mount_setattr(2) is of 5.12; landlocked and confined programs ask for nothing newer.
_KERNEL = (5, 12)
_SPACE = 10


@dataclass(frozen=True)
class Finding:
    """``fatal``: nothing works without it. ``what`` says how it is, and what helps."""

    fatal: bool
    what: str


def passed() -> bool:
    """Says what was found; gives whether guests can be had here."""
    findings = list(look())
    for finding in findings:
        print(f"{'NOT MET' if finding.fatal else 'note'}: {finding.what}", flush=True)
    if not findings:
        print("this node has all that is needed", flush=True)
    return not any(finding.fatal for finding in findings)


def look(host: Path = Path("/proc/1/root"), proc: Path = Path("/proc"), dev: Path | None = None) -> Iterator[Finding]:
    """``host``: the root of the host; ``proc``: where the kernel tells of itself; ``dev``: where devices are, the host's."""
    devices = dev or host / "dev"
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _sees_host(proc),
        lambda: _kernel(os.uname().release),
        lambda: _filesystems((proc / "filesystems").read_text()),
        lambda: _devices(devices),
        lambda: _settings(proc),
        lambda: _space(host / layout.STATE.relative_to("/")),
        lambda: _names(host / "etc/resolv.conf"),
    )
    for check in checks:
        try:
            yield from check()
        except OSError as error:
            yield Finding(False, f"{error.filename or 'something'} could not be looked at: {error.strerror}")


def _sees_host(proc: Path) -> Iterator[Finding]:
    groups = (proc / "1/cgroup").read_text()
    if "kubepods" in groups:
        yield Finding(True, "the first process that is seen is a pod's: this pod needs hostPID: true")
    if os.geteuid() != 0:
        yield Finding(True, "this pod has to run as root, privileged")


def _kernel(release: str) -> Iterator[Finding]:
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None or tuple(map(int, found.groups())) < _KERNEL:
        yield Finding(True, f"the kernel is {release}: at least {'.'.join(map(str, _KERNEL))} is needed")


def _filesystems(text: str) -> Iterator[Finding]:
    known = set(text.split())
    helps = "build it into the kernel, or load it at boot: a file in /etc/modules-load.d (on Talos: machine.kernel.modules)"
    for name, fatal, why in (
        ("overlay", True, "machines from container images have a layer of their own over it"),
        ("fuse", False, "flists are served by it"),
        ("btrfs", False, "disks of container machines are formatted with it"),
    ):
        if name not in known:
            yield Finding(fatal, f"the kernel does not know {name} (as yet): {why}; {helps}")


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
        yield Finding(False, "/dev/fuse is missing: flists can't be served; load the module fuse at boot")
    if not (dev / "loop-control").exists():
        yield Finding(False, "/dev/loop-control is missing: programs' volumes can't be mounted; load the module loop at boot")


def _settings(proc: Path) -> Iterator[Finding]:
    sys = proc / "sys"
    instances = int((sys / "fs/inotify/max_user_instances").read_text())
    if instances < 1024 and not os.access(sys / "fs/inotify/max_user_instances", os.W_OK):
        yield Finding(
            False, f"fs.inotify.max_user_instances is {instances}: set it to 8192, or networks beyond some hundred won't start"
        )
    if not (sys / "net/ipv6").exists():
        yield Finding(False, "the kernel has no IPv6: networks over it and public IPv6 addresses can't be had on this node")


def _space(state: Path) -> Iterator[Finding]:
    found = os.statvfs(state if state.exists() else state.parent)
    free = found.f_bavail * found.f_frsize / _GIB
    if free < _SPACE:
        yield Finding(
            False,
            f"{layout.STATE} has {free:.1f} GiB free, of which the node keeps 5: mount a larger disk there before it is used",
        )


def _names(resolv: Path) -> Iterator[Finding]:
    if not resolv.exists() and not resolv.is_symlink():
        yield Finding(False, "the host has no /etc/resolv.conf: guests on it can look up no names")
