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


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"garbage", b"\xff\x00", base64.b64encode(b"short"), base64.b64encode(bytes(64))]
)
def test_a_broken_sealing_key_is_kept_aside_and_replaced(tmp_path: Path, content: bytes) -> None:
    old = Keyring(tmp_path).sealing_key()
    for number in (1, 2):
        (tmp_path / "sealing.key").write_bytes(content)
        fresh = Keyring(tmp_path)
        assert fresh.sealing_key() not in ("", old)
        assert Keyring(tmp_path).sealing_key() == fresh.sealing_key()
        assert (tmp_path / f"sealing.key.broken-{number}").read_bytes() == content


def test_a_key_that_can_not_be_read_just_now_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = Keyring(tmp_path)
    kept, public = keyring.sealing_key(), keyring.create()

    def fails(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    again = Keyring(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", fails)
        with pytest.raises(OSError, match="Input/output"):
            again.sealing_key()
        assert not again.lacks(public)
    assert again.sealing_key() == kept
    assert list(tmp_path.glob("*.broken*")) == []


def test_stray_files_and_directories_among_the_keys_are_passed_over(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    public, lost, empty = keyring.create(), keyring.create(), keyring.create()
    room = tmp_path / "wireguard"
    for name in ("note.key", "=.key", "äöü.key", ".key", base64.urlsafe_b64encode(b"short").decode() + ".key"):
        (room / name).write_text("stray")
    (room / "directory.key").mkdir()
    (room / "directory.new").mkdir()
    (tmp_path / "directory.new").mkdir()
    (room / (base64.urlsafe_b64encode(bytes(32)).decode() + ".key")).mkdir()
    (room / (base64.urlsafe_b64encode(base64.b64decode(empty)).decode() + ".key")).write_text("")
    other = keyring.private(public)
    assert other is not None
    (room / (base64.urlsafe_b64encode(base64.b64decode(lost)).decode() + ".key")).write_text(other)  # another one's half
    again = Keyring(tmp_path)
    assert again.publics() == {public}
    assert [again.lacks(key) for key in (public, lost, empty, base64.b64encode(bytes(32)).decode())] == [
        False,
        True,
        True,
        True,
    ]
    assert not again.lacks("no key at all")


def test_a_key_that_vanishes_under_a_running_agent_is_missed(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    public = keyring.create()
    assert not keyring.lacks(public)
    Keyring(tmp_path).forget(public)
    assert keyring.lacks(public)
