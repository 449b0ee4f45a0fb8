"""How well a process hears the API server: what an informer says of itself, for /healthz and Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Hearing(Collector):
    """``clock`` gives seconds and never goes back."""

    def __init__(self, kinds: Iterable[str], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = dict.fromkeys(kinds, clock())
        self._unreadable: Counter[str] = Counter()
        self.unserved: dict[str, str] = {}
        """Kinds that the API server does not serve (to us), and its words."""
        self.deaf = False
        """The watches did not tell what the API server had answered, and nothing was heard since."""
        self.deafened = 0
        """How often that was so."""
        self.rewound = 0
        """How often the API server's versions went back."""

    def heard(self, kind: str) -> None:
        self._last[kind] = self._clock()

    def last(self, kind: str) -> float:
        """When something of this kind was heard last, on the clock."""
        return self._last[kind]

    def unreadable(self, kind: str) -> None:
        self._unreadable[kind] += 1

    def problem(self) -> str | None:
        """What is wrong that a restart of the process may mend; None: nothing."""
        if self.deaf:
            return "the API server answers, but its watches tell nothing of it: they are begun anew"
        return None

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("zos_deaf", "1 while watches do not tell what the API server answers.", float(self.deaf))
        age = GaugeMetricFamily("zos_hearing_seconds", "Seconds since something of a kind was heard.", labels=("kind",))
        served = GaugeMetricFamily("zos_kind_served", "0 while the API server does not serve a kind to us.", labels=("kind",))
        unreadable = CounterMetricFamily("zos_unreadable_events", "Events that could not be taken in.", labels=("kind",))
        now = self._clock()
        for kind, last in sorted(self._last.items()):
            age.add_metric((kind,), now - last)
            served.add_metric((kind,), float(kind not in self.unserved))
            unreadable.add_metric((kind,), self._unreadable[kind])
        yield from (age, served, unreadable)
        yield CounterMetricFamily("zos_deafened", "Times that watches had to be begun anew, being deaf.", self.deafened)
        yield CounterMetricFamily("zos_rewound", "Times that the API server's versions went back.", self.rewound)
