"""What ``kubectl explain`` and the reference say about fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from zos.api.meta import Model, Object, format_quantity
from zos.api.resources import GUEST_OVERHEAD
from zos.api.zmachine import ZMachine, ZMachineSpec
from zos.kinds.registry import KINDS
from zos.manifests.crd import crd
from zos.manifests.reference import page

#: Bytes. ``kubectl apply`` keeps a copy of the object in an annotation, and annotations have this limit.
ANNOTATIONS = 256 * 1024

KINDS_OF_USERS = [model for model in KINDS.models if model.KIND not in ("NodeWorkload", "Claim")]


def schema(model: type[Object]) -> dict[str, Any]:
    found: dict[str, Any] = crd(model)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in node.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, field
        yield from fields(field.get("items", field), f"{here}[]" if "items" in field else here)


def models(kind: type[Object]) -> Iterator[type[Model]]:
    """The models of its spec and status, however deep."""
    left: list[Any] = [kind.model_fields[part].annotation for part in ("spec", "status")]
    while left:
        one = left.pop()
        if isinstance(one, type) and issubclass(one, Model):
            yield one
            left += [field.annotation for field in one.model_fields.values()]
        else:
            left += getattr(one, "__args__", ())


@pytest.mark.parametrize("model", KINDS_OF_USERS, ids=lambda model: model.KIND)
def test_every_field_of_the_crd_has_a_description(model: type[Object]) -> None:
    properties = schema(model)["properties"]
    found = {path: field for part in ("spec", "status") for path, field in fields(properties[part], part)}
    assert len(found) > 4
    assert [path for path, field in found.items() if not field.get("description")] == []


@pytest.mark.parametrize("model", KINDS_OF_USERS, ids=lambda model: model.KIND)
def test_no_field_borrows_the_description_of_its_model(model: type[Object]) -> None:
    """A model's docstring speaks of it wherever it is used; what it is here, only the field can say."""
    bare = [f"{owner.__name__}.{name}" for owner in models(model) for name in owner.model_fields if not own(owner, name)]
    assert bare == []


def own(model: type[Model], field: str) -> str:
    return model.model_fields[field].description or ""


def test_a_fields_own_words_stand_before_those_of_its_model() -> None:
    network = schema(ZMachine)["properties"]["spec"]["properties"]["network"]
    assert network["description"] == own(ZMachineSpec, "network")


@pytest.mark.parametrize("model", KINDS.models, ids=lambda model: model.KIND)
def test_every_kind_is_introduced_and_its_crd_can_be_applied(model: type[Object]) -> None:
    assert schema(model)["description"]
    assert len(json.dumps(crd(model)).encode()) < ANNOTATIONS / 4


def test_numbers_in_descriptions_are_those_in_force() -> None:
    assert f"{format_quantity(GUEST_OVERHEAD)} more" in own(ZMachineSpec, "memory")


@pytest.mark.parametrize("model", KINDS.models, ids=lambda model: model.KIND)
def test_the_reference_is_sound_markdown(model: type[Object]) -> None:
    text = page(model)
    assert "``" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows
    assert {row.replace("\\|", "").count("|") for row in rows} == {5}


def test_the_reference_shows_descriptions() -> None:
    row = next(line for line in page(ZMachine).splitlines() if line.startswith("| `memory` |"))
    assert own(ZMachineSpec, "memory").replace("\n", " ") in row
