"""What is in an image decides how a machine of it runs, wherever the image comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import Grid
from stories import imagemodes


@pytest.mark.timeout(600)
def test_what_is_in_an_image_decides_how_its_machine_runs(grid: Grid, namespace: str, tmp_path: Path) -> None:
    with imagemodes.cases(grid, namespace, tmp_path) as cases:
        imagemodes.run_as_what_they_are(grid, namespace, cases)
