"""What is made from the models is text that was reviewed: the CRDs, the reference, and who may do what."""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path

import pytest
import yaml

from cases import GRID
from zos.kinds.gridnode import rights
from zos.kinds.kind import Kinds
from zos.kinds.registry import KINDS
from zos.manifests import crd, install, reference
from zos.manifests.admission import admission_objects
from zos.manifests.rbac import controller_objects

ROOT = Path(__file__).parent.parent.parent
#: What a kind that the tests alone define changes in all of it.
ONE_MORE = Path(__file__).parent / "generated-with-ping.diff"


CRDS, PAGES = crd.files(), reference.files()


@pytest.mark.parametrize("name", sorted(CRDS))
def test_a_crd_says_what_its_model_says(name: str) -> None:
    assert (ROOT / "crds" / name).read_text() == CRDS[name]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_of_the_reference_says_what_its_model_says(name: str) -> None:
    assert (ROOT / "docs/reference" / name).read_text() == PAGES[name]


def test_all_that_a_cluster_is_given_is_made_from_the_list_of_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main([str(tmp_path)]) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == install.files()
    assert CRDS.items() <= install.files().items()
    assert install.files(GRID).keys() - install.files().keys() == {"pings.zos.grid.tf.yaml"}
    assert [name for name in ("rights.yaml", "admission.yaml") if "pings" not in install.files(GRID)[name]] == []
    capsys.readouterr()
    assert install.main([]) == 0
    whole = [*yaml.safe_load_all(capsys.readouterr().out)]
    assert whole == [document for text in install.files().values() for document in yaml.safe_load_all(text)]


def generated(kinds: Kinds) -> dict[str, str]:
    objects = {
        f"{obj['kind']} {obj['metadata']['name']}": yaml.safe_dump(obj, sort_keys=False, width=120, default_flow_style=None)
        for obj in (*map(dict, controller_objects(kinds)), *admission_objects(kinds))
    }
    return crd.files(kinds) | reference.files(kinds) | objects


def changes(before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    """Without line numbers, which change with everything that stands before."""
    for name in sorted(before.keys() | after.keys()):
        was, now = (files.get(name, "").splitlines() for files in (before, after))
        found = [line for line in unified_diff(was, now, n=2, lineterm="") if not line.startswith(("--- ", "+++ "))]
        if found:
            yield from (f"=== {name}", *("@@" if line.startswith("@@ ") else line.rstrip() for line in found), "")


def test_one_more_kind_gets_all_of_it_and_changes_nothing_else() -> None:
    found = "\n".join(changes(generated(KINDS), generated(GRID)))
    if os.environ.get("ZOS_UPDATE_GOLDEN"):
        ONE_MORE.write_text(found)
    assert found == ONE_MORE.read_text()


def test_an_agent_reaches_its_own_workloads_and_no_secret() -> None:
    rules = [rule for manifest in rights.agent_objects("n1", "zos-node-n1") for rule in manifest.get("rules", ())]
    rules += rights.agent_rules()  # bound in its namespace
    granted = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert granted == {
        *(("nodeworkloads", verb) for verb in ("get", "list", "watch", "patch")),
        *(("nodeworkloads/status", verb) for verb in ("get", "patch")),
        *(("leases", verb) for verb in ("create", "get", "list", "watch", "patch", "update")),
        *(("events", verb) for verb in ("create", "patch")),
        *(("gridnodes", verb) for verb in ("get", "list", "watch")),
        *(("gridnodes/status", verb) for verb in ("get", "patch")),
        ("namespaces", "get"),
    }
    named = {(rule["resources"][0], *rule.get("resourceNames", ())) for rule in rules}
    assert named == {
        ("nodeworkloads",), ("nodeworkloads/status",), ("leases",), ("leases", "agent"), ("events",),
        ("gridnodes", "n1"), ("gridnodes/status", "n1"), ("namespaces", "kube-system"),
    }  # fmt: skip
