"""What a kernel may lack, and which tests are passed over there."""

from __future__ import annotations

from pathlib import Path

import pytest

FUSE = pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="this kernel has no FUSE")
