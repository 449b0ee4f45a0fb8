"""`hack/test`: parts side by side, what they share, what they say, and what is left of them when they are told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testlib.main import lanes_for

_PROGRAM = """
import sys
from pathlib import Path
from testlib.main import main
plain = [word for plugin in ("asyncio", "timeout", "hypothesispytest") for word in ("-p", "no:" + plugin)]
lanes = {"one": (("a",), 2), "two": (("b",), 1), "kubernetes": (("c",), 1)}
sys.exit(main(Path(sys.argv[1]), lanes, ["-q", "--import-mode=importlib", *plain]))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Tests in two folders, of which one is shared; each leaves a mark."""
    for folder, names in (("a", ("first", "second", "third")), ("b", ("other",))):
        (tmp_path / folder).mkdir()
        for name in names:
            mark = f"open({str(tmp_path / 'ran')!r}, 'a').write('{name}\\n')"
            (tmp_path / folder / f"test_{name}.py").write_text(f"def test_{name}():\n    {mark}\n")
    return tmp_path


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(root)], stdout=subprocess.PIPE, text=True, cwd=root,
        env={**os.environ, "TMPDIR": str(root), "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def run(root: Path) -> tuple[int, list[str]]:
    process = start(root)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said.rstrip().splitlines()


def test_each_runs_once_and_the_last_line_counts_them(root: Path) -> None:
    code, said = run(root)
    assert (code, said[-1]) == (0, "4 passed, 0 failed"), "\n".join(said)
    assert sorted((root / "ran").read_text().split()) == ["first", "other", "second", "third"]


def test_who_needs_the_machine_for_itself_begins_when_the_others_are_done(root: Path) -> None:
    mark = f"open({str(root / 'ran')!r}, 'a').write"
    (root / "b" / "test_other.py").write_text(f"import time\ndef test_other():\n    time.sleep(1)\n    {mark}('other\\n')\n")
    (root / "c").mkdir()
    (root / "c" / "test_alone.py").write_text(f"def test_alone():\n    {mark}('alone\\n')\n")
    code, said = run(root)
    assert (code, said[-1]) == (0, "5 passed, 0 failed"), "\n".join(said)
    assert (root / "ran").read_text().split()[-2:] == ["other", "alone"]


def test_failures_anywhere_are_counted_and_named(root: Path) -> None:
    (root / "a" / "test_first.py").write_text(
        "import pytest\n"
        "@pytest.fixture\ndef f():\n    yield\n    raise ValueError('teardown')\n"
        "def test_first(f):\n    pass\n"
        "def test_skipped():\n    pytest.skip('no')\n"
        "def test_wrong():\n    assert False, 'as it was to be'\n"
    )
    (root / "b" / "test_other.py").write_text("import os\ndef test_other():\n    os._exit(3)\n")
    code, said = run(root)
    assert (code, said[-1]) == (1, "2 passed, 3 failed, 1 skipped"), "\n".join(said)
    for expected in ("as it was to be", "ValueError: teardown", "FAILED two: ended with code 3 in b/test_other.py::test_other"):
        assert any(expected in line for line in said), expected
    named = {line.split(": ", 1)[1] for line in said if line.startswith("FAILED one")}
    assert named == {"a/test_first.py::test_first", "a/test_first.py::test_wrong"}


def test_what_nobody_has_run_is_no_success(root: Path) -> None:
    taken = "os.path.join(os.environ['ZOS_TEST_SHARE'], 'a+test_first.py')"
    (root / "a" / "conftest.py").write_text(f"import os\nopen({taken}, 'w').close()\n")
    code, said = run(root)
    assert (code, said[-1]) == (1, "3 passed, 1 failed"), "\n".join(said)
    assert "FAILED one: 1 tests that were found were run by nobody" in said


def test_a_small_machine_has_one_of_each_at_a_time() -> None:
    assert {name for name, (_, count) in lanes_for(24 * 2**30).items() if count == 2} == {"e2e", "node", "api"}
    assert {count for _, count in lanes_for(8 * 2**30).values()} == {1}


def test_what_is_shared_is_one_folder() -> None:
    """What pytest keeps from one test to the next is that of a folder."""
    assert all(len(folders) == 1 for folders, count in lanes_for(24 * 2**30).values() if count > 1)


def test_no_part_is_forgotten() -> None:
    tests = Path(__file__).parent.parent
    parts = {path.parent.name for path in tests.glob("*/test_*.py")}
    assert {part for places, _ in lanes_for(24 * 2**30).values() for part in places} == parts - {"kernel"}  # in a guest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_told_to_end_takes_away_what_it_has_made(root: Path, number: signal.Signals) -> None:
    made = root / "made"
    conftest = Path(__file__).parent.parent / "conftest.py"
    (root / "conftest.py").write_text(
        f"import signal, sys\nsys.path.insert(0, {str(conftest.parent)!r})\n"
        f"exec(compile(open({str(conftest)!r}).read(), {str(conftest)!r}, 'exec'))\n"
    )
    (root / "b" / "test_other.py").write_text(
        "import pytest, time, pathlib\n"
        f"made = pathlib.Path({str(made)!r})\n"
        "@pytest.fixture(scope='session')\n"
        "def thing():\n    try:\n        made.touch()\n        yield\n    finally:\n        made.unlink()\n"
        "def test_other(thing):\n    time.sleep(60)\n"
    )
    process = start(root)
    until(made.exists)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    until(lambda: not made.exists())


def until(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
