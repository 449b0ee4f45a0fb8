"""What is known of an image as it is kept beside it (``image.json``). Agents of other releases read and write it as well."""

from __future__ import annotations

import dataclasses
import json

from zos.drivers.imageconfig import Config
from zos.drivers.imagetree import Tree
from zos.plan.facts import DiskImage, ImageFact, Pulled

#: Its name, in the image's directory.
NAME = "image.json"


class Outdated(ValueError):
    """It was unpacked by an agent that did nothing with the disk image in it."""


def written(digest: str, config: Config, tree: Tree, disk: DiskImage | None) -> str:
    fact = {"digest": digest, **dataclasses.asdict(config), **dataclasses.asdict(tree)}
    fact["links"] = tree.links or {}
    del fact["size"], fact["disk"]  # an agent of before could not read them: it would find no image here
    if disk is not None:
        fact["disk"] = dataclasses.asdict(disk)
    return json.dumps(fact)


def read(text: str, pulled: Pulled | None) -> ImageFact:
    """Raises ValueError, KeyError, TypeError where it is none."""
    fact = json.loads(text)
    for field in ("entrypoint", "command", "environment"):
        fact[field] = tuple(fact[field])
    fact["executables"] = frozenset(fact["executables"]) if fact["executables"] is not None else None
    if fact.pop("has_disk_image", False):
        raise Outdated
    fact["disk"] = DiskImage(**fact["disk"]) if fact.get("disk") is not None else None
    return ImageFact(**fact, pulled=pulled)
