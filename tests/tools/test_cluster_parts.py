"""What a minigrid with kubelets is made of, as far as it takes no kubelet: see tests/kubernetes for the rest."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from gridlib import chart, claimed, layout
from gridlib.archives import Image, read
from gridlib.layout import GridError

HACK = Path(__file__).resolve().parents[2] / "hack"


def pause(path: Path) -> Path:
    runpy.run_path(str(HACK / "kubernetes" / "pause.py"))["make"](path, b"any program")
    return path


def image(name: str) -> Image:
    return Image(Path(f"{name}.tar"), f"localhost/zos/{name}", "0.3.0", "sha256:0")


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> layout.Grid:
    monkeypatch.setenv("ZOS_MINIGRID_STATE", str(tmp_path))
    return layout.plan("a", nodes=4, hidden=1, controllers=2, kubernetes=True)


def test_a_grid_remembers_that_its_nodes_have_kubelets(grid: layout.Grid) -> None:
    grid.save()
    assert layout.load("a") == grid
    assert grid.kubernetes


def test_one_value_names_the_public_interface_of_all_nodes(grid: layout.Grid) -> None:
    assert {node.public_interface for node in grid.nodes} == {"public0"}
    plain = layout.plan("b", nodes=2, hidden=0, controllers=1)
    assert [node.public_interface for node in plain.nodes] == ["public0", "br-public"]


def test_pods_of_no_two_nodes_share_addresses(grid: layout.Grid) -> None:
    ranges = [node.pods for node in layout.plan("b", nodes=100, hidden=0, controllers=1).nodes]
    assert len(set(ranges)) == 100
    assert all(pods.subnet_of(layout.PODS) for pods in ranges)


def test_the_same_image_is_made_again_and_says_its_name(tmp_path: Path) -> None:
    first, second = pause(tmp_path / "first.tar"), pause(tmp_path / "second.tar")
    assert first.read_bytes() == second.read_bytes()
    found = read(first)
    assert (found.name, found.repository, found.tag) == ("localhost/pause:1", "localhost/pause", "1")
    assert found.digest.startswith("sha256:")


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.tar"
    other.write_text("no archive")
    for path in (other, tmp_path / "absent.tar"):
        with pytest.raises(GridError, match=f"{path.name} is no OCI archive"):
            read(path)


def test_values_name_the_images_of_the_archives(grid: layout.Grid) -> None:
    told = json.loads(json.dumps(chart.values(grid, [image("zos-node"), image("zos-controller"), image("other")], "tcg")))
    assert told["images"] == {
        part: {"repository": f"localhost/zos/zos-{part}", "digest": image(f"zos-{part}").digest, "pullPolicy": "Never"}
        for part in ("controller", "node")
    }
    assert told["node"]["accelerator"] == "tcg"
    assert told["controller"]["replicas"] == 2
    with pytest.raises(GridError, match="no image zos-controller among the archives"):
        chart.values(grid, [image("zos-node")], "tcg")


def test_nodes_claim_more_than_the_grid_is_offered(tmp_path: Path) -> None:
    """As pods need something as well. A pod may run on processors only that there are."""
    seen = claimed.files(tmp_path)
    cores = [path.parent.parent for path in seen if path.name == "core_id"]
    assert len(cores) == claimed.CPU > int(str(claimed.OFFER["cpu"]))
    real = {path.name.rpartition("cpu")[2] for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*")}
    assert {path.name.removeprefix("cpu").partition(".")[0] for path in cores} <= real
    assert f"MemTotal: {claimed.MEMORY * 1024 * 1024} kB" in seen[tmp_path / "meminfo"]
