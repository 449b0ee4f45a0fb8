"""A virtual machine of Debian's image: from apply to what its owner has done at each boot."""

from __future__ import annotations

from typing import Any

from guests import Guests
from harness import CHECKOUT, REGISTRY, Grid, obj, sh, until

DEBIAN = f"oci://{REGISTRY}/zos/debian:latest"
#: Seconds for a boot on a busy machine, under emulation.
LONG = 600
USER_DATA = """#cloud-config
bootcmd:
  - [sh, -c, "echo of the user, on $(hostname) >/dev/ttyS0"]
"""


def push_image(grid: Grid) -> None:
    sh(str(CHECKOUT / "hack/images/push"), "--name", grid.name, "--vm", timeout=500)


def disks(*names: str) -> list[dict[str, Any]]:
    """The first without a place of its own: what is booted from."""
    return [{"name": names[0]}, *({"name": name, "mountPath": f"/{name}"} for name in names[1:])]


def guest_ready(guests: Guests, name: str) -> None:
    until(
        lambda: guests.grid.condition("zmachine", name, guests.namespace, "GuestReady")["status"] == "True", LONG, "cloud-init"
    )


def begins(grid: Grid, namespace: str) -> Guests:
    """Machine vm, whose owner has something done at each boot."""
    guests = Guests(grid, namespace)
    guests.network()
    grid.apply(namespace, obj("ZMount", "system", size="1536Mi"))
    guests.apply("vm", image=DEBIAN, memory="512Mi", disks=disks("system"), userData=USER_DATA)
    return guests


def boots(guests: Guests) -> None:
    guests.ready("vm", seconds=LONG)
    assert guests.status("vm")["mode"] == "vm"
    guests.prints("vm", "of the user, on vm", LONG)
