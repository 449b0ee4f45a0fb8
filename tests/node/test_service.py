"""Services under a real s6-svscan of the test's own: made, changed, ended, healed."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from services import PYTHON, Bench, commands_of, converge, until, writer
from zos.api.meta import Reason
from zos.drivers import DriverError, ownroot
from zos.drivers.accounts import Accounts
from zos.drivers.service import ServiceDriver
from zos.drivers.servicelook import untold_ends
from zos.plan.diff import Op
from zos.plan.facts import ServiceFact
from zos.plan.items import Service, ServiceFile
from zos.plan.standing import standing
from zos.programs.node import layout


async def test_a_service_runs_with_its_environment_and_logs(bench: Bench) -> None:
    service = writer()
    assert await converge(bench.driver, service) == ["create service/writer"]
    await bench.written("writer")
    assert bench.text("writer").split(maxsplit=1)[1] == "one it's $HOME\n"
    log = bench.logs / "zos-svc-writer" / "current"
    await until(lambda: log.exists() and "said one" in log.read_text())
    assert await converge(bench.driver, service) == []
    observed = await bench.driver.observe([])
    assert observed["service/writer"].owner == "w-1"


async def test_it_comes_back_by_itself(bench: Bench) -> None:
    await converge(bench.driver, writer())
    first = await bench.written("writer")
    os.kill(first, signal.SIGKILL)
    await until(lambda: bench.pid("writer") not in (0, first))
    assert await converge(bench.driver, writer()) == []
    fact = await bench.fact("writer")
    assert (fact.up, fact.restarts, len(fact.crashes)) == (True, 1, 1)
    assert fact.last_exit is not None
    assert (fact.last_exit.signal, fact.last_exit.code, fact.last_exit.asked) == ("SIGKILL", None, False)
    assert fact.since is not None
    assert fact.crashes[0] <= fact.since <= time.time()


async def test_a_changed_command_restarts_and_an_unchanged_one_does_not(bench: Bench) -> None:
    await converge(bench.driver, writer())
    first = await bench.written("writer")
    assert await converge(bench.driver, writer(owner="w-2")) == []  # the owner is no difference
    assert await converge(bench.driver, writer("two")) == ["update service/writer"]
    await until(lambda: "two" in bench.text("writer"))
    assert not Path(f"/proc/{first}").exists()
    fact = await bench.fact("writer")
    assert (fact.restarts, fact.crashes) == (0, ())  # that was no crash of what it is now


async def test_removal_leaves_nothing(bench: Bench) -> None:
    stubborn = Service(name="stubborn", argv=("sh", "-c", "trap '' TERM; echo $$ > {run}/stubborn; while :; do sleep 1; done"))
    await converge(bench.driver, writer(), stubborn)
    pids = [await bench.written("writer"), await bench.written("stubborn")]
    assert await converge(bench.driver) == ["remove service/stubborn", "remove service/writer"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert [path.name for path in bench.scan.iterdir()] == [".s6-svscan"]
    assert list(bench.logs.iterdir()) == []
    ours = subprocess.run(["pgrep", "-f", f"s6-log.*{bench.logs}"], capture_output=True, text=True)
    assert ours.stdout == ""
    assert await converge(bench.driver) == []


async def test_what_a_program_leaves_behind_ends_with_it(bench: Bench) -> None:
    """A child in a session of its own, that heeds no signal that can be caught, and is nobody's child any more."""
    child = "trap '' TERM HUP; echo $$ > {run}/child.new; mv {run}/child.new {run}/child; while :; do sleep 1; done"
    script = f'setsid sh -c "{child.replace("$", chr(92) + "$")}" & echo $$ > {{run}}/forks; exec sleep 1000'
    service = Service(name="forks", argv=("sh", "-c", script))
    await converge(bench.driver, service)
    parent = await bench.written("forks")
    child_pid = await bench.written("forks", "child")
    os.kill(parent, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{child_pid}").exists())
    await until(lambda: bench.pid("forks", "child") not in (0, child_pid))
    await converge(bench.driver)
    assert commands_of(bench.uid("forks")) == []


@pytest.mark.parametrize("broken", ["launch.json", "zos.json", "history.json", "run", "finish"])
async def test_of_one_that_is_broken_nothing_is_left_either(bench: Bench, broken: str) -> None:
    script = "setsid sleep 1000 & echo $$ > {run}/x; exec sleep 1000"
    await converge(bench.driver, Service(name="x", argv=("sh", "-c", script), user="other"))
    await bench.written("x")
    await until(lambda: commands_of(bench.uid("other")) == ["sleep", "sleep"])
    (bench.scan / "zos-svc-x" / broken).write_text("{")
    assert await converge(bench.driver) == ["remove service/x"]
    assert commands_of(bench.uid("other")) == []
    assert [path.name for path in bench.scan.iterdir()] == [".s6-svscan"]


async def test_however_deep_a_program_has_nested_directories_it_starts_again_and_goes(bench: Bench) -> None:
    program = "import os, time\nopen('deep', 'w').write(str(os.getpid()))\nfor _ in range(3000): os.mkdir('d'), os.chdir('d')\n"
    program += "open(os.environ['HOME'] + '/done', 'w').write('1')\ntime.sleep(1000)"
    await converge(bench.driver, Service(name="deep", argv=(PYTHON, "-I", "-S", "-c", program)))
    await bench.written("deep", "done")
    first = await bench.written("deep")
    os.kill(first, signal.SIGKILL)
    await until(lambda: bench.pid("deep") not in (0, first))
    await converge(bench.driver)
    assert [path.name for path in bench.scan.iterdir()] == [".s6-svscan"]


async def test_services_that_end_slowly_hold_up_nobody(bench: Bench) -> None:
    """One takes five seconds to be killed: three take no longer, others are looked after meanwhile, and the end is told."""
    dirty = asyncio.Event()
    bench.driver.watch(dirty.set)
    names = ("one", "two", "three")
    script = "trap '' TERM; echo $$ > {run}/out; while :; do sleep 1; done"
    stubborn = [Service(name=name, argv=("sh", "-c", script), owner="w-1") for name in names]
    await converge(bench.driver, *stubborn)
    for name in names:
        await bench.written(name, "out")
    for name in names:
        directory = bench.scan / f".gone-zos-svc-{name}-x"
        directory.mkdir()
        (bench.scan / f"zos-svc-{name}").rename(directory / "service")  # as an agent leaves them that is stopped just then
    began = time.monotonic()
    dying = {f"service/{name}" for name in names}
    seen = await bench.driver.observe([])
    assert {key: thing.owner for key, thing in seen.items()} == dict.fromkeys(dying, "w-1")
    assert all(thing.item not in stubborn for thing in seen.values())
    await bench.driver.apply(Op("create", "service/writer", writer()))
    assert (await bench.driver.observe([])).keys() == {*dying, "service/writer"}
    assert time.monotonic() - began < 4
    dirty.clear()  # before each look: an end that is told while it looks is told once
    while len(await bench.driver.observe([])) > 1:
        await asyncio.wait_for(dirty.wait(), 10)
        dirty.clear()
    assert time.monotonic() - began < 13


def overwritten(file: Path, text: str) -> bool:
    """False: s6 is just starting it."""
    try:
        file.write_text(text)
    except OSError as error:
        if error.errno != errno.ETXTBSY:
            raise
        return False
    return True


async def test_what_a_person_stopped_or_broke_is_mended(bench: Bench) -> None:
    await converge(bench.driver, writer())
    await bench.written("writer")
    path = bench.scan / "zos-svc-writer"
    first = bench.pid("writer")
    subprocess.run(["s6-svc", "-wD", "-d", str(path)], check=True)
    assert await converge(bench.driver, writer()) == ["update service/writer"]
    await until(lambda: bench.pid("writer") not in (0, first))
    for broken in ("zos.json", "launch.json", "run", "finish"):
        await until(lambda file=path / broken: overwritten(file, "{"))
        assert await converge(bench.driver, writer()) == ["update service/writer"]
        assert await converge(bench.driver, writer()) == []


async def test_an_agent_that_knows_less_than_the_one_before_disturbs_nothing(bench: Bench) -> None:
    await converge(bench.driver, writer())
    first = await bench.written("writer")
    for name in ("launch.json", "zos.json", "history.json"):
        path = bench.scan / "zos-svc-writer" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "later": ""}))
    again = bench.another_driver()
    assert await converge(again, writer()) == ["update service/writer"]
    assert await converge(again, writer()) == []
    assert bench.pid("writer") == first
    assert (await bench.until_fact("writer", lambda fact: fact.up)).restarts == 0


