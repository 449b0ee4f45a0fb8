"""Work for a process of its own, as a namespace or a control group that was entered is not left again."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def start(work: Callable[[], object]) -> int:
    """Gives the number of the process that does it; it ends with 0 once that is done. Where it fails it says why on stderr."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:  # nothing may lead a child back into what its parent was doing
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def do(work: Callable[[], object], failure: str) -> None:
    """Waits until it is done. Raises RuntimeError, with ``failure``, if it could not be."""
    finish(start(work), failure)


def finish(child: int, failure: str) -> None:
    """Waits for its end. Raises RuntimeError, with ``failure``, if it could not do its work."""
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError(f"{failure}; see above")


def answer(work: Callable[[], Any], who: str) -> Any:
    """What ``work`` gives, as JSON has it. Raises OSError, of ``who``, where it fails."""
    heard, tell = os.pipe()
    child = start(lambda: os.write(tell, json.dumps(work()).encode()))
    os.close(tell)
    with os.fdopen(heard) as pipe:
        text = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        raise OSError(errno.EIO, "what was to look has failed, see above", who)
    return json.loads(text)
