"""hack/test without a part: all parts, side by side, each in processes of its own.

Most of a test's time is waiting for a guest, a node or a server, so parts that share nothing run at the same time. What each
says is kept apart and shown whole when it ends; meanwhile a line now and then tells how far everybody is, and a failure is
told at once. The last line counts what ran.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: What runs at the same time: name → folders of tests, and by how many processes they are shared (`testlib.share`).
Lanes = Mapping[str, tuple[tuple[str, ...], int]]
#: Memory with which two grids can be afforded beside everything else, in bytes: each has a control plane, nodes, and guests.
#: (Other tests have guests or API servers of their own.)
TWO_GRIDS = 10 * 2**30
#: What needs the machine for itself begins when everybody else is done.
ALONE = frozenset({"kubernetes"})
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
NOTHING_COLLECTED = 5  # pytest's exit code
EVERY = 30.0  # seconds between two lines that say how far everybody is
PATIENCE = 120.0  # seconds for a process that was told to end: taking a grid down takes its time


@dataclass
class Process:
    """One pytest."""

    name: str
    argv: list[str]
    environment: dict[str, str]
    scratch: Path
    lane: str
    running: str = ""
    collected: int = 0
    outcomes: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    took: float = 0.0
    code: int | None = None
    _read: int = 0

    def start(self) -> None:
        self._began = time.monotonic()
        self._output = self.scratch / f"{self.name}.log"
        self._record = self.scratch / f"{self.name}.json"
        self._record.touch()
        with open(self._output, "wb") as output:
            self._process = subprocess.Popen(
                # Whatever becomes of this program, no test goes on without it.
                ["setpriv", "--pdeathsig", "TERM", "--", *self.argv],
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **self.environment, "ZOS_TEST_RECORD": str(self._record)},
            )  # fmt: skip

    def look(self) -> list[str]:
        """Reads on in what it writes down; gives the tests that have failed since."""
        with open(self._record, "rb") as record:
            record.seek(self._read)
            text = record.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        failed = []
        for line in whole.splitlines():
            said = json.loads(line)
            self.collected = said.get("collected", self.collected)
            self.running = said.get("begins", self.running)
            if test := said.get("test"):
                self.outcomes[test], self.seconds[test] = said["outcome"], said["seconds"]
                self.running = ""
                if said["outcome"] == "failed":
                    failed.append(test)
        return failed

    def ended(self) -> bool:
        if self.code is None and (code := self._process.poll()) is not None:
            self.code, self.took = code, time.monotonic() - self._began
        return self.code is not None

    @property
    def broken(self) -> bool:
        """It ended badly although no test of it failed: killed, or not even begun."""
        return self.code not in (0, NOTHING_COLLECTED) and "failed" not in self.outcomes.values()

    def output(self) -> str:
        return self._output.read_text(errors="replace").rstrip()

    def interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def lanes_for(memory: int) -> Lanes:
    """On a machine with so many bytes of memory."""
    several = 2 if memory >= TWO_GRIDS else 1
    return {
        "e2e": (("e2e",), several),
        "node": (("node",), several),
        "api": (("api",), several),
        "quick": (("unit", "golden", "tools"), 1),
        "kubernetes": (("kubernetes",), 1),
    }


def processes(root: Path, lanes: Lanes, options: Sequence[str], scratch: Path) -> list[Process]:
    plugins = ["-p", "no:cacheprovider", "-p", "testlib.record"]
    made = []
    for lane, (folders, count) in lanes.items():
        places = [str(root / folder) for folder in folders if any((root / folder).glob("test_*.py"))]
        if not places:
            continue
        shared = scratch / f"{lane}.shared"
        shared.mkdir()
        argv = [sys.executable, "-m", "pytest", *plugins, *(["-p", "testlib.share"] if count > 1 else []), *places, *options]
        for number in range(1, count + 1):
            name = f"{lane}-{number}" if count > 1 else lane
            made.append(Process(name, argv, {"ZOS_TEST_SHARE": str(shared)}, scratch, lane))
    return made


def say(text: str) -> None:
    print(text, flush=True)


def clock(began: float) -> str:
    seconds = int(time.monotonic() - began)
    return f"{seconds // 60:2}:{seconds % 60:02}"


def run(root: Path, lanes: Lanes, options: Sequence[str], scratch: Path) -> int:
    """Everything below ``root``. ``options`` are for pytest."""
    began = told = time.monotonic()
    everyone = processes(root, lanes, options, scratch)
    alone = [process for process in everyone if process.lane in ALONE]
    running = [process for process in everyone if process not in alone] or alone
    begun = list(running)
    try:
        for process in running:
            process.start()
        while running:
            time.sleep(0.2)
            for process in begun:
                for test in process.look():
                    say(f"{clock(began)}  {process.name}: FAILED {test}")
            for process in running:
                if process.ended():
                    process.look()
                    say(f"\n--- {process.name}, {process.took:.0f} s\n{process.output()}\n")
            running = [process for process in running if process.code is None]
            if not running and len(begun) < len(everyone):
                running = alone
                begun += alone
                for process in alone:
                    process.start()
            if time.monotonic() - told > EVERY and running:
                told = time.monotonic()
                now = [f"{p.name} {len(p.outcomes)} ({p.running.rpartition('::')[2][:50] or '…'})" for p in running]
                say(f"{clock(began)}  {' · '.join(now)}")
    except BaseException:
        for process in running:
            process.interrupt()
        for process in running:
            process.end()
            say(f"\n--- {process.name}, ended early\n{process.output()}\n")
        raise
    return judge(everyone, time.monotonic() - began)


def judge(everyone: Sequence[Process], took: float) -> int:
    """The slowest, who broke, and how many ran; gives the exit code."""
    seconds = sorted(((s, test) for process in everyone for test, s in process.seconds.items()), reverse=True)
    say("slowest:")
    for s, test in seconds[:10]:
        say(f"  {s:6.1f} s  {test}")
    for process in everyone:
        for test, outcome in process.outcomes.items():
            if outcome == "failed":
                say(f"FAILED {process.name}: {test}")
        if process.broken:
            where = f" in {process.running}" if process.running else ""
            say(f"FAILED {process.name}: ended with code {process.code}{where}")
    forgotten = run_by_nobody(everyone)
    for lane, count in forgotten.items():
        say(f"FAILED {lane}: {count} tests that were found were run by nobody")
    counts = Counter(outcome for process in everyone for outcome in process.outcomes.values())
    failed = counts["failed"] + sum(process.broken for process in everyone) + sum(forgotten.values())
    say(f"{took // 60:.0f} min {took % 60:.0f} s: " + ", ".join(f"{p.name} {p.took:.0f} s" for p in everyone))
    say(f"{counts['passed']} passed, {failed} failed" + (f", {counts['skipped']} skipped" if counts["skipped"] else ""))
    return 1 if failed or not counts.total() else 0


def run_by_nobody(everyone: Sequence[Process]) -> dict[str, int]:
    """How many tests of a lane; where something failed, the rest may have been left on purpose."""
    lanes: dict[str, list[Process]] = {}
    for process in everyone:
        lanes.setdefault(process.lane, []).append(process)
    found = {
        lane: max(process.collected for process in sharing) - sum(len(process.outcomes) for process in sharing)
        for lane, sharing in lanes.items()
        if not any(process.broken or "failed" in process.outcomes.values() for process in sharing)
    }
    return {lane: count for lane, count in found.items() if count > 0}


def main(root: Path, lanes: Lanes, options: Sequence[str]) -> int:
    for number in ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    scratch = Path(tempfile.mkdtemp(prefix="zos-test-"))
    try:
        return run(root, lanes, options, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def stop(number: int, _: object) -> None:
    """Once: what ends everything is itself not to be cut short."""
    for other in ENDINGS:
        signal.signal(other, signal.SIG_IGN)
    say("ending: what the tests have made is taken away …")
    sys.exit(128 + number)


if __name__ == "__main__":
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    raise SystemExit(main(Path("tests"), lanes_for(memory), sys.argv[1:]))
