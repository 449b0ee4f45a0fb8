"""Guests: a real libvirtd of the test's own, real guests under emulation."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from guestnode import DIGEST, MiB, Node, metadata
from hypervisor import Libvirt
from zos.drivers.imagecache import directory_of
from zos.drivers.virtiofsd import process_of
from zos.plan.diff import Op, diff
from zos.plan.facts import DomainFact, UnusedDiskFact
from zos.plan.guest import GuestFile, GuestInterface, GuestMount, GuestRoute
from zos.plan.items import Disk, Domain, GuestNic
from zos.plan.restart import outdated


def resident(pid: int) -> int:
    """Bytes that a process has in RAM beside the guest's own, what it shares divided among those that share it (proc(5))."""
    found, counts = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = "/memfd:memory-backend" not in line
        elif counts and line.startswith("Pss:"):
            found += int(line.split()[1]) * 1024
    return found


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_guest_with_everything(node: Node, libvirt: Libvirt) -> None:
    libvirt.run("ip", "tuntap", "add", "t-zos-test", "mode", "tap")
    libvirt.run("ip", "link", "set", "t-zos-test", "up")
    mac = "02:00:00:aa:bb:cc"
    script = "id; pwd; env; hostname; ip addr; ip route; cat /etc/resolv.conf /etc/hosts /srv/key; mount; "
    script += "busybox httpd -p 80 -h /srv && echo serves on port 80; echo said all"
    domain = node.domain(
        "sh", "-c", script,
        mounts=(GuestMount(serial="disk1", path="/data"),),
        taps=(GuestNic(tap="t-zos-test", mac=mac),),
        environment=(("PATH", "/bin"), ("GREETING", "two\nlines & % signs")),
        working_dir="/srv",
        user="web",
        interfaces=(
            GuestInterface(
                mac=mac, mtu=1420, addresses=("10.20.4.5/24",),
                routes=(GuestRoute(destination="0.0.0.0/0", gateway="10.20.4.1"),),
            ),
        ),
        nameservers=("192.0.2.53",),
        hosts=(("10.20.4.1", "gateway"),),
        files=(GuestFile(path="/srv/key", content="secret words\n", mode=0o644), GuestFile(path="/data/x", content="")),
    )  # fmt: skip
    data = Disk(name="mount-disk1", size=64 * MiB, format="btrfs", owner="w-2")
    assert await node.converge(domain, node.root(domain), data) == [
        "create disk/" + domain.boot.root.disk,
        "create disk/mount-disk1",
        f"create domain/{domain.name}",
    ]
    console = await node.says(domain, "PATH=/bin")
    for words in ("uid=33(web) gid=34", "\n/srv\n", "GREETING=two\nlines & % signs\n", "HOME=/srv"):
        assert words in console
    console = await node.says(domain, "said all")
    for words in (
        "\nweb\n",
        f"link/ether {mac}",
        "mtu 1420",
        "inet 10.20.4.5/24",
        "default via 10.20.4.1",
        "nameserver 192.0.2.53",
        "10.20.4.5\tweb",
        "10.20.4.1\tgateway",
        "secret words",
        "zos-root on / type overlay",
        "on /data type btrfs",
        "serves on port 80",
    ):
        assert words in console, console
    fact = await node.ended(domain)
    assert (fact.ended, fact.exit_code, fact.restarts, fact.accelerator) == ("exit", 0, 0, "tcg")
    assert fact.console == str(node.state / "machines" / domain.uuid / "console.log")
    libvirt.run("ip", "link", "del", "t-zos-test")


async def test_an_unchanged_guest_is_left_alone_and_a_changed_one_asks_for_a_restart(node: Node) -> None:
    domain = node.domain("sh", "-c", "echo up as $WORD; sleep 1000", environment=(("WORD", "one"),))
    await node.converge(domain, node.root(domain))
    await node.says(domain, "up as one")
    pid = node.libvirt.qemu(domain.name)
    assert await node.converge(domain, node.root(domain)) == []
    changed = node.domain("sh", "-c", "echo up as $WORD; sleep 1000", environment=(("WORD", "two"),), identity=domain.uuid)
    changed = dataclasses.replace(changed, memory=300 * MiB)
    assert await node.converge(changed, node.root(domain)) == []
    runs = (await node.fact(changed)).runs
    assert runs is not None
    assert outdated(runs, changed) == ("memory", "configuration")
    assert node.libvirt.qemu(domain.name) == pid
    again = dataclasses.replace(changed, incarnation="asked")
    assert await node.converge(again, node.root(domain)) == [f"update domain/{domain.name}"]
    await node.says(domain, "up as two")
    fact = await node.fact(again)
    assert (fact.running, fact.restarts) == (True, 0)
    assert fact.runs == again
    used = (await node.domains.use())[domain.name]
    assert used.cpu_seconds > 0.1
    assert used.memory > 32 * MiB
    assert used.disk_reads > 0
    assert used.disk_written_bytes > 0


