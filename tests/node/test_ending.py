"""A run that is told to end, or killed, leaves nothing: no process, no namespace, no link, no directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
_CONFTEST = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
exec(compile(open({{0!r}}).read(), {{0!r}}, "exec"))
"""
_WAITS = """
import time, pathlib
def test_waits(apiserver):
    pathlib.Path({ready!r}).write_text(apiserver.url)
    time.sleep(120)
"""
_HOLDS = """
import os, subprocess, time, pathlib
import pytest
from bound import TOLD
from hypervisor import Libvirt

GUEST = \"\"\"<domain type="qemu"><name>g</name><memory unit="MiB">16</memory><os><type arch="x86_64">hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices></domain>\"\"\"

@pytest.fixture
def libvirt(tmp_path):
    made = Libvirt()
    (tmp_path / "g.xml").write_text(GUEST)
    made.run("virsh", "-c", "qemu:///system", "create", str(tmp_path / "g.xml"))
    yield made
    made.close()

@pytest.fixture
async def supervisor(tmp_path):
    (tmp_path / "scan" / "s").mkdir(parents=True)
    (tmp_path / "scan" / "s" / "run").write_text("#!/bin/sh\\nexec sleep 1000\\n")
    (tmp_path / "scan" / "s" / "run").chmod(0o755)
    made = subprocess.Popen([*TOLD, "s6-svscan", str(tmp_path / "scan")])
    yield made
    made.terminate()
    made.wait()

@pytest.fixture
def space():
    subprocess.run("ip netns add {mark}; ip link add {mark} type bridge", shell=True, check=True)
    yield
    subprocess.run("ip netns del {mark}; ip link del {mark}", shell=True, check=True)

async def test_holds(libvirt, supervisor, space):
    network = os.readlink(f"/proc/{libvirt.namespace.pid}/ns/net")
    pathlib.Path({ready!r}).write_text(f"{libvirt.base} {network}")
    time.sleep(120)
"""
_ALL = """
import sys
from pathlib import Path
from testlib.main import main
sys.exit(main(Path(sys.argv[1]), {"api": (("api",), 1), "node": (("node",), 1)}, sys.argv[2:]))
"""
_OPTIONS = ("-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto")


@dataclass
class Run:
    """All that it starts carries ``mark`` in its environment, or is in the network that it has made for libvirt's guests."""

    process: subprocess.Popen[bytes]
    mark: str
    ready: dict[str, Path]

    def held(self) -> tuple[Path, str]:
        """The directory of its libvirtd and that one's network."""
        text = self.ready["node"].read_text() if self.ready["node"].exists() else "/nowhere none"
        base, _, network = text.partition(" ")
        return Path(base), network

    def processes(self) -> dict[int, str]:
        found = {}
        _, network = self.held()
        for place in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"ZOS_TEST_MARK={self.mark}".encode() in (place / "environ").read_bytes().split(b"\0")
                if marked or os.readlink(place / "ns" / "net") == network:
                    found[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        return found


def start(tmp_path: Path, *command: str) -> Run:
    """Of the parts api and node, with one test each that comes to wait in the midst of things."""
    mark = f"e{uuid.uuid4().hex[:10]}"
    ready = {part: tmp_path / f"{part}.ready" for part in ("api", "node")}
    (tmp_path / "conftest.py").write_text(_CONFTEST.format(str(TESTS / "conftest.py")))
    for part, text in (("api", _WAITS), ("node", _HOLDS)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "test_it.py").write_text(text.replace("{ready!r}", repr(str(ready[part]))).replace("{mark}", mark))
    own = (TESTS / "node" / "conftest.py").read_text().replace("Path(__file__).parent", f"Path({str(tmp_path / 'node')!r})")
    (tmp_path / "node" / "conftest.py").write_text(own)
    environment = {**os.environ, "ZOS_TEST_MARK": mark, "PYTHONPATH": os.pathsep.join(sys.path)}
    with open(tmp_path / "said", "wb") as said:
        # Who runs these tests in the background ignores SIGINT, and so would all that it starts.
        argv = ["env", "--default-signal=INT", sys.executable, *command, *_OPTIONS]
        return Run(subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=said, stderr=said), mark, ready)


def until(condition: Callable[[], object], what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


ALL = ("api", "node")


@pytest.mark.parametrize(
    ("parts", "number"),
    [
        (ALL, signal.SIGTERM),
        (ALL, signal.SIGKILL),
        (("api",), signal.SIGHUP),
        (("node",), signal.SIGINT),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "+".join(value),
)
def test_nothing_is_left(tmp_path: Path, parts: tuple[str, ...], number: signal.Signals) -> None:
    command = ("-c", _ALL, str(tmp_path)) if len(parts) > 1 else ("-m", "pytest", str(tmp_path / parts[0]))
    run = start(tmp_path, *command)
    try:
        until(lambda: all(run.ready[part].exists() for part in parts), (tmp_path / "said").read_text, 150)
        assert len(run.processes()) > 2
        run.process.send_signal(number)
        assert run.process.wait(120) != 0
        until(lambda: not run.processes(), run.processes, 30)
    finally:
        for pid in run.processes():
            os.kill(pid, signal.SIGKILL)
    if "node" in parts:
        assert not run.held()[0].exists()
        assert not Path("/run/netns", run.mark).exists()
        assert not Path("/sys/class/net", run.mark).exists()
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
