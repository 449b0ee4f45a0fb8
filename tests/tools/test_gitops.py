"""What is committed for GitOps tools is in step with the kinds and with the examples that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from zos.api.meta import GROUP
from zos.kinds.registry import KINDS
from zos.manifests.gitops import config_map, main

CHECKOUT = Path(__file__).parents[2]
ARGOCD = CHECKOUT / "examples/gitops/argocd"


def test_every_kind_with_a_status_is_judged_by_the_one_script() -> None:
    script = (ARGOCD / "health.lua").read_text()
    data = yaml.safe_load((ARGOCD / "argocd-cm.yaml").read_text())["data"]
    kinds = [kind.model.KIND for kind in KINDS.values() if "status" in kind.model.model_fields]
    assert data == {f"resource.customizations.health.{GROUP}_{kind}": script for kind in kinds}
    assert {"Network", "ZMachine", "GridNode", "NodeWorkload"} <= set(kinds)


def test_a_stale_config_map_is_told_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "health.lua").write_text('return {status = "Healthy"}\n')
    written = tmp_path / "argocd-cm.yaml"
    assert main(["--check", str(tmp_path)]) == 1
    assert "run python -m zos.manifests.gitops" in capsys.readouterr().err
    assert not written.exists()
    assert main([str(tmp_path)]) == 0
    assert written.read_text() == config_map('return {status = "Healthy"}\n')
    assert main(["--check", str(tmp_path)]) == 0


def test_what_the_tools_are_pointed_at_is_there() -> None:
    named = []
    for path in (CHECKOUT / "examples/gitops").rglob("*.yaml"):
        for obj in yaml.safe_load_all(path.read_text()):
            source = obj.get("spec", {}).get("source", {})
            named += [source.get("path"), obj.get("spec", {}).get("path") if obj["kind"] == "Kustomization" else None]
    places = [place for place in named if place]
    assert sorted(places) == ["charts/zos", "examples/cluster", "examples/cluster"]
    assert (CHECKOUT / "examples/cluster/kustomization.yaml").exists()
