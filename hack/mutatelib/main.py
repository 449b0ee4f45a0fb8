"""Changes the code a little, one place at a time, and says which changes no quick test notices.

A change that no test notices is a rule of which nobody would hear when it breaks. Mutants are drawn at random by a seed, and
each is met by the tests that run its line, the quickest first, until one fails. Nothing is done in the checkout: copies of it
lie outside, and are gone at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from mutatelib.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = Path("operator/zos")
QUICK = ("tests/unit", "tests/golden")
#: What tests read of the checkout.
COPIED = (
    "operator",
    "tests",
    "hack",
    "crds",
    "docs",
    "examples",
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
    "requirements.lock",
)
#: A test that takes longer is not asked about a line that runs at import: all others are.
LONG = 1.0
BASELINE = 1800.0  # seconds for one file's tests, traced


@dataclass(frozen=True)
class Touched:
    """What one test runs, and how long it takes (traced)."""

    test: str
    seconds: float
    lines: dict[str, frozenset[int]]


@dataclass(frozen=True)
class Found:
    """``killed``: None, where no test runs the line."""

    file: str
    mutant: Mutant
    killed: bool | None
    how: str

    @property
    def room(self) -> str:
        return self.file.partition("/")[0]

    def __str__(self) -> str:
        word = "killed  " if self.killed else "survived"
        return f"{word} {CODE}/{self.file}:{self.mutant.line}: {self.mutant.change}  ({self.how})"


class Worker:
    """A copy of the checkout with a process that runs tests in it."""

    def __init__(self, scratch: Path) -> None:
        self.root = scratch
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, scratch / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, scratch / name)
        # Checked by content: a mutant may have the age and the size of what it stands for.
        compiling = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "operator", "tests"]
        environment = {
            **os.environ,
            "PYTHONPATH": f"{scratch}/operator:{scratch}/hack",
            "PYTHONPYCACHEPREFIX": str(scratch / "compiled"),
        }
        subprocess.run(compiling, cwd=scratch, env=environment, check=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mutatelib.worker"], cwd=scratch, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("hack/mutate: a process that runs tests has ended by itself")
        return json.loads(answer)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def files_of(paths: Sequence[str]) -> list[str]:
    """Modules, relative to the operator's package, of paths as a person writes them."""
    found: list[str] = []
    for path in paths:
        place = next((p for p in (Path(path), ROOT / path, ROOT / CODE / path) if p.exists()), None)
        if place is None:
            raise SystemExit(f"hack/mutate: there is no {path}, here or in {CODE}")
        place = place.resolve()
        modules = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        found += [str(module.relative_to(ROOT / CODE)) for module in modules]
    return list(dict.fromkeys(found))


