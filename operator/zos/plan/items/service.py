"""Programs that run beside guests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from zos.plan.items.item import Held, Item, Rank


@dataclass(frozen=True, kw_only=True)
class ServiceFile:
    """A file in a service's own directory, that its program alone may read. The only place for a secret. ``path`` is relative
    to that directory; ``mode`` is 0400, or 0600 for programs that want it so, though what they write there is undone."""

    path: str
    content: str = field(repr=False)
    mode: int = 0o400


@dataclass(frozen=True, kw_only=True)
class ServiceLimits:
    """``memory`` in bytes, of each process and, where the node has control groups for it, of all together; ``scratch``: bytes
    in ``{run}``, which are memory, too; ``descriptors`` of each process; ``processes`` and threads together."""

    memory: int = 256 << 20
    scratch: int = 8 << 20
    descriptors: int = 1024
    processes: int = 64

    @property
    def held(self) -> int:
        """Bytes of the node's memory that a service may take, so that its object holds them."""
        return self.memory + self.scratch


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """When a service can be used: its program writes a line to descriptor 3 (notification); the Unix socket ``at`` accepts; the
    TCP port ``at`` (``127.0.0.1:8080``, ``[::1]:8080``), in the service's namespace, does; a file system mounted on ``at``
    answers. After ``timeout`` seconds that it takes longer is told; it is waited for all the same."""

    by: Literal["notification", "socket", "port", "mount"]
    at: str = ""
    timeout: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A file or directory of the node's that a program finds in ``{run}`` under ``name``, wherever it lies and whoever may go
    there. ``writable``: a directory, which is made, and belongs to the program's group."""

    name: str
    path: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class MetricsEndpoint:
    """Where a service tells its metrics, over HTTP in Prometheus' text format: a port of 127.0.0.1 in its namespace, or a Unix
    socket. ``path`` is that of the URL."""

    port: int = 0
    socket: str = ""
    path: str = "/metrics"


@dataclass(frozen=True, kw_only=True)
class Service(Item):
    """A long-running program under the node's supervisor, that outlives the agent and is started again when it ends.

    It runs as ``user``, an account of the node that no other service has (empty: one called as the service), without any
    rights, in the network namespace ``netns``. In ``argv``, the values of ``environment``, ``ready`` and ``metrics`` the word
    ``{files}`` stands for the directory of ``files`` and ``{run}`` for a small one that the program may write to, its working
    directory, empty at each start; both are this service's alone. The environment is no place for secrets. ``mount`` is a
    directory on which a FUSE file system is mounted for the program to serve, at ``{fuse}`` (``/dev/fd/<n>``, as libfuse takes
    it); it is made, and goes with the service. ``resumes``: the program can go on with a file system that one before it has
    begun to serve, and so does whoever has that mounted. ``volume`` is the name of a Volume, whose directory it finds at
    ``{volume}``.

    ``program`` is the module of a program of ours (``zos.programs.…``), whose arguments ``argv`` are. ``group`` is an account
    that its group is called by, as that of others may be: what they may all do is the group's. ``status`` is a file in
    ``{run}`` that it replaces when it has something to say (JSON with ``problem``). ``shared``: several may want it, and it
    goes when nobody does. ``stands_on`` are keys of what must be there as long as it is.

    Whatever changes, the service is started again; where only files change and ``change`` is "reload", its program gets the
    signal ``reload`` instead. When it is to end it is told so (SIGTERM), and has ``grace`` seconds."""

    name: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    files: tuple[ServiceFile, ...] = ()
    netns: str = ""
    user: str = ""
    limits: ServiceLimits = ServiceLimits()
    change: Literal["restart", "reload"] = "restart"
    reload: Literal["HUP", "USR1", "USR2"] = "HUP"
    ready: Readiness | None = None
    metrics: MetricsEndpoint | None = None
    mount: str = ""
    volume: str = ""
    grace: int = 5
    program: str = ""
    group: str = ""
    shown: tuple[Shown, ...] = ()
    resumes: bool = False
    status: str = ""
    shared: bool = False
    stands_on: tuple[str, ...] = ()

    FAMILY: ClassVar[str] = "service"
    RANK: ClassVar[int] = Rank.PROGRAM

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(sorted(self.files, key=lambda file: file.path)))

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.name}"

    @property
    def account(self) -> str:
        return self.user or self.name

    def grounds(self) -> Iterator[str]:
        if self.netns:
            yield f"netns/{self.netns}"
        if self.volume:
            yield f"volume/{self.volume}"
        yield from self.stands_on

    def occupies(self) -> Iterator[str]:
        yield from self.stands_on

    def exclusives(self) -> Iterator[str]:
        yield f"account {self.account}"
        if self.mount:
            yield f"mount {self.mount}"

    @property
    def held(self) -> Held:
        return Held(alive=True, memory=self.limits.held)
