"""Other Kubernetes objects that a resolution brings with it (a node's namespace, its agent's rights): applied as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from zos.api.meta import Key, Object
from zos.controller.writing import MANAGER
from zos.kube.client import Client, NotFound
from zos.world.resolution import Resolution


class Applier:
    """Applies again what differs from what it applied last, and everything once after a restart."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._applied: dict[Key, str] = {}  # digest, by the object that they are for

    async def apply(self, obj: Object, resolution: Resolution) -> None:
        digest = hashlib.sha256(json.dumps([resolution.objects, resolution.basis], sort_keys=True).encode()).hexdigest()
        if self._applied.get(obj.key) == digest:
            return
        for manifest in resolution.objects:
            await self._client.request(
                "PATCH",
                path_of_manifest(manifest),
                params={"fieldManager": MANAGER, "force": "true"},
                body=manifest,
                headers={"Content-Type": "application/apply-patch+yaml"},
            )
        self._applied[obj.key] = digest

    def forget(self, obj: Object) -> None:
        """The object is gone."""
        self._applied.pop(obj.key, None)


async def remove(client: Client, manifest: Mapping[str, Any]) -> None:
    """Deletes such an object, in the background. Gone already: fine."""
    try:
        await client.request("DELETE", path_of_manifest(manifest), body={"propagationPolicy": "Background"})
    except NotFound:
        return


def path_of_manifest(manifest: Mapping[str, Any]) -> str:
    """URL path of a Kubernetes object of any kind."""
    version, meta = manifest["apiVersion"], manifest["metadata"]
    group = ["apis" if "/" in version else "api", version]
    place = ["namespaces", meta["namespace"]] if "namespace" in meta else []
    return "/" + "/".join([*group, *place, manifest["kind"].lower() + "s", meta["name"]])
