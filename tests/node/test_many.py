"""A node with three hundred networks, real namespaces, and no more descriptors than a shell gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from zos.api import names

NETWORKS = 300


def test_many_networks_need_few_descriptors_and_one_costs_only_its_own() -> None:
    script = Path(__file__).parent.parent / "manynetworks.py"
    command = ["unshare", "--net", "--mount", "--", sys.executable, str(script), str(NETWORKS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert (told["ready"], told["complete"]) == (NETWORKS, True)
    assert told["resync touched"] < NETWORKS / 4  # by turns: tests/unit/test_looks.py
    assert told["idle descriptors"] <= 40
    assert told["idle threads"] <= 20
    assert told["most descriptors"] <= 250
    assert told["most threads"] <= 60
    assert told["changed touched"] == [names.router("net-7")]
    assert told["changed programs"] <= 6
    assert told["mended touched"] == [names.router("net-9")]
    assert told["changed"] < told["made"] / 30
    assert told["mended"] < told["made"] / 15
