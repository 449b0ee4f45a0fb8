"""What a controller is told at its start."""

from __future__ import annotations

import sys

import pytest

from zos.controller.__main__ import parse


def test_what_nodes_that_join_are_given_is_told_by_options_and_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["zos-controller"])
    assert (parse().farm, parse().public_interface) == ("", "")
    monkeypatch.setenv("ZOS_FARM", "home.example")
    monkeypatch.setenv("ZOS_PUBLIC_INTERFACE", "br0")
    assert (parse().farm, parse().public_interface) == ("home.example", "br0")
    monkeypatch.setattr(sys, "argv", ["zos-controller", "--farm", "other"])
    assert parse().farm == "other"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("farm", "Home"),
        ("farm", "a b"),
        ("farm", "-a"),
        ("farm", "a" * 254),
        ("gateway-domain", "gw"),
        ("gateway-domain", "GW.example.org"),
        ("gateway-domain", "gw..org"),
        ("gateway-domain", "a." * 95),
        ("public-interface", "a/b"),
        ("public-interface", "br 0"),
        ("public-interface", "."),
        ("public-interface", "interface0123456"),
    ],
)
def test_what_can_be_none_is_said_at_once(
    option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, environment in (([f"--{option}={value}"], ""), ([], value)):
        monkeypatch.setattr(sys, "argv", ["zos-controller", *argv])
        monkeypatch.setenv(f"ZOS_{option.upper().replace('-', '_')}", environment)
        with pytest.raises(SystemExit):
            parse()
        assert f"--{option}" in capsys.readouterr().err
