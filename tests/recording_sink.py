"""A user's sink that keeps all it is given: scalars, histograms, events."""

from __future__ import annotations

from typing import Any

import tracelet

ALL_KINDS = (tracelet.SCALAR, tracelet.HISTOGRAM, tracelet.EVENT)


class RecordingSink:
    """`points` has (kind, log folder, tag, step, content) in order; an event's content is its
    bytes. `kinds=None`: a sink written before there were kinds."""

    name = "recording"
    takes_every_point = True

    def __init__(
        self, is_remote: bool = False, kinds: Any = ALL_KINDS, fail: Any = lambda: None
    ) -> None:
        self.is_remote = is_remote
        if kinds is not None:
            self.record_kinds = kinds
        self.points: list[tuple[int, str, str, int, Any]] = []
        self._fail = fail

    def write(self, batch: Any) -> Any:
        self._fail()
        for record in batch.records:
            kind = int(record["kind"])
            if kind == tracelet.EVENT:
                content: Any = batch.event(record)
            elif kind == tracelet.HISTOGRAM:
                content = batch.histogram(record)
            else:
                content = float(record["value"])
            folder, tag = batch.log_dir(record["writer_id"]), batch.tag(record["tag_id"])
            self.points.append((kind, folder, tag, int(record["step"]), content))
        return tracelet.Delivery(len(batch))

    def close(self, process_is_ending: bool) -> None:
        pass

    def register(self) -> RecordingSink:
        tracelet.register_sink(self.name, lambda info: self)
        return self

    def summary(self) -> list[tuple[int, str, int]]:
        return [(kind, tag, step) for kind, _, tag, step, _ in self.points]
