"""How a service changes, says that it is ready, moves with its namespace, and crashes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import needs
from services import PYTHON, Bench, commands_of, converge, until, writer
from zos.drivers import DriverError
from zos.drivers.netns import NETNS
from zos.plan.diff import diff
from zos.plan.items import Readiness, Service, ServiceFile, ServiceLimits
from zos.plan.standing import standing

#: Notes its number and what its file says at its start and at each SIGHUP.
READER = """
import os, signal, time
def read(*_):
    with open("read.new", "w") as file:
        file.write(f"{os.getpid()} {open(os.environ['CONF']).read()}")
    os.rename("read.new", "read")
signal.signal(signal.SIGHUP, read)
read()
while True: time.sleep(1000)
"""


def reader(content: str, **more: object) -> Service:
    service = Service(
        name="reader", argv=(PYTHON, "-I", "-S", "-c", READER), environment=(("CONF", "{files}/conf"),),
        files=(ServiceFile(path="conf", content=content),), change="reload",
    )  # fmt: skip
    return replace(service, **more)


@pytest.fixture
def space() -> Iterator[str]:
    name = "zos-aaaaaaaaaa"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=False)


# -- changes ---------------------------------------------------------------------------------------------------------------


async def test_changed_files_are_read_again_by_the_same_process(bench: Bench) -> None:
    await converge(bench.driver, reader("one"))
    first = await bench.written("reader", "read")
    assert bench.text("reader", "read") == f"{first} one"
    assert await converge(bench.driver, reader("two")) == ["update service/reader"]
    await until(lambda: bench.text("reader", "read") == f"{first} two")
    assert await converge(bench.driver, reader("two")) == []
    os.kill(first, signal.SIGKILL)
    fact = await bench.until_fact("reader", lambda fact: fact.up and fact.restarts == 1)
    assert len(fact.crashes) == 1  # that it was told of a change is no new beginning
    assert await converge(bench.driver, reader("two")) == []


async def test_changed_files_start_one_again_that_does_not_read_them(bench: Bench) -> None:
    await converge(bench.driver, reader("one", change="restart"))
    first = await bench.written("reader", "read")
    assert await converge(bench.driver, reader("two", change="restart")) == ["update service/reader"]
    await until(lambda: bench.text("reader", "read").endswith(" two"))
    assert bench.pid("reader", "read") != first
    await bench.until_fact("reader", lambda fact: fact.up)
    assert await converge(bench.driver, reader("two", change="restart")) == []


async def test_a_changed_command_starts_again_even_one_that_reads_its_files(bench: Bench) -> None:
    await converge(bench.driver, reader("one"))
    first = await bench.written("reader", "read")
    changed = reader("two", environment=(("CONF", "{files}/conf"), ("MORE", "x")))
    assert await converge(bench.driver, changed) == ["update service/reader"]
    await until(lambda: bench.text("reader", "read").endswith(" two"))
    assert bench.pid("reader", "read") != first
    assert await converge(bench.driver, changed) == []


async def test_another_user_has_nothing_of_the_one_before(bench: Bench) -> None:
    script = "setsid sleep 1000 & cat {files}/conf > read; echo $$ > {run}/x; exec sleep 1000"
    one = Service(name="x", argv=("sh", "-c", script), files=(ServiceFile(path="conf", content="c"),), user="one")
    await converge(bench.driver, one)
    first = await bench.written("x")
    other = replace(one, user="other")
    assert await converge(bench.driver, other) == ["update service/x"]
    await until(lambda: bench.pid("x") not in (0, first) and bench.text("x", "read") == "c")
    assert commands_of(bench.uid("one")) == []
    await until(lambda: commands_of(bench.uid("other")) == ["sleep", "sleep"])
    await bench.until_fact("x", lambda fact: fact.up)
    assert await converge(bench.driver, other) == []


async def test_what_only_the_agent_has_to_know_starts_nothing_again(bench: Bench) -> None:
    await converge(bench.driver, reader("one"))
    first = await bench.written("reader", "read")
    for changed in (reader("one", change="restart"), reader("one", reload="USR1"), reader("one", grace=7)):
        assert await converge(bench.driver, changed) == ["update service/reader"]
        assert await converge(bench.driver, changed) == []
    assert bench.pid("reader", "read") == first
    assert (bench.scan / "zos-svc-reader" / "timeout-kill").read_text() == "7000\n"


async def test_a_change_that_was_cut_short_is_finished(bench: Bench) -> None:
    """The agent ends after the new files are there and before the program was told."""
    await converge(bench.driver, reader("one"))
    first = await bench.written("reader", "read")
    path = bench.scan / "zos-svc-reader"
    told = (path / "launch.json").read_text()
    (path / "launch.json").write_text(told.replace('"files": 1}', '"files": 2}'))
    (path / "files" / "conf").write_text("two")
    again = bench.another_driver()
    assert await converge(again, reader("two")) == ["update service/reader"]
    await until(lambda: bench.text("reader", "read") == f"{first} two")
    assert await converge(again, reader("two")) == []


# -- namespaces ------------------------------------------------------------------------------------------------------------


async def test_it_lives_in_its_namespace_and_moves_when_that_is_made_anew(bench: Bench, space: str) -> None:
    dirty = asyncio.Event()
    bench.driver.watch(dirty.set)
    service = writer()
    service = replace(service, netns=space)
    await converge(bench.driver, service)
    first = await bench.written("writer")
    here = os.stat(f"{NETNS}/{space}").st_ino
    assert os.stat(f"/proc/{first}/ns/net").st_ino == here
    await bench.until_fact("writer", lambda fact: fact.up)
    await bench.quiet(dirty)
    subprocess.run(["ip", "netns", "delete", space], check=True)
    await asyncio.wait_for(dirty.wait(), 10)
    assert [op.verb for op in diff([service], await bench.driver.observe([service]))] == ["update"]
    with pytest.raises(DriverError, match="no network namespace"):
        await converge(bench.driver, service)
    subprocess.run(["ip", "netns", "add", space], check=True)
    assert await converge(bench.driver, service) == ["update service/writer"]
    await until(lambda: bench.pid("writer") not in (0, first))
    now = os.stat(f"{NETNS}/{space}").st_ino
    assert now != here
    assert os.stat(f"/proc/{bench.pid('writer')}/ns/net").st_ino == now
    await bench.until_fact("writer", lambda fact: fact.up)
    assert await converge(bench.driver, service) == []


# -- readiness -------------------------------------------------------------------------------------------------------------

READY = {
    "notification": (Readiness(by="notification"), "import os; os.write(3, b'\\n')"),
    "socket": (
        Readiness(by="socket", at="{run}/s"),
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('s'); s.listen()",
    ),
    "port": (
        Readiness(by="port", at="127.0.0.1:4321"),
        "import socket; s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', 4321)); s.listen()",
    ),
}


@pytest.mark.parametrize("by", READY)
async def test_it_is_ready_when_it_says_so_or_answers(bench: Bench, space: str, by: str) -> None:
    dirty = asyncio.Event()
    bench.driver.watch(dirty.set)
    ready, program = READY[by]
    program = f"import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)\n{program}\nos.remove('go')\ntime.sleep(1000)"
    service = Service(name="x", argv=(PYTHON, "-I", "-S", "-c", program), netns=space, ready=replace(ready, timeout=1.0))
    await converge(bench.driver, service)
    fact = await bench.until_fact("x", lambda fact: fact.up)
    assert not fact.ready
    dirty.clear()
    while not (fact := await bench.fact("x")).overdue:  # is told, with nothing that happens
        await asyncio.wait_for(dirty.wait(), 30)
        dirty.clear()
    assert (fact.up, fact.ready) == (True, False)
    assert await converge(bench.driver, service) == []  # and is no fault that something is done about
    go = bench.scan / "zos-svc-x" / "var" / "go"
    go.touch()
    go.parent.stat()
    os.chown(go, bench.uid("x"), bench.uid("x"))
    dirty.clear()
    while not (fact := await bench.fact("x")).ready:
        await asyncio.wait_for(dirty.wait(), 30)
        dirty.clear()
    assert not fact.overdue
    await until(lambda: commands_of(bench.uid("x")) == ["python3.11"] or len(commands_of(bench.uid("x"))) == 1)
    again = bench.another_driver()
    await again.observe([])
    assert again.facts() == bench.driver.facts()  # whether it is ready is not forgotten with the agent
    os.kill(next(iter(pids_of(bench.uid("x")))), signal.SIGKILL)
    await bench.until_fact("x", lambda fact: fact.up and not fact.ready)  # the next one has to say it for itself


async def test_one_without_a_way_to_say_it_is_ready_when_it_runs(bench: Bench) -> None:
    await converge(bench.driver, writer())
    assert (await bench.until_fact("writer", lambda fact: fact.up)).ready


#: Serves an empty FUSE file system: FUSE_INIT, attributes of its root, statfs; see linux/fuse.h.
FUSE = """
import os, struct, sys, time
fd = int(sys.argv[1].removeprefix("/dev/fd/"))
time.sleep(0.3)
attr = struct.pack("<QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
while True:
    request = os.read(fd, 1 << 17)
    _, code, unique = struct.unpack_from("<IIQ", request)
    body, error = b"", 0
    if code == 26: body = struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 12, 10, 65536, 1, 1, 0, 0)
    elif code == 3: body = struct.pack("<QII", 0, 0, 0) + attr
    elif code == 17: body = struct.pack("<QQQQQIIII24x", 77, 0, 0, 0, 0, 4096, 255, 4096, 0)
    elif code in (2, 42): continue
    else: error = -38
    os.write(fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
"""


def serving(place: Path) -> Service:
    argv = (PYTHON, "-I", "-S", "-c", FUSE, "{fuse}")
    return Service(name="fs", argv=argv, mount=str(place), ready=Readiness(by="mount", at=str(place)))


@needs.FUSE
async def test_a_file_system_is_mounted_for_it_and_it_is_ready_when_that_answers(bench: Bench) -> None:
    place = bench.directory / "mount"
    service = serving(place)
    await converge(bench.driver, service)
    await bench.until_fact("fs", lambda fact: fact.ready)
    assert await asyncio.to_thread(lambda: os.statvfs(place).f_blocks) == 77
    (pid,) = pids_of(bench.uid("fs"))
    os.kill(pid, signal.SIGKILL)
    await bench.until_fact("fs", lambda fact: fact.ready and fact.restarts == 1)
    assert await asyncio.to_thread(lambda: os.statvfs(place).f_blocks) == 77
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line]
    assert len(mounts) == 1
    await converge(bench.driver)
    assert str(place) not in Path("/proc/self/mountinfo").read_text()
    assert not place.exists()


@needs.FUSE
async def test_the_directory_around_a_file_system_that_comes_back_is_still_the_same(bench: Bench) -> None:
    """A guest that has it looks at no other one that has its name, see ADR 0018."""
    place = bench.directory / "around/mount"
    await converge(bench.driver, serving(place))
    await bench.until_fact("fs", lambda fact: fact.ready)
    around = os.open(place.parent, os.O_PATH)
    try:
        (bench.scan / "zos-svc-fs/launch.json").write_text("broken")
        bench.driver.distrust()
        assert await converge(bench.driver, serving(place)) == ["update service/fs"]
        await bench.until_fact("fs", lambda fact: fact.ready)
        assert os.path.samestat(place.parent.stat(), os.fstat(around)), "it was put back"
        for moved in (bench.directory / "elsewhere/mount", place):
            await converge(bench.driver, serving(moved))
            await bench.until_fact("fs", lambda fact: fact.ready)
        assert os.path.samestat(place.parent.stat(), os.fstat(around)), "it has moved, and moved back"
    finally:
        os.close(around)
    await converge(bench.driver)
    assert not place.parent.exists()
    assert not (bench.directory / "elsewhere").exists()


@needs.FUSE
async def test_an_empty_directory_that_was_there_before_stays(bench: Bench) -> None:
    place = bench.directory / "others/mount"
    place.parent.mkdir()
    await converge(bench.driver, serving(place))
    await bench.until_fact("fs", lambda fact: fact.ready)
    await converge(bench.driver)
    assert not place.exists()
    assert place.parent.exists()


@needs.FUSE
async def test_where_a_file_system_was_mounted_nothing_is_left_when_it_moves_or_goes(bench: Bench) -> None:
    before = sorted(bench.directory.iterdir())
    (bench.directory / "others").mkdir()
    (bench.directory / "others/kept").write_text("precious")
    old, new = bench.directory / "a/mount", bench.directory / "others/mount"
    for place in (old, new):
        await converge(bench.driver, serving(place))
        await bench.until_fact("fs", lambda fact: fact.ready)
        assert await asyncio.to_thread(lambda at=place: os.statvfs(at).f_blocks) == 77
    assert str(old) not in Path("/proc/self/mountinfo").read_text()
    await converge(bench.driver)
    assert [path.name for path in (bench.directory / "others").iterdir()] == ["kept"]
    assert not old.parent.exists(), "it was made for that alone"
    left = {path for path in bench.directory.iterdir() if path not in before}
    assert left <= {bench.directory / "others", bench.logs}


# -- crashes ---------------------------------------------------------------------------------------------------------------


async def test_a_crash_loop_is_seen_slows_down_and_says_where_to_look(bench: Bench) -> None:
    service = Service(name="bad", argv=("sh", "-c", "echo no configuration; exit 3"))
    await converge(bench.driver, service)
    fact = await bench.until_fact("bad", lambda fact: len(fact.crashes) >= 4)
    assert fact.last_exit is not None
    assert (fact.last_exit.code, str(fact.last_exit)) == (3, "ended with exit code 3")
    gaps = [later - earlier for earlier, later in zip(fact.crashes, fact.crashes[1:], strict=False)]
    assert min(gaps) > 0.9  # s6 itself: once a second
    assert gaps[2] > 1.9
    fact = await bench.until_fact("bad", lambda fact: fact.next_start is not None)
    assert "configuration" in Path(fact.log, "current").read_text()
    assert await converge(bench.driver, service) == []  # it is as it should be: it is the program that is not
    began = time.monotonic()
    better = replace(service, argv=("sleep", "1000"))
    assert await converge(bench.driver, better) == ["update service/bad"]
    fact = await bench.until_fact("bad", lambda fact: fact.up)
    assert time.monotonic() - began < 10  # who mends it does not wait
    assert (fact.restarts, fact.crashes) == (0, ())


async def test_a_program_that_is_not_there_is_told(bench: Bench) -> None:
    await converge(bench.driver, Service(name="no", argv=("no-such-program",)))
    fact = await bench.until_fact("no", lambda fact: len(fact.crashes) > 1)
    assert fact.last_exit is not None
    assert fact.last_exit.code == 127
    await bench.logged("no", "no-such-program: No such file or directory")


async def test_what_can_not_even_be_launched_is_told_alike(bench: Bench) -> None:
    (bench.directory / "file").write_text("")
    await converge(bench.driver, Service(name="no", argv=("sleep", "1000"), mount=str(bench.directory / "file")))
    fact = await bench.until_fact("no", lambda fact: len(fact.crashes) > 1)
    assert (fact.up, fact.restarts) == (False, 0)
    await bench.logged("no", f"launch: {bench.directory}/file: File exists")


async def test_what_a_program_says_stays_in_its_log(bench: Bench) -> None:
    """It may be a secret, of its file or of its own making: no fact tells it, and so no condition."""
    script = "cat $FILE; cat $FILE >&2; echo derived-$(cat $FILE); exit 3"
    secret = Service(
        name="talks", argv=("sh", "-c", script), environment=(("FILE", "{files}/word"),),
        files=(ServiceFile(path="word", content="hush"),),
    )  # fmt: skip
    await converge(bench.driver, secret)
    fact = await bench.until_fact("talks", lambda fact: len(fact.crashes) > 1)
    await bench.logged("talks", "derived-hush")
    problem = standing(secret, await bench.fact("talks"), time.time()).problem
    assert problem is not None
    assert "ended with exit code 3" in problem.message
    assert fact.log in problem.message
    assert "hush" not in repr((problem, await bench.fact("talks"), await bench.driver.observe([secret])))


async def test_a_small_limit_keeps_nobody_from_starting(bench: Bench) -> None:
    await converge(
        bench.driver, Service(name="small", argv=("sleep", "1000"), limits=ServiceLimits(memory=2 << 20, processes=1))
    )
    await bench.until_fact("small", lambda fact: fact.up)
    await until(lambda: commands_of(bench.uid("small")) == ["sleep"])


async def test_its_log_is_not_for_others(bench: Bench) -> None:
    await converge(bench.driver, writer())
    log = bench.logs / "zos-svc-writer"
    await until((log / "current").exists)
    assert log.stat().st_mode & 0o007 == 0


def pids_of(uid: int) -> list[int]:
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                if f"Uid:\t{uid}\t" in (place / "status").read_text():
                    found.append(int(place.name))
            except OSError:
                continue
    return found
