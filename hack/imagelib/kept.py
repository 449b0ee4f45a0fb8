"""What is made once and kept outside the checkout, by what it was made of."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imagelib import recipe
from imagelib.layer import Layer

#: Raise it when imagelib makes something else of the same packages, lists and scripts.
_RECIPE = b"1"
#: So many of a sort stay: checkouts share them.
_KEPT = 4


def layer(sort: str, key: Iterable[bytes], make: Callable[[Path, Path], Layer], *, anew: bool = False) -> Layer:
    """The layer of this ``sort`` that was made of ``key``; ``make`` is given a directory and where the layer has to be.
    ``anew``: whether or not there is one."""
    place = recipe.cache() / f"{sort}-{_digest([_RECIPE, *key])}"
    card = place / "layer.json"
    if card.exists() and not anew:
        card.touch()
        return Layer.read(card)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".new-{sort}-", dir=place.parent) as work:
        made = Path(work) / "made"
        made.mkdir()
        make(Path(work), made / "layer.tar.zst").write_down(made / "layer.json")
        shutil.rmtree(place, ignore_errors=True)
        made.rename(place)
    _forget(sort)
    return Layer.read(card)


def _digest(key: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in key:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:12]


def _forget(sort: str) -> None:
    cards = sorted(recipe.cache().glob(f"{sort}-*/layer.json"), key=lambda card: card.stat().st_mtime, reverse=True)
    for card in cards[_KEPT:]:
        shutil.rmtree(card.parent)


@contextmanager
def alone() -> Iterator[None]:
    """One build at a time: what another one makes is not made again."""
    recipe.cache().mkdir(parents=True, exist_ok=True)
    with (recipe.cache() / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in recipe.cache().glob(".new-*"):  # by one that was killed
            subprocess.run(["rm", "-rf", "--one-file-system", str(left)])
        yield
