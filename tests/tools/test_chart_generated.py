"""What of the chart is made from elsewhere is in step, and its values and options are those of the programs that it starts."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from zos import __version__
from zos.agent.settings import Settings
from zos.agent.settings import parse as agent_settings
from zos.api.meta import parse_quantity
from zos.controller import __main__ as controller
from zos.manifests import chart
from zos.programs.node.agent import reached

CHART = Path(__file__).parent.parent.parent / "charts/zos"
GOLDEN = Path(__file__).parent.parent / "golden/chart"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHART, tmp_path / "zos"))


def test_it_is_in_step() -> None:
    assert chart.main(["--check", str(CHART)]) == 0


def test_what_is_out_of_step_is_named_and_made_anew(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stray, gone, changed = (
        copy / "generated" / name for name in ("crds/stray.yaml", "rights.yaml", "crds/farms.zos.grid.tf.yaml")
    )
    stray.write_text("")
    gone.unlink()
    changed.write_text(changed.read_text() + "#\n")
    (copy / "values.yaml").write_text((copy / "values.yaml").read_text().replace("Digest like", "The digest, like"))
    assert chart.main(["--check", str(copy)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" is out of step")[0] for line in said] == [
        str(path) for path in sorted((copy / "README.md", changed, stray, gone))
    ]
    assert chart.main([str(copy)]) == 0
    assert chart.main(["--check", str(copy)]) == 0
    assert not stray.exists()


def test_a_value_that_nobody_has_described_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "values.yaml").write_text((copy / "values.yaml").read_text().replace("  keep: true", "  keep: true\n  other: 1"))
    assert chart.main(["--check", str(copy)]) == 1
    assert "values.yaml has no comment above crds.other" in capsys.readouterr().err


def test_values_are_read_with_their_comments() -> None:
    text = "# Of all.\n\na:\n  # First,\n  # and more.\n  b: 1\n# A whole.\nc:\n  d: [1]\n# A list.\ne:\n  - f: 1\n"
    assert chart.values(text) == (
        chart.Value("a.b", 1, "First, and more."),
        chart.Value("c", {"d": [1]}, "A whole."),
        chart.Value("e", [{"f": 1}], "A list."),
    )


def test_the_chart_is_of_this_release() -> None:
    meta = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (meta["version"], meta["appVersion"]) == (__version__, __version__)


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    return dict(SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[-1]]) if "$ref" in node else node


def closed(node: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of what the schema lists by name; every such list is complete."""
    node = resolved(node)
    if "properties" in node and node.get("additionalProperties") is False:
        for name, child in node["properties"].items():
            yield from closed(child, f"{path}.{name}".strip("."))
    else:
        yield path


def leaves(values: object, paths: set[str], path: str = "") -> Iterator[str]:
    if path in paths or not isinstance(values, dict):
        yield path
        return
    for name, value in values.items():
        yield from leaves(value, paths, f"{path}.{name}".strip("."))


def test_schema_and_values_know_the_same() -> None:
    known = {path for path in closed(SCHEMA) if path != "global"}
    # What Kubernetes has more of than is set here: passed on as it is.
    passed_on = ("affinity", "resources.", "updateStrategy.")
    assert {path for path in leaves(VALUES, known) if not any(part in path for part in passed_on)} == {
        path for path in known if not any(part in path for part in passed_on)
    }


def options(case: str, kind: str) -> list[list[str]]:
    """Arguments of the containers of all workloads of a kind, in a snapshot."""
    found = [one for one in yaml.safe_load_all((GOLDEN / f"{case}.rendered.yml").read_text()) if one["kind"] == kind]
    return [one["spec"]["template"]["spec"]["containers"][0]["args"] for one in found]


def agents(case: str) -> list[Settings]:
    told = [words[2:] for words in options(case, "DaemonSet") if words[:2] == ["agent", "--"]]
    names = {"$(NODE_NAME)": "n1", "$(HOST_IP)": "192.0.2.1"}
    for short, long in names.items():
        told = [[word.replace(short, long) for word in words] for words in told]
    return [agent_settings(reached(words, "/proc/7/root"), {}) for words in told]


def test_an_agent_that_nothing_is_said_to_is_as_it_is_by_itself() -> None:
    (found,) = agents("default")
    assert found == Settings(node="n1", metrics="192.0.2.1:9442")


def test_an_agent_takes_all_that_it_is_told() -> None:
    (found,) = agents("everything")
    told = yaml.safe_load((GOLDEN / "everything.values.yml").read_text())["node"]
    assert found.metrics == f"192.0.2.1:{told['metrics']['port']}"
    assert (found.accelerator, found.log_level) == (told["accelerator"], told["logLevel"])
    assert (found.heartbeat, found.lease, found.start_parallel) == (told["heartbeat"], told["lease"], told["startParallel"])
    assert list(found.insecure_registries) == told["insecureRegistries"]
    assert found.registry_auth == Path("/proc/7/root/etc/zos/registry-auth/.dockerconfigjson")
    assert [str(path) for path in found.image_dir] == told["imageDirs"]
    assert [str(network) for network in found.image_network] == told["imageNetworks"]
    assert list(found.egress_deny) == told["egressDeny"]
    sizes = (found.image_size, found.image_cache)
    assert sizes == (parse_quantity(told["imageSize"]), parse_quantity(told["imageCache"]))
    assert (found.capacity_cpu, found.capacity_memory, found.capacity_storage) == (16, 64 << 30, 1 << 40)


def test_agents_of_pools_offer_what_those_say() -> None:
    found = [(one.capacity_cpu, one.capacity_memory, one.capacity_storage) for one in agents("pools")]
    assert sorted(found, key=str) == [(32, 128 << 30, 2 << 40), (None, 8 << 30, None), (None, None, None)]


def test_a_controller_takes_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (words,) = options("default", "Deployment")
    monkeypatch.setattr(sys, "argv", ["zos-controller", *words])
    found = controller.parse()
    assert (found.metrics, found.log_level, found.resync, found.farm) == (":9441", "INFO", "300", "")
    (words,) = options("everything", "Deployment")
    monkeypatch.setattr(sys, "argv", ["zos-controller", *words])
    found = controller.parse()
    assert (found.farm, found.public_interface, found.log_level) == ("freefarm", "br0", "DEBUG")
