"""What an agent is told at its start."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from zos.agent.settings import parse


def test_lists_by_commas_and_by_repetition() -> None:
    words = ["--node", "n", "--image-dir", "/a,/b", "--image-dir", "/c", "--image-network", "10.0.0.0/8,2001:db8::/64"]
    settings = parse(words, {})
    assert settings.image_dir == (Path("/a"), Path("/b"), Path("/c"))
    assert settings.image_network == (ip_network("10.0.0.0/8"), ip_network("2001:db8::/64"))
    assert (settings.insecure_registries, settings.image_size) == ((), 20 * 2**30)


def test_the_command_line_replaces_the_environment() -> None:
    environment = {"ZOS_IMAGE_DIR": "/a,/b", "ZOS_INSECURE_REGISTRIES": "r.lab:5000", "ZOS_IMAGE_SIZE": "2Gi"}
    settings = parse(["--node", "n", "--image-dir", "/c"], environment)
    assert (settings.image_dir, settings.insecure_registries) == ((Path("/c"),), ("r.lab:5000",))
    assert parse(["--node", "n"], environment).image_dir == (Path("/a"), Path("/b"))
    assert settings.image_size == 2 << 30


@pytest.mark.parametrize("words", [("--image-dir", "relative"), ("--image-network", "10.0.0.1/8"), ("--image-network", "any")])
def test_what_is_malformed_is_said(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--node", "n", *words], {})
    assert words[0] in capsys.readouterr().err
