"""The copy of an image on the node's disk: whole, or mended."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from zos.programs.node import image, layout
from zos.programs.node.commands import CommandFailed


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image's root."""
    monkeypatch.setattr(layout, "RUNTIME", tmp_path / "runtime")
    root = tmp_path / "image"
    for name in ("usr/bin/program", "usr/lib/one/two", "etc/passwd", "var/lib/kept"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "usr/bin/program").chmod(0o755)
    (root / "bin").symlink_to("usr/bin")
    (root / "etc/hosts").write_text("a container's own")
    return root


def _tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else f"{path.lstat().st_mode:o} {_text(path)}"
        for path in root.rglob("*")
    }


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _truncate(path: Path) -> None:
    path.write_text("")


def _to_a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


def _to_a_directory(path: Path) -> None:
    path.unlink()
    (path / "below").mkdir(parents=True)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("usr/bin/program", Path.unlink),
        ("usr/bin/program", _truncate),
        ("usr/bin/program", _to_a_directory),
        ("usr/bin/program", lambda path: path.chmod(0o644)),
        ("bin", Path.unlink),
        ("bin", lambda path: (path.unlink(), path.symlink_to("nowhere"))),
        ("usr/lib", shutil.rmtree),
        ("usr/bin", lambda path: path.chmod(0o700)),
        ("usr/lib", _to_a_file),
        ("etc/hosts", Path.unlink),
        ("var/lib/zos", Path.rmdir),
    ],
)
def test_what_a_copy_has_lost_is_mended(source: Path, name: str, damage: Callable[[Path], object]) -> None:
    assert "is on the node's disk now" in image.install("v1", source)
    root = layout.copy_of("v1")
    whole, place = _tree(root), root.stat().st_ino
    assert image.install("v1", source) == ""
    damage(root / name)
    assert name in image.install("v1", source)
    assert _tree(root) == whole
    assert root.stat().st_ino == place, "programs run from there"
    assert image.install("v1", source) == ""


def test_what_can_not_be_put_back_stays_as_it_is(source: Path) -> None:
    image.install("v1", source)
    root = layout.copy_of("v1")
    (root / "usr/bin/program").write_text("half")
    (source / "usr/bin/program").unlink()  # as where the disk is full
    with pytest.raises(CommandFailed):
        image.install("v1", source)
    assert (root / "usr/bin/program").read_text() == "half"


def test_a_program_that_runs_is_no_obstacle(source: Path) -> None:
    shutil.copy("/bin/sleep", source / "usr/bin/program")
    image.install("v1", source)
    program = layout.copy_of("v1") / "usr/bin/program"
    running = subprocess.Popen([program, "100"])
    try:
        program.chmod(0o700)
        program.parent.chmod(0o700)
        assert image.install("v1", source).endswith("usr/bin, usr/bin/program")
        assert image.install("v1", source) == ""
        assert running.poll() is None
    finally:
        running.kill()
        running.wait()


def test_a_copy_that_came_half_way_is_made_anew(source: Path) -> None:
    image.install("v1", source)
    root = layout.copy_of("v1")
    (root.parent / "complete").unlink()
    (root / "usr/bin/program").write_text("half")
    assert "is on the node's disk now" in image.install("v1", source)
    assert (root / "usr/bin/program").read_text() == "usr/bin/program"


@pytest.mark.parametrize("told", ["", '{"usr/bin'])
def test_one_of_which_nothing_is_written_down_stays_as_it_is(source: Path, told: str) -> None:
    image.install("v1", source)
    (layout.copy_of("v1").parent / "complete").write_text(told)
    assert image.install("v1", source) == ""
