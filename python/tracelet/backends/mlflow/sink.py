"""Scalars to MLflow: metrics, encoded natively, a thousand a request."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tracelet import _core
from tracelet.backends.base import UNREADABLE, Batch, Delivery
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.mlflow.store import Store
from tracelet.records import SCALAR

_REQUEST_METRICS = 1_000  # MLflow takes no more
_REQUEST_BYTES = 900_000  # of 1 MB


class MLflowSink:
    """One thread at a time. A metric is known by key, time, step and value, all of which follow
    from the record: a batch that is given again makes no new row."""

    name = "mlflow"
    is_remote = True
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR,)

    def __init__(self, store: Store, run_id: str, names: FlatNames) -> None:
        self._store = store
        self._run_id = run_id
        self._names = names
        self._encoder = _core.MetricJsonEncoder()
        # How far the batch that begins at this sequence came when a request failed.
        self._first_sequence = -1
        self._done = 0
        self._delivered = self._not_finite = self._unreadable = 0

    def write(self, batch: Batch) -> Delivery:
        records = batch.records
        first_sequence = int(records["sequence"][0])
        if first_sequence != self._first_sequence:
            self._first_sequence = first_sequence
            self._done = self._delivered = self._not_finite = self._unreadable = 0
        for writer_id, tag_id in self._encoder.undefined_series(records):
            name = self._names.name(batch.log_dir(writer_id), batch.tag(tag_id))
            self._encoder.define(writer_id, tag_id, json.dumps(name))
        while self._done < len(records):
            body, counts = self._encoder.encode(
                records[self._done :], _REQUEST_METRICS, _REQUEST_BYTES
            )
            if counts.encoded:
                self._store.log_metrics(self._run_id, body)
            self._done += counts.consumed
            self._delivered += counts.encoded
            self._not_finite += counts.not_finite
            self._unreadable += counts.unreadable
        self._first_sequence = -1
        reasons = {UNREADABLE: self._unreadable} if self._unreadable else {}
        return Delivery(self._delivered, self._not_finite, reasons)

    def close(self, process_is_ending: bool) -> None:
        self._names.close()
