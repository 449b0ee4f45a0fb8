"""The NodeWorkloads of this node as the API server showed them last."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pydantic import ValidationError

from zos.api.meta import Meta, version_number
from zos.api.nodeworkload import NodeWorkload, NodeWorkloadSpec, Owner
from zos.kube.client import Raw

log = logging.getLogger("zos.agent")


class Workloads:
    """By name. ``model`` has the parts of the kinds that this agent knows. ``version`` grows with every change that matters to
    the node (not with our own status writes)."""

    def __init__(self, model: type[NodeWorkload]) -> None:
        self._model = model
        self._by_name: dict[str, NodeWorkload] = {}
        self._doubted: set[str] = set()
        self.version = 0

    def all(self) -> Mapping[str, NodeWorkload]:
        return dict(self._by_name)

    def get(self, name: str) -> NodeWorkload | None:
        return self._by_name.get(name)

    def doubt(self) -> None:
        """The API server's versions went back: what it says next of each of these is news, whatever the version."""
        self._doubted = set(self._by_name)

    def put(self, raw: Raw) -> bool:
        """Whether there is something to do. Older news than what is known is dropped."""
        workload = read(raw, self._model)
        old = self._by_name.get(workload.name)
        doubted = workload.name in self._doubted
        self._doubted.discard(workload.name)
        if old is not None and old.uid == workload.uid:
            if _version(workload) <= _version(old) and not doubted:
                return False
            if _matters(old) == _matters(workload):
                self._by_name[workload.name] = workload
                return False
        self._by_name[workload.name] = workload
        self.version += 1
        return True

    def remove(self, name: str) -> bool:
        self._doubted.discard(name)
        if self._by_name.pop(name, None) is None:
            return False
        self.version += 1
        return True


def read(raw: Raw, model: type[NodeWorkload]) -> NodeWorkload:
    """One that this agent can't read becomes one of no kind: reported as such, and what it has on the node is kept."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        meta = Meta.model_validate(raw["metadata"])
        log.error("can't be read: %s", error, extra={"workload": meta.name})
        return NodeWorkload(metadata=meta, spec=NodeWorkloadSpec(owner=Owner(kind="", namespace="", name="", uid="")))


def _version(workload: NodeWorkload) -> int:
    return version_number(workload.metadata.resource_version)


def _matters(workload: NodeWorkload) -> tuple[object, ...]:
    return (workload.metadata.generation, workload.deleting, workload.metadata.finalizers, workload.spec)
