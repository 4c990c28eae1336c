"""Histograms counted natively, over the caller's own memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracelet import (
    _core,
    arrays,  # noqa: F401  (gives the core its helpers)
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_THREADS = 1024


@dataclass(frozen=True)
class Histogram:
    """Values counted into bins. The moments are of the finite values."""

    counts: NDArray[np.int64] | NDArray[np.float64]
    """How many values each bin holds; int64 array of shape (n,), float64 where a file says a count
    that is no whole number."""
    bin_edges: NDArray[np.float64]
    """Bin i holds bin_edges[i] <= x < bin_edges[i + 1], the last bin its right edge too; float64
    array of shape (n + 1,)."""
    min: float
    """NaN when no value is finite, as is max."""
    max: float
    sum: float
    sum_squares: float
    num: int
    """How many values are finite; those outside of the bins are among them."""
    nan_count: int
    inf_count: int
    """Infinities of either sign. In a bin only where its edge is infinite."""

    def folded(self, most_bins: int) -> tuple[list[float], list[float]]:
        """Counts and edges of at most so many bins: neighbours are put together."""
        counts, edges = self.counts, self.bin_edges
        together = -(-len(counts) // most_bins)
        if together <= 1:
            return counts.astype(np.float64).tolist(), edges.tolist()
        starts = range(0, len(counts), together)
        sums = [float(counts[start : start + together].sum()) for start in starts]
        return sums, [*(float(edges[start]) for start in starts), float(edges[-1])]


def histogram(
    values: object,
    bins: int | str | Sequence[float] | NDArray[np.generic] = "tensorflow",
    range: tuple[float, float] | None = None,
    threads: int | None = None,
) -> Histogram:
    """Counts values into bins, with the counts that `numpy.histogram` gives on the same edges.

    `values`: a numpy array, a torch tensor (on any device; requiring grad or not), anything with
    the buffer protocol, or a list; of any shape and strides, of float16, bfloat16, float32,
    float64, any integer or bool. Memory of the CPU is read in place; each value is compared as a
    float64.

    `bins`: 'tensorflow', TensorBoard's 1,549 edges; a number of bins, evenly over `range` or over
    the finite values; the name of one of numpy's rules ('auto', 'fd', ...), by which numpy chooses;
    or edges, an array that does not fall. `range` is for a number and for rules.

    `threads`: None chooses: one for each 1,048,576 values, at most 4 and at most the cores this
    process may use, 1 in a forked child. The result does not depend on it.

    Raises TypeError for values that are no real numbers, ValueError for bins, range and threads.
    Releases the GIL from 32,768 values on. Thread-safe.
    """
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads must be None or 1 or more, not {threads!r}")
    counts, edges, low, high, total, squares, num, nan_count, inf_count = _core.histogram(
        values, bins, range, min(threads or 0, _MOST_THREADS)
    )
    return Histogram(counts, edges, low, high, total, squares, num, nan_count, inf_count)


def read_histogram(payload: Any) -> Histogram:
    """The histogram in a record's payload. Raises ValueError for other bytes."""
    limits, counts, low, high, total, squares, num, nan_count, inf_count = _core.read_histogram(
        payload
    )
    # A bucket reaches from the limit before it, the first one from the least value.
    if len(counts) and counts[0] == 0:
        counts = counts[1:]
    elif len(counts):
        limits = np.concatenate([[low], limits])
    with np.errstate(invalid="ignore"):  # a histogram given ready-made may count to 1e300
        whole = counts.astype(np.int64)
    are_whole = bool((whole == counts).all())
    return Histogram(
        whole if are_whole else counts,
        limits,
        low,
        high,
        total,
        squares,
        int(num),
        nan_count,
        inf_count,
    )
