"""The native encoder with the names of the series it meets, common to offline and online."""

from __future__ import annotations

import json
import logging
from typing import Any

from tracelet import _core
from tracelet.sinks.base import Batch
from tracelet.sinks.clearml.names import SeriesNames

_log = logging.getLogger("tracelet")


class SeriesEncoder:
    """Encodes batches of one task. One thread at a time."""

    def __init__(self, task_id: str) -> None:
        self.native = _core.JsonLinesEncoder(json.dumps(task_id))
        self._names = SeriesNames()

    def define_new_series(self, batch: Batch) -> None:
        for writer_id, tag_id in self.native.undefined_series(batch.buffer):
            metric, variant = self._names.name(batch.log_dir(writer_id), batch.tag(tag_id))
            self.native.define(writer_id, tag_id, json.dumps(metric), json.dumps(variant))

    def report_set_aside(self, batch: Batch) -> None:
        """One console line for the first point of each series that ClearML can't hold."""
        for _, tag_id, step, value, is_not_finite in self.native.take_notices():
            reason = "it is not finite" if is_not_finite else "it is beyond float32"
            _log.warning(
                "tracelet: %.200s is %r at step %d and not sent to ClearML: %s. The event file has "
                "it; further ones of this series are counted in stats without a line.",
                batch.tag(tag_id), value, step, reason,
            )  # fmt: skip


def set_aside_reasons(counts: Any) -> dict[str, int]:
    return {"beyond float32": counts.beyond_float32} if counts.beyond_float32 else {}