async def test_what_a_guest_writes_stays_and_has_a_limit(node: Node) -> None:
    script = (
        "cat /kept /data/kept; echo root data >/kept; echo disk data >/data/kept; "
        "dd if=/dev/zero of=/big bs=1M count=100; df /; rm /big"
    )
    mounts = (GuestMount(serial="disk1", path="/data"),)
    domain = node.domain("sh", "-c", script, mounts=mounts)
    disks = (node.root(domain), Disk(name="mount-disk1", size=64 * MiB, format="btrfs", owner="w-2"))
    await node.converge(domain, *disks)
    assert (await node.ended(domain)).exit_code == 0
    assert "No space left on device" in node.console(domain)
    assert list((directory_of(node.state / "images", DIGEST) / "rootfs").glob("*kept*")) == []
    # The machine goes, its ZMount stays: a new machine finds what was on it, and a root of its own.
    await node.converge(*disks)
    other = node.domain("sh", "-c", "cat /kept /data/kept", mounts=mounts)
    await node.converge(other, node.root(other), disks[1])
    await node.ended(other)
    assert "disk data" in node.console(other)
    assert "root data" not in node.console(other)


async def test_restarting_keeps_the_root(node: Node) -> None:
    domain = node.domain("sh", "-c", "cat /kept; echo root data >/kept; exit 3")
    await node.converge(domain, node.root(domain))
    fact = await node.ended(domain)
    assert (fact.ended, fact.exit_code) == ("exit", 3)
    assert await node.converge(domain, node.root(domain)) == [f"update domain/{domain.name}"]
    fact = await node.ended(domain)
    assert fact.restarts == 1
    assert "root data" in node.console(domain)
    header = subprocess.run(["dumpe2fs", "-h", node.disks.path(domain.boot.root.disk)], capture_output=True, text=True).stdout
    assert "has_journal" in header
    assert "needs_recovery" not in header  # it was unmounted, and not just left


async def test_a_disk_grows_under_a_running_guest(node: Node) -> None:
    """Its file systems too: a btrfs, the smallest btrfs there is (data and metadata mixed), and the root's ext4."""
    script = "while sleep 0.2; do df -m /data /small / | cat; done"
    mounts = (GuestMount(serial="disk1", path="/data"), GuestMount(serial="disk2", path="/small"))
    domain = node.domain("sh", "-c", script, mounts=mounts)
    data = Disk(name="mount-disk1", size=300 * MiB, format="btrfs", owner="w-2")
    small = Disk(name="mount-disk2", size=16 * MiB, format="btrfs", owner="w-3")
    await node.disks.apply(Op("create", data.key, data))
    await node.disks.observe([])
    assert node.disks.facts()[UnusedDiskFact] == {data.name: UnusedDiskFact()}
    await node.converge(domain, node.root(domain), data, small)
    await node.disks.observe([])
    assert node.disks.facts()[UnusedDiskFact] == {}  # from before its start
    await node.says(domain, " 300 ")
    grown = (
        node.root(domain, 128 * MiB),
        dataclasses.replace(data, size=400 * MiB),
        dataclasses.replace(small, size=256 * MiB),
    )
    assert await node.converge(domain, *grown) == [
        f"update disk/{domain.boot.root.disk}", "update disk/mount-disk1", "update disk/mount-disk2",
    ]  # fmt: skip
    console = await node.says(domain, " 400 ")
    assert "/dev/vda                   400" in console
    console = await node.says(domain, " 256 ")
    assert "/dev/vdb                    16" in console
    assert "/dev/vdb                   256" in console

    def roots() -> list[int]:
        return [int(size) for size in re.findall(r"^zos-root +(\d+) ", node.console(domain), re.MULTILINE)]

    assert roots()[0] < 64
    async with asyncio.timeout(20):
        while roots()[-1] <= 64:
            await asyncio.sleep(0.05)
    assert await node.converge(domain, *grown) == []


