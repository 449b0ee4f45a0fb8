"""What only one place may do, where imports don't tell who does it (import-linter looks at those)."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zos

ROOT = Path(zos.__file__).parent

#: What starts a program, or another process of this one, whatever it is called on.
_STARTS = frozenset(
    ("create_subprocess_exec", "create_subprocess_shell", "subprocess_exec", "subprocess_shell", "ProcessPoolExecutor",
     "posix_spawn", "posix_spawnp", "fork", "forkpty", "popen", "Popen", "pidfd_spawn", "startfile",
     *(f"{call}{how}" for call in ("exec", "spawn") for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe"))),
)  # fmt: skip
#: The same, in words that mean something else elsewhere.
_WHOLE = frozenset({"os.system", "import subprocess", "import multiprocessing", "import pty"})

#: Who may start processes, and why.
STARTERS = {
    "drivers.process": "the one place that does",
    "programs.confine": "runs on nodes by itself, and becomes what it confines",
    "programs.fusemount": "runs on nodes by itself, and leaves who holds a file system",
    "programs.guestbuild": "runs on nodes by itself, and builds the guest's system with the machine's programs",
    "programs.launch": "runs on nodes by itself, and becomes the service",
    "programs.node.__main__": "becomes what is asked for",
    "programs.node.agent": "the agent's pod, and becomes the agent",
    "programs.node.commands": "the one place of what a node's pods are",
    "programs.node.children": "does in a process of its own what is not left again: a namespace, a control group",
    "programs.node.tree": "becomes the first process there",
    "programs.packed": "runs on nodes by itself, and unpacks with zstd",
}
#: Who may write files by itself, and why `zos.files` is not for that.
WRITERS = {
    "files": "the one writer",
    "agent.lock": "a lock is held open, and says by whom",
    "drivers.accounts": "appends lines, each safely on disk before anybody hears of it",
    "drivers.devices": "the kernel's settings",
    "drivers.disk": "the disk itself",
    "drivers.halfwritten": "the disk itself",
    "drivers.systems": "the disk itself",
    "drivers.flistimage": "the flist itself, and the disk image in one",
    "drivers.link": "the kernel's settings",
    "drivers.loopmount": "the kernel's settings",
    "drivers.means": "the kernel's settings",
    "drivers.sysctl": "the kernel's settings",
    "drivers.volume": "the volume itself",
    "manifests.chart": "files of this repository",
    "manifests.install": "files for a cluster",
    "manifests.crd": "files of this repository",
    "manifests.reference": "files of this repository",
    "manifests.gitops": "files of this repository",
    "programs.copytree": "runs on nodes by itself; somebody's tree",
    "programs.download": "runs on nodes by itself; somebody's file",
    "programs.flist.cache": "runs on nodes by itself; whole or not at all, and what a crash loses is fetched again",
    "programs.flist.health": "runs on nodes by itself; whole or not at all",
    "programs.flist.pack": "runs by itself; a store of blocks, each whole or not at all",
    "programs.guestbuild": "runs on nodes by itself; into a directory that is renamed when it is whole",
    "programs.ownkernel": "runs on nodes by itself; into a directory that is renamed when it is whole",
    "programs.putdisk": "runs on nodes by itself; somebody's disk image",
    "programs.untar": "runs on nodes by itself; somebody's archive",
    "programs.enclosing": "runs on nodes by itself; the kernel's settings",
    "programs.history": "runs on nodes by itself; whole or not at all",
    "programs.launch": "runs on nodes by itself; a lock is held open",
    "programs.node.cgroup": "the kernel's settings",
    "programs.node.daemons": "runs on nodes by itself; whole or not at all",
    "programs.node.image": "runs on nodes by itself; into a directory that is renamed when it is whole",
    "programs.node.runtime": "in memory, of the pod itself",
    "programs.node.tree": "runs on nodes by itself; a lock, a mount point, and what a boot forgets",
}


def starts(tree: ast.AST) -> Iterator[int]:
    """Lines that name what starts a process: also where that is only handed on, or imported by its name."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute():
                named = [ast.unparse(node)]
            case ast.Import():
                named = [f"import {alias.name}" for alias in node.names]
            case ast.ImportFrom():
                named = [f"{node.module}.{alias.name}" for alias in node.names]
            case _:
                continue
        if any(name in _WHOLE or name.rpartition(".")[2] in _STARTS for name in named):
            yield node.lineno


def writes(tree: ast.AST) -> Iterator[int]:
    """Lines that make or overwrite a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("write_text", "write_bytes", "touch", "O_CREAT", "mkstemp"):
            yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("open", "fdopen"):
            modes = [*node.args, *(given.value for given in node.keywords if given.arg == "mode")]
            words = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
            if any(set(word) <= set("rwaxbt+") and set(word) & set("wax+") for word in words):
                yield node.lineno


@pytest.mark.parametrize(("does", "who"), [(starts, STARTERS), (writes, WRITERS)])
def test_only_those_that_are_named_do_it(does: Callable[[ast.AST], Iterator[int]], who: dict[str, str]) -> None:
    found: dict[str, list[int]] = {}
    for path in ROOT.rglob("*.py"):
        if lines := list(does(ast.parse(path.read_text()))):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = lines
    assert {module: lines for module, lines in found.items() if module not in who} == {}
    assert set(who) <= set(found), "who does it no more is not named"


@pytest.mark.parametrize(
    "line",
    ["asyncio.create_subprocess_exec('x')", "os.posix_spawn('x', [], {})", "os.fork()", "os.system('x')", "os.popen('x')",
     "loop.subprocess_exec(P, 'x')", "start = os.execvpe", "from os import system", "from os import fork as clone",
     "from asyncio import create_subprocess_shell", "import subprocess", "from subprocess import Popen as start"],
)  # fmt: skip
def test_what_starts_a_process_is_seen(line: str) -> None:
    assert list(starts(ast.parse(line))) == [1]


@pytest.mark.parametrize(
    "line",
    ["path.write_text('x')", "open(path, 'w')", "path.open(mode='ab')", "os.open(path, os.O_WRONLY | os.O_CREAT)",
     "os.fdopen(fd, 'wb')", "open(path, 'r+b')"],
)  # fmt: skip
def test_what_writes_a_file_is_seen(line: str) -> None:
    assert list(writes(ast.parse(line))) == [1]


@pytest.mark.parametrize("line", ["open(path)", "open(path, 'rb')", "platform.system()", "file.write('x')", "open('wax')"])
def test_what_does_neither_is_not(line: str) -> None:
    assert [*starts(ast.parse(line)), *(writes(ast.parse(line)) if "wax" not in line else ())] == []
