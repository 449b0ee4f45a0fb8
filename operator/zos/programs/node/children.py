"""Work for a process of its own, as a namespace that was entered is not left again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from typing import Any


def answer(work: Callable[[], Any], who: str) -> Any:
    """What ``work`` gives, as JSON has it. Raises OSError, of ``who``, where it fails."""
    heard, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(tell, json.dumps(work()).encode())
            os._exit(0)
        os._exit(1)
    os.close(tell)
    with os.fdopen(heard) as pipe:
        text = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        raise OSError(errno.EIO, "what was to look has failed", who)
    return json.loads(text)
