"""What a service says of itself in Prometheus' text format, as far as it is well-formed: it may be anything.

Format: https://github.com/prometheus/docs, "Exposition formats", text-based. Times are left out: they are those of the scrape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

#: Samples of one service, labels of one sample, characters of a label's value and of a line.
SAMPLES = 1000
_LABELS = 16
_VALUE = 256
_LINE = 4096
#: Names that begin so are the product's own.
_RESERVED = "zos_"

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_TYPED = re.compile(rf"# TYPE ({_NAME}) (counter|gauge|histogram|summary)\s*")
_SAMPLE = re.compile(rf'({_NAME})\s*(?:\{{((?:[^"}}]|"(?:[^"\\]|\\.)*")*)\}})?\s*([-+0-9.eE]+|[-+]?Inf|NaN)(?:\s+-?[0-9]+)?\s*')
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPE = re.compile(r"\\(.)")
_SUFFIXES: Mapping[str, tuple[str, ...]] = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}


@dataclass(frozen=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Said:
    """Samples by the name of their family, the types of the families, and how many lines were of no use."""

    families: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    dropped: int = 0


def parse(text: str) -> Said:
    types: dict[str, str] = {}
    families: dict[str, list[Sample]] = {}
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    dropped = 0
    for line in text.split("\n"):
        if len(line) <= _LINE and (typed := _TYPED.fullmatch(line)) is not None:
            types.setdefault(typed[1], typed[2])
        elif line.strip() and not line.startswith("#"):
            sample = _sample(line)
            same = (sample.name, tuple(sorted(sample.labels.items()))) if sample is not None else None
            if sample is None or same is None or same in seen or len(seen) >= SAMPLES:
                dropped += 1
                continue
            seen.add(same)
            families.setdefault(_family(sample.name, types), []).append(sample)
    known = {name: types[name] for name in families if name in types}
    return Said({name: tuple(samples) for name, samples in families.items()}, known, dropped)


def _sample(line: str) -> Sample | None:
    if len(line) > _LINE or (match := _SAMPLE.fullmatch(line.strip())) is None or match[1].startswith(_RESERVED):
        return None
    labels = dict(_labels(match[2] or ""))
    if len(labels) > _LABELS or "" in labels or any(len(value) > _VALUE for value in labels.values()):
        return None
    try:
        return Sample(match[1], labels, float(match[3]))
    except ValueError:
        return None


def _labels(text: str) -> Iterator[tuple[str, str]]:
    """One without a name stands for what is none."""
    at = 0
    while text[at:].strip():
        match = _LABEL.match(text, at)
        if match is None or match[1].startswith("__"):
            yield "", ""
            return
        yield match[1], _ESCAPE.sub(lambda escaped: "\n" if escaped[1] == "n" else escaped[1], match[2])
        at = match.end()


def _family(name: str, types: Mapping[str, str]) -> str:
    if name in types:
        return name
    for suffix in ("_bucket", "_sum", "_count"):
        base = name.removesuffix(suffix)
        if base != name and suffix in _SUFFIXES.get(types.get(base, ""), ()):
            return base
    return name
