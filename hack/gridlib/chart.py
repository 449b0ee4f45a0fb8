"""The product on a minigrid that is a cluster: its chart, with values for this grid."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from gridlib import claimed, farm
from gridlib.archives import Image
from gridlib.controlplane import ControlPlane
from gridlib.host import IMAGES
from gridlib.layout import CONTROL_PLANE, PODS, REGISTRY_PORT, SERVICES, Grid, GridError, patience
from gridlib.served import serves
from gridlib.tools import KubeletTools

CHECKOUT = Path(__file__).resolve().parents[2]
CHART = CHECKOUT / "charts" / "zos"
NAME = "zos"
NAMESPACE = "zos-system"


def values(grid: Grid, images: Iterable[Image], accelerator: str) -> dict[str, object]:
    """Raises GridError if an image is missing."""
    return {
        "images": named(images),
        "controller": {"replicas": grid.controllers},
        "grid": {"farm": farm.NAME, "publicInterface": grid.nodes[0].public_interface},
        "node": {
            "accelerator": accelerator,
            "insecureRegistries": [f"{CONTROL_PLANE}:{REGISTRY_PORT}"],
            "imageDirs": [IMAGES],
            "imageNetworks": [f"{CONTROL_PLANE}/32"],
            "egressDeny": [str(PODS), str(SERVICES)],
            "heartbeat": 5,
            "lease": 20,
        },
        "pools": [{"name": "lab", "nodeSelector": {}, "offer": claimed.OFFER}],
    }


def named(images: Iterable[Image]) -> dict[str, dict[str, str]]:
    """As the values have them: in the nodes already, so nobody is to pull them. Raises GridError if one is missing."""
    found = {image.repository.rpartition("/")[2]: image for image in images}
    if missing := {"zos-controller", "zos-node"} - found.keys():
        raise GridError(f"no image {' and '.join(sorted(missing))} among the archives: hack/images/build makes them")
    return {
        part: {"repository": image.repository, "digest": image.digest, "pullPolicy": "Never"}
        for part, image in (("controller", found["zos-controller"]), ("node", found["zos-node"]))
    }


def install(grid: Grid, control_plane: ControlPlane, told: dict[str, object], chart: Path = CHART) -> None:
    """Installs it, or brings it to what ``told`` says. Gives back when every node is Ready in the grid. Raises GridError."""
    path = grid.root / "values.json"
    path.write_text(json.dumps(told, indent=2))
    wait = ("--wait", f"--timeout={patience(180):.0f}s")
    _unlock(grid)
    helm(grid, "upgrade", "--install", NAME, str(chart), "-n", NAMESPACE, "--create-namespace", "-f", str(path), *wait)
    if not serves(CHECKOUT / "crds", lambda *words: control_plane.kubectl(*words, check=False)):
        raise GridError(f"the API server does not serve the CRDs: hack/minigrid logs cp apiserver --name {grid.name}")
    control_plane.apply_admitted([farm.manifest()])
    ready(grid, control_plane)


def _unlock(grid: Grid) -> None:
    """A Helm that was killed has left its release locked, and the next one refuses it."""
    releases = json.loads(helm(grid, "list", "-n", NAMESPACE, "-o", "json"))
    state = next((release["status"] for release in releases if release["name"] == NAME), "")
    if state == "pending-install":
        helm(grid, "uninstall", NAME, "-n", NAMESPACE, "--wait")
    elif state.startswith("pending-"):
        helm(grid, "rollback", NAME, "-n", NAMESPACE)


def ready(grid: Grid, control_plane: ControlPlane) -> None:
    """Waits until every node is Ready in the grid. Raises GridError. Does nothing if the product is not there."""
    if not (grid.root / "values.json").exists():
        return
    for waited in ("create", "condition=Ready"):
        nodes = [f"gridnode/{node.name}" for node in grid.nodes]
        control_plane.kubectl("wait", *nodes, f"--for={waited}", f"--timeout={patience(90):.0f}s")


def helm(grid: Grid, *words: str) -> str:
    """What it wrote. Raises GridError with what it said."""
    own = {f"HELM_{what}_HOME": str(grid.root / "helm" / what.lower()) for what in ("CACHE", "CONFIG", "DATA")}
    command: Sequence[str] = [KubeletTools.find().helm, "--kubeconfig", str(grid.kubeconfig), *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own})
    if done.returncode != 0:
        said = f"helm {' '.join(words)}: {done.stderr.strip()}"
        raise GridError(f"{said}\nhack/minigrid status --name {grid.name} shows the pods")
    return done.stdout
