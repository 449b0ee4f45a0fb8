"""Memory that nobody needs any more goes back to the node."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

from zos.agent import memory

MiB = 1 << 20


def resident() -> int:
    """Bytes of this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


def test_what_was_freed_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    blocks = [libc.malloc(4096) for _ in range(64 * MiB // 4096)]
    for block in blocks:
        ctypes.memset(block, 1, 4096)
    last = blocks.pop()  # what is below it is not the end of the heap, which would go by itself
    for block in blocks:
        libc.free(block)
    before = resident()
    memory.give_back()
    assert before - resident() > 32 * MiB
    libc.free(last)


def test_what_stays_is_not_looked_through() -> None:
    try:
        memory.settle()
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
