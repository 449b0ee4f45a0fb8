"""hack/kernel-tests: pytest on Debian's own kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kernellib import guest, kernel

#: Those of WireGuard that are about the kernel's.
WIREGUARD = ("tests/node/test_wireguard.py", "-k", "kernel or name_that_is_taken")
_CHECKOUT = Path(__file__).resolve().parent.parent.parent
#: The word for it, and a whole grid whose nodes have the kernel's.
_MESH = "mesh"
MESH = ("tests/kernel/test_mesh.py", "--timeout=3000")
#: Python that this machine has compiled already need not be compiled by the guest.
_PARTS = ("operator", "hack", "tests")
#: What a grid is made from, besides.
_FILES = ("crds", "pyproject.toml", "requirements.lock")
#: What the tests of the node don't need and takes the guest seconds to read.
_PLAIN = ("--noconftest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--assert=plain", "--tb=native")
_SLOWNESS = "10"


def run(arguments: Sequence[str], answer: Path, seconds: float, size: guest.Size = guest.SMALL) -> int:
    """Runs pytest with ``arguments`` in a guest of that ``size``; gives its exit code.

    What it says is in file ``output`` of the empty folder ``answer``, how each test went in ``junit.xml``. Raises GuestError
    where it comes to no end in ``seconds``, and FileNotFoundError where this machine was not set up.
    """
    cache = Path(os.environ.get("ZOS_CACHE", Path.home() / ".cache" / "zos"))
    made = kernel.made(cache)
    copy = answer / "checkout"
    for part in _PARTS:
        shutil.copytree(_CHECKOUT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        (shutil.copytree if (_CHECKOUT / name).is_dir() else shutil.copy2)(_CHECKOUT / name, copy / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", *(str(copy / part) for part in _PARTS)], check=True)
    return guest.run(
        [sys.executable, "-m", "pytest", *_PLAIN, "--junitxml=/run/answer/junit.xml", *arguments],
        kernel=made, directory=copy, answer=answer, seconds=seconds,
        environment={
            "PYTHONPATH": f"{copy}/operator:{copy}/hack:{copy}/tests", "PYTHONDONTWRITEBYTECODE": "1", "ZOS_CACHE": str(cache),
            "ZOS_TEST_SLOWNESS": _SLOWNESS, "ZOS_MINIGRID_PATIENCE": _SLOWNESS,
        },
        size=size,
    )  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="zos-kernel-") as folder:
        answer = Path(folder)
        try:
            if list(arguments) == [_MESH]:
                code = run(MESH, answer, seconds=3600, size=guest.LARGE)
            else:
                code = run(arguments or WIREGUARD, answer, seconds=3600)
        except (guest.GuestError, FileNotFoundError) as error:
            print(f"kernel-tests: {error}", file=sys.stderr)
            return 1
        print((answer / "output").read_text(errors="replace"))
        return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
