"""From rows to figures: names that are safe to send, and never too many of them.

Owns the names that have been given. Statsd takes `:`, `|` and a line end for its own, drops what
it does not know, and keeps every name that it has ever seen; so a part of a name has letters,
digits, `_` and `-` only, is of bounded length, and a metric has a bounded number of names. What is
too much shares the name whose every part is `_other`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from proxy_actors.metrics import Figure, Kind, Metric, Row

PART_CHARACTERS_MAX = 64
OTHER = "_other"
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


class MetricNames:
    """The names of one process.

    Args:
        names_max: of each metric of the table, 1 or more; `_other` is one more.
    """

    def __init__(self, names_max: int) -> None:
        self._names_max = names_max
        self._names: dict[Metric, dict[tuple[str, ...], str]] = {}

    def figures(self, rows: Iterable[Row]) -> list[Figure]:
        """Name what the rows tell; counters and gauges that share a name are added up."""
        sums: dict[tuple[str, Kind], float] = {}
        figures = []
        for row in rows:
            name = self._name(row.metric, row.labels)
            if row.metric.kind is Kind.TIMER:
                figures.append(Figure(name, Kind.TIMER, row.values, row.rate))
            else:
                key = (name, row.metric.kind)
                sums[key] = sums.get(key, 0.0) + sum(row.values)
        figures += [Figure(name, kind, (value,)) for (name, kind), value in sums.items()]
        return figures

    def _name(self, metric: Metric, labels: tuple[str, ...]) -> str:
        names = self._names.setdefault(metric, {})
        name = names.get(labels)
        if name is None:
            full = len(names) >= self._names_max
            parts = (OTHER,) * len(labels) if full else tuple(map(sanitised, labels))
            name = metric.template.format(**dict(zip(metric.labels, parts, strict=True)))
            if not full:
                names[labels] = name
        return name


def sanitised(part: str) -> str:
    """Return what may stand for a part of a name: never empty, never a path."""
    return _UNFIT.sub("_", part[:PART_CHARACTERS_MAX]) or "_"