async def test_it_tells_when_the_entrypoint_runs(node: Node) -> None:
    domain = node.domain("sh", "-c", "echo up; sleep 1000")
    await node.converge(domain, node.root(domain))
    assert not (await node.fact(domain)).booted
    assert "up" not in node.console(domain)
    async with asyncio.timeout(90):
        node.dirty.clear()
        while not (await node.fact(domain)).booted:
            await node.dirty.wait()  # nobody asks again and again
            node.dirty.clear()
    await node.says(domain, "up")
    await node.restart_agent()
    assert (await node.fact(domain)).booted


async def test_a_graceful_stop(node: Node) -> None:
    domain = node.domain("sh", "-c", "trap 'echo asked to stop; exit 7' TERM; echo up; while :; do sleep 0.1; done")
    await node.converge(domain, node.root(domain))
    await node.says(domain, "up")
    stopped = dataclasses.replace(domain, running=False)
    assert await node.converge(stopped, node.root(domain)) == [f"update domain/{domain.name}"]
    assert "asked to stop" in node.console(domain)
    fact = await node.fact(stopped)
    assert (fact.running, fact.ended, fact.exit_code, fact.crashes) == (False, "stopped", 7, ())
    assert await node.converge(stopped, node.root(domain)) == []


async def test_one_that_does_not_want_to_stop_is_stopped(node: Node) -> None:
    domain = node.domain("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done", stop_seconds=2)
    await node.converge(domain, node.root(domain))
    await node.says(domain, "up")
    await node.converge(node.root(domain))  # not wanted any more
    observed = await node.domains.observe([])
    assert observed == {}
    assert [path.name for path in (node.state / "machines" / domain.uuid).iterdir()] == ["config"]
    assert list((node.libvirt.base / "log" / "qemu").glob(f"{domain.name}*")) == []
    assert list((node.libvirt.base / "run" / "qemu").glob(f"*{domain.name}*")) == []
    assert list((node.libvirt.base / "lib" / "qemu").glob(f"*{domain.name}*")) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("/absent",), "entrypoint /absent: No such file or directory"),
        (("/etc/passwd",), "entrypoint /etc/passwd: Permission denied"),
    ],
)
async def test_what_init_can_not_start_it_says(node: Node, argv: tuple[str, ...], words: str) -> None:
    domain = node.domain(*argv)
    await node.converge(domain, node.root(domain))
    fact = await node.ended(domain)
    assert (fact.ended, fact.exit_code, fact.problem) == ("exit", 127, words)


async def test_crashes_are_seen_and_counted(node: Node) -> None:
    panic = "echo up; cat /go 2>/dev/null && echo c >/proc/sysrq-trigger; sleep 1000"
    domain = node.domain("sh", "-c", panic, files=(GuestFile(path="/go", content="go"),))
    await node.converge(domain, node.root(domain))
    fact = await node.ended(domain)  # a kernel panic
    assert (fact.ended, fact.exit_code, len(fact.crashes)) == ("crash", None, 1)
    calm = node.domain("sh", "-c", "rm /go; echo calm; sleep 1000", identity=domain.uuid)
    await node.converge(calm, node.root(domain))
    await node.says(calm, "calm")
    os.kill(node.libvirt.qemu(domain.name), signal.SIGKILL)
    fact = await node.ended(calm)
    assert (fact.ended, fact.restarts, len(fact.crashes)) == ("crash", 1, 1)  # what was mended has a clean record
    await node.converge(calm, node.root(domain))
    await node.says(calm, "calm\n", 30)
    (pidfile,) = (node.libvirt.base / "run" / "qemu").glob(f"*-{domain.name}-fs0-fs.pid")
    os.kill(int(pidfile.read_text()), signal.SIGKILL)  # virtiofsd: the guest's root is gone
    fact = await node.ended(calm, 10)
    assert (fact.ended, fact.restarts, len(fact.crashes)) == ("crash", 2, 2)


async def test_a_reboot_from_inside_is_no_crash(node: Node) -> None:
    domain = node.domain("sh", "-c", "reboot; sleep 1000")
    await node.converge(domain, node.root(domain))
    fact = await node.ended(domain)
    assert (fact.ended, fact.crashes) == ("stopped", ())


