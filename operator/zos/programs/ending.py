"""How an unpacker ends that can't go on: with one line that says why, of which nothing is the node's."""

from __future__ import annotations

import contextlib
import sys
import tarfile
from collections.abc import Iterator

from zos.programs.budget import Exceeded
from zos.programs.packed import BadContent


@contextlib.contextmanager
def explained() -> Iterator[None]:
    try:
        yield
    except (BadContent, Exceeded) as error:
        sys.exit(str(error))
    except RecursionError:
        sys.exit("its directories are nested too deep")
    except MemoryError:
        sys.exit("it wants more memory than it gets to unpack")
    except (tarfile.TarError, EOFError, UnicodeError, ValueError, OverflowError) as error:
        sys.exit(f"the archive is broken: {error}")
    except OSError as error:
        sys.exit(f"{error.strerror or error}: {str(error.filename or '')[:200]}")
