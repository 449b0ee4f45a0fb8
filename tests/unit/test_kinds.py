"""The one list of kinds: what is left out of it does not exist, and what clashes in it is said at once."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest

from zos.api.nodeworkload import Offer, Owner, Part
from zos.api.zmount import ZMount
from zos.kinds.kind import Kinds, OnNode, Report, Writer
from zos.kinds.registry import KINDS
from zos.kinds.zmount.part import MountOnNode
from zos.manifests.crd import files
from zos.manifests.rbac import user_roles
from zos.plan.lowered import Lowered
from zos.world import shares
from zos.world.objects import Indexes
from zos.world.resolution import ready


def test_two_kinds_of_one_name_can_not_be_together() -> None:
    with pytest.raises(ValueError, match="same name"):
        KINDS.plus(KINDS["ZMount"])


def test_a_kind_more_is_in_the_envelope() -> None:
    class Soon(Part):
        word: str

    class Tomorrow(ZMount):
        KIND: ClassVar[str] = "Tomorrow"
        PLURAL: ClassVar[str] = "tomorrows"

    on_node = OnNode(Soon, None, lambda here: Lowered(), lambda *_: Report(ready()))
    more = KINDS.plus(dataclasses.replace(KINDS["ZMount"], model=Tomorrow, node=on_node))
    assert more["NodeWorkload"].model is more.workload
    asked = {"owner": {"kind": "Tomorrow", "namespace": "n", "name": "t", "uid": "u"}, "part": {"tomorrow": {"word": "x"}}}
    raw = {"metadata": {"name": "w"}, "spec": asked}
    assert more.workload.model_validate(raw).part(Soon) == Soon(word="x")
    assert KINDS.workload.model_validate(raw).spec.part is None
    assert "tomorrow:" in files(more)["nodeworkloads.zos.grid.tf.yaml"]
    assert "tomorrow:" not in files()["nodeworkloads.zos.grid.tf.yaml"]


def test_an_index_means_one_thing_in_the_house() -> None:
    other = dataclasses.replace(KINDS["Farm"], indexes=(Indexes(ZMount, {"size": lambda mount: [str(mount.spec.size)]}),))
    clashing = dataclasses.replace(KINDS["ZMount"], indexes=(Indexes(ZMount, {"size": lambda mount: []}),))
    with pytest.raises(ValueError, match="ZMount has two indexes size"):
        Kinds((other, clashing)).indexes()


def test_what_a_kind_is_used_by_is_an_index_of_some_kind() -> None:
    nobodys = dataclasses.replace(KINDS["Farm"], used_by="tenant")
    with pytest.raises(ValueError, match="Farm is used by tenant, which is no index"):
        Kinds((nobodys,)).indexes()


def test_a_kind_that_gives_file_systems_is_found_as_one() -> None:
    class Given(MountOnNode):
        def offer(self, owner: Owner) -> Offer:
            return Offer(path="p", ground="g")

    mount = KINDS["ZMount"]
    assert mount.node is not None
    giving = dataclasses.replace(mount, node=dataclasses.replace(mount.node, part=Given), used_by="")
    with pytest.raises(ValueError, match="ZMount offers file systems, and lacks the index giver"):
        Kinds((giving,)).indexes()
    Kinds((dataclasses.replace(giving, indexes=(*mount.indexes, shares.givers(ZMount))),)).indexes()


def test_what_is_generated_goes_by_who_writes_a_kind() -> None:
    internal = dataclasses.replace(KINDS["ZMount"], writer=Writer.CONTROLLER)
    fewer = Kinds((KINDS["Network"], KINDS["Farm"], internal))
    assert set(files(fewer)) == {f"{plural}.zos.grid.tf.yaml" for plural in ("networks", "farms", "zmounts")}
    granted = {
        (rule["resources"][0], "create" in rule["verbs"])
        for role in user_roles(fewer)
        for rule in role.get("rules", ())
        if "/" not in rule["resources"][0]
    }
    assert granted == {("networks", False), ("networks", True), ("farms", False)}
