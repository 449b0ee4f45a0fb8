"""GitOps tools over a real API server: what they apply is what is there, and what they are told of it is true."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiserver import ApiServer
from examples import BUILT, PLAIN, built, plain
from gridlib.tools import program
from judge import CHECKOUT, judged
from kstatus import kstatus, served
from simulated import sweep, until
from slowgrid import MODELS, life, too_early
from zos.api.meta import CONTROLLER_FINALIZER, Key
from zos.kinds.kind import Writer
from zos.kinds.registry import KINDS
from zos.kube.client import Raw
from zos.manifests.crd import crd
from zos.simulation import Grid, written
from zos.simulation import grid as simulated

TESTS = Path(__file__).parent.parent
LIVES = TESTS / "golden" / "gitops"
EVERY_FIELD = [*yaml.safe_load_all((TESTS / "everyfield.yaml").read_text())]
WRITTEN = [model for writer in (Writer.TENANT, Writer.ADMINISTRATOR) for model in KINDS.written_by(writer)]
FLUX, ARGO = "kustomize-controller", "kubectl-client-side-apply"


def test_flux_and_argo_cd_say_of_recorded_lives_what_is_committed() -> None:
    lines = [line.split(" | ") for line in (LIVES / "verdicts.txt").read_text().splitlines()]
    objects = [json.loads(line) for line in (LIVES / "lives.jsonl").read_text().splitlines()]
    said = [[*filter(None, one)] for one in judged(objects)]
    assert said == [line[2:] for line in lines]


#: Conditions that this release does not write, and what both make of them at the present generation.
ODD: list[tuple[dict[str, str], tuple[str, str]]] = [
    ({"Ready": "Unknown"}, ("InProgress", "Progressing")),
    ({"Ready": "True", "Reconciling": "True"}, ("InProgress", "Progressing")),
    ({"Ready": "True", "Stalled": "True"}, ("Failed", "Degraded")),
    ({"Ready": "True", "Stalled": "False", "Reconciling": "False", "Newer": "True"}, ("Current", "Healthy")),
    ({"Ready": "False"}, ("InProgress", "Progressing")),
]


@pytest.mark.parametrize(("conditions", "verdict"), ODD, ids=lambda it: str(it) if isinstance(it, tuple) else "")
def test_what_they_say_of_conditions_that_are_not_of_this_release(conditions: dict[str, str], verdict: tuple[str, str]) -> None:
    status = {"observedGeneration": 2, "conditions": [{"type": name, "status": said} for name, said in conditions.items()]}
    obj = {"apiVersion": "zos.grid.tf/v1alpha1", "kind": "ZMount", "metadata": {"name": "a", "generation": 2}, "status": status}
    (one,) = judged([obj])
    assert (one.kstatus, one.health) == verdict
    assert kstatus(obj) == verdict[0]


def test_argo_cd_is_not_content_with_what_has_no_conditions() -> None:
    """kstatus is, where an object says nothing at all: so the API server says that nobody has looked at it."""
    bare = {"apiVersion": "zos.grid.tf/v1alpha1", "kind": "ZMount", "metadata": {"name": "a", "generation": 2}}
    said = judged([bare, {**bare, "status": {"observedGeneration": 2}}, served(bare)])
    assert [(one.kstatus, one.health) for one in said] == [
        ("Current", "Progressing"),
        ("Current", "Progressing"),
        ("InProgress", "Progressing"),
    ]


@pytest.mark.parametrize("seed", range(2))
async def test_neither_is_content_before_it_is_done(seed: int) -> None:
    """Over a life in which nodes are slow, every change is looked at."""
    moments: list[tuple[Raw, str]] = []

    def look(grid: Any, key: Key, raw: Raw | None) -> None:
        if key.kind in MODELS and raw is not None:
            moments.append((served(raw), too_early(grid, MODELS[key.kind].model_validate(raw))))

    await life(seed, look)
    content = 0
    for (raw, lacks), one in zip(moments, judged([raw for raw, _ in moments]), strict=True):
        done = one.kstatus == "Current" or one.health in ("Healthy", "Suspended")
        content += done
        assert not done or not lacks, (one, lacks, raw)
        assert (one.kstatus == "Current") == (one.health in ("Healthy", "Suspended")), (one, raw)
    assert content > 30


def test_what_was_just_applied_is_not_content(apiserver: ApiServer) -> None:
    """Before any controller has seen it: the API server itself says that nobody has."""
    dry = ("apply", "--dry-run=server", "-n", "default", "-o", "json", "-f", "-")
    fresh = json.loads(apiserver.kubectl(*dry, stdin=_text(EVERY_FIELD)))["items"]
    assert {(one.kstatus, one.health) for one in judged(fresh)} == {("InProgress", "Progressing")}


@pytest.mark.parametrize("name", [*BUILT, *PLAIN])
def test_examples_are_taken(apiserver: ApiServer, name: str) -> None:
    objects = built(name) if name in BUILT else plain(name)
    assert objects
    for obj in objects:
        obj["metadata"].pop("namespace", None)
    _apply(apiserver, objects, "--dry-run=server")


def test_what_is_tried_has_every_field_of_every_kind() -> None:
    for model in WRITTEN:
        schema = _schema(model.KIND)
        there = {path for obj in EVERY_FIELD if obj["kind"] == model.KIND for path in _set(obj["spec"], schema)}
        assert set(_fields(schema)) - there == set(), model.KIND


@pytest.fixture
async def grid(controlled: ApiServer, tmp_path: Path) -> AsyncIterator[Grid]:
    async with simulated(controlled.kubeconfig, tmp_path) as made:
        yield made
        await sweep(made.client)


async def test_nothing_drifts(controlled: ApiServer, grid: Grid) -> None:
    """Applied by two tools, over all that the controller and nodes then do: specs are what was applied and the CRD's defaults,
    what users wrote beside it is theirs alone, and to apply it all once more changes nothing."""
    objects = [*EVERY_FIELD, *built("minigrid")]
    for name in PLAIN:
        objects += plain(name)
    async with grid.controller():
        for number in (1, 2, 3):
            await grid.node(f"n{number}", ipv4=f"198.51.100.{10 + number}")
        await asyncio.to_thread(_apply, controlled, objects)
        await until(lambda: asyncio.to_thread(_looked_at, controlled, objects), 90)
        before = -1
        while before != (before := written(grid)):
            await asyncio.sleep(1.5)
        found = await asyncio.to_thread(_drift, controlled, objects)
        assert found == []
        assert written(grid) == before, "somebody writes because it was applied again"
        (bare,) = [obj for obj in objects if (obj["kind"], obj["metadata"]["name"]) == ("Network", "bare")]
        controlled.kubectl("patch", "network", "bare", "-n", "default", "--type=merge", "-p", '{"spec": {"mtu": 1400}}')
        drifted = "".join(await asyncio.to_thread(_drift, controlled, [{**bare, "spec": {**bare["spec"], "mtu": 1420}}]))
        for words in ("spec is", "changed its spec", "kubectl-patch owns", "out of sync", "kubectl diff: ", "again writes it"):
            assert words in drifted, drifted


def test_the_chart_does_not_drift(tmp_path: Path) -> None:
    """What it renders is the same each time, and what the API server makes of it is what was applied."""
    rendered = [_rendered(tmp_path) for _ in range(2)]
    assert rendered[0] == rendered[1]
    server = ApiServer(tmp_path / "server")
    try:
        server.start()
        server.define(CHECKOUT / "crds")
        server.kubectl("create", "namespace", "zos-system")
        applied = ("apply", *HOW[True], "-f", "-")
        deadline = time.monotonic() + 60
        while "rror" in (said := _said(server, *applied, stdin=rendered[0])):  # a policy about a kind that is hardly known
            assert time.monotonic() < deadline, said
            time.sleep(1)
        assert _said(server, "diff", *HOW[True], "-f", "-", stdin=rendered[0]) == ""
        other = rendered[0].replace("replicas: 2", "replicas: 3")
        assert "replicas: 3" in _said(server, "diff", *HOW[True], "-f", "-", stdin=other), "what drifts is seen"
    finally:
        server.stop()


def _rendered(scratch: Path) -> str:
    own = {f"HELM_{what}_HOME": str(scratch / what) for what in ("CACHE", "CONFIG", "DATA")}
    words = [program("helm"), "template", "zos", str(CHECKOUT / "charts/zos"), "--namespace", "zos-system", "--no-hooks"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **own})
    assert done.returncode == 0, done.stderr
    return done.stdout


def _said(server: ApiServer, *words: str, stdin: str) -> str:
    command = [program("kubectl"), "--kubeconfig", server.kubeconfig, *words]
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def _by_flux(obj: Raw) -> bool:
    """Flux applies on the server's side, Argo CD as ``kubectl apply`` does by itself. Here each has half of the objects."""
    return sum(map(ord, obj["metadata"]["name"])) % 2 == 0


