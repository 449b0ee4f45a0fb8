"""What a kernel and depmod(8) say of themselves; an initramfs; what a machine is that runs the kernel of its image."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from zos.drivers.domainrun import Run
from zos.drivers.domainxml import Places, Start, domain_xml, item_of_xml, start_of, start_text
from zos.plan.guest import GuestConfig
from zos.plan.items import ContainerBoot, Domain, GuestDisk
from zos.programs.initramfs import loaded
from zos.programs.kmodules import Modules, NoModule
from zos.programs.ownkernel import Refused, release_of

DEP = """kernel/a/ext4.ko.xz: kernel/l/jbd2.ko.xz kernel/l/mbcache.ko.xz
kernel/l/jbd2.ko.xz:
kernel/l/mbcache.ko.xz:
kernel/n/net-failover.ko: kernel/n/failover.ko
kernel/n/failover.ko:
"""
MODULES = Modules.read(DEP, "kernel/b/virtio-blk.ko\nkernel/b/fuse.ko\n")


def test_what_is_needed_loads_first_and_once() -> None:
    order = MODULES.order(("ext4", "net_failover", "ext4", "virtio_blk"))
    assert [path.rpartition("/")[2] for path in order] == [
        "mbcache.ko.xz",
        "jbd2.ko.xz",
        "ext4.ko.xz",
        "failover.ko",
        "net-failover.ko",
    ]
    assert loaded("always", dict.fromkeys(order[:1], b"x")) == {
        "modules/mbcache.ko": b"x",
        "modules/always": b"/modules/mbcache.ko\n",
    }


def test_what_is_neither_built_in_nor_a_module_is_told() -> None:
    assert MODULES.order(("fuse",)) == ()
    with pytest.raises(NoModule, match="overlay"):
        MODULES.order(("overlay",))


@pytest.mark.parametrize("text", ["", ":", "::\n\0\n", "a" * 1000, "\n" * 1000, "x.ko: x.ko x.ko\n", ": x y z"])
def test_nonsense_names_nothing(text: str) -> None:
    found = Modules.read(text, text)
    with pytest.raises(NoModule):
        found.order(("ext4",))


def kernel(said: bytes, *, protocol: int = 0x20F, at: int = 0x200, sectors: int = 4) -> bytes:
    found = bytearray(8192)
    found[0x1F1], found[0x211] = sectors, 1
    found[0x1FE:0x206] = b"\x55\xaa\xeb\x66HdrS"
    struct.pack_into("<H", found, 0x206, protocol)
    struct.pack_into("<H", found, 0x20E, at)
    struct.pack_into("<H", found, 0x236, 1)
    found[at + 512 : at + 512 + len(said)] = said
    return bytes(found)


def test_one_that_was_cut_off_is_said_to_be() -> None:
    whole = bytearray(kernel(b"6.1\0"))
    struct.pack_into("<I", whole, 0x1F4, (len(whole) - 5 * 512) // 16)
    assert release_of(bytes(whole)) == "6.1"
    with pytest.raises(Refused, match="not complete: it has 8000 bytes of 8192"):
        release_of(bytes(whole[:8000]))


def test_a_kernel_says_its_version() -> None:
    assert release_of(kernel(b"6.1.0-56-cloud-amd64 (debian) #1 SMP\0")) == "6.1.0-56-cloud-amd64"
    assert release_of(kernel(b"6.12.9_1+x~y\0")) == "6.12.9_1+x~y"


@pytest.mark.parametrize(
    "content",
    [b"", b"\x7fELF" + bytes(5000), kernel(b""), kernel(b"../x\0"), kernel(b".hidden\0"), kernel(b"a/b\0"), kernel(b"x" * 300),
     kernel(b"6.1\xff\0"), kernel(b"6.1\0", protocol=0x204), kernel(b"6.1\0", at=0x1800), kernel(b"6.1\0", sectors=200)],
)  # fmt: skip
def test_what_says_none_is_no_kernel(content: bytes) -> None:
    with pytest.raises(Refused):
        release_of(content)


PLACES = Places(
    state=Path("/s"),
    machine=Path("/s/machines/1"),
    kernel=Path("/s/images/sha256-1/kernel-a/vmlinuz-6.1.0"),
    initramfs=Path("/s/images/sha256-1/kernel-a/initramfs"),
    virtiofsd=Path("/s/v"),
)
BOOT = ContainerBoot(image="sha256:1", root=GuestDisk(disk="root-1", serial="zos-root"), config="c", config_digest="")
DOMAIN = Domain(
    name="d", uuid="11111111-2222-3333-4444-555555555555", cpu=1, memory=1 << 28, boot=BOOT, disks=(), nics=(), running=True
)


def started(boot: ContainerBoot) -> Start:
    return Start(item=replace(DOMAIN, boot=boot), started_at=1.0, boot="b", accelerator="tcg")


@pytest.mark.parametrize("init", [False, True])
def test_what_a_guest_runs_is_told_by_itself(init: bool) -> None:
    own = replace(BOOT, kernel="6.1.0", init=init)
    start = started(own)
    assert start_of(start_text(start)) == start
    seen = item_of_xml(domain_xml(start, PLACES), Path("/s"))
    assert isinstance(seen.boot, ContainerBoot)
    assert (seen.boot.image, seen.boot.kernel, seen.boot.init) == ("sha256:1", "6.1.0", init)
    assert ("<on_reboot>restart</on_reboot>" in domain_xml(start, PLACES)) == init, "a reboot of its own init is no end"
    assert (own.silent, BOOT.silent) == (init, False)


def test_what_other_guests_carry_is_what_earlier_agents_wrote() -> None:
    text = start_text(started(BOOT))
    assert "kernel" not in text
    assert '"init"' not in text
    assert replace(DOMAIN, boot=replace(BOOT, kernel="6.1.0")).recipe != DOMAIN.recipe


def test_a_configuration_without_an_init_of_the_images_is_as_it_was() -> None:
    plain = GuestConfig(hostname="web", argv=("/sbin/init",))
    assert "\ninit\n" not in plain.render()
    assert "\ninit\narg /sbin/init\n" in replace(plain, init=True).render()


def test_a_panic_under_the_images_init_is_a_crash() -> None:
    run = Run(started_at=1.0, boot="b")
    end = run.finished("failed the system was reset without having ended", 2.0, "b")
    assert (end.ended, end.crashes) == ("exit", (2.0,))
    assert run.finished("ending", 2.0, "b").ended == "crash", "and nobody saw it switch itself off"
