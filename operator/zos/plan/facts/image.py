"""What is known of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from zos.plan.facts.fact import Fact


@dataclass(frozen=True)
class Pulled:
    """How an image was fetched: when that was done (seconds since the epoch), how long it took, bytes unpacked."""

    at: float
    seconds: float
    size: int


@dataclass(frozen=True, kw_only=True)
class DiskImage:
    """The disk of a virtual machine's image: its size in bytes, and what a machine needs to boot from it."""

    size: int
    firmware: Literal["bios", "uefi"] = "bios"


@dataclass(frozen=True, kw_only=True)
class ImageFact(Fact):
    """An unpacked image. ``config_*`` come from the OCI image config; ``disk`` is what a virtual machine boots from, None for a
    container's; ``has_kernel``: it brings ``/boot/vmlinuz``. ``user`` is the OCI config's (``name-or-id[:group-or-id]``).
    ``executables`` are the programs' real paths, ``links`` the targets of all symlinks by their own real path; None: too many
    to know them all. ``pulled`` is the way it came to the node, None where that is not known."""

    ABOUT: ClassVar[str] = "images"

    digest: str
    disk: DiskImage | None = None
    has_kernel: bool = False
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()  # "NAME=value"
    working_dir: str = "/"
    user: str = ""
    stop_signal: int = 15
    executables: frozenset[str] | None = None
    links: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    pulled: Pulled | None = field(default=None, compare=False)

    def provides(self, program: str, path: str) -> bool | None:
        """Whether a guest finds ``program`` (a path, or a name looked for in ``path``, a PATH). None: not known."""
        if self.executables is None:
            return None
        if "/" in program:
            places = [f"{self.working_dir}/{program}" if not program.startswith("/") else program]
        else:
            places = [f"{directory or self.working_dir}/{program}" for directory in path.split(":")]
        return any(self.real(place) in self.executables for place in places)

    def real(self, path: str) -> str | None:
        """The path with all links followed as inside the image; None: a circle. A file that is not there has a path too."""
        left = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        real: list[str] = []
        hops = 0
        while left:
            part = left.pop()
            if part == "..":
                del real[-1:]
                continue
            target = self.links.get("/" + "/".join([*real, part]))
            if target is None:
                real.append(part)
                continue
            hops += 1
            if hops > 40:
                return None
            if target.startswith("/"):
                real.clear()
            left += [piece for piece in reversed(target.split("/")) if piece not in ("", ".")]
        return "/" + "/".join(real)


@dataclass(frozen=True, kw_only=True)
class FlistFact(Fact):
    """An image that is an flist, and where what belongs to it lies on the node: the flist itself, the directory that it is
    mounted on, and the blocks that all flists share, of which ``size`` bytes are kept. ``directories``: where it may have
    blocks on the node itself. What is in it an `ImageFact` tells, once it was looked through."""

    ABOUT: ClassVar[str] = "images"

    digest: str
    file: str
    mount: str
    blocks: str
    size: int
    directories: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageProblem(Fact):
    """Why an image can't be used. ``passing``: nothing is wrong with it, as far as anybody knows; it can't be had for now."""

    ABOUT: ClassVar[str] = "images"

    why: str
    passing: bool = False
