"""The points of a run's series, and small plots of them for a terminal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracelet.reading import RunLogs, read_files
from tracelet.runs.history import Summary

_MOST_PLOTTED_BYTES = 1 << 30
_PLOT_WIDTH = 16
_BARS = "▁▂▃▄▅▆▇█"


def values_of_series(event_files: Sequence[str], summary: Summary) -> dict[str, np.ndarray]:
    """The values of each series that is found in the files, by its name in the summary. None where
    it can't be told which they are: writers that differ in their files' suffix alone; an older
    record."""
    files = [path for path in event_files if os.path.isfile(path)]
    if sum(map(os.path.getsize, files)) > _MOST_PLOTTED_BYTES:
        return {}
    by_tag: dict[str, dict[str, RunLogs]] = {}  # and folder
    for folder, logs in read_files("", lambda: files, are_absolute=True).runs.items():
        for tag in logs.tags["scalars"]:
            by_tag.setdefault(tag, {})[folder] = logs
    origins = {name: _origin(each) for name, each in summary.items() if "tag" in each}
    counts = Counter(origins.values())
    found: dict[str, np.ndarray] = {}
    for name in summary:
        tag, folder = origins.get(name, (name, ""))
        folders = by_tag.get(tag, {})
        if name not in origins and len(folders) == 1:
            (folder,) = folders
        if folder in folders and counts[tag, folder] <= 1:
            found[name] = folders[folder].scalars(tag).values
    return found


def _origin(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Tag and log folder of a series whose tag several have."""
    return str(entry["tag"]), str(entry.get("folder", ""))


def plot(values: np.ndarray, width: int = _PLOT_WIDTH) -> str:
    """A line of bars: the mean of each part of the series, from its least to its greatest mean."""
    return plots_on_one_scale([values], width)[0]


def plots_on_one_scale(series: Sequence[np.ndarray], width: int = _PLOT_WIDTH) -> list[str]:
    """The same of several: bars of one height are of one value."""
    lines = [_means(values, width) for values in series]
    known = [mean for means in lines for mean in means if mean is not None]
    if not known:
        return ["" for _ in series]
    least, span = min(known), max(known) - min(known)
    top = len(_BARS) - 1

    def bar(mean: float) -> str:
        return _BARS[round((mean - least) / span * top) if span > 0 else 0]

    return ["".join(" " if each is None else bar(each) for each in means) for means in lines]


def _means(values: np.ndarray, width: int) -> list[float | None]:
    """Of the finite values of each part; None for a part without one."""
    if not len(values):
        return []
    parts = [part[np.isfinite(part)] for part in np.array_split(values, min(width, len(values)))]
    return [float(part.mean()) if len(part) else None for part in parts]
