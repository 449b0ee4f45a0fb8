"""What the API server says, as objects; one that the models don't understand says so itself, and holds nobody else up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from pydantic import ValidationError

from zos.api.contract import Claim
from zos.api.meta import Key, Meta, Object, Reason
from zos.controller.writing import MANAGER, Exchange
from zos.kinds.kind import Kinds
from zos.kube.client import Raw
from zos.kube.lease import now
from zos.kube.log import about

log = logging.getLogger("zos.controller")


class Models:
    """``heard`` are the models of all that is heard of; ``leading``: whether to write how an object stands."""

    def __init__(self, exchange: Exchange, heard: Iterable[type[Object]], kinds: Kinds, leading: Callable[[], bool]) -> None:
        self._client = exchange.client
        self._world = exchange.world
        self._changed = exchange.changed
        self._models = {model.KIND: model for model in heard}
        self._kinds = kinds
        self._leading = leading

    def read(self, key: Key, raw: Raw) -> Object:
        """Raises ValidationError."""
        return self._models[key.kind].model_validate(raw)

    def refuse(self, key: Key, raw: Raw, error: Exception) -> None:
        """An object that can't be taken in: it says so itself, who needs it waits, and the others go on."""
        log.error("%s is not valid: %s", key, error, extra=about(key))
        why = problem(error)
        self._changed(self._world.put_unreadable(key, _meta(key, raw), why))
        if key.kind not in self._kinds or key.kind == Claim.KIND:
            return  # it has no conditions
        condition = {
            "type": "Ready",
            "status": "False",
            "reason": str(Reason.INVALID_SPEC),
            "message": f"not understood: {why}",
            "observedGeneration": raw["metadata"].get("generation", 0),
            "lastTransitionTime": now()[:19] + "Z",
        }
        if self._leading() and condition["message"] not in str(raw.get("status")):
            body = {"status": {"conditions": [condition]}}
            task = asyncio.create_task(
                self._client.patch(self._models[key.kind], key.namespace, key.name, body, subresource="status", manager=MANAGER)
            )
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


def problem(error: Exception) -> str:
    """In words, what is wrong with an object."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
    return f"{type(error).__name__}: {error}"


def _meta(key: Key, raw: Raw) -> Meta:
    """What is to be known of an object that can't be read."""
    try:
        return Meta.model_validate(raw["metadata"])
    except ValidationError:
        return Meta(name=key.name, namespace=key.namespace, uid=str(raw["metadata"]["uid"]))
