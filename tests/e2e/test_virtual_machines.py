"""Virtual machines, as a user has them: from apply to a shell over WireGuard, and what becomes of what is on their disks."""

from __future__ import annotations

import json
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from guests import NETWORK, Guests
from harness import REGISTRY, Grid, obj, until
from stories.virtualmachine import DEBIAN, LONG, disks, guest_ready, push_image

#: With an interface of the public segment.
NODE = "n2"
pytestmark = pytest.mark.last
#: A page at every boot.
USER_DATA = """#cloud-config
bootcmd:
  - [sh, -c, "mkdir -p /srv; echo of the user >/srv/index.html; busybox httpd -h /srv"]
"""


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
            nodes=[{"name": "n1"}, {"name": NODE}],
            access=[{"name": "laptop", "node": "n1"}],
        ),
        obj("Contract", "addresses", farm="lab", publicIPv4=1),
        obj("PublicIP", "public", contract="addresses"),
        obj("ZMount", "system", size="1536Mi"),
        obj("ZMount", "data", size="1536Mi"),
    )
    push_image(grid)
    return made


def killed_while_it_writes(guests: Guests) -> None:
    """The agent, as soon as a boot disk's card says that it is being written. It starts over."""
    cards = guests.grid.root / "hosts" / NODE / "zos" / "disks"
    deadline = time.monotonic() + LONG
    while not (found := list(cards.glob("*.system"))):
        assert time.monotonic() < deadline, "no boot disk is written"
        time.sleep(0.002)
    guests.grid.kill(NODE, "agent")
    assert json.loads(found[0].read_text())["done"] is False, "it was written before the agent was killed"


def pages(guests: Guests) -> None:
    """What the host outside the grid gets at the public addresses."""
    for family in ("publicIPv4", "publicIPv6"):
        address = guests.status("vm")[family]
        url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
        fetch = ("outside", "curl", "-s", "-m", "5", url)
        until(lambda fetch=fetch: guests.grid.run(*fetch, check=False) == "of the user\n", 60, url)


@pytest.mark.timeout(4 * LONG)
def test_a_virtual_machine_and_what_outlives_it(guests: Guests, tmp_path: Path) -> None:
    grid, shell = guests.grid, Shell(guests, tmp_path)
    common: dict[str, Any] = {"image": DEBIAN, "nodeName": NODE, "memory": "512Mi", "disks": disks("system", "data")}
    common |= {"sshAuthorizedKeys": [shell.public], "userData": USER_DATA, "publicIP": "public"}
    guests.apply("vm", env=[{"name": "A", "value": "b"}], **common)
    killed_while_it_writes(guests)
    guests.ready("vm", seconds=LONG)
    assert guests.status("vm")["mode"] == "vm"
    assert "env: it is a virtual machine" in grid.condition("zmachine", "vm", guests.namespace, "NotApplicable")["message"]
    guest_ready(guests, "vm")
    grid.connect(guests.namespace)
    said = shell.run("vm", "hostname; cat /srv/index.html; findmnt -no FSTYPE /data; echo 1 | tee /root/kept >/data/kept; sync")
    assert said.splitlines() == ["vm", "of the user", "btrfs"]
    assert "rootSize" not in guests.status("vm"), "it has no root beside its disk"
    pages(guests)

    # Another image changes nothing of what runs.
    guests.apply("vm", **(common | {"image": f"oci://{REGISTRY}/zos/another:1"}))
    changed = until(lambda: grid.condition("zmachine", "vm", guests.namespace, "ImageChanged")["message"], 60)
    assert f"its boot disk was written from {DEBIAN}, and keeps what it holds" in changed
    assert grid.condition("zmachine", "vm", guests.namespace)["status"] == "True"

    # A restart presses its power button; the end of its node does not.
    def boots() -> list[str]:
        return shell.run("vm", "cat /proc/sys/kernel/random/boot_id /root/kept /data/kept", LONG).split()

    first = boots()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    grid.kubectl("annotate", "zmachine", "vm", "-n", guests.namespace, f"zos.grid.tf/restartedAt={now}")
    second = until(lambda: boots()[0] != first[0] and boots(), LONG, "it boots again")
    grid.minigrid("crash", NODE)
    grid.minigrid("up")
    third = until(lambda: boots()[0] != second[0] and boots(), LONG, "it boots after its node")
    assert first[1:] == second[1:] == third[1:] == ["1", "1"]
    pages(guests)

    # A disk that holds a machine's data is no boot disk; the other, in a machine of another name, is as it was.
    guests.delete("zmachine", "vm")
    guests.apply("two", **(common | {"disks": disks("data")}))
    guests.says("two", "boot disk data holds a btrfs file system", "Conflict")
    guests.delete("zmachine", "two")
    guests.apply("two", **common)
    guests.ready("two", seconds=LONG)
    assert shell.run("two", "hostname; cat /root/kept /data/kept", LONG).split() == ["two", "1", "1"]
