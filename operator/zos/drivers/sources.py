"""Where this node takes images from and how much of them: what its owner says, and one pull under it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zos.api.credentials import nearest
from zos.drivers import DriverError
from zos.drivers.confined import AT
from zos.drivers.fence import Fence
from zos.drivers.fencerules import USER, Network
from zos.drivers.halffetched import HalfFetched
from zos.drivers.meter import Limits
from zos.drivers.space import Space
from zos.files import Durability, write

_AUTH = "auth.json"


@dataclass(frozen=True)
class Registries:
    """``insecure``: ``host[:port]`` of registries that may be spoken to in plain HTTP. ``auth``: a containers-auth.json(5)
    whose repositories its owner gives to everybody who has machines on this node."""

    insecure: Sequence[str] = ()
    auth: Path | None = None

    def options(self, reference: str, direction: str = "") -> list[str]:
        # Always a file of ours: without one, skopeo takes what its caller is logged in to.
        options = [f"--{direction}authfile={AT}/{_AUTH}"]
        if self.plain(reference.split("/", 1)[0]):
            options.append(f"--{direction}tls-verify=false")
        return options

    def plain(self, registry: str) -> bool:
        return registry in self.insecure or (urlsplit(f"//{registry}").hostname or "") in self.insecure

    def give(self, reference: str, room: Path, own: str = "") -> None:
        """Credentials into a fetcher's room: those for this repository and no others. ``own`` are those of who asks, as text of
        the same form: with them the node's are not used. Raises DriverError."""
        chosen: dict[str, Any] = {}
        try:
            if own:
                chosen = credentials(json.loads(own).get("auths") or {}, reference)
            elif self.auth is not None:
                chosen = credentials(json.loads(self.auth.read_text()).get("auths") or {}, reference)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            if own:  # what they are is nobody else's business
                raise DriverError("the credentials of imagePullSecrets can't be read") from None
            raise DriverError(f"the node's credentials (--registry-auth) can't be read: {error}") from error
        write(room / _AUTH, json.dumps({"auths": chosen}), Durability.VOLATILE, owner=USER, parents=False)


def credentials(auths: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """The one entry for a reference."""
    name = nearest(auths, reference)
    return {} if name is None else {name: auths[name]}


@dataclass(frozen=True)
class Sources:
    """``directories``: what ``file://`` may name. ``networks``: where fetchers may go beside the Internet."""

    registries: Registries = field(default_factory=Registries)
    directories: Sequence[Path] = ()
    networks: Sequence[Network] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Pull:
    """One image on its way. ``room`` is a directory of the caller's; fetchers write to ``fetched`` and nowhere else.

    ``access`` says whose credentials ``auth`` are (the text of a containers-auth.json(5)); both are empty where there are none.
    ``tell`` gets what is going on, the bytes that are there, and those that it will be (0: not known)."""

    ref: str
    room: Path
    fetched: Path
    sources: Sources
    fence: Fence
    space: Space
    kept: HalfFetched
    tell: Callable[[str, int, int], None]
    access: str = ""
    auth: str = field(default="", repr=False)

    def say(self, text: str) -> None:
        self.tell(text, 0, 0)