def tests_of(files: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Test files: those that were asked for, else the quick ones, and of drivers their own."""
    places = [ROOT / path for path in asked] if asked else [ROOT / path for path in QUICK]
    found = [file for place in places for file in (sorted(place.rglob("test_*.py")) if place.is_dir() else [place])]
    if not asked:
        drivers = [Path(file) for file in files if file.startswith("drivers/")]
        found += [place for file in drivers if (place := ROOT / f"tests/node/test_{file.stem}.py").exists()]
    return [str(file.relative_to(ROOT)) for file in dict.fromkeys(found)]


def touched(worker: Worker, tests: Sequence[str], cache: Path) -> list[Touched]:
    """What the tests run; kept from the last time for files of which nothing has changed."""
    common = hashlib.sha256()
    shared = [*(ROOT / CODE).rglob("*.py"), *(ROOT / "tests").glob("*.py"), *(ROOT / "hack").rglob("*.py")]
    for path in sorted(shared):
        common.update(path.read_bytes())
    found: list[Touched] = []
    for file in tests:
        own = common.copy()
        for path in sorted((ROOT / file).parent.rglob("*.yaml")):
            own.update(path.read_bytes())
        own.update((ROOT / file).read_bytes())
        kept = cache / f"{own.hexdigest()[:32]}.jsonl"
        if not kept.exists():
            print(f"looking what {file} runs", file=sys.stderr, flush=True)
            fresh = worker.root / "touched.jsonl"
            fresh.write_text("")
            answer = worker.ask(arguments=[file], touched=str(fresh), seconds=BASELINE)
            if answer["code"] not in (0, 5):
                raise SystemExit(f"hack/mutate: {file} fails as it is:\n{answer['said']}")
            cache.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(f".{os.getpid()}")
            shutil.copy(fresh, part)
            part.rename(kept)
        for line in kept.read_text().splitlines():
            said = json.loads(line)
            lines = {name: frozenset(numbers) for name, numbers in said["lines"].items()}
            found.append(Touched(said["test"], said["seconds"], lines))
    return found


def meeting(file: str, mutant: Mutant, tests: Sequence[Touched]) -> list[Touched]:
    """The tests that may notice a mutant, the quickest first."""
    first, last = mutant.lines
    run = [t for t in tests if any(first <= line <= last for line in t.lines.get(file, ()))]
    if mutant.imported:
        run += [t for t in tests if t.seconds < LONG and t not in run]
    return sorted(run, key=lambda t: t.seconds)


def meet(worker: Worker, file: str, mutant: Mutant, tests: Sequence[Touched]) -> Found:
    place = worker.root / CODE / file
    if not tests:
        return Found(file, mutant, None, "no test runs it")
    original = place.read_text()
    place.write_text(mutant.source)
    try:
        patience = 20 + 4 * sum(t.seconds for t in tests)
        modules = list(dict.fromkeys(t.test.partition("::")[0] for t in tests))
        answer = worker.ask(arguments=["-x", *modules], chosen=[t.test for t in tests], seconds=patience)
    finally:
        place.write_text(original)
    if answer["code"] == 0:
        return Found(file, mutant, False, f"{len(tests)} tests run it")
    failed = [line.split()[1] for line in answer["said"].splitlines() if line.startswith(("FAILED", "ERROR")) and " " in line]
    return Found(
        file, mutant, True, "took too long" if answer["code"] is None else failed[0] if failed else "could not be imported"
    )


def rates(found: Sequence[Found]) -> Iterator[str]:
    rooms = {one.room for one in found}
    yield f"{'room':<12}{'mutants':>8}{'killed':>8}{'rate':>7}{'not run':>9}"
    for room in (*sorted(rooms), *(["all"] if len(rooms) > 1 else [])):
        here = [one for one in found if room in ("all", one.room)]
        killed = sum(one.killed is True for one in here)
        unrun = sum(one.killed is None for one in here)
        yield f"{room:<12}{len(here):>8}{killed:>8}{100 * killed / len(here):>6.0f}%{unrun:>9}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="hack/mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a module, a room, or anything between: kinds, plan/order.py")
    parser.add_argument("--count", type=int, default=40, help="mutants to draw, in all (%(default)s); 0: every one")
    parser.add_argument("--seed", default="1", help="what they are drawn by (%(default)s)")
    parser.add_argument("--tests", nargs="+", default=[], metavar="TESTS", help="files or folders instead of the quick tests")
    parser.add_argument("--line", type=int, help="only mutants of this line")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (%(default)s)")
    parser.add_argument("--killed", action="store_true", help="show those that a test notices as well")
    options = parser.parse_args()
    files = files_of(options.paths)
    every = [(file, mutant) for file in files for mutant in mutants((ROOT / CODE / file).read_text())]
    every = [one for one in every if options.line in (None, one[1].line)]
    drawn = every
    if options.count and options.count < len(every):
        drawn = random.Random(options.seed).sample(every, options.count)
    cache = Path(os.environ.get("ZOS_CACHE", Path.home() / ".cache/zos")) / "mutate"
    found: list[Found] = []
    with tempfile.TemporaryDirectory(prefix="zos-mutate.") as scratch:
        idle: Queue[Worker] = Queue()
        workers = [Worker(Path(scratch) / str(number)) for number in range(max(1, min(options.jobs, len(drawn))))]
        for worker in workers:
            idle.put(worker)
        tests = touched(workers[0], tests_of(files, options.tests), cache)

        def one(drawn: tuple[str, Mutant]) -> Found:
            worker = idle.get()
            try:
                return meet(worker, *drawn, meeting(*drawn, tests))
            finally:
                idle.put(worker)

        with ThreadPoolExecutor(len(workers)) as pool:
            for result in pool.map(one, drawn):
                found.append(result)
                if options.killed or not result.killed:
                    print(result, flush=True)
        for worker in workers:
            worker.close()
    print(f"{len(drawn)} of {len(every)} mutants, seed {options.seed}")
    print("\n".join(rates(found)))


if __name__ == "__main__":
    main()