async def test_guests_outlive_agent_and_libvirtd(node: Node, libvirt: Libvirt) -> None:
    domain = node.domain("sh", "-c", "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.2; done")
    await node.converge(domain, node.root(domain))
    await node.says(domain, "tick 3\n")
    pid = libvirt.qemu(domain.name)
    await node.restart_agent()
    (node.state / "machines" / domain.uuid / "domain.json").unlink()  # what it is, the guest itself tells
    (node.state / "machines" / domain.uuid / "run.json").unlink()
    assert await node.converge(domain, node.root(domain)) == []
    node.dirty.clear()
    libvirt.libvirtd.kill()
    libvirt.libvirtd.wait()
    await asyncio.wait_for(node.dirty.wait(), 5)
    libvirt.start_libvirtd()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert await node.converge(domain, node.root(domain)) == []
            break
        except Exception:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
    fact = await node.fact(domain)
    assert (fact.running, fact.restarts) == (True, 0)
    assert libvirt.qemu(domain.name) == pid
    ticks = node.console(domain).count("tick")
    await node.says(domain, f"tick {ticks + 5}\n")


async def test_guests_that_went_down_with_the_node_did_not_crash(node: Node) -> None:
    domain = node.domain("sh", "-c", "echo up; sleep 1000")
    await node.converge(domain, node.root(domain))
    await node.says(domain, "up")
    await node.domains.close()
    os.kill(node.libvirt.qemu(domain.name), signal.SIGKILL)
    (node.state / "run" / "boot").unlink()  # what a reboot forgets
    node.start_agent()
    fact = await node.ended(domain)
    assert (fact.ended, fact.crashes) == ("stopped", ())
    assert await node.converge(domain, node.root(domain)) == [f"update domain/{domain.name}"]


async def test_after_a_reboot_all_are_back_so_many_at_once_as_was_said(node: Node) -> None:
    guests = [node.domain("sh", "-c", f"echo up {number}; sleep 1000") for number in range(6)]
    roots = [node.root(guest) for guest in guests]
    boots: list[int] = []

    async def all_up() -> None:
        """As an agent does: all are asked for at once, and it looks when it is told."""
        for driver, items in ((node.disks, roots), (node.domains, guests)):
            ops = [asyncio.create_task(driver.apply(op)) for op in diff(items, await driver.observe(items))]
            async with asyncio.timeout(240):
                while True:
                    node.dirty.clear()
                    await node.domains.observe(guests)
                    facts = node.domains.facts()[DomainFact]
                    boots.append(sum(fact.running and not fact.booted for fact in facts.values()))
                    if all(op.done() for op in ops) and (
                        driver is node.disks or all(facts[guest.name].booted for guest in guests)
                    ):
                        break
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(node.dirty.wait(), 0.5)
            for op in ops:
                await op

    node.start_parallel = 6
    await node.restart_agent()
    await node.converge(*roots, *guests)
    await node.domains.close()
    for guest in guests:
        os.kill(node.libvirt.qemu(guest.name), signal.SIGKILL)
    (node.state / "run" / "boot").unlink()  # what a reboot forgets
    node.start_parallel = 2
    node.start_agent()
    for guest in guests:
        assert (await node.ended(guest)).ended == "stopped"
    boots.clear()
    began = time.monotonic()
    await all_up()
    print(f"6 guests are back after {time.monotonic() - began:.1f} s")
    assert max(boots) == 2, "in parallel, and bounded"
    facts = node.domains.facts()[DomainFact]
    for guest in guests:
        fact = facts[guest.name]
        assert (fact.restarts, fact.crashes, fact.because) == (0, (), "the node was restarted")
        assert [phase for phase, _ in fact.took] == ["queue", "start", "boot"]
    queued = sorted(dict(facts[guest.name].took)["queue"] for guest in guests)
    assert queued[1] < 1 < queued[2]
    pids = node.libvirt.base / "run" / "qemu"
    for guest in guests:
        daemon = process_of(pids, guest.name)
        assert daemon is not None
        beside = sum(map(resident, (node.libvirt.qemu(guest.name), daemon, *children(daemon))))
        assert beside <= 60 * MiB, f"{beside / MiB:.1f} MiB beside the guest's own memory"


async def test_the_image_is_read_only_below(node: Node) -> None:
    domain = node.domain("sh", "-c", "echo changed >/etc/passwd; cat /etc/passwd; rm /bin/busybox; ls /bin; echo done")
    await node.converge(domain, node.root(domain))
    await node.ended(domain)
    assert "changed" in node.console(domain)
    root = directory_of(node.state / "images", DIGEST) / "rootfs"
    assert (root / "bin/busybox").exists()
    assert "changed" not in (root / "etc/passwd").read_text()


