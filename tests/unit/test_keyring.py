"""Keys of a node: they survive, stay private, and open what was sealed to them."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from nacl.public import PublicKey, SealedBox

from zos.drivers.keyring import Keyring


def test_a_pair_survives_a_restart_and_is_what_wireguard_calls_one(tmp_path: Path) -> None:
    public = Keyring(tmp_path).create()
    again = Keyring(tmp_path)
    assert again.publics() == {public}
    private = again.private(public)
    assert private is not None
    assert subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout.strip() == public


def test_files_are_for_root_alone(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    keyring.create()
    keyring.sealing_key()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_what_was_half_made_when_the_agent_died_is_gone(tmp_path: Path) -> None:
    Keyring(tmp_path)
    (tmp_path / "wireguard" / "abc.new").write_text("half")
    assert Keyring(tmp_path).publics() == frozenset()
    assert not (tmp_path / "wireguard" / "abc.new").exists()


def test_forget(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    public = keyring.create()
    keyring.forget(public)
    keyring.forget(public)
    assert keyring.private(public) is None


@pytest.mark.parametrize("key", ["", "x", "../../../etc/passwd", base64.b64encode(b"short").decode()])
def test_what_is_no_key_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a WireGuard key"):
        Keyring(tmp_path).private(key)


def test_sealed_values_open_on_their_node_only(tmp_path: Path) -> None:
    here, other = Keyring(tmp_path / "here"), Keyring(tmp_path / "other")
    box = SealedBox(PublicKey(base64.b64decode(here.sealing_key())))
    sealed = base64.b64encode(box.encrypt("päss".encode())).decode()
    assert Keyring(tmp_path / "here").unseal(sealed) == "päss"
    with pytest.raises(ValueError, match="not sealed to this node"):
        other.unseal(sealed)
    with pytest.raises(ValueError, match="not sealed to this node"):
        here.unseal("%%%")