async def break_launcher(path: Path) -> None:
    """Nothing that it would write down is written from here on."""
    for name in ("run", "finish"):
        await until(lambda file=path / name: overwritten(file, "#!/bin/sh\nexit 1\n"))


async def test_a_launcher_that_writes_nothing_down_is_seen_to_end(bench: Bench) -> None:
    """Whatever keeps it from that keeps it from writing down its own end."""
    await converge(bench.driver, writer())
    first = await bench.written("writer")
    assert not (await bench.until_fact("writer", lambda fact: fact.up)).crashes
    await break_launcher(bench.scan / "zos-svc-writer")
    os.kill(first, signal.SIGKILL)
    fact = await bench.until_fact("writer", lambda fact: len(fact.crashes) >= 5)
    assert fact.last_exit is not None
    assert (fact.up, fact.last_exit.code, fact.last_exit.asked) == (False, 1, False)
    told = standing(writer(), fact, time.time()).problem
    assert told is not None
    assert told.reason is Reason.CRASH_LOOP
    assert "exit code 1" in told.message
    assert await converge(bench.driver, writer()) == ["update service/writer"]
    await bench.until_fact("writer", lambda fact: fact.up and len(fact.crashes) <= 1)


async def test_of_ends_that_nobody_wrote_down_only_the_first_after_it_was_asked_for_is_no_crash(bench: Bench) -> None:
    await converge(bench.driver, writer())
    first = await bench.written("writer")
    await bench.until_fact("writer", lambda fact: fact.up)
    path = bench.scan / "zos-svc-writer"
    assert await untold_ends(path) == []
    await break_launcher(path)
    (path / "asked").write_text("")
    os.kill(first, signal.SIGTERM)
    await bench.until_fact("writer", lambda fact: len(fact.crashes) == 2)
    ends = await untold_ends(path)
    assert [(end.code, end.signal, end.asked) for end in ends[:3]] == [(None, "SIGTERM", True), (1, "", False), (1, "", False)]


