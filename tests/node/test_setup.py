"""hack/setup: what it says to who can't have everything, before it touches anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

HACK = Path(__file__).parent.parent.parent / "hack"
_READS = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")  # a checkout that only root can look into
_NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *_READS)
_ELSEWHERE = "PRETTY_NAME='Some Linux 44'\nID=some\nVERSION_ID=44\n"


def setup(tmp_path: Path, *before: str) -> str:
    done = subprocess.run(
        [*before, HACK / "setup", "--python"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "ZOS_CACHE": str(tmp_path / "c")},
    )
    assert done.returncode == 1
    assert not done.stdout
    assert not list(tmp_path.glob("c/*"))
    return done.stderr


def test_an_ordinary_user_is_told_what_works_without_root(tmp_path: Path) -> None:
    said = setup(tmp_path, *_NOBODY)
    assert "needs root" in said
    assert "hack/test unit golden needs neither root nor Debian" in said


def test_another_system_is_named(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text(_ELSEWHERE)
    mount = f'mount --bind {tmp_path}/os-release $(readlink -f /etc/os-release) && exec "$@"'
    said = setup(tmp_path, "unshare", "-m", "sh", "-c", mount, "sh")
    assert "needs Debian 12, and here is Some Linux 44" in said
    assert "hack/test unit golden needs neither root nor Debian" in said


def test_who_has_no_place_for_a_cache_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [*_NOBODY, HACK / "setup", "--pure", "--python"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    )
    assert done.returncode == 1
    assert "set ZOS_CACHE" in done.stderr
