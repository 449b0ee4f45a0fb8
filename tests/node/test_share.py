"""What a guest is given of its node: directories, and mounts that come and go."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
from pathlib import Path

import pytest

from guestnode import DIGEST, Node, metadata
from shares import Shares
from zos.drivers import DriverError
from zos.drivers.imagecache import FLIST, tree_of
from zos.plan.items import Domain


async def test_directories_are_shared(node: Node, shares: Shares) -> None:
    (shares.own / "given").write_text("of the node\n")
    (shares.own / "program").write_text("#!/bin/sh\necho it runs\n")
    (shares.own / "program").chmod(0o755)
    (shares.own / "around" / "inner").mkdir(parents=True)
    node.libvirt.run("mount", "-t", "tmpfs", "tmpfs", str(shares.own / "around"))
    script = (
        "cat /own/given /seen/given /it/words; /own/program; echo of the guest >/own/taken; echo of the guest >/it/taken;"
        "echo no >/seen/taken; mount -o remount,rw /seen; echo no >/seen/taken; ls /own/around; mknod /own/disk b 252 0;"
        "echo 1 >/own/suid; chmod 4755 /own/suid; mount; echo said all; while sleep 0.1; do cat /own/later; done"
    )
    domain = node.domain("sh", "-c", script, shares=shares.given)
    assert await node.converge(domain, node.root(domain)) == [f"create disk/{domain.boot.root.disk}", f"create {domain.key}"]
    console = await node.says(domain, "said all")
    for words, times in (
        ("of the node\n", 2), ("as first\n", 1), ("it runs\n", 1), ("Read-only file system", 2), ("inner", 1),
        ("mknod: /own/disk: Operation not permitted", 1),
        ("own on /own type virtiofs (rw,nosuid,nodev,relatime)", 1),
        ("seen on /seen type virtiofs (ro,nosuid,nodev,relatime)", 0),
        ("it on /it type virtiofs (rw,nosuid,nodev,relatime)", 1),
    ):  # fmt: skip
        assert console.count(words) == times or not times, (words, console)
    assert (shares.own / "taken").read_text() == "of the guest\n"
    assert ((shares.own / "taken").stat().st_uid, (shares.own / "suid").stat().st_mode & 0o7777) == (0, 0o4755)
    assert list(shares.mount.iterdir()) == []  # here is another mount: it went where the daemon is
    assert node.libvirt.run("cat", str(shares.mount / "taken")) == "of the guest\n"
    (shares.own / "later").write_text("seen later\n")
    await node.says(domain, "seen later")


async def test_the_death_of_any_that_shares_is_a_crash(node: Node, shares: Shares) -> None:
    script = "echo $(cat /it/words) >>/own/runs; echo $(cat /own/runs), so far; sleep 1000"
    domain = node.domain("sh", "-c", script, shares=shares.given)
    await node.converge(domain, node.root(domain))
    for number, words in ((1, "as first, so far"), (3, "as first as first, so far")):
        await node.says(domain, words)
        daemons = [shares.daemon(domain, each) for each in range(4)]
        assert len(set(daemons)) == 4
        await node.restart_agent()
        assert await node.converge(domain, node.root(domain)) == []
        assert [shares.daemon(domain, each) for each in range(4)] == daemons
        os.kill(daemons[number], signal.SIGKILL)
        assert (await node.ended(domain, 10)).ended == "crash"
        assert await node.converge(domain, node.root(domain)) == [f"update {domain.key}"]


async def test_what_is_not_there_is_not_shared(node: Node, shares: Shares) -> None:
    own_mount = dataclasses.replace(shares.given["/own"], mounted=True)
    domain = node.domain("sleep", "1000", shares=shares.given)
    shares.take()
    with pytest.raises(DriverError, match="service/it: nothing is mounted at"):
        await node.converge(domain, node.root(domain))
    shares.put("open to programs", "nosuid,nodev")
    with pytest.raises(DriverError, match="is mounted without noexec"):
        await node.converge(domain, node.root(domain))
    shares.take()
    shares.put("here")
    node.libvirt.run("umount", str(shares.mount))  # but not where the daemon is
    with pytest.raises(DriverError, match="libvirt: "):
        await node.converge(domain, node.root(domain))
    with pytest.raises(DriverError, match="volume/own: nothing is mounted at"):
        await node.converge(dataclasses.replace(domain, shares=(own_mount,)), node.root(domain))
    subprocess.run(["mount", "--bind", shares.own, shares.own], check=True)  # here, and not where the daemon is
    try:
        with pytest.raises(DriverError, match="libvirt: "):
            await node.converge(dataclasses.replace(domain, shares=(own_mount,)), node.root(domain))
    finally:
        subprocess.run(["umount", shares.own], check=True)
    (shares.around / "more").mkdir()
    with pytest.raises(DriverError, match="there is more in"):
        await node.converge(domain, node.root(domain))
    shares.own.rename(shares.own.with_name("other"))
    with pytest.raises(DriverError, match="volume/own: there is no directory"):
        await node.converge(domain, node.root(domain))
    fact = await node.fact(domain)
    assert (fact.running, fact.started_at) == (False, None)


async def test_a_share_that_the_guest_does_not_find_is_its_problem(node: Node, shares: Shares) -> None:
    domain = node.domain("sleep", "1000", shares=shares.given)
    await node.converge(dataclasses.replace(domain, shares=domain.shares[1:]), node.root(domain))
    assert (await node.ended(domain)).problem == "share own for /own: not there"


async def test_what_a_guest_of_none_that_can_be_read_is_given_stays(node: Node, shares: Shares) -> None:
    domain = node.domain("sh", "-c", "while sleep 0.1; do cat /it/words; done", shares=shares.given)
    await node.converge(domain, node.root(domain))
    metadata(node, domain, lambda _: "garbage")
    await node.restart_agent()
    seen = (await node.domains.observe([]))[domain.key].item
    assert isinstance(seen, Domain)
    assert seen.shares == domain.shares
    assert {"volume/own", "service/it"} <= set(seen.occupies())
    await node.says(domain, "as first\n")
    assert (await node.fact(domain)).booted
    shares.take()
    shares.put("as second")
    await node.says(domain, "as second\n")
    os.kill(shares.daemon(domain, 2), signal.SIGKILL)
    assert not (await node.ended(domain, 10)).running


async def test_a_mount_that_is_made_anew_is_there_again(node: Node, shares: Shares) -> None:
    script = "cd /it; while sleep 0.1; do echo $(cat /it/words) here: $(cat words); done"
    domain = node.domain("sh", "-c", script, shares=shares.given)
    await node.converge(domain, node.root(domain))
    await node.says(domain, "as first here: as first\n")
    assert (await node.fact(domain)).booted  # from now on it is told
    pid, daemons = node.libvirt.qemu(domain.name), [shares.daemon(domain, each) for each in range(4)]
    for words in ("as second", "as third"):
        shares.take()
        shares.put(words)
        await node.says(domain, f"{words} here: as first\n")  # whose working directory it was has the old one
    shares.take()
    await node.restart_agent()
    shares.put("while nobody looked")
    await node.converge(domain, node.root(domain))
    await node.says(domain, "while nobody looked here: as first\n")
    assert (node.libvirt.qemu(domain.name), [shares.daemon(domain, each) for each in range(4)]) == (pid, daemons)
    assert await node.converge(dataclasses.replace(domain, running=False), node.root(domain)) == [f"update {domain.key}"]
    assert (await node.fact(domain)).ended == "stopped"


async def test_a_guest_ends_whatever_does_not_answer(node: Node, shares: Shares) -> None:
    domain = node.domain("sh", "-c", "echo up; until cat /own/go; do sleep 0.1; done; exit 3", shares=shares.given)
    await node.converge(domain, node.root(domain))
    await node.says(domain, "up")
    stopped = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if is_around(path, shares.around)]
    assert len(stopped) == 2
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        (shares.own / "go").touch()
        fact = await node.ended(domain)
        assert (fact.ended, fact.exit_code) == ("exit", 3)
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert await node.converge(domain, node.root(domain)) == [f"update {domain.key}"]
    fact = await node.ended(domain)
    assert (fact.exit_code, fact.restarts) == (3, 1)


def is_around(cmdline: Path, directory: Path) -> bool:
    with contextlib.suppress(OSError):
        words = cmdline.read_bytes().split(b"\0")
        return words[0].endswith(b"virtiofsd") and any(str(directory).encode() in word for word in words)
    return False


async def test_a_guest_whose_flist_is_not_mounted_any_more_has_crashed(node: Node) -> None:
    """What it asks would never be answered."""
    tree = tree_of(node.state / "images", DIGEST)
    (tree.parent / FLIST).touch()
    domain = node.domain("sh", "-c", "echo up; sleep 1000")
    with pytest.raises(DriverError, match="is not on this node any more"):
        await node.converge(domain, node.root(domain))
    subprocess.run(["mount", "--bind", tree, tree], check=True)
    try:
        await node.converge(domain, node.root(domain))
        await node.says(domain, "up\n")
        await node.restart_agent()
        assert await node.converge(domain, node.root(domain)) == []
    finally:
        subprocess.run(["umount", tree], check=True)
    assert (await node.ended(domain, 10)).ended == "crash"
    (tree.parent / FLIST).unlink()
