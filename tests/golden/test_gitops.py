"""Lives of objects of each kind, as ``lives.py`` makes them: ``gitops/lives.jsonl`` has the objects, a line each, and
``gitops/verdicts.txt`` what Flux and Argo CD make of each, to be reviewed.

Here the lives are made anew and judged by kstatus' rules; ``tests/api/test_gitops.py`` has the committed ones judged by what
Flux and Argo CD run.

ZOS_UPDATE_GOLDEN=1 writes both anew, with ``hack/judge``.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from judge import judged
from kstatus import kstatus
from lives import Moment, recorded
from zos.kinds.registry import KINDS

HERE = Path(__file__).parent / "gitops"
JUDGED = [kind.model.KIND for kind in KINDS.values() if "status" in kind.model.model_fields]


@pytest.fixture(scope="module")
def lives() -> list[Moment]:
    moments = asyncio.run(recorded())
    if os.environ.get("ZOS_UPDATE_GOLDEN"):
        (HERE / "lives.jsonl").write_text("".join(f"{json.dumps(moment.raw)}\n" for moment in moments))
        lines = [
            " | ".join(filter(None, (moment.name, moment.chapter, one.kstatus, one.health, one.message)))
            for moment, one in zip(moments, judged([moment.raw for moment in moments]), strict=True)
        ]
        (HERE / "verdicts.txt").write_text("\n".join(lines) + "\n")
    return moments


def committed() -> list[list[str]]:
    return [line.split(" | ") for line in (HERE / "verdicts.txt").read_text().splitlines()]


def test_lives_are_what_is_committed(lives: list[Moment]) -> None:
    """In the end of each chapter: by what steps it got there is for chance to say."""
    made = {(moment.name, moment.chapter): kstatus(moment.raw) for moment in lives}
    assert made == {(line[0], line[1]): line[2] for line in committed()}
    kept = [json.loads(line) for line in (HERE / "lives.jsonl").read_text().splitlines()]
    assert [kstatus(raw) for raw in kept] == [line[2] for line in committed()]


def test_each_kind_is_seen_in_each_state_that_it_can_be_in(lives: list[Moment]) -> None:
    seen = {kind: {kstatus(moment.raw) for moment in lives if moment.raw["kind"] == kind} for kind in JUDGED}
    for kind, states in seen.items():
        assert states >= {"InProgress", "Current", "Terminating"}, kind
    failing = {kind for kind, states in seen.items() if "Failed" in states}
    assert failing >= {"ZMachine", "ZMount", "Network", "Contract", "NameContract", "Farm", "NodeWorkload"}
    assert {line[3] for line in committed()} == {"Healthy", "Progressing", "Degraded", "Suspended"}


def test_a_state_is_what_the_conditions_say(lives: list[Moment]) -> None:
    for moment in lives:
        status, meta = moment.raw["status"], moment.raw["metadata"]
        said = {one["type"]: one["status"] for one in status.get("conditions", ())}
        present = status["observedGeneration"] == meta["generation"] and "deletionTimestamp" not in meta
        assert (kstatus(moment.raw) == "Current") == (present and said.get("Ready") == "True"), moment
        assert (kstatus(moment.raw) == "Failed") == (present and said.get("Stalled") == "True"), moment
        if said:
            assert [name for name in ("Reconciling", "Stalled") if name in said] == [] or said["Ready"] != "True", moment


#: What Argo CD may say where kstatus says the other.
AGREE = {
    "InProgress": {"Progressing", "Suspended"},
    "Terminating": {"Progressing"},
    "Failed": {"Degraded"},
    "Current": {"Healthy", "Suspended"},
}


def test_argo_cd_and_flux_agree() -> None:
    for line in committed():
        assert len(line) == 5 or line[3] == "Healthy", f"it does not say why: {line}"
        assert line[3] in AGREE[line[2]], line
        if line[3] == "Suspended":
            assert "runPolicy is Halted" in line[4] or "maintenance" in line[4], "somebody wants it to stand still"


def test_what_waits_before_it_goes_says_for_whom() -> None:
    """Nothing is taken away of a network, a disk or an address that is pruned while machines use it."""
    with_words = {
        line["metadata"]["name"]: ready["message"]
        for line in map(json.loads, (HERE / "lives.jsonl").read_text().splitlines())
        for ready in line["status"].get("conditions", ())
        if ready["type"] == "Ready" and ready["reason"] == "DeletionBlocked" and kstatus(line) == "Terminating"
    }
    assert with_words == {
        "net": "waits for ZMachine web, ZMachine bare, ZMachine huge",
        "data": "waits for ZMachine web",
        "address": "waits for ZMachine web",
        "contract": "waits for PublicIP address",
        "lab": with_words["lab"],
    }
    assert with_words["lab"].startswith("waits for contracts that hold 3 of its addresses")
