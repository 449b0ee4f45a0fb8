"""What the node writes down of its guests, and what it concludes from it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

import oneguest
from oneguest import PLACES, started
from zos.drivers.domainrun import Machine, Run, boot_of
from zos.drivers.domainxml import (
    NAMESPACE,
    Start,
    device_name,
    domain_xml,
    item_of,
    item_of_xml,
    item_text,
    start_of,
    start_text,
)
from zos.plan.items import DiskBoot, GuestDisk, GuestNic, GuestShare
from zos.plan.restart import outdated

ITEM = replace(
    oneguest.ITEM,
    needs=("image/x",),
    disks=(GuestDisk(disk="mount-1", serial="one"), GuestDisk(disk="mount-2", serial="two")),
    nics=(GuestNic(tap="t-1", mac="02:00:00:00:00:01"),),
    incarnation="<&'\">]]>",
)
START = started(ITEM)


def test_an_item_survives_being_written_down() -> None:
    again = item_of(json.loads(json.dumps(item_text(ITEM))))
    assert again == ITEM
    assert (again.owner, again.needs) == ("w-1", ())


#: As it stands in the metadata of guests, and on their cards, that an earlier agent has started.
EARLIER = (
    '{"item": {"owner": "w-1", "needs": [], "name": "zos-abc", "uuid": "1a11e7ed-08db-4a23-a8a7-110b1cfb398a", "cpu": 2, '
    '"memory": 536870912, "image": "sha256:0000000000000000000000000000000000000000000000000000000000000000", '
    '"root": {"disk": "root-1", "serial": "zos-root"}, "disks": [{"disk": "mount-1", "serial": "one"}], '
    '"nics": [{"tap": "t-1", "mac": "02:00:00:00:00:01", "network": "uid-net", "interface": "", "mtu": 1420, '
    '"ipv4": "10.20.3.2", "ipv6": ""}], "config": "machines/1/config", "config_digest": "d", '
    '"fields": [["network", "02d7bd0894a46b30"], ["env", "0ad3d79470fdfb42"]], "running": true, "incarnation": "asked"}, '
    '"started_at": 100.5, "boot": "boot-1", "accelerator": "tcg"}'
)


def test_a_guest_of_an_earlier_agent_is_what_it_was() -> None:
    start = start_of(EARLIER)
    wanted = replace(
        ITEM,
        boot=replace(ITEM.boot, fields=(("network", "02d7bd0894a46b30"), ("env", "0ad3d79470fdfb42"))),
        disks=ITEM.disks[:1],
        nics=(GuestNic(tap="t-1", mac="02:00:00:00:00:01", network="uid-net", mtu=1420, ipv4="10.20.3.2"),),
        incarnation="asked",
    )
    assert start == replace(START, item=wanted)
    assert outdated(start.item, wanted) == ()
    assert start.item.recipe == "9ef2e49f6be05070"  # as that agent has written it down
    assert json.loads(start_text(start)) == json.loads(EARLIER)  # it can still read a guest of this one


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_guest_that_boots_from_a_disk_is_told_apart(firmware: Literal["bios", "uefi"]) -> None:
    boot = DiskBoot(
        root=GuestDisk(disk="mount-0", serial="r"), config="machines/1/config", config_digest="s", firmware=firmware
    )
    other = replace(ITEM, boot=boot, stop_seconds=90)
    again = item_of(json.loads(json.dumps(item_text(other))))
    assert (again, again.stop_seconds) == (other, 90)
    assert other.recipe != ITEM.recipe
    text = domain_xml(replace(START, item=other), PLACES)
    root = ElementTree.fromstring(text)
    assert [disk.findtext("serial") for disk in root.iter("disk")] == ["r", "one", "two", "zos-status", "zos-seed"]
    assert [disk.find("boot") is not None for disk in root.iter("disk")] == [True, False, False, False, False]
    assert (root.find("os/kernel"), root.find("devices/filesystem")) == (None, None)
    assert (root.find("os/loader") is not None) == (firmware == "uefi")
    assert root.findtext("on_reboot") == "restart", "a reboot of its own is no end"
    assert ElementTree.fromstring(domain_xml(START, PLACES)).findtext("on_reboot") == "destroy"
    told = item_of_xml(text, PLACES.state)
    assert (told.boot, told.disks) == (replace(boot, config="", config_digest=""), other.disks)
    unheard = item_text(other) | {"boot": {"mode": "unikernel"}}
    with pytest.raises(KeyError):
        item_of(unheard)


def test_a_guest_carries_what_it_was_started_with() -> None:
    root = ElementTree.fromstring(domain_xml(START, PLACES))
    carried = root.find(f"metadata/{{{NAMESPACE}}}start")
    assert carried is not None
    assert carried.text is not None
    assert start_of(carried.text) == START


def test_disks_come_in_order_and_nothing_shares_a_place_on_the_bus() -> None:
    many = replace(ITEM, disks=tuple(GuestDisk(disk=f"mount-{i}", serial=f"s{i}") for i in range(40)))
    root = ElementTree.fromstring(domain_xml(replace(START, item=many), PLACES))
    serials = [disk.findtext("serial") for disk in root.iter("disk")]
    assert serials == [*(f"s{i}" for i in range(40)), "zos-root", "zos-status", "zos-config"]
    assert [target.get("dev") for target in root.iterfind(".//disk/target")] == [device_name(i) for i in range(43)]
    places = [(address.get("slot"), address.get("function")) for address in root.iter("address")]
    assert len(set(places)) == len(places) == 43 + 2
    first = [address.get("multifunction") for address in root.iter("address") if address.get("function") == "0"]
    assert set(first) == {"on"}
    assert root.find("devices/disk/readonly") is not None  # the configuration
    assert {driver.get("discard") for driver in root.iterfind(".//disk/driver")} == {"ignore"}


OWN = GuestShare(tag="own", path="volumes/own", ground="volume/own")
SHARED = (
    OWN,
    replace(OWN, tag="seen", read_only=True),
    GuestShare(tag="it", path="mounts/it", ground="service/it", inside="fs"),
)


def test_what_a_guest_is_given_moves_nothing_else() -> None:
    given = replace(START, item=replace(ITEM, shares=SHARED))
    root, plain = (ElementTree.fromstring(domain_xml(start, PLACES)) for start in (given, START))
    devices = root.find("devices")
    assert devices is not None
    image, *shares = devices.findall("filesystem")
    assert [(path(one, "binary", "path"), path(one, "source", "dir"), path(one, "target", "dir")) for one in shares] == [
        ("/s/virtiofsd-directory-rw", "/s/volumes/own", "own"),
        ("/s/virtiofsd-directory-ro", "/s/volumes/own", "seen"),
        ("/s/virtiofsd-around", "/s/mounts/it", "it"),
    ]
    assert {(path(one, "binary", "xattr"), one.find("binary/cache")) for one in shares} == {(None, None)}
    places = [(address.get("slot"), address.get("function")) for address in root.iter("address")]
    assert len(set(places)) == len(places)
    assert path(image, "target", "dir") == "zos-image"
    for share in shares:
        devices.remove(share)
    for tree in (root, plain):
        carried = tree.find(f"metadata/{{{NAMESPACE}}}start")
        assert carried is not None
        carried.text = ""
    assert ElementTree.tostring(root) == ElementTree.tostring(plain)


def path(device: ElementTree.Element, part: str, attribute: str) -> str | None:
    found = device.find(part)
    assert found is not None
    return found.get(attribute)


def test_shares_are_written_down_where_there_are_any() -> None:
    item = replace(ITEM, shares=SHARED)
    assert item_of(json.loads(json.dumps(item_text(item)))) == item
    assert item.recipe != ITEM.recipe
    assert "shares" not in item_text(ITEM)
    found = item_of_xml(domain_xml(replace(START, item=item), PLACES), PLACES.state)
    assert [(share.tag, share.path, share.ground) for share in found.shares] == [
        ("own", "volumes/own", ""), ("seen", "volumes/own", ""), ("it", "mounts/it", ""),
    ]  # fmt: skip
    assert found.boot.image == ITEM.boot.image


def test_device_names() -> None:
    assert [device_name(i) for i in (0, 25, 26, 27, 701, 702)] == ["vda", "vdz", "vdaa", "vdab", "vdzz", "vdaaa"]


BEGUN = Run().begun(START)


@pytest.mark.parametrize(
    ("run", "status", "ended", "code", "counted"),
    [
        (BEGUN, "exited 0", "exit", 0, 1),
        (BEGUN, "exited 137", "exit", 137, 1),
        (BEGUN, "failed entrypoint /x: No such file or directory", "exit", 127, 1),
        (BEGUN, "running", "crash", None, 1),
        (BEGUN, "", "crash", None, 1),
        (BEGUN, "stopping", "crash", None, 1),  # pressed by somebody else, then cut off
        (BEGUN, "stopped 143", "stopped", 143, 0),
        (BEGUN, "rebooted 143", "stopped", 143, 0),
        (replace(BEGUN, stopping=True), "running", "stopped", None, 0),
        (replace(BEGUN, stopping=True), "exited 1", "stopped", 1, 0),
        (replace(BEGUN, boot="an earlier one"), "running", "stopped", None, 0),
        (replace(BEGUN, boot="an earlier one"), "exited 3", "exit", 3, 1),
        (BEGUN, "exited many", "exit", None, 1),
    ],
)
def test_how_a_run_ended(run: Run, status: str, ended: str, code: int | None, counted: int) -> None:
    end = run.finished(status, 200.0, "boot-1")
    assert (end.ended, end.exit_code, end.ended_at, len(end.crashes)) == (ended, code, 200.0, counted)
    assert end.over
    assert end.problem == (status.removeprefix("failed ") if status.startswith("failed") else "")


def test_restarts_count_what_nobody_asked_for() -> None:
    run = Run()
    assert run.over
    for status, restarts in (("exited 1", 0), ("running", 1), ("stopped 0", 2), ("exited 0", 2), ("exited 0", 3)):
        run = run.begun(START)
        assert (run.over, run.restarts, run.ended) == (False, restarts, "")
        run = run.finished(status, 200.0, "boot-1")
    for second in range(100):
        run = run.begun(START).finished("running", float(second), "boot-1")
    assert run.crashes == tuple(float(second) for second in range(90, 100))


ASKED = replace(START, item=replace(ITEM, incarnation="later"))
MENDED = replace(START, item=replace(ITEM, boot=replace(ITEM.boot, config_digest="mended")))


@pytest.mark.parametrize(
    ("run", "status", "start", "because"),
    [
        (BEGUN, "exited 3", START, "the entrypoint ended with exit code 3"),
        (BEGUN, "exited many", START, "the guest died"),
        (BEGUN, "failed no /bin/x", START, "no /bin/x"),
        (BEGUN, "running", START, "the guest died"),
        (replace(BEGUN, stopping=True), "stopped 143", ASKED, "it was asked to restart"),
        (replace(BEGUN, stopping=True), "stopped 143", START, "it was stopped"),
        (BEGUN, "rebooted 0", START, "the guest was shut down from inside"),
        (BEGUN, "running", replace(START, boot="boot-2"), "the node was restarted"),
        (BEGUN, "exited 1", MENDED, "the entrypoint ended with exit code 1; it runs with what was changed since"),
    ],
)
def test_a_start_remembers_what_it_came_of(run: Run, status: str, start: Start, because: str) -> None:
    assert run.because == ""
    assert run.finished(status, 200.0, start.boot).begun(start).because == because


def test_crashes_are_those_of_the_same_recipe() -> None:
    run = Run().begun(START).finished("running", 1.0, "boot-1").begun(START).finished("running", 2.0, "boot-1")
    assert run.crashes == (1.0, 2.0)
    assert MENDED.item.recipe != ITEM.recipe == replace(ITEM, running=False, incarnation="x").recipe
    assert run.begun(MENDED).crashes == ()
    assert run.begun(MENDED).restarts == 2


def test_records_survive_and_broken_ones_are_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m")
    assert (machine.card(), machine.run(), machine.status()) == (None, Run(), "")
    machine.write_card(ITEM)
    machine.write_run(BEGUN)
    machine.clear_status()
    assert machine.card() == replace(ITEM, running=False)
    assert machine.run() == BEGUN
    assert machine.status() == ""
    assert (machine.directory / "status").stat().st_size == 512
    (machine.directory / "status").write_bytes(b"exited 4\n" + bytes(503))
    assert machine.status() == "exited 4"
    (machine.directory / "domain.json").write_text('{"name": 1')
    (machine.directory / "run.json").write_text("[]")
    assert (machine.card(), machine.run()) == (None, Run())
    (machine.directory / "config").write_text("another driver's")
    machine.remove()
    assert [path.name for path in machine.directory.iterdir()] == ["config"]


def test_a_boot_has_a_name_until_the_next(tmp_path: Path) -> None:
    first = boot_of(tmp_path / "run")
    assert boot_of(tmp_path / "run") == first
    (tmp_path / "run" / "boot").unlink()
    assert boot_of(tmp_path / "run") != first


def test_what_a_newer_agent_wrote_more_is_passed_over(tmp_path: Path) -> None:
    more = {"colour": "green", "parts": [1, {"two": 3}]}
    text = json.loads(json.dumps(item_text(ITEM)))
    for part in (text, text["root"], *text["disks"], *text["nics"]):
        part.update(more)
    assert item_of(text) == ITEM
    assert start_of(json.dumps({"item": text, "started_at": 100.5, "boot": "boot-1", "accelerator": "tcg"} | more)) == START
    machine = Machine(tmp_path / "m")
    machine.write_card(ITEM)
    run = BEGUN.finished("exited 0", 200.0, "boot-1")
    machine.write_run(run)
    written = machine.directory / "run.json"
    written.write_text(json.dumps(json.loads(written.read_text()) | more))
    assert machine.run() == run


def test_a_guest_whose_metadata_nobody_can_read_is_told_by_what_libvirt_says() -> None:
    text = domain_xml(START, PLACES).replace('unit="b">536870912', 'unit="KiB">524288')  # as libvirt gives it back
    found = item_of_xml(text, PLACES.state)
    unknown = replace(ITEM.boot, config="", config_digest="")
    assert found == replace(ITEM, owner="", needs=(), boot=unknown, incarnation="")
    with pytest.raises(ValueError, match="no domain"):
        item_of_xml("<domain", PLACES.state)


def test_a_lost_status_says_nothing_against_a_guest(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m")
    machine.write_card(ITEM)
    machine.clear_status()
    assert not machine.booted()
    machine.status_file.unlink()
    assert machine.booted()
    assert BEGUN.finished(machine.status(), 200.0, "boot-1").ended == "crash"


def test_the_phases_of_a_start_are_told_as_far_as_they_are_known() -> None:
    run = replace(Run().begun(replace(START, started_at=100.0)), waited=1.5)
    assert run.took == (("queue", 1.5),)
    assert replace(run, launched=0.5, booted_at=103.0).took == (("queue", 1.5), ("start", 0.5), ("boot", 2.5))
    done = replace(run, launched=0.5, booted_at=103.0, ready_at=170.0)
    assert done.took[-1] == ("ready", 67.0)
    assert replace(done, booted_at=None).took == (("queue", 1.5), ("start", 0.5))
    assert replace(done, booted_at=99.0).took[2] == ("boot", 0.0), "a clock that was set back makes nothing negative"
    assert done.begun(START).took == (), "of the last start alone"
