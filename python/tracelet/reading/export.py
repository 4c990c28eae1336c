"""Scalars in the forms that other programs read: CSV, JSON, Parquet."""

from __future__ import annotations

import csv
import fnmatch
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from tracelet.errors import ConfigurationError
from tracelet.reading.logs import Logs
from tracelet.reading.series import Scalars

FORMS = ("csv", "json", "parquet")
COLUMNS = ("run", "tag", "step", "value", "wall_time")
_CHUNK_ROWS = 65_536


@dataclass(frozen=True)
class Selection:
    """What of a log folder is exported."""

    logs: Logs
    name: str = "."
    """Of a run whose folder is the one that was read. It stays "." where a folder in it has that
    name: two runs of one name would be one, and JSON holds each of its series once."""
    pattern: str = "*"
    """Of tags, as in fnmatch."""
    latest: bool = False
    """Each step once, as it was logged last."""

    def series(self) -> Iterator[tuple[str, str, Scalars]]:
        """Run, tag and points of each series."""
        is_free = self.name not in self.logs.runs
        for name, run in self.logs.runs.items():
            for tag in run.tags["scalars"]:
                if fnmatch.fnmatchcase(tag, self.pattern):
                    scalars = run.scalars(tag)
                    shown = self.name if name == "." and is_free else name
                    yield shown, tag, scalars.latest() if self.latest else scalars

    def left_out(self) -> dict[str, int]:
        """How many series of other kinds there are, which have no place in a table of numbers."""
        counts = {"histograms": 0, "texts": 0, "others": 0}
        for run in self.logs.runs.values():
            for kind in counts:
                counts[kind] += len(run.tags[kind])
        return {kind: count for kind, count in counts.items() if count}


def write_csv(selection: Selection, file: IO[str]) -> int:
    """Writes a row a point, numbers in as many digits as they have; returns how many."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    count = 0
    for run, tag, scalars in selection.series():
        for start in range(0, len(scalars), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            columns = (scalars.steps[part], scalars.values[part], scalars.wall_times[part])
            writer.writerows((run, tag, *row) for row in zip(*(each.tolist() for each in columns)))
        count += len(scalars)
    return count


def write_json(selection: Selection, file: IO[str]) -> int:
    """Writes {run: {tag: {"steps", "values", "wall_times"}}}; returns how many points. JSON has no
    NaN and no infinity: they are the strings "NaN", "Infinity" and "-Infinity"."""
    runs: dict[str, dict[str, Any]] = {}
    count = 0
    for run, tag, scalars in selection.series():
        runs.setdefault(run, {})[tag] = {
            "steps": scalars.steps.tolist(),
            "values": _for_json(scalars.values),
            "wall_times": _for_json(scalars.wall_times),
        }
        count += len(scalars)
    json.dump(runs, file, allow_nan=False)
    file.write("\n")
    return count


def write_parquet(selection: Selection, file: IO[bytes]) -> int:
    """Writes a table with COLUMNS; returns how many points. Raises ConfigurationError without
    pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigurationError(
            f"Parquet needs pyarrow, which can't be imported ({error}): pip install pyarrow"
        ) from error
    text = pa.dictionary(pa.int32(), pa.string())
    kinds = (text, text, pa.int64(), pa.float64(), pa.float64())
    schema = pa.schema(list(zip(COLUMNS, kinds)))
    count = 0
    with pq.ParquetWriter(file, schema) as writer:
        for run, tag, scalars in selection.series():
            same = pa.array(np.zeros(len(scalars), np.int32))
            columns = [
                *(pa.DictionaryArray.from_arrays(same, pa.array([each])) for each in (run, tag)),
                pa.array(scalars.steps), pa.array(scalars.values), pa.array(scalars.wall_times),
            ]  # fmt: skip
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            count += len(scalars)
    return count


def _for_json(values: np.ndarray) -> list[Any]:
    if np.isfinite(values).all():
        return list(values.tolist())
    return [each if math.isfinite(each) else name_of(each) for each in values.tolist()]


def name_of(value: float) -> str:
    """What stands in JSON for a value that is not finite."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
