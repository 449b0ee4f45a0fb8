"""Directories of a node that guests are given."""

from __future__ import annotations

import subprocess

from guestnode import Node
from zos.drivers.virtiofsd import process_of
from zos.plan.items import Domain, GuestShare


class Shares:
    """Directories of a node that guests are given: one of its own, and one with a mount in it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.own = node.state / "volumes" / "own"
        self.around = node.state / "mounts" / "it"
        self.mount = self.around / "fs"
        for directory in (self.own, self.mount):
            directory.mkdir(parents=True)
        # As the node's root is where it has an init of its own: what is mounted there reaches who asks for it.
        node.libvirt.run("sh", "-c", 'mount --bind "$1" "$1" && mount --make-shared "$1"', "sh", str(self.around))
        self.given = {
            "/own": GuestShare(tag="own", path="volumes/own", ground="volume/own"),
            "/seen": GuestShare(tag="seen", path="volumes/own", ground="volume/own", read_only=True),
            "/it": GuestShare(tag="it", path="mounts/it", ground="service/it", inside="fs"),
        }

    def put(self, words: str, options: str = "nosuid,nodev,noexec") -> None:
        """Another file system, with these words in a file."""
        script = 'mount -t tmpfs -o "$3" tmpfs "$1" && echo "$2" >"$1/words"'
        self.node.libvirt.run("sh", "-c", script, "sh", str(self.mount), words, options)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.mount], check=True)  # for the agent to see

    def take(self) -> None:
        self.node.libvirt.run("umount", "-l", str(self.mount))
        subprocess.run(["umount", "-l", self.mount], check=True)

    def daemon(self, domain: Domain, number: int) -> int:
        found = process_of(self.node.libvirt.base / "run" / "qemu", domain.name, f"fs{number}")
        assert found is not None
        return found
