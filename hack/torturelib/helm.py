"""hack/torture helm: the life of the product on a cluster whose nodes have kubelets. Guests notice nothing of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cluster import Product
from harness import CHECKOUT, sh
from torturelib import chaos, clusterfaults, clustertruth, drills
from torturelib.chaos import Scenario, Step
from torturelib.clustered import PATIENCE, Clustered
from torturelib.release import Release, versions
from torturelib.truth import say

SCENARIO = Scenario(
    actions=(*clusterfaults.ACTIONS, *drills.ACTIONS),
    always=clustertruth.ALWAYS,
    after=clustertruth.AFTER,
    rest=clustertruth.REST,
    end=clustertruth.END,
    pause=2.0,
    turn=3.0,
    patience=PATIENCE,
    in_turn=True,
)


async def run(seed: int, seconds: float, asked: list[str], steps: list[Step]) -> int:
    """On a minigrid of its own. ZOS_TORTURE_VM=no: no virtual machine. ZOS_TORTURE_GRID: the name of a grid that stays up."""
    actions = chaos.choose(SCENARIO.actions, asked, short=False)
    keep = os.environ.get("ZOS_TORTURE_GRID")
    product = Product(keep or f"th{os.getpid() % 100000}")
    virtual = os.environ.get("ZOS_TORTURE_VM", "yes") != "no"
    with tempfile.TemporaryDirectory(prefix="zos-torture-") as scratch:
        try:
            release = Release(product, versions(Path(scratch)))
            owner = "0" if keep else str(os.getpid())
            said = product.minigrid("up", "--kubernetes", "--nodes", "2", "--hidden", "0", "--owner", owner)
            print(said, end="", flush=True)
            release.bring_images()
            images = release.versions["this"].images
            print(product.minigrid("up", "--images", str(images), timeout=400), end="", flush=True)
            release.upgrade(release.first_values())
            sh(str(CHECKOUT / "hack/images/push"), "--name", product.name, *(["--vm"] if virtual else []), timeout=900)
            world = Clustered(product, release, virtual)
            report = await chaos.torture(world, SCENARIO, actions, seed=seed, seconds=seconds, say=say, steps=steps)
            if report.violations:
                print(product.describe(), flush=True)
            return 1 if report.violations else 0
        finally:
            if not keep:
                product.minigrid("down", check=False)
