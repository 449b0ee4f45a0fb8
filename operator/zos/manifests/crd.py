"""CustomResourceDefinitions from the models: ``python -m zos.manifests.crd [--check] DIRECTORY``.

Gives structural OpenAPI v3 schemas (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/), as far as
these models need them: references inlined, optional fields not nullable, quantities as int-or-string. Descriptions are the
docstrings of classes and fields; a field's own stands before that of its model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from zos.api.meta import CATEGORY, GROUP, VERSION, Object, format_quantity
from zos.api.nodeworkload import NodeWorkload
from zos.api.schema import Rule, rules
from zos.kinds.kind import Kinds
from zos.kinds.registry import KINDS
from zos.manifests import older

#: For a spec or status that has no words of its own.
_SPEC = "What is wanted. A list left out is empty; where another field has no default, its text says what leaving it out means."
_STATUS = "What has become of it. Written by the controller and the agents only."

_PLAIN = (
    "type", "enum", "pattern", "format", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "maxProperties", "description", "default", "x-kubernetes-validations", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-int-or-string",
)  # fmt: skip


def crd(model: type[Object]) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.get("$defs", {})
    properties: dict[str, Any] = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    properties["metadata"] = {"type": "object"}
    properties["spec"] = _structural(schema["properties"]["spec"], definitions, defaults=True)
    properties["spec"].setdefault("description", _SPEC)
    has_status = "status" in schema["properties"]
    if has_status:
        status = _structural(schema["properties"]["status"], definitions, defaults=False)
        status.setdefault("description", _STATUS)
        status["properties"]["observedGeneration"]["default"] = -1
        status["default"] = {"observedGeneration": -1}  # kstatus: not reconciled yet is not "current"
        properties["status"] = status
    if issubclass(model, NodeWorkload):
        _one_part(properties["spec"])
    older.add_to(model, properties)
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": _text(model.__doc__),
                "required": ["spec"] if "spec" in schema.get("required", ()) else [],
                "properties": properties,
            }
        },
        "additionalPrinterColumns": [
            {"name": column.name, "type": column.type, "jsonPath": column.path}
            | ({"priority": column.priority} if column.priority else {})
            for column in model.COLUMNS
        ],
    }
    if not version["schema"]["openAPIV3Schema"]["required"]:
        del version["schema"]["openAPIV3Schema"]["required"]
    if model.RULES:
        version["schema"]["openAPIV3Schema"] |= rules(*model.RULES)
    if has_status:
        version["subresources"] = {"status": {}}
    if model.SELECTABLE:
        version["selectableFields"] = [{"jsonPath": path} for path in model.SELECTABLE]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{model.PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if model.NAMESPACED else "Cluster",
            "names": {
                "kind": model.KIND,
                "listKind": f"{model.KIND}List",
                "plural": model.PLURAL,
                "singular": model.SINGULAR or model.KIND.lower(),
                "shortNames": list(model.SHORT_NAMES),
                "categories": [CATEGORY],
            },
            "versions": [version],
        },
    }


def _one_part(spec: dict[str, Any]) -> None:
    members = ", ".join(f"has(self.part.{name})" for name in spec["properties"]["part"]["properties"])
    before = ", ".join(f"has(self.{name})" for name in older.MEMBERS)
    check = Rule(
        f"(has(self.part) ? [{members}] : [{before}]).filter(said, said).size() == 1",
        "a NodeWorkload has exactly one part, that of its owner's kind; one of a kind that the CRD does not know was left out",
    )
    spec |= rules(check)


def _structural(node: dict[str, Any], definitions: dict[str, Any], *, defaults: bool) -> dict[str, Any]:
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[-1]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    if "anyOf" in node and not node.get("x-kubernetes-int-or-string"):
        options = [option for option in node["anyOf"] if option != {"type": "null"}]
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        return _structural({**options[0], **rest}, definitions, defaults=defaults)
    if "const" in node:
        node = {**node, "enum": [node["const"]]}
    made = {key: node[key] for key in _PLAIN if key in node}
    if "description" in made:
        made["description"] = _text(made["description"])
    if "default" in made:
        if not defaults or made["default"] in (None, [], {}, ()) or made.get("type") == "object":
            del made["default"]
        elif made.get("x-kubernetes-int-or-string"):
            made["default"] = format_quantity(int(made["default"])) if made["default"] else 0
    if node.get("x-kubernetes-int-or-string"):
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in node:
        made["properties"] = {
            name: _structural(child, definitions, defaults=defaults) for name, child in node["properties"].items()
        }
        if node.get("required"):
            made["required"] = sorted(node["required"])
    if "items" in node:
        made["items"] = _structural(node["items"], definitions, defaults=defaults)
    if isinstance(node.get("additionalProperties"), dict):
        made["additionalProperties"] = _structural(node["additionalProperties"], definitions, defaults=defaults)
    return made


def _text(docstring: str | None) -> str:
    """A docstring as one paragraph, code in single backticks as in Kubernetes' own descriptions."""
    return " ".join((docstring or "").replace("``", "`").split())


def manifest(model: type[Object]) -> str:
    """The committed file of one kind."""
    return "# Generated by python -m zos.manifests.crd; do not edit.\n" + yaml.safe_dump(
        crd(model), sort_keys=False, width=120, allow_unicode=True
    )


def files(kinds: Kinds = KINDS) -> dict[str, str]:
    """File name → content, for every kind."""
    return {f"{model.PLURAL}.{GROUP}.yaml": manifest(model) for model in kinds.models}


def in_step(directory: Path) -> list[str]:
    """Names of the files in ``directory`` that differ from what the models say (stray ones included)."""
    wanted = files()
    present = {path.name: path.read_text() for path in directory.glob("*.yaml")}
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    directory = Path(next((argument for argument in arguments if not argument.startswith("-")), "crds"))
    stale = in_step(directory)
    if check:
        for name in stale:
            print(f"{directory / name} is out of step with the models: run python -m zos.manifests.crd", file=sys.stderr)
        return 1 if stale else 0
    wanted = files()
    for name in stale:
        if name in wanted:
            (directory / name).write_text(wanted[name])
        else:
            (directory / name).unlink()
        print(directory / name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
