"""What the benches of machines and images count, and what they compare to."""

from __future__ import annotations

import tarfile
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchlib.consoles import all_said
from benchlib.crowd import of_a_person
from benchlib.footprint import beside
from benchlib.images import write_archive

_SMAPS = """\
55d0c0000000-55d0c0a00000 r-xp 00000000 fe:00 1234   /usr/bin/qemu-system-x86_64
Size:              10240 kB
Rss:                8000 kB
Pss:                 400 kB
Pss_Dirty:             0 kB
7f0000000000-7f0010000000 rw-s 00000000 00:01 99     /memfd:pc.ram (deleted)
Rss:              200000 kB
Pss:              100000 kB
7f0020000000-7f0024000000 rwxp 00000000 00:00 0
Rss:               32768 kB
Pss:               32768 kB
"""


def test_the_memory_of_a_guest_is_not_what_it_costs_beside() -> None:
    assert beside(_SMAPS) == 400 + 32768


_XML = """\
<domain type="qemu" id="3">
  <name>zos-abc</name><uuid>72c5015d-f613-4f44-bbc2-392351b9ae3d</uuid>
  <metadata><zos:start xmlns:zos="https://zos.grid.tf/domain/v1alpha1">{}</zos:start></metadata>
  <os><kernel>/guest/vmlinuz</kernel></os>
  <devices>
    <disk><source file="/z/disks/root-1.raw" index="3"/><serial>zos-root</serial></disk>
    <disk><source file="/z/machines/1/config" index="1"/><readonly/><serial>zos-config</serial></disk>
    <filesystem><source dir="/z/images/sha256-1/rootfs"/></filesystem>
    <interface type="ethernet"><mac address="c6:08:b4:d8:c7:0c"/><target dev="t-abc-0" managed="no"/></interface>
    <serial type="pty"><source path="/dev/pts/4"/><log file="/z/machines/1/console.log" append="on"/></serial>
  </devices>
  <seclabel type="dynamic"/>
</domain>
"""


def test_a_persons_guest_is_the_same_but_for_what_is_written_to() -> None:
    guest = of_a_person(_XML, "bare1", "00000001-f613-4f44-bbc2-392351b9ae3d", "/room")
    domain = ElementTree.fromstring(guest.xml)
    assert guest.files == {"/z/disks/root-1.raw": "zos-root", "/z/machines/1/config": "zos-config"}
    assert guest.taps == ("bare1-0",)
    assert domain.find("metadata") is None, "or the agent would take it for its own"
    assert (domain.findtext("name"), domain.get("id")) == ("bare1", None)
    assert [source.get("file") for source in domain.iterfind("devices/disk/source")] == ["/room/zos-root", "/room/zos-config"]
    for what in ("/guest/vmlinuz", "/z/images/sha256-1/rootfs", "c6:08:b4:d8:c7:0c", "/room/console.log"):
        assert what in guest.xml
    assert not any(what in guest.xml for what in ("t-abc-0", "/dev/pts/4", "/z/disks", "/z/machines"))


def test_the_last_of_many_consoles_counts(tmp_path: Path) -> None:
    consoles = [tmp_path / name for name in "abc"]

    def speak() -> None:
        for console in reversed(consoles):
            time.sleep(0.05)
            console.write_bytes(b"booting\nhere I am\n")

    began = time.monotonic()
    speaker = threading.Thread(target=speak)
    speaker.start()
    assert all_said(consoles, b"here I am", 10) - began >= 0.15
    speaker.join()
    with pytest.raises(TimeoutError, match=str(consoles[0])):
        all_said(consoles, b"never", 0.01)


def test_the_archive_has_as_many_files_and_bytes_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_archive(tmp_path / name, files=2000, size=1 << 20)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with tarfile.open(tmp_path / "one") as archive:
        members = archive.getmembers()
    files = [member for member in members if member.isreg()]
    assert len(files) == 2000
    assert len({member.name for member in members}) == len(members)
    assert (1 << 20) - 2000 <= sum(member.size for member in files) <= 1 << 20
