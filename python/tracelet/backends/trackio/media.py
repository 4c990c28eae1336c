"""Histograms and events to trackio: rows with its own types, files among its media."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from tracelet.backends import parts
from tracelet.backends.base import UNREADABLE, Batch, Delivery
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.parts_reader import PartsReader, UnreadableError
from tracelet.backends.trackio.store import Row, Store
from tracelet.histograms import Histogram
from tracelet.records import EVENT, HISTOGRAM

_MOST_BINS = 512  # what trackio's own class makes
_TYPES = {"Images": "trackio.image", "Audio": "trackio.audio"}


class TrackioMediaSink:
    """One thread at a time. A row's id and a file's name follow from the record: one that is given
    again is the same."""

    name = "trackio-media"
    is_remote = True
    takes_every_point = True
    record_kinds: Sequence[int] = (HISTOGRAM, EVENT)

    def __init__(
        self, store: Store, names: FlatNames, log_params: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self._store = store
        self._names = names
        self._log_params = log_params
        self._events = PartsReader()

    def write(self, batch: Batch) -> Delivery:
        rows: list[Row] = []
        reasons: Counter[str] = Counter()
        for record in batch.records:
            found, reason = self._rows(batch, record)
            rows += found
            if reason:
                reasons[reason] += 1
        self._store.log(rows)
        return Delivery(len(batch) - sum(reasons.values()), 0, dict(reasons))

    def _rows(self, batch: Batch, record: Any) -> tuple[list[Row], str]:
        """A record's rows, and the reason why it, or a part of it, can't be taken, or ""."""
        log_dir = batch.log_dir(record["writer_id"])
        if int(record["kind"]) == HISTOGRAM:
            try:
                histogram = batch.histogram(record)
            except ValueError:
                return [], UNREADABLE
            name = self._names.name(log_dir, batch.tag(record["tag_id"]))
            return [_row(record, {name: _histogram_value(histogram)})], ""
        try:
            found = self._events.read(batch, record)
        except UnreadableError:
            return [], UNREADABLE
        rows, reason = [], ""
        for number, part in enumerate(found):
            values = self._values(log_dir, record, number, part)
            if values is None:
                what = part.what if isinstance(part, parts.NoForm) else type(part).__name__.lower()
                reason = f"no form on trackio: {what}"
            elif values:
                rows.append(_row(record, values, number))
        return rows, reason

    def _values(
        self, log_dir: str, record: Any, number: int, part: parts.Part
    ) -> Mapping[str, Any] | None:
        """What a row has for a part; None when there is no form for it."""
        if isinstance(part, parts.Scalar):
            return {self._names.name(log_dir, part.tag): part.value}
        if isinstance(part, parts.Parameters):
            self._log_params(part.values)
            return {}
        if isinstance(part, parts.Configuration):
            self._log_params({part.name: part.text})
            return {}
        if not isinstance(part, parts.Sample):
            return None
        name = self._names.name(log_dir, part.tag)
        if part.default_title not in _TYPES:
            text = part.data.decode("utf-8", "replace")
            return {name: {"_type": "trackio.markdown", "_value": text}}
        file = f"{int(record['sequence'])}-{number}{part.extension}"
        path = self._store.put_media(part.data, int(record["step"]), file)
        return {name: {"_type": _TYPES[part.default_title], "file_path": path, "caption": None}}

    def close(self, process_is_ending: bool) -> None:
        self._names.close()


def _row(record: Any, values: Mapping[str, Any], part: int = 0) -> Row:
    return Row(
        f"media-{record['sequence']}-{part}",
        int(record["step"]),
        float(record["wall_time"]),
        values,
    )


def _histogram_value(found: Histogram) -> Mapping[str, Any]:
    counts, edges = found.folded(_MOST_BINS)
    return {
        "_type": "trackio.histogram",
        "bins": edges,
        "values": counts,
    }