async def test_a_missing_directory_of_all_guests_hides_nothing(node: Node) -> None:
    domain = node.domain("sleep", "1000")
    await node.converge(domain, node.root(domain))
    shutil.rmtree(node.state / "machines")
    seen = await node.domains.observe([domain])
    assert seen[domain.key].item == domain
    assert await node.converge() == [f"remove domain/{domain.name}"]
    shutil.rmtree(node.state / "machines", ignore_errors=True)
    assert await node.domains.observe([]) == {}


def newer(text: str) -> str:
    start = json.loads(text)
    return json.dumps(start | {"item": start["item"] | {"hue": 1}, "hue": 2})


async def test_a_guest_of_a_newer_agent_or_of_none_that_can_be_read_runs_on(node: Node) -> None:
    domain = node.domain("sleep", "1000")
    await node.converge(domain, node.root(domain))
    pid = node.libvirt.qemu(domain.name)
    metadata(node, domain, newer)
    await node.restart_agent()
    assert await node.converge(domain, node.root(domain)) == []
    assert not (await node.fact(domain)).unreadable
    metadata(node, domain, lambda _: "garbage")
    await node.restart_agent()
    for card in ("whole", "garbage"):
        if card == "garbage":
            (node.state / "machines" / domain.uuid / "domain.json").write_text("garbage")
        assert await node.converge(domain, node.root(domain)) == []
        fact = await node.fact(domain)
        assert (fact.running, fact.unreadable, fact.image) == (True, True, DIGEST)
        seen = (await node.domains.observe([]))[domain.key]
        assert isinstance(seen.item, Domain)
        assert (seen.item.cpu, seen.item.memory, seen.item.boot.root.disk) == (1, 256 * MiB, domain.boot.root.disk)
        assert seen.origin is not None
        assert seen.origin.uid == domain.uuid
        assert node.domains.images() == {DIGEST}
        assert await node.domains.uses_disk(node.disks.path(domain.boot.root.disk))
        assert not await node.domains.uses_disk(node.disks.path("mount-other"))
    assert node.libvirt.qemu(domain.name) == pid
    stopped = dataclasses.replace(domain, running=False)
    assert await node.converge(stopped, node.root(domain)) == [f"update {domain.key}"]


async def test_a_missing_pid_file_ends_no_guest(node: Node) -> None:
    domain = node.domain("sleep", "1000")
    await node.converge(domain, node.root(domain))
    pid = node.libvirt.qemu(domain.name)
    (file,) = (node.libvirt.base / "run" / "qemu").glob(f"*-{domain.name}-fs0-fs.pid")
    told = int(file.read_text())
    file.unlink()
    await node.restart_agent()
    assert await node.converge(domain, node.root(domain)) == []
    found = process_of(file.parent, domain.name)
    assert found is not None
    assert os.getpgid(found) == os.getpgid(told)
    assert (await node.fact(domain)).running
    assert node.libvirt.qemu(domain.name) == pid
    os.kill(told, signal.SIGKILL)
    assert (await node.ended(domain, 10)).ended == "crash"


async def test_what_was_written_down_of_a_guest_may_be_lost(node: Node) -> None:
    domain = node.domain("sh", "-c", "echo up; sleep 1000")
    await node.converge(domain, node.root(domain))
    await node.says(domain, "up")
    pid = node.libvirt.qemu(domain.name)
    for name in ("domain.json", "run.json", "status", "config"):
        (node.state / "machines" / domain.uuid / name).unlink()
        await node.restart_agent()
        assert await node.converge(domain, node.root(domain)) == []
        fact = await node.fact(domain)
        assert (fact.running, fact.booted) == (True, True), name
    assert node.libvirt.qemu(domain.name) == pid


async def test_what_is_over_is_known_to_be_without_its_card(node: Node) -> None:
    domain = node.domain("sh", "-c", "exit 0")
    await node.converge(domain, node.root(domain))
    await node.ended(domain)
    (node.state / "machines" / domain.uuid / "domain.json").unlink()
    await node.restart_agent()
    fact = await node.fact(domain)
    assert (fact.running, fact.ended, fact.exit_code) == (False, "exit", 0)