#: Whether it is Flux → how it applies.
HOW = {True: ("--server-side", "--force-conflicts", f"--field-manager={FLUX}"), False: ()}


def _apply(server: ApiServer, objects: list[Raw], *more: str) -> None:
    for flux, how in HOW.items():
        if text := _text([obj for obj in objects if _by_flux(obj) is flux]):
            server.kubectl("apply", *how, *more, "-n", "default", "-f", "-", stdin=text)


def _text(objects: list[Raw]) -> str:
    return "---\n".join(json.dumps(obj) + "\n" for obj in objects)


def _live(server: ApiServer, objects: list[Raw]) -> list[Raw]:
    """In the same order."""
    got = json.loads(
        server.kubectl("get", "-n", "default", "-o", "json", "--show-managed-fields", "-f", "-", stdin=_text(objects))
    )
    found: list[Raw] = got.get("items", [got])
    return found


def _looked_at(server: ApiServer, objects: list[Raw]) -> bool:
    return all(one["status"]["observedGeneration"] == one["metadata"]["generation"] for one in _live(server, objects))


def _drift(server: ApiServer, objects: list[Raw]) -> list[str]:
    found, lives = [], _live(server, objects)
    for obj, live in zip(objects, lives, strict=True):
        what, meta = f"{obj['kind']} {obj['metadata']['name']}", live["metadata"]
        if live["spec"] != (filled := _filled(obj["spec"], _schema(obj["kind"]))):
            found.append(f"{what}: spec is {live['spec']} and not {filled}")
        if meta["generation"] != 1:
            found.append(f"{what}: somebody has changed its spec")
        annotations = {k: v for k, v in meta.get("annotations", {}).items() if not k.startswith("kubectl.kubernetes.io/")}
        if (meta.get("labels", {}), annotations) != tuple(obj["metadata"].get(of, {}) for of in ("labels", "annotations")):
            found.append(f"{what}: labels or annotations are {meta}")
        if not set(meta.get("finalizers", ())) <= {CONTROLLER_FINALIZER} or "ownerReferences" in meta:
            found.append(f"{what}: metadata is {meta}")
        for owned in meta["managedFields"]:
            if owned["manager"] not in (FLUX, ARGO) and (
                "f:spec" in owned["fieldsV1"] or set(owned["fieldsV1"].get("f:metadata", {})) - {"f:finalizers"}
            ):
                found.append(f"{what}: {owned['manager']} owns {owned['fieldsV1']}")
        # Argo CD's comparison: what is there, with what is in Git laid over it, is what is there.
        if _laid_over(live["spec"], obj["spec"]) != live["spec"]:
            found.append(f"{what}: out of sync")
    for flux, how in HOW.items():
        if text := _text([obj for obj in objects if _by_flux(obj) is flux]):
            diff = [program("kubectl"), "--kubeconfig", server.kubeconfig, "diff", *how, "-n", "default", "-f", "-"]
            done = subprocess.run(diff, input=text, capture_output=True, text=True)
            if done.returncode or done.stdout:
                found.append(f"kubectl diff: {done.stdout}{done.stderr}")
    _apply(server, objects)
    for before, after in zip(lives, _live(server, objects), strict=True):
        if before["metadata"]["resourceVersion"] != after["metadata"]["resourceVersion"]:
            found.append(f"{before['kind']} {before['metadata']['name']}: to apply it again writes it")
    return found


