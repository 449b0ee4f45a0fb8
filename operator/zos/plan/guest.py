"""What a container-mode guest's init is told: network, disks, files and the process to run, as the text of a small disk.

The text is one line per fact, a word and its fields separated by single spaces; every byte of a field that is not a plain
printable character is written as ``%XX``. ``operator/zos/guest/config.c`` is the reader.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

#: Bytes that stand for themselves: everything printable but the space and the escape.
_PLAIN = "".join(sorted(set(string.printable) - set(string.whitespace) - {"%"}))

#: Longest text that the guest reads: a program's words and variables may have 2 MiB (execve(2)), each byte as three.
LIMIT = 8 << 20


@dataclass(frozen=True, kw_only=True)
class GuestRoute:
    """``destination`` is a CIDR; without ``gateway`` it is on the link."""

    destination: str
    gateway: str = ""


@dataclass(frozen=True, kw_only=True)
class GuestInterface:
    """Found in the guest by its MAC. ``addresses`` are CIDRs of either family. ``ipv6``: ``slaac`` takes an address from
    router advertisements (RFC 4862, interface identifier from the MAC), ``off`` has none; empty leaves it to the kernel."""

    mac: str
    mtu: int
    ipv6: Literal["", "slaac", "off"] = ""
    addresses: tuple[str, ...] = ()
    routes: tuple[GuestRoute, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GuestMount:
    """A disk by its serial (as in the Domain's GuestDisk), mounted read-write at an absolute path that is made if missing."""

    serial: str
    path: str
    format: str = "btrfs"


@dataclass(frozen=True, kw_only=True)
class GuestShareMount:
    """A share by its tag, or the directory ``inside`` of it (both as the Domain's GuestShare has them), mounted at an absolute
    path that is made if missing. What is in it is no program with other rights and no device, whatever it says of itself."""

    tag: str
    path: str
    read_only: bool = False
    inside: str = ""


@dataclass(frozen=True, kw_only=True)
class GuestFile:
    """A file that is written at every boot, over whatever is there. Parents are made."""

    path: str
    content: str
    mode: int = 0o644


@dataclass(frozen=True, kw_only=True)
class GuestConfig:
    """``argv`` is what runs, found through the PATH of ``environment``; its end is the guest's end. ``user`` is
    ``name-or-id[:group-or-id]`` as in an OCI config. A stop request sends ``stop_signal`` to it and kills it after
    ``stop_seconds``. ``root`` is the serial of the disk that takes the writes. ``mounts`` are made one after the other: what
    goes into another stands behind it. ``hosts`` are (address, names) pairs beside localhost and the own name. ``init``: what
    runs becomes the guest's first process, as its own init; user, working directory and stop signal mean nothing to it."""

    hostname: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    working_dir: str = "/"
    user: str = ""
    interfaces: tuple[GuestInterface, ...] = ()
    mounts: tuple[GuestMount | GuestShareMount, ...] = ()
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    files: tuple[GuestFile, ...] = ()
    stop_signal: int = 15
    stop_seconds: int = 25
    root: str = "zos-root"
    init: bool = False

    def render(self) -> str:
        """The text of the File item that is the Domain's ``config``."""
        lines = [_line("zos-guest", "1"), _line("hostname", self.hostname), _line("root", self.root)]
        for interface in self.interfaces:
            lines.append(_line("interface", interface.mac.lower(), str(interface.mtu)))
            lines += [_line("ipv6", interface.ipv6)] if interface.ipv6 else []
            lines += [_line("address", address) for address in interface.addresses]
            lines += [_line("route", route.destination, route.gateway) for route in interface.routes]
        lines += [_mount(mount) for mount in self.mounts]
        for file in (*self._etc(), *self.files):
            lines.append(_line("file", file.path, f"{file.mode:o}", file.content))
        lines += [_line("env", f"{name}={value}") for name, value in self.environment]
        lines += [_line("workdir", self.working_dir or "/"), _line("user", self.user)]
        lines += [_line("stop", str(self.stop_signal), str(self.stop_seconds))]
        lines += [_line("init")] if self.init else []
        lines += [_line("arg", word) for word in self.argv]
        return "\n".join([*lines, "end", ""])

    def _etc(self) -> tuple[GuestFile, ...]:
        own = next((address.partition("/")[0] for nic in self.interfaces for address in nic.addresses), "127.0.1.1")
        hosts = [("127.0.0.1", "localhost"), ("::1", "localhost ip6-localhost ip6-loopback"), (own, self.hostname), *self.hosts]
        resolv = [f"nameserver {server}" for server in self.nameservers]
        if self.search:
            resolv.append(f"search {' '.join(self.search)}")
        return (
            GuestFile(path="/etc/hostname", content=f"{self.hostname}\n"),
            GuestFile(path="/etc/hosts", content="".join(f"{address}\t{names}\n" for address, names in hosts)),
            GuestFile(path="/etc/resolv.conf", content="".join(f"{line}\n" for line in resolv)),
        )


def _mount(mount: GuestMount | GuestShareMount) -> str:
    if isinstance(mount, GuestMount):
        return _line("disk", mount.serial, mount.format, mount.path)
    return _line("share", mount.tag, mount.path, "ro" if mount.read_only else "rw", *([mount.inside] if mount.inside else []))


def _line(word: str, *fields: str) -> str:
    return " ".join((word, *(quote(value, safe=_PLAIN, errors="surrogateescape") for value in fields)))
