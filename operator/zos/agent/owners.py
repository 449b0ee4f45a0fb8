"""For whom the NodeWorkloads on this node are, or were, and with which addresses: remembered as long as anything of them is
here.

What a guest or a disk was made for stands on it; a bridge has room for the NodeWorkload's name only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Set
from pathlib import Path

from pydantic import ValidationError

from zos.api.nodeworkload import NodeWorkload
from zos.files import Durability, write
from zos.plan.ownership import Origin

log = logging.getLogger("zos.agent")


class Owners:
    """One file, by the NodeWorkload's name. Lost: what is still marked says enough to be kept, if less to be recognised by."""

    def __init__(self, state: Path) -> None:
        self._file = state / "owners.json"
        self._known = self._load()
        self._learned: Mapping[str, NodeWorkload] | None = None
        self._written: Mapping[str, Origin] = dict(self._known)

    @property
    def known(self) -> Mapping[str, Origin]:
        return self._known

    def learn(self, workloads: Mapping[str, NodeWorkload]) -> None:
        """To be called before anything is made for them."""
        if workloads is self._learned:
            return
        self._learned = workloads
        self._known = {**self._known, **{name: Origin.of(w.spec) for name, w in workloads.items() if w.spec.owner.uid}}
        self._save()

    def forget(self, left: Set[str]) -> None:
        """Drops those that are not in ``left``."""
        if not self._known.keys() <= left:
            self._known = {name: owner for name, owner in self._known.items() if name in left}
            self._save()

    def _load(self) -> dict[str, Origin]:
        try:
            return {str(name): Origin.model_validate(owner) for name, owner in json.loads(self._file.read_text()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, ValidationError) as error:
            log.warning("what was remembered of owners can't be used: %s", error)
            return {}

    def _save(self) -> None:
        if self._known == self._written:
            return
        try:
            text = json.dumps({name: owner.wire() for name, owner in sorted(self._known.items())})
            write(self._file, text, Durability.DURABLE)
            self._written = dict(self._known)
        except OSError as error:
            log.warning("owners can't be remembered: %s", error)
