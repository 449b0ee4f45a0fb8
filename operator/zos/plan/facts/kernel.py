"""What is known of images' own kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zos.plan.facts.fact import Fact
from zos.plan.facts.image import ImageProblem


@dataclass(frozen=True)
class KernelFact(Fact):
    """An image's kernel, ready to be booted: its version, and the file systems of disks that it knows."""

    ABOUT: ClassVar[str] = "images' kernels"

    release: str
    formats: frozenset[str] = frozenset()


@dataclass(frozen=True)
class KernelProblem(ImageProblem):
    """Why an image's kernel can't be booted."""

    ABOUT: ClassVar[str] = "images' kernels"
