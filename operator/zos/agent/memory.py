"""What a burst of work has taken of the node's memory is given back when it is over: an agent stays for months, and the memory
is its guests'."""

from __future__ import annotations

import ctypes
import gc

#: Of glibc, malloc_trim(3); None with another C library.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def settle() -> None:
    """What was imported stays: from now on garbage is looked for among the rest, which takes a tenth of the time."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """To be called in a moment without work; takes some milliseconds."""
    gc.collect()
    if _trim is not None:
        _trim(ctypes.c_size_t(0))
