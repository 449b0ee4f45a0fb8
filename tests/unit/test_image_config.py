"""An image's config is a stranger's text: what is not as it must be is refused where it is read."""

from __future__ import annotations

import hashlib
import json
import os
import re
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


@pytest.mark.parametrize(
    "config",
    [
        {"Entrypoint": ["x"] * 1024},
        {"Cmd": ["x" * 131072]},  # MAX_ARG_STRLEN
        {"User": "x" * 4096},
    ],
)
def test_as_much_as_there_may_be(config: dict[str, Any]) -> None:
    assert config_of(config)


def test_a_config_that_is_none() -> None:
    with pytest.raises(ValueError, match="config is not an object"):
        config_of(["Cmd"])


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("1", 1), ("9", 9), ("64", 64), ("KILL", 9), ("SIGUSR1", 10),
        ("0", 15), ("65", 15), ("99", 15), ("009", 15), ("³", 15), ("1" * 4000, 15), ("X", 15),
    ],
)  # fmt: skip
def test_signals_that_nobody_knows_are_the_usual_one(name: str, number: int) -> None:
    assert config_of({"StopSignal": name}).stop_signal == number


CONFIG = "application/vnd.oci.image.config.v1+json"
LAYERS = ({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:" + "1" * 64, "size": 1},)


def layout(directory: Path, whole: Any, media: str = CONFIG, layers: Any = LAYERS) -> None:
    """An OCI layout with one image."""

    def blob(content: Any) -> str:
        text = json.dumps(content).encode()
        digest = hashlib.sha256(text).hexdigest()
        (directory / "blobs/sha256" / digest).write_bytes(text)
        return f"sha256:{digest}"

    (directory / "blobs/sha256").mkdir(parents=True)
    digest = blob({"config": {"mediaType": media, "digest": blob(whole)}, "layers": layers})
    (directory / "index.json").write_text(json.dumps({"manifests": [{"digest": digest}]}))


@pytest.mark.parametrize("system", [{"os": "linux", "architecture": "amd64"}, {}])  # as old tools leave it out
def test_an_image_of_this_node(tmp_path: Path, system: dict[str, str]) -> None:
    layout(tmp_path, {**system, "config": {"Cmd": ["sh"], "User": "7"}})
    assert read(tmp_path) == Config(command=("sh",), user="7")


@pytest.mark.parametrize("config", [{}, {"config": None}])
def test_an_image_that_asks_for_nothing(tmp_path: Path, config: dict[str, Any]) -> None:
    layout(tmp_path, config)
    assert read(tmp_path) == Config()


@pytest.mark.parametrize(
    ("system", "told"),
    [
        ({"os": "linux", "architecture": "arm64"}, "linux/arm64"),
        ({"architecture": "riscv64"}, "linux/riscv64"),
        ({"os": "windows", "architecture": "amd64"}, "windows/amd64"),
        ({"os": "windows"}, "windows/amd64"),
        ({"architecture": "x" * 5000}, "linux/" + "x" * 94),
    ],
)
def test_an_image_of_another_architecture_is_refused(tmp_path: Path, system: dict[str, str], told: str) -> None:
    layout(tmp_path, {**system, "config": {"Cmd": ["sh"]}})
    with pytest.raises(DriverError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"it is for {told}, this node is linux/amd64"


@pytest.mark.parametrize(
    ("media", "words"),
    [
        (
            "application/vnd.cncf.helm.config.v1+json",
            r"it is not a container image \(application/vnd.cncf.helm.config.v1\+json\)",
        ),
        ("", r"it is not a container image \(no type given\)"),
    ],
)
def test_what_is_no_image_is_told_by_its_type(tmp_path: Path, media: str, words: str) -> None:
    layout(tmp_path, {}, media)
    with pytest.raises(DriverError, match=words):
        read(tmp_path)


def test_an_image_without_layers(tmp_path: Path) -> None:
    layout(tmp_path, {}, layers=[])
    with pytest.raises(DriverError, match="it has no layers"):
        read(tmp_path)


def test_a_config_that_is_not_as_it_must_be_is_named(tmp_path: Path) -> None:
    layout(tmp_path, {"config": {"Env": ["NOTHING"]}})
    with pytest.raises(DriverError, match=r"its manifest or config is broken \(Env has 'NOTHING', which is not NAME=value\)"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (b"[]", "the index is not an object"),
        (b"{}", "manifests"),
        (b"[" * 100_000, "recursion"),
        (json.dumps({"manifests": [{"digest": "sha256:../../../../etc/passwd"}]}).encode(), "digest 'sha256:../../.."),
        (json.dumps({"manifests": [{"digest": 7}]}).encode(), "digest '7'"),
        (b'{"manifests": [' + b" " * (4 << 20) + b"]}", "index.json is larger than 4 MiB"),
    ],
)
def test_a_broken_layout(tmp_path: Path, index: bytes, words: str) -> None:
    (tmp_path / "index.json").write_bytes(index)
    with pytest.raises(DriverError, match=f"its manifest or config is broken .*{re.escape(words)}"):
        read(tmp_path)


def test_an_index_may_be_as_large_as_4_mib(tmp_path: Path) -> None:
    layout(tmp_path, {})
    index = tmp_path / "index.json"
    index.write_bytes(index.read_bytes().ljust(4 << 20))
    assert read(tmp_path) == Config()


@pytest.mark.parametrize("place", ["/proc/self/environ", "/dev/zero"])
def test_a_layout_of_links(tmp_path: Path, place: str) -> None:
    (tmp_path / "index.json").symlink_to(place)
    with pytest.raises(DriverError, match="Too many levels of symbolic links"):
        read(tmp_path)


def test_a_layout_of_what_is_no_file(tmp_path: Path) -> None:
    """It ends at once, whether or not somebody writes into it."""
    os.mkfifo(tmp_path / "index.json")
    with pytest.raises(DriverError, match=r"index\.json is not a file"):
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
