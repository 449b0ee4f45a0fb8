"""Cases as text: objects of a world, one YAML document each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from gridkinds import GRID
from zos.api.meta import Meta, Object
from zos.controller.main import watched
from zos.world.heartbeat import Heartbeat
from zos.world.store import World

MODELS: dict[str, type[Object]] = {model.KIND: model for model in (*(each.model for each in watched(GRID)), Heartbeat)}


def load(path: Path) -> tuple[list[Object], dict[str, Any]]:
    """The objects, and the document without a kind (facts of a node), if there is one."""
    objects: list[Object] = []
    facts: dict[str, Any] = {}
    for number, document in enumerate(yaml.safe_load_all(path.read_text())):
        kind = document.pop("kind", None)
        if kind is None:
            facts = document
            continue
        meta = document["metadata"]
        meta.setdefault("uid", f"uid-{meta['name']}")
        meta.setdefault("generation", 1)
        meta.setdefault("creationTimestamp", f"2026-01-01T00:00:{number:02d}Z")
        if MODELS[kind].NAMESPACED:
            meta.setdefault("namespace", "default")
        model, unreadable = MODELS[kind], document.pop("unreadable", "")
        if unreadable:
            objects.append(Unread(metadata=Meta.model_validate(meta), model=model, why=unreadable))
        else:
            objects.append(model.model_validate(document))
    return objects, facts


class Unread(Object):
    """Stands in a case for an object that the controller can't read (``unreadable: why``)."""

    model: type[Object]
    why: str


def world_of(objects: Iterable[Object]) -> World:
    world = World(GRID.indexes())
    for obj in objects:
        if isinstance(obj, Unread):
            world.put_unreadable(obj.model.key_of(obj.namespace, obj.name), obj.metadata, obj.why)
        else:
            world.put(obj)
    return world
