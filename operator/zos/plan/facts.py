"""What lowering may know of the node: observations, as values. Lowering decides on nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from zos.plan.items import Domain

#: What a fact is about, for those who say that they could not look.
Family = Literal["image", "domain"]
_WORDS: Mapping[Family, str] = {"image": "images", "domain": "guests"}


class Unknown(Exception):
    """A fact that nobody can tell for now, which is not the same as that there is none. The text is for the person who reads
    the condition."""


@dataclass(frozen=True)
class Pulled:
    """How an image was fetched: when that was done (seconds since the epoch), how long it took, bytes unpacked."""

    at: float
    seconds: float
    size: int


@dataclass(frozen=True, kw_only=True)
class ImageFact:
    """An unpacked image. ``config_*`` come from the OCI image config; ``files`` answers which of the well-known paths
    exist inside (``/image.raw``, ``/boot/vmlinuz``). ``user`` is the OCI config's (``name-or-id[:group-or-id]``).
    ``executables`` are the programs' real paths, ``links`` the targets of all symlinks by their own real path; None: too many
    to know them all. ``pulled`` is the way it came to the node, None where that is not known."""

    digest: str
    has_disk_image: bool = False
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
class DomainFact:
    """What is known of a guest. ``crashes`` are times (seconds, the agent's monotonic-enough wall clock) of the last
    unexpected ends; ``exit_code`` is the entrypoint's (128 + n for signal n), None while it runs or when it died without
    a word. ``ended``: the entrypoint ended (exit); the guest died (crash); it was asked to, rebooted or went down with the
    node (stopped). ``problem`` is what the guest's init could not do. ``booted``: it runs, and so does its entrypoint.
    ``recipe``: what it was started with last (`Domain.recipe`); ``image``: the digest in that. ``runs``: what a guest that runs
    was started with, as far as that can be told. ``unreadable``: it runs, and not all of that can be. ``because``: what made it
    start again, in words."""

    running: bool
    booted: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    ended: Literal["", "exit", "crash", "stopped"] = ""
    exit_code: int | None = None
    restarts: int = 0
    crashes: tuple[float, ...] = ()
    accelerator: Literal["kvm", "tcg"] | None = None
    console: str | None = None
    problem: str = ""
    recipe: str = ""
    image: str = ""
    runs: Domain | None = None
    unreadable: bool = False
    because: str = ""


@dataclass(frozen=True, kw_only=True)
class VolumeFact:
    """A volume that is here. ``size`` is what its directory can hold and ``used`` what it does, in bytes, as it was when it was
    mounted last (``used`` to a hundredth of the size). ``problem``: why it can't be used as it is; empty where it can."""

    size: int
    used: int
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class ServiceEnd:
    """How a service's program ended, and when (seconds since the epoch): ``code`` is its exit code, or ``signal`` the name of
    what ended it ("SIGKILL"). ``asked``: the agent had it end."""

    at: float
    code: int | None = None
    signal: str = ""
    asked: bool = False

    def __str__(self) -> str:
        return f"ended by {self.signal}" if self.signal else f"ended with exit code {self.code}"


@dataclass(frozen=True, kw_only=True)
class ServiceFact:
    """What is known of a service. ``up``: its program runs, ``since`` then (seconds since the epoch), and ``ready`` where it
    has said so, or has no way to; ``overdue``: that takes longer than it should. ``next_start``: when it is started again,
    where that is put off. ``restarts`` and ``crashes`` (the times of the last ends that nobody asked for) are counted since it
    was made or changed. ``log`` is the directory of its log on the node, ``said`` the last lines in it before it last
    crashed."""

    up: bool
    ready: bool = False
    overdue: bool = False
    since: float | None = None
    next_start: float | None = None
    restarts: int = 0
    last_exit: ServiceEnd | None = None
    crashes: tuple[float, ...] = ()
    log: str = ""
    said: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """``images`` by ref; ``image_problems`` by ref (why an image can't be used); ``secrets`` are opened sealed values by
    workload and what the kind calls them; ``lost_keys`` are WireGuard public keys that a workload names and whose private half
    is not on this node; ``unused_disks`` are names of disks that no guest ever had, as the node itself knows; ``prefixes`` are
    the networks that the node is connected to (None: nobody could look yet), ``egress_deny`` what nothing on any node may
    connect to, both in CIDR form; ``shut`` says by router, and by the guard of a public interface, what in the node's firewall
    stops the guests; ``silent`` says by WireGuard interface which peers (public keys) were called and have never answered;
    ``unknown`` says of which families nobody could look, and why; ``now`` in seconds since the epoch.

    `image`, `domain`, `secret` and `connected` are how to ask: what is in none of the mappings may be unknown."""

    node: str
    now: float
    nameservers: tuple[str, ...] = ()
    prefixes: tuple[str, ...] | None = None
    egress_deny: tuple[str, ...] = ()
    images: Mapping[str, ImageFact] = field(default_factory=dict)
    image_problems: Mapping[str, str] = field(default_factory=dict)
    domains: Mapping[str, DomainFact] = field(default_factory=dict)
    secrets: Mapping[tuple[str, str], str] = field(default_factory=dict, repr=False)
    lost_keys: frozenset[str] = frozenset()
    unused_disks: frozenset[str] = frozenset()
    shut: Mapping[str, str] = field(default_factory=dict)
    silent: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unknown: Mapping[Family, str] = field(default_factory=dict)

    def image(self, ref: str) -> ImageFact | None:
        """None: not here, or of no use (`image_problems`). Raises Unknown."""
        self._known("image")
        return self.images.get(ref)

    def domain(self, name: str) -> DomainFact | None:
        """None: there never was such a guest. Raises Unknown."""
        self._known("domain")
        return self.domains.get(name)

    def secret(self, workload: str, name: str) -> str:
        """The value. Raises Unknown where it can't be opened: nothing must run without it."""
        if (workload, name) not in self.secrets:
            raise Unknown(
                f"the value of {name.rpartition('/')[2]} can't be opened with this node's key: "
                "the controller seals it anew for this node's present key"
            )
        return self.secrets[workload, name]

    def connected(self) -> tuple[str, ...]:
        """Raises Unknown: what a guest must not reach is not open because nobody could tell what it is."""
        if self.prefixes is None:
            raise Unknown("the node could not look yet at what networks it is connected to, which its guests must not reach")
        return self.prefixes

    def _known(self, family: Family) -> None:
        if family in self.unknown:
            raise Unknown(f"the node can't look at its {_WORDS[family]}: {self.unknown[family]}")
