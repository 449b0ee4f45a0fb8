"""A node's disk that is full while the programs of a node are copied there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_COPY = """
import sys
from pathlib import Path
from zos.programs.node import image, layout
from zos.programs.node.commands import CommandFailed
layout.RUNTIME = Path(sys.argv[2])
try:
    print(image.install("v1", Path(sys.argv[1])))
except CommandFailed as failed:
    print(failed)
print("left:", sorted(path.name for path in layout.RUNTIME.iterdir()))
"""


def test_nothing_of_the_copy_stays_and_few_words_are_said(tmp_path: Path) -> None:
    source, disk = tmp_path / "image", tmp_path / "disk"
    (source / "usr").mkdir(parents=True)
    disk.mkdir()
    for number in range(600):
        (source / f"usr/{number}").write_bytes(b"x" * 8192)
    words = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs "$4" && exec "$0" -c "$@"']
    told = [sys.executable, _COPY, str(source), str(disk), str(disk)]
    said = subprocess.run([*words, *told], capture_output=True, text=True, check=True).stdout
    assert "No space left on device" in said
    assert len(said) < 3000
    assert said.endswith("left: []\n")
