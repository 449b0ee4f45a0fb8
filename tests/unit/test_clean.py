"""What is erased on a node, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from zos.programs.node import clean


def test_all_is_erased_but_what_is_the_owners(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    state = tmp_path / "state"
    for name in ("disks/a.raw", "keys/wireguard/k", "runtime/v1/root/usr/bin/x", "shared/image.tar"):
        (state / name).parent.mkdir(parents=True)
        (state / name).touch()
    (state / "owners.json").touch()
    (state / "link").symlink_to(outside)
    assert clean._erase(state, kept=("shared",)) == []  # noqa: SLF001
    assert [str(path.relative_to(state)) for path in sorted(state.rglob("*"))] == ["shared", "shared/image.tar"]
    assert (outside / "kept").exists()


def test_what_is_mounted_is_emptied_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disks").mkdir()
    (tmp_path / "disks/a.raw").touch()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disks")
    assert clean._erase(tmp_path) == []  # noqa: SLF001
    assert list(tmp_path.rglob("*")) == [tmp_path / "disks"]


def test_what_can_not_be_erased_keeps_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "busy", "c"):
        (tmp_path / name).mkdir()
    rmdir = Path.rmdir

    def refuse(path: Path) -> None:
        if path.name == "busy":
            raise OSError(16, "Device or resource busy")
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", refuse)
    assert clean._erase(tmp_path) == [f"{tmp_path / 'busy'} (Device or resource busy)"]  # noqa: SLF001
    assert list(tmp_path.iterdir()) == [tmp_path / "busy"]
