"""One minigrid with kubelets for the tests on Kubernetes, made by the same program that users run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import releases
from cluster import Cluster, Product
from gridreport import pytest_configure, pytest_runtest_makereport
from harness import CHECKOUT, until

__all__ = ["pytest_configure", "pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes, without the product. ZOS_KUBERNETES_GRID names one that stays up between runs."""
    keep = os.environ.get("ZOS_KUBERNETES_GRID")
    made = Cluster(keep or f"k{os.getpid() % 100000}")
    try:
        made.minigrid("up", "--kubernetes", "--nodes", "2", "--hidden", "0", *(["--owner", "0"] if keep else []))
        yield made
    finally:
        if not keep:
            made.minigrid("down")
            assert not made.left()


@pytest.fixture(scope="session")
def product(cluster: Cluster, images: Path) -> Product:
    """The product on it, as a user installs it, and an image for guests."""
    made = Product(cluster.name)
    made.install(images)
    made.push_image()
    return made


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own; what is in it goes with it."""
    name = "t-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50].strip("-")
    until(lambda: cluster.kubectl("create", "namespace", name), 60)
    until(lambda: cluster.ask(f"/api/v1/namespaces/{name}/serviceaccounts/default"), 30)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both images of this checkout."""
    return releases.built(CHECKOUT, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def other_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With those of a later one: a changed line of the code."""
    return releases.built(releases.later(tmp_path_factory.mktemp("later")), tmp_path_factory.mktemp("later-images"))
