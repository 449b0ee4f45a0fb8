"""What Flux and Argo CD make of objects (``hack/judge``): its own kstatus, and a health script in the Lua that it embeds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zos.kube.client import Raw

CHECKOUT = Path(__file__).parent.parent
HEALTH = CHECKOUT / "examples/gitops/argocd/health.lua"


class Judged(NamedTuple):
    """``message`` is what Argo CD shows beside the health."""

    kstatus: str
    health: str
    message: str


def judged(objects: Sequence[Raw], script: Path = HEALTH) -> list[Judged]:
    """One for each. The program is built when it is first asked for, which needs what ``hack/setup`` needs."""
    made = subprocess.run([CHECKOUT / "hack/setup", "--judge"], stdout=subprocess.PIPE, text=True, check=True)
    lines = "".join(f"{json.dumps(raw)}\n" for raw in objects)
    done = subprocess.run([made.stdout.strip(), str(script)], input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return [Judged(one["kstatus"], one["health"], one["hmessage"]) for one in said]
