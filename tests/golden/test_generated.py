"""What is made from the models is text that was reviewed: the CRDs, the reference, and who may do what."""

from __future__ import annotations

from pathlib import Path

import pytest

from zos.kinds.gridnode import rights
from zos.manifests import crd, reference

ROOT = Path(__file__).parent.parent.parent


CRDS, PAGES = crd.files(), reference.files()


@pytest.mark.parametrize("name", sorted(CRDS))
def test_a_crd_says_what_its_model_says(name: str) -> None:
    assert (ROOT / "crds" / name).read_text() == CRDS[name]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_of_the_reference_says_what_its_model_says(name: str) -> None:
    assert (ROOT / "docs/reference" / name).read_text() == PAGES[name]


def test_an_agent_reaches_its_own_workloads_and_no_secret() -> None:
    rules = [rule for manifest in rights.agent_objects("n1", "zos-node-n1") for rule in manifest.get("rules", ())]
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
