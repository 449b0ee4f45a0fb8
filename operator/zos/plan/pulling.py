"""An image that an object names, and whose credentials it is fetched with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from zos.api.credentials import PULL
from zos.api.meta import Reason
from zos.plan.facts import ImageProblem
from zos.plan.items import Image


def known_as(owner: str, ref: str, sealed: Iterable[str]) -> Image:
    """As facts and operations know it: without what opens it. ``sealed``: what the object's secrets are called."""
    access = next((name.removeprefix(PULL) for name in sealed if name.startswith(PULL)), "")
    return Image(owner=owner, ref=ref, access=access)


def opened(image: Image, secret: Callable[[str], str]) -> Image:
    """With its credentials, as ``secret`` gives them, which may raise Unknown."""
    return replace(image, auth=secret(PULL + image.access)) if image.access else image


def reason_of(problem: ImageProblem | None) -> Reason:
    """In a word: whether there is something to be corrected, or only to be waited for."""
    return Reason.IMAGE_UNAVAILABLE if problem is not None and problem.passing else Reason.IMAGE_INVALID
