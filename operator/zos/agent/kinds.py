"""Which kind's code serves which workload."""

from __future__ import annotations

from collections.abc import Mapping

from zos.agent.registry import Kind
from zos.api.nodeworkload import MachineOnNode, MountOnNode, NetworkOnNode, NodeWorkload, Part
from zos.kinds.network import lower as network
from zos.kinds.zmachine import lower as zmachine
from zos.kinds.zmount import lower as zmount

_KINDS: Mapping[type[Part], Kind] = {NetworkOnNode: network, MachineOnNode: zmachine, MountOnNode: zmount}


def kind_of(workload: NodeWorkload) -> Kind | None:
    part = workload.spec.part
    return None if part is None else _KINDS[type(part)]
