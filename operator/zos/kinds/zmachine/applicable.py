"""Which fields of a machine's spec mean nothing in its mode, which its image decides, or the disk that it boots from."""

from __future__ import annotations

from collections.abc import Iterator

from zos.api.meta import Condition, Reason
from zos.api.zmachine import Firmware, ZMachine


def conditions(machine: ZMachine, mode: str | None) -> tuple[Condition, ...]:
    """``mode`` is None as long as nobody knows."""
    fields = tuple(_virtual(machine) if mode == "vm" else _container(machine) if mode == "container" else ())
    if not fields:
        return ()
    what = "a virtual machine" if mode == "vm" else "a container"
    message = f"{', '.join(fields)}: it is {what}, to which this means nothing; take it out"
    return (Condition(type="NotApplicable", status="True", reason=Reason.NOT_APPLICABLE, message=message),)


def _virtual(machine: ZMachine) -> Iterator[str]:
    spec = machine.spec
    yield from ("entrypoint",) if spec.entrypoint is not None else ()
    yield from ("env",) if spec.env else ()
    yield from ("rootSize",) if spec.root_size else ()
    boot = next((disk for disk in spec.disks if spec.boot_disk is None or disk.name == spec.boot_disk.name), None)
    if boot is not None and boot.mount_path is not None:
        yield f"mountPath of disk {boot.name}"


def _container(machine: ZMachine) -> Iterator[str]:
    spec = machine.spec
    yield from ("bootDisk",) if spec.boot_disk is not None else ()
    yield from ("firmware",) if spec.firmware is not Firmware.AUTO else ()
    yield from ("userData",) if spec.user_data is not None else ()
    yield from ("userDataFrom",) if spec.user_data_from is not None else ()
