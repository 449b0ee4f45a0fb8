"""Virtual machines, as a user has them: from apply to a shell over WireGuard, and what becomes of what is on their disks."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from guests import NETWORK, Guests
from harness import CHECKOUT, REGISTRY, Grid, obj, sh, until

DEBIAN = f"oci://{REGISTRY}/zos/debian:latest"
pytestmark = pytest.mark.last
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


@pytest.fixture
def guests(grid: Grid, namespace: str) -> Guests:
    made = Guests(grid, namespace)
    grid.apply(
        namespace,
        obj(
            "Network",
            NETWORK,
            ipRange="10.20.0.0/16",
            nodes=[{"name": "n1"}, {"name": "n3"}],
            access=[{"name": "laptop", "node": "n1"}],
        ),
    )
    sh(str(CHECKOUT / "hack/images/push"), "--name", grid.name, "--vm", timeout=500)
    return made


def disks(*names: str) -> list[dict[str, Any]]:
    """The first without a place of its own: what is booted from."""
    return [{"name": names[0]}, *({"name": name, "mountPath": f"/{name}"} for name in names[1:])]


def guest_ready(guests: Guests, name: str) -> None:
    until(
        lambda: guests.grid.condition("zmachine", name, guests.namespace, "GuestReady")["status"] == "True", LONG, "cloud-init"
    )


@pytest.mark.timeout(3 * LONG)
def test_a_virtual_machine_and_what_outlives_it(guests: Guests, tmp_path: Path) -> None:
    grid, shell = guests.grid, Shell(guests, tmp_path)
    grid.apply(guests.namespace, obj("ZMount", "system", size="1536Mi"), obj("ZMount", "data", size="64Mi"))
    told = '#cloud-config\nwrite_files: [{path: /etc/mine, content: "of the user\\n"}]\n'
    common: dict[str, Any] = {"image": DEBIAN, "nodeName": "n3", "memory": "512Mi", "disks": disks("system", "data")}
    common |= {"sshAuthorizedKeys": [shell.public], "userData": told}
    guests.apply("vm", env=[{"name": "A", "value": "b"}], **common)
    guests.ready("vm", seconds=LONG)
    assert guests.status("vm")["mode"] == "vm"
    assert (
        "env: the image makes it a virtual machine"
        in grid.condition("zmachine", "vm", guests.namespace, "NotApplicable")["message"]
    )
    guest_ready(guests, "vm")
    grid.connect(guests.namespace)
    said = shell.run("vm", "hostname; cat /etc/mine; findmnt -no FSTYPE /data; echo 1 | tee /root/kept >/data/kept; sync")
    assert said.splitlines() == ["vm", "of the user", "btrfs"]
    assert "rootSize" not in guests.status("vm"), "it has no root beside its disk"

    # Another image changes nothing of what runs.
    guests.apply("vm", **(common | {"image": f"oci://{REGISTRY}/zos/another:1"}))
    changed = until(lambda: grid.condition("zmachine", "vm", guests.namespace, "ImageChanged")["message"], 60)
    assert f"its boot disk was written from {DEBIAN}, and keeps what it holds" in changed
    assert grid.condition("zmachine", "vm", guests.namespace)["status"] == "True"

    # A disk that holds a machine's data is no boot disk; the other, in a machine of another name, is as it was.
    guests.delete("zmachine", "vm")
    guests.apply("two", **(common | {"disks": disks("data")}))
    guests.says("two", "boot disk data has 64Mi, and the image needs", "InvalidSpec")
    guests.delete("zmachine", "two")
    guests.apply("two", **common)
    guests.ready("two", seconds=LONG)
    assert shell.run("two", "hostname; cat /root/kept /data/kept", LONG).split() == ["two", "1", "1"]
