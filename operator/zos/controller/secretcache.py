"""Secrets: the watch tells that one changed, and no more. What somebody names is fetched, and held as long as he names it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pydantic import ValidationError

from zos.api.core import Secret
from zos.api.meta import Key, Meta, version_number
from zos.api.names import OWNER_UID
from zos.controller.writing import Changed
from zos.kube.client import ApiError, Client, Raw
from zos.world.store import World

#: Seconds until one that could not be had for good is asked for again.
_AGAIN = 30.0


class SecretCache:
    """Puts Secrets into a World that holds them on demand; ``changed`` gets whose resolution read what changed, ``problem``
    words what is wrong with one that is not understood."""

    def __init__(self, client: Client, world: World, changed: Changed, problem: Callable[[Exception], str]) -> None:
        self._client = client
        self._world = world
        self._changed = changed
        self._problem = problem
        self._owned: dict[str, dict[Key, Secret]] = {}  # by the uid on their label: without what they hold
        self._whose: dict[Key, str] = {}  # that uid
        self._fetches: dict[Key, asyncio.Task[None]] = {}
        self._told: dict[Key, str] = {}  # what the watch said of one while it was being fetched

    def owned(self, uid: str) -> tuple[Secret, ...]:
        """Those that the controller made for an object, without what they hold."""
        labelled = self._owned.get(uid, {}).values()
        return tuple(secret for secret in labelled if any(owner.uid == uid for owner in secret.metadata.owner_references))

    def heard(self, key: Key, raw: Raw | None) -> None:
        """What the watch tells: metadata; None: it is gone."""
        self._note(key, raw)
        if not self._world.looked_at(key):
            return
        version = str(raw["metadata"]["resourceVersion"]) if raw is not None else ""
        if key in self._fetches:
            self._told[key] = version
        known = self._world.peek(key)
        if known is not None and raw is not None and known.uid == raw["metadata"]["uid"]:
            told_already = 0 < version_number(version) <= version_number(known.metadata.resource_version)
        else:
            told_already = False
        if not told_already:  # by the answer to a write of ours, or to a fetch
            self._changed(self._world.lose(key))

    def answered(self, key: Key, raw: Raw | None) -> None:
        """A whole one, as the API server answered; None: it is gone."""
        self._note(key, raw)
        if not self._world.looked_at(key):
            return
        self._changed(self._put(key, raw))

    def rewound(self) -> None:
        """The API server shows an older state: nothing that is held says anything any more."""
        for secret in self._world.all(Secret.KIND):
            self._changed(self._world.lose(secret.key))

    async def fetch(self, key: Key) -> None:
        """Returns when it is known whether and how it is. Raises Unavailable and ApiError where that can't be known now."""
        task = self._fetches.get(key)
        if task is None:
            task = self._fetches[key] = asyncio.create_task(self._fetch(key))
            task.add_done_callback(lambda _: self._fetches.pop(key, None))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(task)  # others may wait for it as well

    async def _fetch(self, key: Key) -> None:
        while True:
            self._told.pop(key, None)
            try:
                raw = await self._client.get(Secret, key.namespace, key.name)
            except ApiError as error:
                if not error.permanent:
                    raise
                self._unreadable(key, f"the API server refuses it: {error}")
                return
            version = str(raw["metadata"]["resourceVersion"]) if raw is not None else ""
            if self._told.pop(key, version) == version:  # else it changed meanwhile
                break
        self._note(key, raw)
        self._changed(self._put(key, raw))

    def _put(self, key: Key, raw: Raw | None) -> frozenset[Key]:
        if raw is None:
            return self._world.put_absent(key)
        try:
            secret = Secret.model_validate(raw)
        except ValidationError as error:
            return self._world.put_unreadable(key, Meta(name=key.name, namespace=key.namespace), self._problem(error))
        return self._world.put(secret)

    def _unreadable(self, key: Key, why: str) -> None:
        self._changed(self._world.put_unreadable(key, Meta(name=key.name, namespace=key.namespace), why))

        def ask_again() -> None:
            if self._world.looked_at(key):
                self._changed(self._world.lose(key))

        asyncio.get_running_loop().call_later(_AGAIN, ask_again)

    def _note(self, key: Key, raw: Raw | None) -> None:
        """Whose it is."""
        if (before := self._whose.pop(key, None)) is not None:
            del self._owned[before][key]
            if not self._owned[before]:
                del self._owned[before]
        meta: Raw = raw["metadata"] if raw is not None else {}
        if uid := (meta.get("labels") or {}).get(OWNER_UID):
            self._whose[key] = uid
            self._owned.setdefault(uid, {})[key] = Secret.model_validate({"metadata": meta})
