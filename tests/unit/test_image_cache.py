"""When an unpacked image goes: not under a guest, and not because a clock was set."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

import pytest

from zos.drivers import DriverError, imagecache
from zos.drivers.image import ImageDriver
from zos.drivers.imagecache import KEEP, directory_of
from zos.plan.diff import Op
from zos.plan.facts import ImageFact, ImageProblem, Pulled
from zos.plan.items import Image

REF = "oci://registry.example/app:1"
DIGEST = "sha256:" + hashlib.sha256(b"app").hexdigest()


def cached(directory: Path, *, wanted: float, ref: str = REF) -> Path:
    """An image that was wanted last so many seconds ago."""
    root = directory_of(directory, DIGEST) / "rootfs"
    root.mkdir(parents=True, exist_ok=True)
    card = directory / "refs" / f"{hashlib.sha256(ref.encode()).hexdigest()[:32]}.json"
    card.parent.mkdir(exist_ok=True)
    card.write_text(json.dumps({"ref": ref, "digest": DIGEST, "source": ""}))
    os.utime(card, (time.time() - wanted,) * 2)
    return root


async def asked_to_go(driver: ImageDriver) -> None:
    await driver.apply(Op("remove", f"image/{REF}"))


in_use = pytest.mark.parametrize(
    ("in_use", "stays"),
    [(None, True), (frozenset({DIGEST}), True), (frozenset({"sha256:other"}), False), (frozenset(), False)],
    ids=["nobody can tell", "a guest", "another guest", "none"],
)


@in_use
async def test_what_a_guest_may_stand_on_stays(tmp_path: Path, in_use: frozenset[str] | None, stays: bool) -> None:
    root = cached(tmp_path, wanted=2 * KEEP)
    await asked_to_go(ImageDriver(tmp_path, in_use=lambda: in_use))
    assert root.exists() == stays
    assert list((tmp_path / "refs").glob("*.json")) == []


@in_use
async def test_what_no_name_stands_for_is_swept_and_not_under_a_guest(
    tmp_path: Path, in_use: frozenset[str] | None, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = cached(tmp_path, wanted=0.0)
    for card in (tmp_path / "refs").iterdir():
        card.unlink()
    driver = ImageDriver(tmp_path, in_use=lambda: in_use)
    await driver.apply(Op("remove", "image/oci://registry.example/other:1"))
    assert root.exists(), "it has just come, and gets its name in a moment"
    monkeypatch.setattr(imagecache, "SETTLED", 0.0)
    await driver.apply(Op("remove", "image/oci://registry.example/other:1"))
    assert root.exists() == stays


async def test_what_another_name_stands_for_stays(tmp_path: Path) -> None:
    root = cached(tmp_path, wanted=2 * KEEP)
    cached(tmp_path, wanted=0.0, ref="oci://registry.example/app:2")
    await asked_to_go(ImageDriver(tmp_path))
    assert root.exists()
    assert len(list((tmp_path / "refs").glob("*.json"))) == 1


async def test_what_the_system_refuses_is_told_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = ImageDriver(tmp_path)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    with pytest.raises(DriverError, match="Read-only file system"):
        await driver.apply(Op("create", f"image/{REF}", item=Image(ref=REF)))
    assert driver.facts()[ImageProblem][REF] == ImageProblem(f"image {REF}: Read-only file system", passing=True)


async def test_how_an_image_came_is_remembered_with_the_name_that_it_came_by(tmp_path: Path) -> None:
    place = directory_of(tmp_path, DIGEST)
    cached(tmp_path, wanted=0.0)
    (place / "image.json").write_text(
        json.dumps({"digest": DIGEST, "entrypoint": [], "command": [], "environment": [], "executables": None})
    )
    (card,) = (tmp_path / "refs").glob("*.json")
    for written, pulled in (
        (None, None),
        ({"at": 1.0, "seconds": 2.5, "size": 3, "more": "of a newer agent"}, Pulled(1.0, 2.5, 3)),
    ):
        card.write_text(json.dumps({"ref": REF, "digest": DIGEST, "source": "", "pulled": written}))
        driver = ImageDriver(tmp_path)
        await driver.observe([Image(ref=REF)])
        fact = driver.facts()[ImageFact][REF]
        assert isinstance(fact, ImageFact)
        assert fact.pulled == pulled


@pytest.mark.parametrize("off", [-3600.0, 0.0, 3600.0])
async def test_a_clock_an_hour_off_makes_nothing_cold(tmp_path: Path, off: float) -> None:
    root = cached(tmp_path, wanted=60.0 + off)
    await asked_to_go(ImageDriver(tmp_path))
    assert root.exists()
    assert len(list((tmp_path / "refs").glob("*.json"))) == 1
