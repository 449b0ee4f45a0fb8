"""The tutorial is true: its commands run, in its order, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from apiserver import binary
from harness import CHECKOUT


def commands() -> list[str]:
    text = (CHECKOUT / "docs/tutorial.md").read_text()
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_every_command_of_the_tutorial() -> None:
    blocks = commands()
    assert len(blocks) >= 10
    name = f"tu{os.getpid() % 100000}"
    script = "set -eux\n" + "\n".join(blocks).replace("--name tutorial", f"--name {name}")
    path = f"{Path(binary('kubectl')).parent}:{os.environ['PATH']}"
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=CHECKOUT, env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=290,
        )  # fmt: skip
    finally:
        subprocess.run([CHECKOUT / "hack/minigrid", "down", "--name", name], capture_output=True)
    assert done.returncode == 0, done.stdout[-4000:]
    for expected in (
        "hello from web3",
        "hello from front",
        "n3 10.20.5.0/24 hidden",
        "no node fits:",
        "memory: 921728Mi asked",
    ):
        assert expected in done.stdout, f"{expected!r} not in\n{done.stdout[-6000:]}"
