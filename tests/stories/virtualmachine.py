"""A virtual machine of Debian's image, as a user has it: from apply to a shell over WireGuard."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from guests import NETWORK, Guests
from harness import CHECKOUT, REGISTRY, Grid, obj, sh, until

DEBIAN = f"oci://{REGISTRY}/zos/debian:latest"
#: Seconds for a boot on a busy machine, under emulation.
LONG = 600


class Shell:
    """What a person has who holds the key, on the laptop."""

    def __init__(self, guests: Guests, directory: Path) -> None:
        self._guests, self._key = guests, directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me", "-f", self._key], check=True)

    @property
    def public(self) -> str:
        return self._key.with_suffix(".pub").read_text().strip()

    def run(self, machine: str, script: str, seconds: float = 60) -> str:
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=20"]
        where = f"root@{self._guests.status(machine)['ip']}"
        command = ["ssh", "-q", "-n", "-i", str(self._key), *options, where, script]
        return str(
            until(lambda: self._guests.grid.run("laptop", *command) or " ", seconds, f"{machine} does {script!r}")
        ).strip()


def push_image(grid: Grid) -> None:
    sh(str(CHECKOUT / "hack/images/push"), "--name", grid.name, "--vm", timeout=500)


def disks(*names: str) -> list[dict[str, Any]]:
    """The first without a place of its own: what is booted from."""
    return [{"name": names[0]}, *({"name": name, "mountPath": f"/{name}"} for name in names[1:])]


def guest_ready(guests: Guests, name: str) -> None:
    until(
        lambda: guests.grid.condition("zmachine", name, guests.namespace, "GuestReady")["status"] == "True", LONG, "cloud-init"
    )


def boots(grid: Grid, namespace: str, directory: Path) -> None:
    """Machine vm, which its owner gets into."""
    guests = Guests(grid, namespace)
    shell = Shell(guests, directory)
    access = [{"name": "laptop", "node": "n1"}]
    network = obj("Network", NETWORK, ipRange="10.20.0.0/16", nodes=[{"name": "n1"}], access=access)
    grid.apply(namespace, network, obj("ZMount", "system", size="1536Mi"))
    guests.apply("vm", image=DEBIAN, memory="512Mi", disks=disks("system"), sshAuthorizedKeys=[shell.public])
    guests.ready("vm", seconds=LONG)
    guest_ready(guests, "vm")
    grid.connect(namespace)
    assert shell.run("vm", "hostname") == "vm"
