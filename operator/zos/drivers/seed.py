"""The small read-only disk by which cloud-init finds what a machine is told: an ISO 9660 file system called ``cidata``."""

from __future__ import annotations

import io
from pathlib import Path

from zos.drivers import DriverError
from zos.files import Durability, write
from zos.plan.seed import documents

_LABEL = "cidata"


def make(config: Path, seed: Path) -> None:
    """From the text of a rendered seed. Raises DriverError where that can't be understood, and OSError."""
    try:
        texts = documents(config.read_text())
    except ValueError as error:
        raise DriverError(f"{config} is no seed") from error
    from pycdlib.pycdlib import PyCdlib  # here: two MiB that an agent without virtual machines does without

    iso = PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=_LABEL)
    for number, (name, text) in enumerate(sorted(texts.items())):
        content = text.encode("utf-8", "surrogateescape")
        iso.add_fp(io.BytesIO(content), len(content), f"/DOC{number}.;1", rr_name=name, joliet_path=f"/{name}")
    made = io.BytesIO()
    iso.write_fp(made)
    iso.close()
    write(seed, made.getvalue(), Durability.DURABLE, parents=False)
