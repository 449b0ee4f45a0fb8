"""One tenant's bytes: whatever may be written into the Secrets, annotations and statuses that the product reads."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from zos.api.core import Secret
from zos.api.meta import ABANDON, RESTARTED_AT, Object
from zos.kube.client import ApiError, Client, Conflict, NotFound, Raw, Unavailable

#: Text that has broken something somewhere: control characters, line breaks of YAML, beyond the BMP, right to left, no text at
#: all, syntax of the formats that text ends up in.
_TEXTS = (
    "", " ", "\x00", "\t\r\n", "\x7f\x85\x9f", "\u2028\u2029", "\ufeff", "\uffff", "𝒳 🂡", "\u202eabc", "e\u0301", "ſK",
    "null", "true", "-1", "1e999", "NaN", "0x10", "2030-13-45T99:99:99Z", "{}", "[", "'\"`$(id)\\", "a\nPostUp = id",
    "../../etc/passwd", "%s%n", "<a&b>", "oci://\n", "10.0.0.0/33", "::ffff:1.2.3.4%lo", "a" * 300,
)  # fmt: skip
_BYTES = (b"", b"\x00", b"\xff" * 32, b"\xc3", b"\xed\xa0\xb5", b"hello", b"\x1f\x8b\x08", b"A" * 44, b"=" * 44, b"a\nb\x00c")
#: Annotations that mean something to the product or to those beside it.
_ANNOTATIONS = (RESTARTED_AT, ABANDON, "kubectl.kubernetes.io/last-applied-configuration", "example.org/x")


@dataclass(frozen=True)
class Poison:
    """A JSON merge patch of one object, or of its status."""

    model: type[Object]
    namespace: str
    name: str
    patch: Raw
    subresource: str = ""


def text(random: Random) -> str:
    """Any Unicode text that JSON can carry."""
    if random.random() < 0.6:
        return random.choice(_TEXTS)
    points = (random.randrange(0x110000) for _ in range(random.randrange(1, 40)))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def raw(random: Random) -> bytes:
    return random.choice(_BYTES) if random.random() < 0.5 else random.randbytes(random.choice((1, 31, 32, 33, 44, 4096)))


def spoilt(random: Random, value: object) -> object:
    """Something else of the same shape, so that it comes as far as possible."""
    if isinstance(value, dict):
        return {key: spoilt(random, inner) if random.random() < 0.5 else inner for key, inner in value.items()}
    if isinstance(value, list):
        kept = [spoilt(random, inner) if random.random() < 0.5 else inner for inner in value]
        return random.choice((kept, [], kept + kept[:1], kept[::-1]))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice((0, -1, 1, 2**31, 2**53, 2**63 - 1, value + 1))
    if isinstance(value, str):
        return random.choice((text(random), value + text(random), value[::-1]))
    return value


def poisons(random: Random, model: type[Object], obj: Raw) -> Iterator[Poison]:
    """What can be done to one object by those who may write to it: endless."""
    meta = obj["metadata"]
    where = (model, meta.get("namespace", ""), meta["name"])
    while True:
        choices: list[Callable[[], tuple[Raw, str]]] = [lambda: ({"metadata": {"annotations": _annotations(random)}}, "")]
        if model is Secret:
            choices = [*choices, *[lambda: ({"data": _data(random, obj.get("data") or {})}, "")] * 4]
        if status := obj.get("status"):
            choices = [*choices, *[lambda: ({"status": spoilt(random, status)}, "status")] * 3]
        patch, subresource = random.choice(choices)()
        yield Poison(*where, patch, subresource)


def _annotations(random: Random) -> dict[str, str]:
    return {random.choice(_ANNOTATIONS): text(random) for _ in range(random.randrange(1, 3))}


def _data(random: Random, known: dict[str, str]) -> dict[str, str]:
    key = random.choice([*known, "other"])
    return {key: base64.b64encode(raw(random)).decode()}


async def attack(
    client: Client, seed: int, targets: Sequence[tuple[type[Object], str]], stop: asyncio.Event, pause: float = 0.0
) -> Counter[str]:
    """Poisons everything of these kinds in these namespaces until told to ``stop``. How many writes of each sort were taken and
    refused."""
    random = Random(seed)
    done: Counter[str] = Counter()
    while not stop.is_set():
        for model, namespace in targets:
            for obj in await _all(client, model, namespace):
                poison = next(poisons(random, model, obj))
                what = f"{model.KIND} {poison.subresource}".strip()
                done[f"{what} {await _write(client, poison)}"] += 1
                if stop.is_set():
                    return done
        await asyncio.sleep(pause)
    return done


async def _all(client: Client, model: type[Object], namespace: str) -> list[dict[str, Any]]:
    try:
        return await client.objects(model, namespace)
    except (ApiError, Unavailable):
        return []


async def _write(client: Client, poison: Poison) -> str:
    try:
        await client.patch(poison.model, poison.namespace, poison.name, poison.patch, subresource=poison.subresource)
    except (NotFound, Conflict):
        return "gone"
    except ApiError:
        return "refused"
    except Unavailable:
        return "unavailable"
    return "taken"