@pytest.mark.parametrize("found", [None, "", "{", "[]", '{"ends": 1}', '{"started": {"pid": 1}, "starts": "x", "ends": [{}]}'])
async def test_a_lost_history_is_begun_anew(bench: Bench, found: str | None) -> None:
    """What a program was started with is then not known: another one is."""
    await converge(bench.driver, writer())
    first = await bench.written("writer")
    await bench.until_fact("writer", lambda fact: fact.up)
    history = bench.scan / "zos-svc-writer" / "history.json"
    history.unlink()
    if found is not None:
        history.write_text(found)
    again = bench.another_driver()
    assert await converge(again, writer()) == ["update service/writer"]
    await until(lambda: bench.pid("writer") not in (0, first))
    await bench.until_fact("writer", lambda fact: fact.up)
    assert await converge(again, writer()) == []


async def test_an_agent_with_another_interpreter_disturbs_nothing(bench: Bench) -> None:
    await converge(bench.driver, writer())
    first = await bench.written("writer")
    run = bench.scan / "zos-svc-writer" / "run"
    right = run.read_text()
    run.write_text("#!/bin/sh\nexec /an/earlier/python launch.py start\n")
    assert await converge(bench.driver, writer()) == ["update service/writer"]
    assert run.read_text() == right
    assert (bench.pid("writer"), Path(f"/proc/{first}").exists()) == (first, True)


