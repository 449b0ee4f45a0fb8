"""The tutorial is true: its commands run, in its order, in one shell, on a machine that has no kubectl."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from harness import CHECKOUT


def commands() -> list[str]:
    text = (CHECKOUT / "docs/tutorial.md").read_text()
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def bare(tmp_path: Path) -> str:
    """A PATH with all that a fresh machine has in its own, and nothing else: no kubectl."""
    for place in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if program.name != "kubectl" and not (link := tmp_path / program.name).is_symlink():
                link.symlink_to(program)
    return str(tmp_path)


def test_every_command_of_the_tutorial(tmp_path: Path) -> None:
    blocks = commands()
    assert len(blocks) >= 10
    name = f"tu{os.getpid() % 100000}"
    script = "set -eux\n" + "\n".join(blocks).replace("--name tutorial", f"--name {name}")
    kept = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=CHECKOUT, env={**kept, "PATH": bare(tmp_path)},
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
