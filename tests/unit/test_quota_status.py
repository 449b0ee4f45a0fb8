"""A Quota says what is held in each namespace, as far as there is room for."""

from __future__ import annotations

import pytest

from cases import world_of
from fixpoint import resolve
from zos.api.core import Namespace
from zos.api.gridnode import GridNode
from zos.api.meta import Meta, Object
from zos.api.quota import Quota


@pytest.mark.parametrize(("count", "said"), [(512, ""), (513, "of 513 namespaces that hold something 512 are shown")])
def test_of_very_many_namespaces_some_are_shown_and_all_are_counted(count: int, said: str) -> None:
    names = [f"team-{number:04}" for number in range(count)]
    holds = [{"uid": f"uid-{name}", "owner": f"ZMachine {name}/web", "cpu": 1} for name in names]
    quota = Quota.model_validate({"metadata": {"name": "all", "uid": "q"}, "spec": {"namespaces": {}}})
    objects: list[Object] = [quota, GridNode.model_validate({"metadata": {"name": "n"}, "status": {"holds": holds}})]
    found = resolve(quota, world_of([*objects, *(Namespace(metadata=Meta(name=name, uid=name)) for name in names)]))
    assert found.verdict.message == said
    assert (found.status.matching, len(found.status.used)) == (count, 512)


def test_of_many_that_hold_more_than_they_may_some_are_named() -> None:
    names = [f"team-{number}" for number in range(7)]
    holds = [{"uid": f"uid-{name}", "owner": f"ZMachine {name}/web", "cpu": 2} for name in names]
    quota = Quota.model_validate({"metadata": {"name": "all", "uid": "q"}, "spec": {"namespaces": {}, "cpu": 1, "machines": 1}})
    objects: list[Object] = [quota, GridNode.model_validate({"metadata": {"name": "n"}, "status": {"holds": holds}})]
    found = resolve(quota, world_of([*objects, *(Namespace(metadata=Meta(name=name, uid=name)) for name in names)]))
    assert found.verdict.ready
    assert found.verdict.message.endswith("team-3 (cpu 2 of 1), team-4 (cpu 2 of 1) and 2 more")
