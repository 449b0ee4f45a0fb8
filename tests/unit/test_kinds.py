"""The one list of kinds: what is left out of it does not exist, and what clashes in it is said at once."""

from __future__ import annotations

import dataclasses

import pytest

from zos.api.zmount import ZMount
from zos.kinds.kind import Kinds, Writer
from zos.kinds.registry import KINDS
from zos.manifests.crd import files
from zos.manifests.rbac import user_roles
from zos.world.objects import Indexes


def test_two_kinds_of_one_name_can_not_be_together() -> None:
    with pytest.raises(ValueError, match="same name"):
        KINDS.plus(KINDS["ZMount"])


def test_an_index_means_one_thing_in_the_house() -> None:
    other = dataclasses.replace(KINDS["Farm"], indexes=(Indexes(ZMount, {"size": lambda mount: [str(mount.spec.size)]}),))
    clashing = dataclasses.replace(KINDS["ZMount"], indexes=(Indexes(ZMount, {"size": lambda mount: []}),))
    with pytest.raises(ValueError, match="ZMount has two indexes size"):
        Kinds((other, clashing)).indexes()


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
