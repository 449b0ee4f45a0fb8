"""A scan directory under a real s6-svscan, and services for it."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bound import TOLD
from zos.drivers.accounts import Accounts
from zos.drivers.s6 import supervisor_of
from zos.drivers.service import ServiceDriver
from zos.plan.diff import diff
from zos.plan.facts import ServiceFact
from zos.plan.items import Service

#: Where whoever is not root finds it.
PYTHON = os.path.realpath(sys.executable)


class Bench:
    """Below /run: a program that is not root's has to find its way there."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="zos-test-", dir="/run"))
        self.directory.chmod(0o755)
        self.scan, self.logs, self.state = (self.directory / name for name in ("scan", "logs", "state"))
        for place in (self.scan, self.state):
            place.mkdir(mode=0o755)
        self.accounts = Accounts(self.state)
        self.driver = ServiceDriver(self.scan, self.logs, self.accounts, self.volume)
        self._svscan: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._others: list[ServiceDriver] = []

    async def start_svscan(self) -> None:
        (self.scan / ".s6-svscan" / "control").unlink(missing_ok=True)
        self._svscan = subprocess.Popen(
            [*TOLD, "s6-svscan", str(self.scan)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await until((self.scan / ".s6-svscan" / "control").exists)

    def kill_svscan(self) -> None:
        assert self._svscan is not None
        self._svscan.kill()
        self._killed = True
        self._svscan.wait()

    async def close(self) -> None:
        for driver in (self.driver, *self._others):
            await driver.close()
        if self._killed:
            for name in self.names():  # nobody else ends them
                for directory in (self.scan / f"zos-svc-{name}", self.scan / f"zos-svc-{name}" / "log"):
                    subprocess.run(["s6-svc", "-xd", str(directory)], check=False)
        ended = {name: directory for name in self.names() if (directory := self.scan / f"zos-svc-{name}").exists()}
        subprocess.run(["s6-svscanctl", "-t", str(self.scan)], check=False)
        if self._svscan is not None:
            self._svscan.wait(30)
        for directory in ended.values():
            deadline = time.monotonic() + 30
            while supervisor_of(directory) is not None and time.monotonic() < deadline:
                time.sleep(0.02)
            for group in Path("/sys/fs/cgroup").glob(f"*/zos-service-*-{directory.name.removeprefix('zos-svc-')}"):
                with_patience(group.rmdir)
        for room in self.scan.glob("zos-svc-*/var"):
            subprocess.run(["umount", "--lazy", str(room)], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--", str(self.directory)], check=True)

    def volume(self, name: str) -> Path:
        """Where a volume's directory is, behind one that nobody else may enter."""
        return self.state / "volumes" / name

    def names(self) -> list[str]:
        return [path.name.removeprefix("zos-svc-") for path in self.scan.glob("zos-svc-*")]

    def another_driver(self) -> ServiceDriver:
        """As another agent would have one, that knows nothing."""
        self._others.append(ServiceDriver(self.scan, self.logs, Accounts(self.state), self.volume))
        return self._others[-1]

    def text(self, service: str, file: str = "") -> str:
        """What a service wrote since it was started; empty: nothing yet."""
        try:
            return (self.scan / f"zos-svc-{service}" / "var" / (file or service)).read_text()
        except FileNotFoundError:
            return ""

    def pid(self, service: str, file: str = "") -> int:
        """The process id that it wrote, 0 before it has."""
        return int((self.text(service, file).split() or ["0"])[0])

    async def written(self, service: str, file: str = "") -> int:
        """The process id that a service has written, once it has."""
        await until(lambda: self.pid(service, file) != 0)
        return self.pid(service, file)

    async def fact(self, service: str) -> ServiceFact:
        await self.driver.observe([])
        fact = self.driver.facts()[ServiceFact][service]
        assert isinstance(fact, ServiceFact)
        return fact

    async def until_fact(self, service: str, condition: Callable[[ServiceFact], bool], seconds: float = 60) -> ServiceFact:
        deadline = time.monotonic() + seconds
        while not condition(fact := await self.fact(service)):
            assert time.monotonic() < deadline, fact
            await asyncio.sleep(0.05)
        return fact

    async def logged(self, service: str, text: str) -> None:
        """Until its log has this."""
        current = self.logs / f"zos-svc-{service}" / "current"
        await until(lambda: current.exists() and text in current.read_text())

    def uid(self, service: str) -> int:
        return self.accounts.uid(service)

    def supervisor(self, service: str) -> int:
        process = supervisor_of(self.scan / f"zos-svc-{service}")
        assert process is not None
        return process

    def count_of(self, uid: int) -> Callable[[], int]:
        """Begins to count, as fast as it can, how many programs ("sleep") a user has at once; gives a way to end that, once one
        was seen, and to hear how many there were at most."""
        most, over = 0, threading.Event()

        def count() -> None:
            nonlocal most
            while not over.is_set():
                most = max(most, sum(command == "sleep" for command in commands_of(uid)))

        thread = threading.Thread(target=count, daemon=True)
        thread.start()

        def end() -> int:
            deadline = time.monotonic() + 10
            while most == 0 and time.monotonic() < deadline:  # one has said that it runs, and is a shell for a moment more
                time.sleep(0.01)
            over.set()
            thread.join()
            return most

        return end

    async def quiet(self, dirty: asyncio.Event) -> None:
        """Until for half a second nothing was told."""
        for _ in range(100):
            dirty.clear()
            await self.driver.observe([])
            await asyncio.sleep(0.5)
            if not dirty.is_set():
                return
        raise AssertionError("it never ends")

    def times(self) -> dict[str, int]:
        found = itertools.chain([self.state, self.scan], self.state.rglob("*"), self.scan.rglob("*"), self.logs.rglob("*"))
        return {str(path): path.lstat().st_mtime_ns for path in found}


def commands_of(uid: int) -> list[str]:
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                lines = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line)
            except OSError:
                continue
            if str(uid) in lines["Uid"].split() and "Z" not in lines["State"]:
                found.append(lines["Name"].strip())
    return found


async def converge(driver: ServiceDriver, *wanted: Service) -> list[str]:
    ops = diff(wanted, await driver.observe(wanted))
    await asyncio.gather(*(driver.apply(op) for op in ops))
    return sorted(f"{op.verb} {op.key}" for op in ops)


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        await asyncio.sleep(0.02)


def writer(word: str = "one", *, name: str = "writer", owner: str = "w-1") -> Service:
    """Writes its process id and its variable to a file, a line to its log, and stays."""
    script = f'echo "$$ {word} $WORD" > {name}.new; mv {name}.new {name}; echo said {word}; exec sleep 1000'
    return Service(name=name, argv=("sh", "-c", script), environment=(("WORD", "it's $HOME"),), owner=owner)


def pid_in(path: Path) -> int:
    return int(path.read_text().split()[0])


def with_patience(call: Callable[[], object]) -> None:
    for _ in range(100):
        try:
            call()
        except OSError:
            time.sleep(0.02)
        else:
            return


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
