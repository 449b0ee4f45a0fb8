"""How things end: what has to be known before a node is told to take anything away, and who may go without that.

Data is erased only when the object's own user said so. The word is written into the NodeWorkload (``spec.erase``) before that
is deleted; whatever else makes a NodeWorkload go lets go of what is on the node.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import Enum
from typing import Any

from zos.api import names
from zos.api.contract import Claim, ClaimHolder
from zos.api.core import CustomResourceDefinition, Namespace
from zos.api.gridnode import GridNode
from zos.api.meta import ABANDON, AGENT_FINALIZER, API_VERSION, GROUP, DeletionPolicy, Object, Reason
from zos.api.names import OWNER_UID
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.controller.applying import remove
from zos.controller.ledger import Lost
from zos.controller.writing import MANAGER, Exchange, finalizers
from zos.kinds.kind import Kinds
from zos.kube.client import NotFound, Raw, path_of
from zos.world.heartbeat import Heartbeat
from zos.world.resolution import Resolution, Verdict

log = logging.getLogger("zos.farewell")

_METADATA = {"Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}


class Word(Enum):
    """What an object's user said of what it has on nodes."""

    ERASE = "erase"
    RETAIN = "retain"
    NONE = "none"


class Farewell:
    def __init__(self, exchange: Exchange, kinds: Kinds) -> None:
        self._exchange = exchange
        self._client = exchange.client
        self._world = exchange.world
        self._absorb = exchange.absorb
        self._kinds = kinds

    async def word(self, obj: Object) -> Word:
        """Of an object that is being deleted, as the API server has it now. A CRD on its way out is nobody's word; a user who
        deletes his namespace has spoken. Raises Lost where the object is not being deleted (any more)."""
        found = await self._metadata(type(obj), obj.namespace, obj.name)
        if found is None or found["uid"] != obj.uid or "deletionTimestamp" not in found:
            raise Lost(f"{obj.key} is not being deleted, or is another one by now")
        if await self._leaves(type(obj)):
            return Word.NONE
        if obj.namespace and await self._metadata(Namespace, "", obj.namespace) is None:
            return Word.NONE
        spec = getattr(obj, "spec", None)
        retain = getattr(spec, "deletion_policy", DeletionPolicy.ERASE) is DeletionPolicy.RETAIN
        return Word.RETAIN if retain else Word.ERASE

    async def part(self, workload: NodeWorkload, word: Word) -> None:
        """Writes the word, then deletes. Raises `HeldBack` where the node's agent would erase what it must keep."""
        if word is Word.NONE and (why := self.held_back(workload)) is not None:
            raise HeldBack(why)
        if word is not Word.NONE:
            retain = word is Word.RETAIN
            spec = workload.spec.model_copy(update={"erase": workload.spec.owner.uid, "retain": retain})
            if spec != workload.spec:
                body = {
                    "apiVersion": API_VERSION,
                    "kind": NodeWorkload.KIND,
                    "metadata": {
                        "name": workload.name,
                        "namespace": workload.namespace,
                        "uid": workload.uid,  # or a name that is free by now would be made anew
                        "labels": {OWNER_UID: workload.spec.owner.uid},
                        "finalizers": [name for name in workload.metadata.finalizers if name == AGENT_FINALIZER],
                    },
                    "spec": spec.wire(),
                }
                raw = await self._client.patch(
                    NodeWorkload, workload.namespace, workload.name, body, type="apply", manager=MANAGER
                )
                self._absorb(workload.key, raw)
        if not workload.deleting:
            await self._client.delete(NodeWorkload, workload.namespace, workload.name, uid=workload.uid)

    def held_back(self, workload: NodeWorkload) -> str | None:
        """Why the workload's node can't be told to let go of it without a word. None: it can."""
        node = self._node_of(workload)
        if node is None and (unread := self._unread_node_of(workload)) is not None:
            return (
                f"GridNode {unread} can't be read by this controller, nor whether its agent keeps what has to stay: upgrade it"
            )
        if node is None or node.knows_words or node.abandoned:
            return None
        return f"the agent of node {node.name} ({node.status.agent_version}) would erase what has to stay: upgrade it"

    async def dismiss(self, obj: Object, resolution: Resolution) -> None:
        """An internal object that serves nothing any more. Its holder's absence is confirmed, not only remembered."""
        if resolution.let_go:
            if AGENT_FINALIZER in obj.metadata.finalizers:
                log.info("let go of %s: what it has on its node stays there", obj.key)
                left = [name for name in obj.metadata.finalizers if name != AGENT_FINALIZER]
                await finalizers(self._exchange, obj, left)
            return
        if obj.deleting or await self._owner_lives(obj):
            return
        if isinstance(obj, NodeWorkload):
            try:
                await self.part(obj, Word.NONE)
            except HeldBack as why:
                log.warning("%s stays: %s", obj.key, why)
            return
        await self._client.delete(type(obj), obj.namespace, obj.name, uid=obj.uid)
        current = self._world.peek(obj.key)
        if not obj.metadata.finalizers and current is not None and current.uid == obj.uid:
            self._absorb(obj.key, None)

    async def leave_grid(self, node: GridNode, manifests: tuple[Mapping[str, Any], ...]) -> list[NodeWorkload]:
        """The last of a GridNode: its namespace and its agent's rights. What is still to be erased on a node that was given up
        stays recorded in its namespace for the node's return. Gives what has to go first."""
        namespace = names.node_namespace(node.name)
        there = self._world.find(NodeWorkload, namespace=namespace)
        first = [workload for workload in there if not workload.spec.unwanted]
        for workload in first:
            await self.part(workload, Word.NONE)
        if not there:
            for manifest in reversed(manifests):
                await remove(self._client, manifest)
        return first

    def waiting(self, obj: Object, workloads: list[NodeWorkload]) -> Verdict:
        """What a deletion waits for on nodes, and what helps where it takes longer than it should."""
        parts: list[str] = []
        stuck = False
        for workload in sorted(workloads, key=lambda workload: workload.namespace):
            node = self._node_of(workload)
            beat = self._world.peek(Heartbeat.key_of("", node.name)) if node is not None else None
            if node is None and self._unread_node_of(workload) is not None:
                parts.append(f"{workload.namespace} (its GridNode can't be read by this controller: upgrade the controller)")
            elif node is None:
                parts.append(f"{workload.namespace} (its node is not in the grid any more)")
                stuck = True
            elif isinstance(beat, Heartbeat) and not beat.alive:
                parts.append(f"{workload.namespace} (its agent does not answer)")
                stuck = True
            elif workload.hindrance:
                parts.append(f"{workload.namespace} ({workload.hindrance})")
            else:
                parts.append(workload.namespace)
        message = f"waiting for its nodes to be clean: {', '.join(parts)}"
        if stuck:
            whom = f"{obj.KIND.lower()} {obj.name}" + (f" -n {obj.namespace}" if obj.namespace else "")
            message += (
                f"; if it never comes back, kubectl annotate {whom} --overwrite {ABANDON}={obj.uid} gives up waiting "
                "(what is there is erased when the node returns)"
            )
        blocked = stuck or any(workload.hindrance for workload in workloads)
        return Verdict(False, Reason.DELETION_BLOCKED if blocked else Reason.DELETING, message)

    def _node_of(self, workload: NodeWorkload) -> GridNode | None:
        return next(iter(self._world.find(GridNode, namespace=workload.namespace)), None)

    def _unread_node_of(self, workload: NodeWorkload) -> str | None:
        unread = (key.name for key, _ in self._world.opaque(GridNode.KIND))
        return next((name for name in unread if names.node_namespace(name) == workload.namespace), None)

    async def _owner_lives(self, obj: Object) -> bool:
        """Whether it can't be said that the owner is gone for good."""
        owner: Owner | ClaimHolder | None = None
        if isinstance(obj, NodeWorkload):
            owner = obj.spec.owner
        elif isinstance(obj, Claim):
            owner = obj.spec.holder
        if owner is None or owner.kind not in self._kinds:
            return True
        model = self._kinds[owner.kind].model
        found = await self._metadata(model, owner.namespace, owner.name)
        if found is not None and found["uid"] == owner.uid:
            return True
        return isinstance(obj, Claim) and await self._leaves(model)

    async def _leaves(self, model: type[Object]) -> bool:
        """Whether a kind itself is on its way out of the cluster, so that its objects go without anybody having asked."""
        crd = await self._metadata(CustomResourceDefinition, "", f"{model.PLURAL}.{GROUP}")
        return crd is None or "deletionTimestamp" in crd

    async def _metadata(self, model: type[Object], namespace: str, name: str) -> Raw | None:
        try:
            found = await self._client.request("GET", path_of(model, namespace, name), headers=_METADATA)
        except NotFound:
            return None
        meta: Raw = found["metadata"]
        return meta


class HeldBack(Exception):
    """Something that has to wait until a node's agent is upgraded."""
