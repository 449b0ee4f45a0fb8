"""What CONTRIBUTING promises of the parts that any user can run: nothing is needed that builds on Debian's libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
_WITHOUT_LIBVIRT = "import sys; sys.modules['libvirt'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"


def test_everything_there_is_found_without_libvirt() -> None:
    places = [str(TESTS / part) for part in ("unit", "golden", "tools")]
    found = subprocess.run(
        [sys.executable, "-c", _WITHOUT_LIBVIRT, "-p", "no:cacheprovider", "--collect-only", "-q", *places],
        cwd=TESTS.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-3000:]
