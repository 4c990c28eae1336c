"""The summary of its scalars that a task carries: ``last_metrics``.

Unlike the index it isn't idempotent: every batch that comes in is added to `count` and
`mean_value`, also one that came before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

MAX_SERIES = 2000
"""``services.tasks.max_last_metrics``: further series of a task get no summary."""


class Summary:
    """One series within one batch."""

    __slots__ = ("count", "first", "iter", "largest", "smallest", "timestamp", "total", "value")

    def __init__(self, iteration: Any, timestamp: Any, value: Any) -> None:
        self.iter = iteration
        self.timestamp = timestamp
        self.value = self.smallest = self.largest = value
        self.first = (iteration, value)
        self.count = 1
        # A value that can't be added fails here, as on the server.
        self.total = 0 + value

    def add(self, iteration: Any, timestamp: Any, value: Any) -> None:
        self.count += 1
        self.total += value
        if (iteration, timestamp) >= (self.iter, self.timestamp):
            self.iter, self.timestamp, self.value = iteration, timestamp, value
        if iteration < self.first[0]:
            self.first = (iteration, value)
        if value < self.smallest:
            self.smallest = value
        if value > self.largest:
            self.largest = value


Series = Iterable[tuple[str, str, Summary]]
"""(metric, variant, summary)"""


def merge(last_metrics: dict[str, dict[str, Any]], series: Series) -> None:
    """Adds what a batch says of a task's series to the `last_metrics` of that task."""
    room = MAX_SERIES - sum(map(len, last_metrics.values()))
    for metric, variant, summary in series:
        variants = last_metrics.get(_hash(metric), {})
        known = variants.get(_hash(variant))
        if known is None:
            if room <= 0:
                continue
            room -= 1
            known = {
                "metric": metric,
                "variant": variant,
                "first_value": summary.first[1],
                "min_value": summary.smallest,
                "max_value": summary.largest,
                "mean_value": 0,
                "count": 0,
            }
            last_metrics.setdefault(_hash(metric), {})[_hash(variant)] = known
        count = known["count"] + summary.count
        total = known["mean_value"] * known["count"] + summary.total
        known["mean_value"] = round(total / count, 2)
        known["count"] = count
        known["value"] = summary.value
        known["min_value"] = min(known["min_value"], summary.smallest)
        known["max_value"] = max(known["max_value"], summary.largest)


def _hash(name: str) -> str:
    """Mongo field names can't hold every character, so the server hashes them."""
    return hashlib.md5(name.encode()).hexdigest()
