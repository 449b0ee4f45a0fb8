"""Which accelerator guests get: KVM where a guest really boots on it, else emulation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Literal

from zos.drivers.process import ProcessError, run
from zos.files import Durability, write

log = logging.getLogger("zos.agent")

#: Seconds; a guest that finds KVM working is through in one.
_PATIENCE = 15.0


class AcceleratorProbe:
    """Decides once a boot of the node, by a guest that powers itself off. ``choice`` other than auto decides it."""

    def __init__(self, choice: Literal["auto", "kvm", "tcg"], kernel: Path, initramfs: Path, run_directory: Path) -> None:
        self._choice = choice
        self._kernel = kernel
        self._initramfs = initramfs
        self._memory = run_directory / "accelerator"
        self._lock = asyncio.Lock()
        self._memory.parent.mkdir(parents=True, exist_ok=True)

    def found(self) -> Literal["kvm", "tcg"] | None:
        """The decision, if it has been made."""
        if self._choice != "auto":
            return self._choice
        with contextlib.suppress(OSError):
            return "kvm" if self._memory.read_text() == "kvm" else "tcg"
        return None

    async def accelerator(self) -> Literal["kvm", "tcg"]:
        """Takes up to some seconds the first time."""
        async with self._lock:
            known = self.found()
            if known is None:
                if not self._kernel.exists():  # nothing boots here, whatever the accelerator; not worth remembering
                    return "tcg"
                known = "kvm" if await self._boots() else "tcg"
                write(self._memory, known, Durability.VOLATILE)
            return known

    async def _boots(self) -> bool:
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return False
        machine = ("-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-no-user-config", "-no-reboot")
        boot = ("-kernel", str(self._kernel), "-initrd", str(self._initramfs), "-append", "quiet panic=-1 zos.probe")
        try:
            await run("qemu-system-x86_64", *machine, "-display", "none", *boot, timeout=_PATIENCE)
        except ProcessError as error:
            log.warning("KVM does not work here, guests are emulated: %s", error)
            return False
        return True
