"""How what is heard, and what the API server answers to writes, comes into the World: once, and nothing back again."""

from __future__ import annotations

from pydantic import ValidationError

from zos.api.core import Lease, Node, Secret
from zos.api.gridnode import GridNode
from zos.api.meta import Key, Object
from zos.controller.heartbeats import Heartbeats
from zos.controller.ledger import Ledger
from zos.controller.models import Models
from zos.controller.secretcache import SecretCache
from zos.controller.versions import Versions
from zos.controller.writing import Exchange
from zos.kube.client import Raw

#: How many deleted objects are remembered: many more than go while one request is answered.
_GRAVES = 20_000


class Intake:
    def __init__(
        self, exchange: Exchange, models: Models, ledger: Ledger, secrets: SecretCache, heartbeats: Heartbeats
    ) -> None:
        self._world = exchange.world
        self._changed = exchange.changed
        self._models = models
        self._ledger = ledger
        self._secrets = secrets
        self._heartbeats = heartbeats
        self._versions = Versions()
        self._buried: dict[str, None] = {}  # uids of what was deleted, oldest first

    def heard(self, key: Key, raw: Raw | None) -> None:
        """From the watch. The end that it tells of (its uid is buried by now) may be that of an earlier object of the name,
        while the next one is being written by us, or the answer has told of it already."""
        if key.kind == Secret.KIND:
            self._secrets.heard(key, raw)
            return
        if raw is None and key.kind != Lease.KIND:
            known = self._world.peek(key)
            if known is not None and known.uid not in self._buried:
                return
        self.absorb(key, raw)

    def absorb(self, key: Key, raw: Raw | None, foreseen: Object | None = None) -> None:
        """Takes what the API server says of an object: from the watch, or as the answer to a write of ours. One that is as
        it was ``foreseen`` concerns all but itself."""
        if key.kind == Lease.KIND:
            self._heartbeats.heard(key, raw)
        elif key.kind == Secret.KIND:
            self._secrets.answered(key, raw)
        elif raw is None:
            self._remove(key)
        elif key.kind == Node.KIND or raw["metadata"]["uid"] not in self._buried:
            # Else a watch or an answer is behind the object's end. A Node's is told when its label goes, which may come back.
            self._put(key, raw, foreseen)

    def bury(self, uid: str) -> None:
        """What is gone must not come back through an answer that was on its way: nobody would tell of its end again."""
        self._buried[uid] = None
        if len(self._buried) > _GRAVES:
            del self._buried[next(iter(self._buried))]

    def rewound(self) -> None:
        """The API server shows an older state: what was deleted since may live again, older versions are news, and what is not
        written yet was about something else."""
        known = [obj.key for kind in self._world.counts() for obj in self._world.all(kind)]
        self._buried.clear()
        self._versions.rewound(known)
        for key in known:
            self._ledger.forget(key)
        self._secrets.rewound()

    def unreadable(self, key: Key, raw: Raw, error: Exception) -> None:
        """News of an object that could not be taken in, for whatever reason."""
        if key.kind not in (Lease.KIND, Secret.KIND):
            self._ledger.forget(key)
            self._models.refuse(key, raw, error)

    def _remove(self, key: Key) -> None:
        if (known := self._world.peek(key)) is not None and known.uid:
            self.bury(known.uid)
        self._ledger.forget(key)
        if key.kind == GridNode.KIND:
            self._heartbeats.left(key.name)
        self._changed(self._world.remove(key))

    def _put(self, key: Key, raw: Raw, foreseen: Object | None) -> None:
        if not self._versions.news(raw, self._world.peek(key)):
            return  # the watch tells what our own writes told already, or of an earlier object of that name
        try:
            obj = self._models.read(key, raw)
        except ValidationError as error:
            self.unreadable(key, raw, error)
            return
        if isinstance(obj, GridNode):
            self._heartbeats.joined(obj.name)
        keys = self._world.put(self._ledger.rebase(key, obj))
        self._changed(keys - {key} if foreseen is not None and _same(obj, foreseen) else keys)


def _same(one: Object, other: Object) -> bool:
    """Whether two versions of an object say the same."""
    meta = one.metadata.model_copy(update={"resource_version": other.metadata.resource_version})
    return one.model_copy(update={"metadata": meta}) == other
