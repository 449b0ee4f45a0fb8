"""An image's config is a stranger's text: what is not as it must be is refused where it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zos.drivers import DriverError
from zos.drivers.imageconfig import Config, config_of, read
from zos.drivers.sources import credentials


def test_what_a_machine_uses() -> None:
    config = {
        "Entrypoint": ["sh", "-c", "echo a\necho b"],
        "Cmd": None,
        "Env": ["PATH=/bin", "EMPTY=", "TEXT=two\nlines = 2"],
        "WorkingDir": "/srv",
        "User": "7:8",
        "StopSignal": "QUIT",
        "Labels": {"whatever": 1},
    }
    assert config_of(config) == Config(
        ("sh", "-c", "echo a\necho b"), (), ("PATH=/bin", "EMPTY=", "TEXT=two\nlines = 2"), "/srv", "7:8", 3
    )
    assert config_of({}) == Config()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Entrypoint", "sh"),
        ("Entrypoint", ["sh", 1]),
        ("Entrypoint", ["a\0b"]),
        ("Entrypoint", ["\ud800"]),
        ("Entrypoint", ["x"] * 1025),
        ("Cmd", ["x" * 131073]),
        ("Cmd", {"a": "b"}),
        ("Env", ["NOTHING"]),
        ("Env", ["=x"]),
        ("Env", ["A B=x"]),
        ("Env", ["A\nB=x"]),
        ("Env", ["A=\0"]),
        ("WorkingDir", "/a\nb"),
        ("WorkingDir", ["/"]),
        ("User", "root\0"),
        ("User", "x" * 5000),
        ("User", 7),
        ("StopSignal", {"a": 1}),
    ],
)
def test_what_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        config_of({field: value})


def test_signals_that_nobody_knows_are_the_usual_one() -> None:
    assert [config_of({"StopSignal": name}).stop_signal for name in ("9", "SIGUSR1", "99", "³", "1" * 4000, "X")] == [
        9, 10, 15, 15, 15, 15,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "index",
    [
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps({"manifests": [{"digest": "sha256:../../../../etc/passwd"}]}).encode(),
        json.dumps({"manifests": [{"digest": 7}]}).encode(),
        b'{"manifests": [' + b" " * (4 << 20) + b"]}",
    ],
)
def test_a_broken_layout(tmp_path: Path, index: bytes) -> None:
    (tmp_path / "index.json").write_bytes(index)
    with pytest.raises(DriverError, match="broken"):
        read(tmp_path)


def test_a_layout_of_links(tmp_path: Path) -> None:
    (tmp_path / "index.json").symlink_to("/proc/self/environ")
    with pytest.raises(DriverError, match="broken"):
        read(tmp_path)


def test_credentials_are_for_one_repository() -> None:
    auths = {"r.example": {"auth": "1"}, "r.example/team": {"auth": "2"}, "r.example/team/app": {"auth": "3"}, "other": {}}
    for reference, key in (
        ("r.example/team/app:1", "r.example/team/app"),
        ("r.example/team/app@sha256:00", "r.example/team/app"),
        ("r.example/team/application:1", "r.example/team"),
        ("r.example/teams/x", "r.example"),
        ("r.example/a/b/c/d:1", "r.example"),
    ):
        assert credentials(auths, reference) == {key: auths[key]}
    assert credentials(auths, "r.example:5000/team/app:1") == {}
    assert credentials({"r.example/team": {}}, "r.example/x") == {}
