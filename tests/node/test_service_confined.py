"""What a service's program may do and see: nothing but what it was given."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services import PYTHON, Bench, commands_of, converge, kill, until
from zos.drivers import DriverError
from zos.plan.items import Service, ServiceFile, ServiceLimits

SECRET = "hunter-2-of-the-test"
_MiB = 1 << 20


def python(name: str, program: str, **more: object) -> Service:
    return Service(name=name, argv=(PYTHON, "-I", "-S", "-c", program), **more)  # type: ignore[arg-type]


#: Tells the state of its process, then stays.
TELLS = """
import json, os, resource, time
told = {
    "status": open("/proc/self/status").read(), "environment": dict(os.environ), "cwd": os.getcwd(), "umask": os.umask(0o077),
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE), "nproc": resource.getrlimit(resource.RLIMIT_NPROC),
    "core": resource.getrlimit(resource.RLIMIT_CORE), "data": resource.getrlimit(resource.RLIMIT_DATA),
    "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
}
open("told.new", "w").write(json.dumps(told)); os.rename("told.new", "told")
time.sleep(1000)
"""


async def test_it_has_a_user_of_its_own_and_no_rights(bench: Bench) -> None:
    limits = ServiceLimits(memory=300 * _MiB, descriptors=77, processes=9)
    await converge(bench.driver, python("x", TELLS, limits=limits, environment=(("A", "b {run}"),)))
    await until((bench.scan / "zos-svc-x" / "var" / "told").exists)
    told = json.loads(bench.text("x", "told"))
    lines = dict(line.split(":", 1) for line in told["status"].splitlines() if ":" in line)
    uid = str(bench.uid("x"))
    assert lines["Uid"].split() == lines["Gid"].split() == [uid] * 4
    assert lines["Groups"].strip() == ""
    assert lines["NoNewPrivs"].strip() == "1"
    assert {int(lines[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    run = str(bench.scan / "zos-svc-x" / "var")
    assert told["cwd"] == run
    assert told["environment"] == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8", "HOME": run, "TMPDIR": run, "A": f"b {run}",
    }  # fmt: skip
    assert told["umask"] == 0o077
    assert (told["nofile"], told["nproc"], told["core"], told["data"]) == (
        [77, 77], [9, 9], [0, 0], [300 * _MiB, 300 * _MiB]
    )  # fmt: skip
    assert [fd for fd in told["fds"] if fd > 3] == []  # 3 is the directory that it lists


async def test_it_sees_nothing_of_the_others(bench: Bench) -> None:
    files = (ServiceFile(path="secret", content=SECRET),)
    await converge(bench.driver, Service(name="owner", argv=("sleep", "1000"), files=files))
    theirs = bench.scan / "zos-svc-owner"
    script = f"for f in $(find {theirs} 2>/dev/null) {theirs}/files/secret {theirs}/zos.json {theirs}/launch.json; do "
    script += "cat $f >> read 2>/dev/null; done; (echo x > {files}/new) 2>/dev/null; ls {files} > left; echo done > over; "
    await converge(
        bench.driver, Service(name="owner", argv=("sleep", "1000"), files=files),
        Service(name="thief", argv=("sh", "-c", script + "exec sleep 1000")),
    )  # fmt: skip
    await until((bench.scan / "zos-svc-thief" / "var" / "over").exists)
    assert bench.text("thief", "read") == ""
    assert bench.text("thief", "left") == ""  # not even in its own: what is there is the agent's


async def test_a_secret_is_in_its_file_and_nowhere_else(bench: Bench) -> None:
    file = ServiceFile(path="etc/key", content=SECRET)
    script = "cat {files}/etc/key > copy; cat {files}/etc/key | wc -c > size; exec sleep 1000"
    service = Service(name="x", argv=("sh", "-c", script), files=(file,))
    assert SECRET not in repr(service)
    await converge(bench.driver, service)
    await until(lambda: (bench.scan / "zos-svc-x" / "var" / "size").exists())
    await until(lambda: bench.text("x", "size").strip() == str(len(SECRET)))
    await converge(bench.driver, replace(service, files=(replace(file, content=SECRET + "!"),)))
    await until(lambda: bench.text("x", "copy") == SECRET + "!")
    assert SECRET not in repr(await bench.driver.observe([])) + repr(bench.driver.facts())
    place = bench.scan / "zos-svc-x" / "files" / "etc" / "key"
    having = [path for path in bench.directory.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert sorted(having) == sorted([place, bench.scan / "zos-svc-x" / "var" / "copy"])
    info = place.stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (bench.uid("x"), bench.uid("x"), 0o400)
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            for part in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    assert SECRET.encode() not in (process / part).read_bytes() or int(process.name) == os.getpid()


async def test_what_it_makes_of_its_files_is_mended_and_leads_nowhere(bench: Bench, tmp_path: Path) -> None:
    """It may write to a file of mode 0600. (Nothing else: so links are a person's.)"""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    wanted = (ServiceFile(path="a", content="one", mode=0o600), ServiceFile(path="d/b", content="two"))
    service = Service(name="x", argv=("sleep", "1000"), files=wanted)
    await converge(bench.driver, service)
    files = bench.scan / "zos-svc-x" / "files"
    (files / "a").write_text("x" * 3 * _MiB)
    assert await converge(bench.driver, service) == ["update service/x"]
    assert ((files / "a").read_text(), (files / "a").stat().st_mode & 0o7777) == ("one", 0o600)
    (files / "a").unlink()
    (files / "a").symlink_to(victim)
    (files / "d" / "b").unlink()
    (files / "d").rmdir()
    (files / "d").symlink_to(tmp_path)
    (files / "more").mkdir()
    (files / "more" / "still").symlink_to(victim)
    assert await converge(bench.driver, service) == ["update service/x"]
    assert sorted(str(path.relative_to(files)) for path in files.rglob("*")) == ["a", "d", "d/b"]
    assert not (files / "a").is_symlink()
    assert not (files / "d").is_symlink()
    assert (victim.read_text(), (tmp_path / "b").exists()) == ("untouched", False)
    assert await converge(bench.driver, service) == []
    (files / "a").unlink()
    (files / "a").mkdir()
    (files / "a" / "in").write_text("")
    assert await converge(bench.driver, service) == ["update service/x"]
    assert await converge(bench.driver, service) == []


@pytest.mark.parametrize(
    ("path", "mode"), [("../x", 0o400), ("/x", 0o400), ("", 0o400), ("a//b", 0o400), ("x", 0o644), ("x", 0o700)]
)
async def test_a_file_stays_where_it_belongs(bench: Bench, path: str, mode: int) -> None:
    with pytest.raises(DriverError, match="service's"):
        await converge(bench.driver, Service(name="x", argv=("true",), files=(ServiceFile(path=path, content="", mode=mode),)))
    assert [path.name for path in bench.scan.iterdir()] == [".s6-svscan"]


#: Takes memory until it is told no, and says how much it got.
HOG = """
import mmap, os, time
kept = []
try:
    for _ in range(512):
        kept.append(bytearray(b"x") * (1 << 20)) if {private} else kept.append(mmap.mmap(-1, 1 << 20))
        kept[-1][::4096] = b"y" * 256
        open("got", "w").write(str(len(kept)))
except MemoryError:
    open("refused", "w").write("")
time.sleep(1000)
"""


async def test_memory_is_bounded_for_each_process(bench: Bench) -> None:
    service = python("hog", HOG.replace("{private}", "True"), limits=ServiceLimits(memory=64 * _MiB))
    await converge(bench.driver, service)
    var = bench.scan / "zos-svc-hog" / "var"
    if not _groups():
        await until((var / "refused").exists)
    else:
        await until(lambda: (var / "refused").exists() or (bench.logs / "zos-svc-hog" / "current").exists())
        await bench.until_fact("hog", lambda fact: (var / "refused").exists() or len(fact.crashes) > 0)
    assert 30 < int((var / "got").read_text()) < 64


async def test_memory_is_bounded_for_all_together_where_groups_are(bench: Bench) -> None:
    """Shared memory is no process's data: only a control group counts it."""
    if not _groups():
        pytest.skip("this machine has no control groups for memory")
    service = python("hog", HOG.replace("{private}", "False"), limits=ServiceLimits(memory=64 * _MiB))
    await converge(bench.driver, service)
    fact = await bench.until_fact("hog", lambda fact: len(fact.crashes) > 0)
    assert fact.last_exit is not None
    assert fact.last_exit.signal == "SIGKILL"
    assert 30 < int(bench.text("hog", "got")) < 64
    before = _groups_of("hog")
    assert len(before) == 1
    await converge(bench.driver)
    assert _groups_of("hog") == []


async def test_its_room_is_small_and_there_for_each_run(bench: Bench) -> None:
    script = "head -c 10000000 /dev/zero > fill; exec sleep 1000"
    await converge(bench.driver, Service(name="x", argv=("sh", "-c", script), limits=ServiceLimits(scratch=2 * _MiB)))
    room = bench.scan / "zos-svc-x" / "var"
    await until(lambda: commands_of(bench.uid("x")) == ["sleep"])
    assert _MiB < (room / "fill").stat().st_size <= 2 * _MiB
    assert (room.stat().st_uid, room.stat().st_mode & 0o7777) == (bench.uid("x"), 0o700)
    await converge(bench.driver)
    assert str(bench.directory) not in Path("/proc/self/mountinfo").read_text()


async def test_a_fork_bomb_stays_small_and_ends(bench: Bench) -> None:
    bomb = """
import os, time
n = 0
while True:
    try:
        if os.fork() == 0: n = 0; os.setsid()
    except OSError:
        open("full", "w").write("")
        time.sleep(0.1)
"""
    await converge(bench.driver, python("bomb", bomb, limits=ServiceLimits(processes=12)))
    await until((bench.scan / "zos-svc-bomb" / "var" / "full").exists)
    assert 2 <= len(commands_of(bench.uid("bomb"))) <= 12
    await converge(bench.driver)
    assert commands_of(bench.uid("bomb")) == []


async def test_descriptors_are_bounded_and_nothing_dumps_core(bench: Bench) -> None:
    program = """
import os, signal
kept = []
try:
    while True: kept.append(open("/dev/null"))
except OSError:
    pass
kept.pop().close()
open("got", "w").write(str(len(kept)))
os.kill(os.getpid(), signal.SIGSEGV)
"""
    await converge(bench.driver, python("x", program, limits=ServiceLimits(descriptors=40)))
    fact = await bench.until_fact("x", lambda fact: len(fact.crashes) > 0)
    assert fact.last_exit is not None
    assert fact.last_exit.signal == "SIGSEGV"
    assert 30 <= int(bench.text("x", "got")) < 40
    assert [path.name for path in (bench.scan / "zos-svc-x" / "var").iterdir()] == ["got"]


async def test_a_lost_list_of_accounts_changes_nobodys_number(bench: Bench) -> None:
    service = Service(name="x", argv=("sleep", "1000"))
    await converge(bench.driver, service)
    uid = bench.uid("x")
    (bench.state / "accounts").unlink()
    again = bench.another_driver()
    assert await converge(again, service) == []
    assert bench.uid("x") == uid


def _groups() -> bool:
    """Whether this machine lets us bound memory by control groups."""
    v2 = Path("/sys/fs/cgroup/cgroup.subtree_control")
    if v2.exists() and "memory" in v2.read_text().split():
        return os.access("/sys/fs/cgroup", os.W_OK)
    return Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() and os.access("/sys/fs/cgroup/memory", os.W_OK)


def _groups_of(service: str) -> list[Path]:
    found: Iterator[Path] = Path("/sys/fs/cgroup").glob(f"**/zos-service-*-{service}")
    return list(found)


async def test_it_finds_its_volume_where_nobody_else_finds_a_way(bench: Bench) -> None:
    directory = bench.volume("volume-1")
    directory.mkdir(parents=True)
    bench.state.chmod(0o700)
    os.chown(directory, bench.uid("x"), bench.uid("x"))
    writes = "echo $$ > x; echo kept > {volume}/word && cat {volume}/word > told; exec sleep 1000"
    service = Service(name="x", argv=("sh", "-c", writes), volume="volume-1", needs=("volume/volume-1",))
    await converge(bench.driver, service)
    await until(lambda: bench.text("x", "told") == "kept\n")
    assert (directory / "word").read_text() == "kept\n"
    assert [*service.grounds()] == ["volume/volume-1"]
    (directory / "word").unlink()
    directory.rmdir()  # its file system is not mounted any more
    kill(await bench.written("x"))
    await bench.until_fact("x", lambda fact: len(fact.crashes) >= 2)
    await bench.logged("x", "No such file or directory")
    assert not directory.exists(), "it does not write to what is below"
