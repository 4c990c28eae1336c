"""One tag's points, as they come out of event files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracelet.histograms import Histogram

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]
    Float64s = NDArray[np.float64]


@dataclass(frozen=True)
class Scalars:
    """The scalars of one tag, in the order in which they were logged."""

    steps: Int64s
    """int64 array of shape (n,)."""
    values: Float64s
    """float64 array of shape (n,). A file mostly has float32: then these are its values exactly."""
    wall_times: Float64s
    """Seconds since the epoch; float64 array of shape (n,)."""

    def latest(self) -> Scalars:
        """Each step once, as it was logged last, by rising step.

        So the steps that a run repeats after it went back to a checkpoint count once.
        """
        last = _last_of_each_step(self.steps)
        return Scalars(self.steps[last], self.values[last], self.wall_times[last])

    def to_pandas(self) -> pd.DataFrame:
        """A DataFrame with the columns step, value, wall_time. Needs pandas."""
        import pandas as pd

        return pd.DataFrame(
            {"step": self.steps, "value": self.values, "wall_time": self.wall_times}
        )

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class Histograms:
    """The histograms of one tag, in the order in which they were logged."""

    steps: Int64s
    """int64 array of shape (n,)."""
    wall_times: Float64s
    """Seconds since the epoch; float64 array of shape (n,)."""
    _rows: Sequence[Any]

    def __getitem__(self, index: int) -> Histogram:
        """The histogram at a place in `steps`; negative places count from the end."""
        low, high, num, total, squares, limits, counts = self._rows[index]
        # The first bucket reaches from the least value; its lower limit is not in the file.
        edges = np.concatenate([[min(low, limits[0])], limits]) if len(limits) else limits
        with np.errstate(invalid="ignore"):  # a file may say that it counted to 1e300
            whole = counts.astype(np.int64)
        exact = whole if bool((whole == counts).all()) else counts
        finite = int(num) if np.isfinite(num) else 0
        return Histogram(exact, edges, low, high, total, squares, finite, 0, 0)

    def __iter__(self) -> Iterator[Histogram]:
        return (self[index] for index in range(len(self)))

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class Texts:
    """The texts of one tag, in the order in which they were logged."""

    steps: Int64s
    """int64 array of shape (n,)."""
    wall_times: Float64s
    """Seconds since the epoch; float64 array of shape (n,)."""
    values: list[str]

    def __len__(self) -> int:
        return len(self.steps)


def _last_of_each_step(steps: Int64s) -> Int64s:
    """Where each step stands the last time, by rising step."""
    _, from_the_end = np.unique(steps[::-1], return_index=True)
    return len(steps) - 1 - from_the_end
