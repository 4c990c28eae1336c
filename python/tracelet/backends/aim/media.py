"""Histograms and events to Aim, as its own types."""

from __future__ import annotations

import importlib.util
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np

from tracelet.backends import parts
from tracelet.backends.aim.run import REFUSED, AimRun
from tracelet.backends.base import UNREADABLE, Batch, Delivery
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.parts_reader import PartsReader, UnreadableError
from tracelet.histograms import Histogram
from tracelet.records import EVENT, HISTOGRAM

_MOST_BINS = 512
_SOUNDS = (".wav", ".mp3", ".flac")


class AimMediaSink:
    """One thread at a time. What is given again replaces itself."""

    name = "aim-media"
    is_remote = True
    takes_every_point = True
    record_kinds: Sequence[int] = (HISTOGRAM, EVENT)

    def __init__(
        self, run: AimRun, names: FlatNames, log_params: Callable[[Mapping[str, Any]], object]
    ) -> None:
        self._run = run
        self._names = names
        self._log_params = log_params
        self._events = PartsReader()

    def write(self, batch: Batch) -> Delivery:
        reasons: Counter[str] = Counter()
        for record in batch.records:
            reason = self._take(batch, record)
            if reason:
                reasons[reason] += 1
        return Delivery(len(batch) - sum(reasons.values()), 0, dict(reasons))

    def _take(self, batch: Batch, record: Any) -> str:
        """The reason why a record, or a part of it, can't be taken, or ""."""
        log_dir = batch.log_dir(record["writer_id"])
        if int(record["kind"]) == HISTOGRAM:
            try:
                histogram = batch.histogram(record)
            except ValueError:
                return UNREADABLE
            form = _distribution(histogram)
            if form is None:
                return "no form on aim: histogram without end"
            return self._track(log_dir, batch.tag(record["tag_id"]), "histogram", record, form)
        try:
            found = self._events.read(batch, record)
        except UnreadableError:
            return UNREADABLE
        reason = ""
        for part in found:
            reason = self._take_part(log_dir, record, part) or reason
        return reason

    def _take_part(self, log_dir: str, record: Any, part: parts.Part) -> str:
        if isinstance(part, parts.Scalar):
            return self._track(log_dir, part.tag, "", record, part.value)
        if isinstance(part, parts.Parameters):
            self._log_params(part.values)
            return ""
        if isinstance(part, parts.Configuration):
            self._log_params({part.name: part.text})
            return ""
        if isinstance(part, parts.NoForm):
            return f"no form on aim: {part.what}"
        form, what = _plot(part) if isinstance(part, parts.Plot) else _sample(part)
        if form is None:
            return f"no form on aim: {what}"
        return self._track(log_dir, part.tag, type(form).__name__.lower(), record, form)

    def _track(self, log_dir: str, tag: str, kind: str, record: Any, value: Any) -> str:
        """A series of Aim's is of one type: that of a tag which has others, too, has a name of its
        own."""
        series = f"{log_dir}\0/{kind}" if kind else log_dir
        name = self._names.name(series, tag)
        refused = self._run.track({name: value}, int(record["step"]), float(record["wall_time"]))
        return REFUSED if refused else ""

    def close(self, process_is_ending: bool) -> None:
        self._names.close()


def _distribution(found: Histogram) -> Any:
    """As Aim has them, with bins of one width; None where there is no such form."""
    import aim

    even = even_bins(np.asarray(found.counts, np.float64), np.asarray(found.bin_edges, np.float64))
    if even is None:
        return None
    counts, low, high = even
    return aim.Distribution(hist=counts, bin_range=(low, high))


def even_bins(counts: Any, edges: Any) -> tuple[Any, float, float] | None:
    """Counts in bins of one width, from the first edge to the last: the same ones where they are
    even already, else 512, over which each bin is spread evenly. None for a range without end."""
    if not len(counts):
        return np.zeros(1), 0.0, 1.0
    low, high = float(edges[0]), float(edges[-1])
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(high - low):
            return None
    width = (high - low) / len(counts)
    if len(counts) <= _MOST_BINS and np.allclose(np.diff(edges), width, rtol=1e-6, atol=0):
        return counts, low, high
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    at = np.interp(np.linspace(low, high, _MOST_BINS + 1), edges, sums)
    return np.diff(at), low, high


def _plot(part: parts.Plot) -> tuple[Any, str]:
    """A figure, or None and what it lacks."""
    import aim

    if importlib.util.find_spec("plotly") is None:
        return None, "plot without plotly"
    import plotly.io

    return aim.Figure(plotly.io.from_json(part.figure, skip_invalid=True)), ""


def _sample(part: parts.Sample) -> tuple[Any, str]:
    import aim
    from PIL import Image

    if part.default_title == "Text":
        return aim.Text(part.data.decode("utf-8", "replace")), ""
    if part.default_title == "Audio":
        if part.extension not in _SOUNDS:
            return None, f"audio ({part.extension})"
        return aim.Audio(part.data, format=part.extension[1:]), ""
    try:
        return aim.Image(Image.open(io.BytesIO(part.data))), ""
    except Exception:  # damaged, or of a format that pillow doesn't know
        return None, "image that pillow can't read"
