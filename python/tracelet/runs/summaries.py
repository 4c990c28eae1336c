"""The last, least and greatest value of each series: counted by the run, or from event files."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tracelet import _core
from tracelet.runs.history import DAMAGE, Summary, checked_summary
from tracelet.runs.ownership import read_own
from tracelet.runs.whole_file import write_whole
from tracelet.summary import SeriesSummary, series_names

SUMMARY = "summary.json"
"""In a run's folder, once the run has ended."""
_MOST_BYTES = 4 << 20


def keep_summary(run_path: str, summary: Mapping[str, SeriesSummary]) -> None:
    """Writes it, whole or not at all, for the history; nothing where the folder is gone (a stop
    that was interrupted is called again) or there are too many series. Raises OSError."""
    if not summary or not os.path.isdir(run_path):
        return
    data = json.dumps({tag: each.as_json() for tag, each in summary.items()}).encode()
    if len(data) <= _MOST_BYTES:
        write_whole(os.path.join(run_path, SUMMARY), data)


def kept_summary(run_path: str) -> Summary | None:
    """What the run has counted itself; None where it has not, or it can't be read."""
    try:
        return checked_summary(json.loads(read_own(os.path.join(run_path, SUMMARY), _MOST_BYTES)))
    except DAMAGE:
        return None


def summary_of_files(files: Sequence[str], most_bytes: int | None = None) -> Summary | None:
    """The summary of what event files hold. None where there are none, or too large ones.

    A tag that several folders have, as of two SummaryWriters, is told apart by the folder's name.
    """
    there = [path for path in files if os.path.isfile(path)]
    if not there or (most_bytes is not None and sum(map(os.path.getsize, there)) > most_bytes):
        return None
    by_folder: dict[str, list[str]] = {}
    for path in there:
        by_folder.setdefault(os.path.dirname(os.path.abspath(path)), []).append(path)
    series = [
        (tag, folder, entry)
        for folder, paths in by_folder.items()
        for tag, entry in _series_of(paths).items()
    ]
    counts = Counter(tag for tag, *_ in series)
    found: dict[str, dict[str, float | int | str | None]] = {}
    for name, (tag, folder, entry) in zip(series_names([(t, f, "") for t, f, _ in series]), series):
        shared = {"tag": tag, "folder": folder} if counts[tag] > 1 else {}
        found[name] = {**shared, **entry}
    return found


def _series_of(paths: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    reader = _core.EventReader()
    for path in paths:
        try:
            reader.read_file(os.fsencode(path), 0)
        except OSError:
            continue
    found = {}
    for place, (tag, count, *_) in enumerate(reader.tags()):
        if count:
            steps, _, values = reader.scalars(place)
            found[tag.decode("utf-8", "replace")] = series_summary(steps, values)
    return found


def series_summary(steps: np.ndarray, values: np.ndarray) -> dict[str, float | int | None]:
    """Of one series, in the order logged. `least` and `greatest` are of its finite values."""
    finite = values[np.isfinite(values)]
    return {
        "last": float(values[-1]),
        "least": float(finite.min()) if len(finite) else None,
        "greatest": float(finite.max()) if len(finite) else None,
        "points": len(values),
        "last_step": int(steps[-1]),
    }
