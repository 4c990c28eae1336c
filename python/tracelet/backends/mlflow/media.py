"""Histograms and events to MLflow: files among the run's artifacts, figures of merit as metrics."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from tracelet.backends import parts
from tracelet.backends.base import UNREADABLE, Batch, Delivery
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.mlflow.store import RefusedError, Store
from tracelet.backends.parts_reader import PartsReader, UnreadableError
from tracelet.histograms import Histogram
from tracelet.records import EVENT, HISTOGRAM

_log = logging.getLogger("tracelet")

REFUSED = "refused by the server"

Put = Callable[[bytes, str], None]
"""Puts bytes among the artifacts, under a path; what is there is overwritten."""


class MLflowMediaSink:
    """One thread at a time. Each file's path follows from its record, so that one that is given
    again replaces itself."""

    name = "mlflow-media"
    is_remote = True
    takes_every_point = True
    record_kinds: Sequence[int] = (HISTOGRAM, EVENT)

    def __init__(
        self, store: Store, run_id: str, tracelet_run_id: str, names: FlatNames, put: Put,
        log_params: Callable[[Mapping[str, Any]], None],
    ) -> None:  # fmt: skip
        self._store = store
        self._run_id = run_id
        # Sequences are of tracelet's run: another one may go on with the same run of MLflow's.
        self._origin = tracelet_run_id.rpartition("-")[2]
        self._names = names
        self._put = put
        self._log_params = log_params
        self._events = PartsReader()
        # How far the batch that begins at this sequence came when something failed.
        self._first_sequence = -1
        self._done = self._delivered = 0
        self._reasons: Counter[str] = Counter()
        self._not_finite = 0

    def write(self, batch: Batch) -> Delivery:
        records = batch.records
        first_sequence = int(records["sequence"][0])
        if first_sequence != self._first_sequence:
            self._first_sequence, self._done, self._delivered = first_sequence, 0, 0
            self._reasons, self._not_finite = Counter(), 0
        for record in records[self._done :]:
            try:
                reason = self._take(batch, record)
            except RefusedError as error:
                _log.warning("tracelet: MLflow refuses an event: %.300s", error)
                reason = REFUSED
            self._done += 1
            if reason:
                self._reasons[reason] += 1
            else:
                self._delivered += 1
        self._first_sequence = -1
        return Delivery(self._delivered, self._not_finite, dict(self._reasons))

    def _take(self, batch: Batch, record: Any) -> str:
        """The reason why it can't be taken, or ""."""
        log_dir = batch.log_dir(record["writer_id"])
        if int(record["kind"]) == HISTOGRAM:
            try:
                histogram = batch.histogram(record)
            except ValueError:
                return UNREADABLE
            self._take_histogram(log_dir, batch.tag(record["tag_id"]), record, histogram)
            return ""
        try:
            found = self._events.read(batch, record)
        except UnreadableError:
            return UNREADABLE
        reason = ""
        for number, part in enumerate(found):
            reason = self._take_part(log_dir, record, number, part) or reason
        return reason

    def _take_part(self, log_dir: str, record: Any, number: int, part: parts.Part) -> str:
        if isinstance(part, parts.Sample):
            kind = part.default_title.lower()
            self._put(
                part.data, self._path(kind, log_dir, part.tag, record, number, part.extension)
            )
        elif isinstance(part, parts.Plot):
            path = self._path("plots", log_dir, part.tag, record, number, ".json")
            self._put(part.figure.encode(), path)
        elif isinstance(part, parts.Scalar):
            if not math.isfinite(part.value):
                return "not finite"
            self._log(record, {self._names.name(log_dir, part.tag): part.value})
        elif isinstance(part, parts.Parameters):
            self._log_params(part.values)
        elif isinstance(part, parts.Configuration):
            path = self._path("configurations", log_dir, part.name, record, number, ".txt")
            self._put(part.text.encode(), path)
        else:
            return f"no form on mlflow: {part.what}"
        return ""

    def _take_histogram(self, log_dir: str, tag: str, record: Any, found: Histogram) -> None:
        content = {
            "counts": found.counts.tolist(),
            "bin_edges": [_json_number(edge) for edge in found.bin_edges.tolist()],
            "min": _json_number(found.min),
            "max": _json_number(found.max),
            "sum": _json_number(found.sum),
            "sum_squares": _json_number(found.sum_squares),
            "num": found.num,
        }
        path = self._path("histograms", log_dir, tag, record, 0, ".json")
        self._put(json.dumps(content).encode(), path)
        name = self._names.name(log_dir, tag)
        mean = found.sum / found.num if found.num else math.nan
        spread = math.sqrt(max(0.0, found.sum_squares / found.num - mean**2)) if found.num else 0.0
        figures = {"min": found.min, "max": found.max, "mean": mean, "std": spread}
        finite = {f"{name}/{key}": each for key, each in figures.items() if math.isfinite(each)}
        self._log(record, {**finite, f"{name}/num": float(found.num)})

    def _log(self, record: Any, values: Mapping[str, float]) -> None:
        metrics = [
            json.dumps({
                "key": name, "value": value, "timestamp": _milliseconds(record),
                "step": int(record["step"]),
            })
            for name, value in values.items()
        ]  # fmt: skip
        self._store.log_metrics(self._run_id, ",".join(metrics).encode())

    def _path(
        self, kind: str, log_dir: str, tag: str, record: Any, number: int, extension: str
    ) -> str:
        name = self._names.name(log_dir, tag).replace(":", "_")
        sequence = int(record["sequence"])
        file = f"{int(record['step']):08d}-{self._origin}-{sequence}-{number}{extension}"
        return f"{kind}/{name}/{file}"

    def close(self, process_is_ending: bool) -> None:
        self._names.close()


def put_into(repository: Any) -> Put:
    """By one of MLflow's artifact repositories."""

    def put(data: bytes, path: str) -> None:
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            local = os.path.join(temporary, name)
            with open(local, "wb") as file:
                file.write(data)
            repository().log_artifact(local, folder or None)

    return put


def _milliseconds(record: Any) -> int:
    milliseconds = float(record["wall_time"]) * 1e3
    return int(milliseconds) if 0 < milliseconds < 253402300799999 else 0


def _json_number(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(value)
