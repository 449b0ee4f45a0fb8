"""Which of the locked Python packages are in an image. All of them have to be installed to be told from each other, those
that are built against Debian's libraries as well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagelib import closure, recipe
from imagelib.recipe import BuildError

OPERATOR = recipe.CHECKOUT / "operator"


@pytest.mark.parametrize("image", sorted(recipe.IMAGES))
def test_what_an_image_gets_of_the_lock_is_all_that_its_code_needs(image: str, tmp_path: Path) -> None:
    """Its code is imported where nothing else can be."""
    locked = closure.blocks(closure.subset(recipe.IMAGES[image].roots))
    names = json.dumps(list(_modules(recipe.IMAGES[image].roots)))
    program = f"""
import importlib, importlib.metadata, json, sys
allowed = set({sorted(locked)!r})
there = importlib.metadata.packages_distributions()
class Fence:
    def find_spec(self, name, path=None, target=None):
        brought = {{one.lower().replace("_", "-") for one in there.get(name, [])}}
        if brought and not brought & allowed:
            raise ModuleNotFoundError(f"{{name}} is not in the image", name=name)
sys.meta_path.insert(0, Fence())
for name in json.loads({names!r}):
    importlib.import_module(name)
"""
    environment = {**os.environ, "PYTHONPATH": str(OPERATOR)}
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def _modules(roots: tuple[str, ...]) -> Iterator[str]:
    for root in roots:
        for path in sorted((OPERATOR / root.replace(".", "/")).rglob("*.py")):
            if path.name != "__main__.py":
                yield ".".join(path.relative_to(OPERATOR).with_suffix("").parts).removesuffix(".__init__")


def test_the_lock_is_cut_and_its_hashes_stay() -> None:
    whole = closure.blocks((recipe.CHECKOUT / "requirements.lock").read_text())
    controller = closure.blocks(closure.subset(recipe.IMAGES["controller"].roots))
    node = closure.blocks(closure.subset(recipe.IMAGES["node"].roots))
    for text in (*controller.values(), *node.values()):
        assert "--hash=sha256:" in text
    assert controller.items() <= whole.items()
    assert node.items() <= whole.items()
    assert {"kopf", "aiohttp", "pydantic", "pydantic-core", "yarl"} <= controller.keys()
    assert {"libvirt-python", "pyroute2", "pycdlib", "cramjam"} <= node.keys() - controller.keys()
    assert not {"pytest", "mypy", "ruff", "hypothesis", "pip"} & (node.keys() | controller.keys())


def test_what_no_dependency_brings_is_refused() -> None:
    with pytest.raises(BuildError, match="pytest is imported, and no dependency"):
        closure.distributions({"pytest"})
