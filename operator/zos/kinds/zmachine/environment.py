"""What of a machine comes from Secrets, its variables and its user-data: whether it is there, is text, and no more than a
program or cloud-init can be given."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from zos.api.core import Secret
from zos.api.meta import Reason
from zos.api.zmachine import SecretKeyRef, ZMachine
from zos.kinds.zmachine.part import ENV, USER_DATA
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import SecretValue, Verdict, waiting

INDEXES = (Indexes(Secret),)

#: Bytes of ``NAME=value`` that Linux takes: MAX_ARG_STRLEN (include/uapi/linux/binfmts.h), less the NUL.
_LONGEST = 2**17 - 1
#: Bytes of all values of a machine together, which travel in one NodeWorkload.
_ALL = 2**19
#: Bytes of user-data.
_USER_DATA = 2**16


def find(machine: ZMachine, world: Reader) -> tuple[SecretValue, ...] | Verdict:
    """The values, or why there are none (yet). Bounded before they are gathered: one Secret costs its tenant little, however
    often it is named. The world remembers sizes and versions only."""
    sizes: dict[str, int] = {}
    sources: dict[str, str] = {}
    for variable in machine.spec.env:
        if variable.value_from is None:
            sizes[variable.name] = len((variable.value or "").encode())
            continue
        ref = variable.value_from.secret_key_ref
        seen = _seen(machine, ref, f"env {variable.name}", world)
        if isinstance(seen, Verdict):
            return seen
        sources[variable.name], sizes[variable.name] = seen
    if (problem := _excess(sizes)) is not None:
        return problem
    found: list[SecretValue] = []
    for variable in machine.spec.env:
        if variable.value_from is None:
            continue
        ref = variable.value_from.secret_key_ref
        text = world.untracked.view(Secret, machine.namespace, ref.name, partial(Secret.read, key=ref.key))
        if not isinstance(text, str):
            return waiting(
                Reason.INVALID_SPEC,
                f"key {ref.key} of Secret {ref.name} (env {variable.name}) is not text: a variable is UTF-8 without NUL bytes",
            )
        found.append(SecretValue(ENV + variable.name, sources[variable.name], text))
    return tuple(found)


def user_data(machine: ZMachine, world: Reader) -> tuple[SecretValue, ...] | Verdict:
    """What a virtual machine's cloud-init is told, where that comes from a Secret."""
    if machine.spec.user_data_from is None:
        return ()
    ref = machine.spec.user_data_from.secret_key_ref
    seen = _seen(machine, ref, "userDataFrom", world)
    if isinstance(seen, Verdict):
        return seen
    source, size = seen
    if size > _USER_DATA:
        words = f"key {ref.key} of Secret {ref.name} (userDataFrom) has {size} bytes, and {_USER_DATA} is the most"
        return waiting(Reason.INVALID_SPEC, f"{words}: have it fetch the rest")
    text = world.untracked.view(Secret, machine.namespace, ref.name, partial(Secret.read, key=ref.key))
    if not isinstance(text, str):
        message = f"key {ref.key} of Secret {ref.name} (userDataFrom) is not text: cloud-init is told UTF-8 without NUL bytes"
        return waiting(Reason.INVALID_SPEC, message)
    return (SecretValue(USER_DATA, source, text),)


def _excess(sizes: Mapping[str, int]) -> Verdict | None:
    """What of the variables (bytes of value by name) is more than a program can be given."""
    way_out = "put it on a disk, or let the machine fetch it"
    for name, size in sizes.items():
        if len(name) + 1 + size > _LONGEST:
            words = f"env {name} has {size} bytes, and {_LONGEST - len(name) - 1} is the most for a variable of that name"
            return waiting(Reason.INVALID_SPEC, f"{words}: {way_out}")
    if (total := sum(sizes.values())) > _ALL:
        words = f"its variables have {total} bytes together, values from Secrets included, and {_ALL} is the most"
        return waiting(Reason.INVALID_SPEC, f"{words}: {way_out}")
    return None


def _seen(machine: ZMachine, ref: SecretKeyRef, field: str, world: Reader) -> tuple[str, int] | Verdict:
    """What names one state of a Secret's value, and its bytes; or why there is none. ``field`` is the one that asks for it."""
    seen = world.view(Secret, machine.namespace, ref.name, partial(_measured, ref.key))
    if seen is None:
        return waiting(Reason.DEPENDENCY_NOT_READY, f"Secret {ref.name} ({field}) does not exist: make it in this namespace")
    uid, version, size = seen
    if size is None:
        return waiting(Reason.DEPENDENCY_NOT_READY, f"Secret {ref.name} has no key {ref.key} ({field}): add it")
    return f"{uid}/{version}/{ref.key}", size


def _measured(key: str, secret: Secret) -> tuple[str, str, int | None]:
    return secret.uid, secret.metadata.resource_version, secret.size(key)
