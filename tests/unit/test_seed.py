"""What a virtual machine's cloud-init is told."""

from __future__ import annotations

import email
import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycdlib.pycdlib import PyCdlib

from zos.drivers import DriverError
from zos.drivers import seed as disk
from zos.plan.guest import GuestInterface, GuestMount, GuestRoute, GuestShareMount
from zos.plan.seed import Seed, documents

SEED = Seed(
    instance_id="uid-1",
    hostname="vm",
    interfaces=(
        GuestInterface(
            mac="02:00:00:00:00:0A",
            mtu=1420,
            addresses=("10.20.3.2/24",),
            routes=(GuestRoute(destination="0.0.0.0/0", gateway="10.20.3.1"),),
        ),
        GuestInterface(mac="02:00:00:00:00:0b", mtu=1500, ipv6="slaac", addresses=("198.51.100.7/24",)),
    ),
    nameservers=("198.51.100.2",),
    search=("private.zos",),
    ssh_authorized_keys=("ssh-ed25519 AAAA me",),
    mounts=(
        GuestMount(serial="one", path="/data"),
        GuestShareMount(tag="t1", path="/s", read_only=True),
        GuestShareMount(tag="t2", path="/part", inside="x"),
    ),
    user_data="#!/bin/sh\necho ü\n",
)


def boothook(seed: Seed) -> str:
    settings, hook = email.message_from_string(seed.documents()["vendor-data"]).get_payload()  # type: ignore[misc]
    assert (settings.get_content_type(), hook.get_content_type()) == ("text/cloud-config", "text/cloud-boothook")
    first, _, rest = str(settings.get_payload()).partition("\n")
    assert first == "#cloud-config"
    assert json.loads(rest)["disable_root"] is False
    return str(hook.get_payload())


def test_its_documents_say_what_the_spec_says() -> None:
    found = documents(SEED.render())
    assert found == SEED.documents()
    assert found["user-data"] == SEED.user_data, "untouched"
    assert json.loads(found["meta-data"]) == {
        "instance-id": "uid-1",
        "local-hostname": "vm",
        "public-keys": ["ssh-ed25519 AAAA me"],
    }
    private, public = json.loads(found["network-config"])["ethernets"].values()
    assert private["match"] == {"macaddress": "02:00:00:00:00:0a"}
    assert private["routes"] == [{"to": "0.0.0.0/0", "via": "10.20.3.1"}]
    assert private["nameservers"] == {"addresses": ["198.51.100.2"], "search": ["private.zos"]}
    assert (private["accept-ra"], public["accept-ra"]) == (False, True)
    assert (private["dhcp4"], public["dhcp4"]) == (False, False)
    assert "nameservers" not in public


def test_disks_and_shares_are_mounted_at_each_boot() -> None:
    hook = boothook(SEED)
    assert hook.startswith("#!/bin/sh\n"), "cloud-init finds a boothook's program by that"
    table = hook.split("fstab <<'ZOS'\n")[1].split("\nZOS\n")[0].splitlines()
    assert table == [
        "# zos begin",
        "/dev/disk/by-id/virtio-one /data btrfs defaults,nofail,x-systemd.device-timeout=90s 0 0",
        "t1 /s virtiofs nofail,nosuid,nodev,ro 0 0",
        "t2 /run/zos-shares/t2 virtiofs nofail,nosuid,nodev,rw 0 0",
        "/run/zos-shares/t2/x /part none bind,nofail,nosuid,nodev,rw 0 0",
        "# zos end",
    ]
    bare = boothook(replace(SEED, mounts=()))
    assert "cat >>" not in bare
    assert "sed -i" in bare, "what was there before is taken out"


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40))
def test_whatever_a_place_is_called_it_is_one_word(name: str) -> None:
    hook = boothook(replace(SEED, mounts=(GuestMount(serial="one", path=f"/{name}"),)))
    table, _, commands = hook.partition("\nZOS\n")
    (line,) = [line for line in table.split("\n") if line.startswith("/dev/disk")]
    assert len(line.split(" ")) == 6
    (mount,) = [line for line in commands.split("\n") if line.startswith("mkdir")]
    assert shlex.split(mount)[:4] == ["mkdir", "-p", f"/{name}", "&&"]


def test_its_script_is_one_that_a_shell_reads(tmp_path: Path) -> None:
    script = tmp_path / "hook"
    odd = "/it's $(a) place"
    share = GuestShareMount(tag="t", path=f"{odd}/below", inside="x")
    text = boothook(replace(SEED, mounts=(GuestMount(serial="one", path=odd), share)))
    again = tmp_path / "again"
    again.write_text(text.split("zos-shares.anew <<'ZOS'\n")[1].split("\nZOS\n")[0])
    script.write_text(text)
    for shell, file in ((shell, file) for shell in ("sh", "bash") for file in (script, again)):
        subprocess.run([shell, "-n", file], check=True)


def test_what_is_mounted_anew_on_the_node_is_so_in_the_guest() -> None:
    hook = boothook(SEED)
    script = hook.split("zos-shares.anew <<'ZOS'\n")[1].split("\nZOS\n")[0].splitlines()
    assert script[0] == "umount -l /part; mount /part"
    assert script[1:] == [f"mountpoint -q {place} || mount {place}" for place in ("/data", "/s", "/run/zos-shares/t2", "/part")]
    assert hook.index("systemd-run") < hook.index("mkdir -p /data"), "whoever changes it meanwhile is heard"
    assert "systemd-run" not in boothook(replace(SEED, mounts=SEED.mounts[:2]))


def test_no_user_data_is_an_empty_configuration() -> None:
    assert replace(SEED, user_data="").documents()["user-data"].startswith("#cloud-config\n")


def test_they_come_as_files_of_a_small_disk(tmp_path: Path) -> None:
    config, made = tmp_path / "config", tmp_path / "seed.iso"
    config.write_text(SEED.render())
    disk.make(config, made)
    assert made.stat().st_mode & 0o777 == 0o600
    iso = PyCdlib()
    iso.open(str(made))
    assert iso.pvd.volume_identifier.strip() == b"cidata"
    for name, text in SEED.documents().items():
        with iso.open_file_from_iso(rr_path=f"/{name}") as file:
            assert file.read().decode() == text
    iso.close()
    config.write_text("nothing that was rendered")
    with pytest.raises(DriverError, match="is no seed"):
        disk.make(config, made)
