"""Which of the programs in the cache a grid runs: checkouts share it, and may be of different versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridlib import tools
from gridlib.layout import GridError


def built(cache: Path, place: str, name: str) -> Path:
    path = cache / "bin" / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho etcd Version: 9.9.9\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("kubectl", "clients"),
        ("kubelet", "kubernetes"),
        ("containerd", "containerd"),
        ("etcd", "etcd"),
        ("wireguard-go", "wireguard-go"),
    ],
)
def test_what_this_checkout_says_and_not_what_was_built_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    monkeypatch.setenv("ZOS_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    find = tools.etcd if name == "etcd" else lambda: tools.program(name)
    version = tools.version(name)
    built(tmp_path, f"{place}-v9.9.9", name)
    with pytest.raises(GridError, match="run hack/setup first"):
        find()
    ours = built(tmp_path, f"{place}-{version}", name)
    built(tmp_path, f"{place}-v0.0.1", name)
    assert find() == str(ours)