async def test_an_agent_in_a_pod_has_it_started_from_its_own_root(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the way there, the directory is lost that s6 starts it in, and that of its end."""
    (tmp_path / "own").symlink_to("/")
    monkeypatch.setattr(layout, "ROOTS", tmp_path)
    monkeypatch.setattr(ownroot, "_ROOT", "own")
    await converge(bench.driver, writer())
    first = await bench.written("writer")
    assert "chroot" in (bench.scan / "zos-svc-writer" / "run").read_text()
    os.kill(first, signal.SIGKILL)
    await until(lambda: bench.pid("writer") not in (0, first))
    await bench.until_fact("writer", lambda fact: fact.up and fact.restarts == 1)


async def test_a_half_made_and_a_half_removed_service_are_cleared(bench: Bench) -> None:
    await converge(bench.driver, writer())
    pid = await bench.written("writer")
    (bench.scan / ".new-zos-svc-x-1").mkdir()
    (bench.scan / ".gone-zos-svc-writer-abc").mkdir()
    (bench.scan / "zos-svc-writer").rename(bench.scan / ".gone-zos-svc-writer-abc" / "service")  # and here the agent died
    again = bench.another_driver()
    assert [thing.item in (None, writer()) for thing in (await again.observe([])).values()] == [False]  # on its way
    while await again.observe([]):
        await asyncio.sleep(0.02)
    assert [path.name for path in bench.scan.iterdir()] == [".s6-svscan"]
    assert not Path(f"/proc/{pid}").exists()


async def test_another_agent_finds_all_as_it_is_and_writes_nothing(bench: Bench) -> None:
    service = dataclasses.replace(writer(), files=(ServiceFile(path="a/b", content="x"),))
    await converge(bench.driver, service)
    pid = await bench.written("writer")
    await bench.until_fact("writer", lambda fact: fact.up)
    await until(lambda: "said one" in (bench.logs / "zos-svc-writer" / "current").read_text())  # the last thing it does
    before = bench.times()
    again = bench.another_driver()
    assert await converge(again, service) == []
    assert bench.times() == before
    assert bench.pid("writer") == pid
    assert again.facts()[ServiceFact].keys() == {"writer"}


async def test_changes_are_noticed(bench: Bench) -> None:
    dirty = asyncio.Event()
    bench.driver.watch(dirty.set)
    await converge(bench.driver, writer())
    first = await bench.written("writer")
    await bench.quiet(dirty)
    os.kill(first, signal.SIGKILL)
    dirty.clear()
    while (fact := await bench.fact("writer")).restarts == 0 or not fact.up:
        await asyncio.wait_for(dirty.wait(), 10)
        dirty.clear()
    await bench.quiet(dirty)
    subprocess.run(["s6-svc", "-d", str(bench.scan / "zos-svc-writer")], check=True)
    done: list[str] = []
    while not done:  # that it was told to is told too, before it does so
        await asyncio.wait_for(dirty.wait(), 10)
        dirty.clear()
        done += await converge(bench.driver, writer())
    assert done == ["update service/writer"]
    await bench.until_fact("writer", lambda fact: fact.up)
    await bench.quiet(dirty)
    await asyncio.sleep(0.5)
    assert not dirty.is_set()  # nothing happens: nothing wakes


async def test_two_services_never_have_one_account(bench: Bench) -> None:
    one = dataclasses.replace(writer(), user="somebody")
    two = dataclasses.replace(writer(name="other"), user="somebody")
    await converge(bench.driver, one)
    with pytest.raises(DriverError, match="somebody is that of service writer"):
        await converge(bench.driver, one, two)
    assert await converge(bench.driver, one) == []
    await converge(bench.driver)
    assert await converge(bench.driver, two) == ["create service/other"]


async def test_without_a_supervisor_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    driver = ServiceDriver(tmp_path / "scan", tmp_path / "logs", Accounts(tmp_path))
    with pytest.raises(DriverError, match="no supervisor"):
        await converge(driver, writer())


async def test_the_supervisor_is_killed(bench: Bench) -> None:
    """s6-supervise ends, and the program with it: at no time are there two."""
    await converge(bench.driver, writer())
    first = await bench.written("writer")
    uid = bench.uid("writer")
    watch = bench.count_of(uid)
    os.kill(bench.supervisor("writer"), signal.SIGKILL)
    await until(lambda: bench.pid("writer") not in (0, first))
    await until(lambda: not Path(f"/proc/{first}").exists())
    assert watch() == 1
    while not (fact := await bench.fact("writer")).up:
        await asyncio.sleep(0.02)
    assert fact.restarts == 1
    assert await converge(bench.driver, writer()) == []


async def test_the_first_supervisor_is_killed(bench: Bench) -> None:
    """s6-svscan ends, everything else goes on, and another one takes it over."""
    await converge(bench.driver, writer())
    first = await bench.written("writer")
    bench.kill_svscan()
    assert await converge(bench.driver, writer()) == []
    with pytest.raises(DriverError, match="no supervisor"):
        await converge(bench.driver, writer(), writer(name="other"))
    await bench.start_svscan()
    while await converge(bench.driver, writer(), writer(name="other")):
        await asyncio.sleep(0.05)
    await bench.written("other")
    assert bench.pid("writer") == first
    assert Path(f"/proc/{first}").exists()
    await converge(bench.driver)
    assert [path.name for path in bench.scan.iterdir()] == [".s6-svscan"]
