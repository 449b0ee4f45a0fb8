"""A guest as libvirt is told of it, whole: ``guest.out.xml``, to be reviewed; ZOS_UPDATE_GOLDEN=1 writes it anew."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from oneguest import ITEM, PLACES, started
from zos.drivers.domainxml import NAMESPACE, Start, domain_xml
from zos.plan.items import GuestDisk, GuestNic

HERE = Path(__file__).parent
START = started(
    replace(
        ITEM,
        disks=tuple(GuestDisk(disk=f"mount-{number}", serial=f"s{number}") for number in range(5)),
        nics=tuple(GuestNic(tap=f"t-{number}", mac=f"02:00:00:00:00:0{number}") for number in (1, 2)),
    )
)


def told(start: Start) -> str:
    """But for what it carries of itself, which a test of its own reads."""
    root = ElementTree.fromstring(domain_xml(start, PLACES))
    carried = root.find(f"metadata/{{{NAMESPACE}}}start")
    assert carried is not None
    carried.text = "…"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def test_what_libvirt_is_told() -> None:
    expected = HERE / "guest.out.xml"
    if os.environ.get("ZOS_UPDATE_GOLDEN"):
        expected.write_text(told(START))
    assert told(START) == expected.read_text()


def test_kvm_makes_no_other_difference() -> None:
    tcg, kvm = (told(replace(START, accelerator=kind)).splitlines() for kind in ("tcg", "kvm"))
    bound = tcg.index("    <tcg>")  # of what emulation translates
    del tcg[bound : bound + 3]
    changed = [line.strip() for line, other in zip(kvm, tcg, strict=True) if line != other]
    assert changed == [tcg[0].replace('type="qemu"', 'type="kvm"'), '<cpu mode="host-passthrough" />']