def _schema(kind: str) -> Any:
    (version,) = crd(KINDS[kind].model)["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]["properties"]["spec"]


def _filled(value: Any, schema: Any) -> Any:
    """With the defaults of the schema, as the API server fills them in."""
    if isinstance(value, list) and "items" in schema:
        return [_filled(one, schema["items"]) for one in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    known = schema["properties"]
    made = {name: copy.deepcopy(field["default"]) for name, field in known.items() if "default" in field and name not in value}
    return {**{name: _filled(one, known.get(name, {})) for name, one in value.items()}, **made}


def _laid_over(there: Any, wanted: Any) -> Any:
    if not (isinstance(there, dict) and isinstance(wanted, dict)):
        return wanted if not isinstance(wanted, list) else _lists(there, wanted)
    return {**there, **{name: _laid_over(there.get(name), one) for name, one in wanted.items()}}


def _lists(there: Any, wanted: list[Any]) -> list[Any]:
    """Argo CD lays lists over as they are, entry by entry where both have as many."""
    same = isinstance(there, list) and len(there) == len(wanted)
    return [_laid_over(a, b) for a, b in zip(there, wanted, strict=True)] if same else wanted


def _fields(schema: Any, path: str = "") -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from _fields(field.get("items", field), f"{path}.{name}")


def _set(value: Any, schema: Any, path: str = "") -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        for name, field in schema.get("properties", {}).items() if isinstance(one, dict) else ():
            if name in one:
                yield f"{path}.{name}"
                yield from _set(one[name], field.get("items", field), f"{path}.{name}")
