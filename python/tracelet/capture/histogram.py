"""Histograms: those of tensors on a device, counted there; what is told of values not finite.

The counts come by `device.py`: the call does not wait for them.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

import numpy as np

from tracelet import _core
from tracelet.arrays import to_doubles
from tracelet.capture import device

_log = logging.getLogger("tracelet")

_PIECE_ELEMENTS = 1 << 22

_MOMENTS = ("num", "nan_count", "inf_count", "sum", "sum_squares", "min", "max")


_device_edges: dict[Any, Any] = {}  # TensorBoard's edges on each device that was met


def start(tag: str, tensor: Any, bins: Any, max_bins: Any) -> tuple[int, int] | None:
    """Starts to count a tensor on its device: (ticket, number of bins).

    None for what is to be copied instead: bins that depend on the values, dtypes that are none of
    real numbers, and in a process that does not drain the run.
    """
    if not device.is_drained_here():
        return None
    torch = sys.modules["torch"]
    if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
        return None
    if bins is None or (isinstance(bins, str) and bins == "tensorflow"):
        edges = _core.tensorflow_edges()
        edges_on_device = _standard_edges(torch, tensor.device)
    elif isinstance(bins, (int, str)):
        return None
    else:
        edges = _read_edges(bins)
        if edges is None:
            return None
        edges_on_device = torch.from_numpy(edges).to(tensor.device)
    result = count(torch, tensor.detach(), edges_on_device)
    finish = functools.partial(_payload, tag, edges, int(max_bins or 0))
    return device.park(result, finish), len(edges) - 1


def _read_edges(bins: Any) -> Any:
    """None for what are no edges: the copy's way says what is wrong."""
    try:
        edges = to_doubles(bins)
    except TypeError:
        return None
    are_edges = edges.ndim == 1 and len(edges) >= 2 and bool((edges[1:] >= edges[:-1]).all())
    return edges if are_edges else None


def _standard_edges(torch: Any, device: Any) -> Any:
    if device not in _device_edges:
        _device_edges[device] = torch.from_numpy(_core.tensorflow_edges()).to(device)
    return _device_edges[device]


def count(torch: Any, values: Any, edges: Any) -> Any:
    """`_MOMENTS` and counts of a tensor as one float64 tensor, on its device, without waiting.

    `edges` is float64 on the same device. Bins are numpy.histogram's. bincount and histc are not
    used: on CUDA they wait for the device. Goes by pieces, so that what it needs is bounded.
    """
    bins = len(edges) - 1
    infinity = float("inf")
    # Slot 0 is what lies left of the edges, slot bins + 1 what lies right, and NaN.
    counts = torch.zeros(bins + 2, dtype=torch.float64, device=edges.device)
    sums = torch.zeros(5, dtype=torch.float64, device=edges.device)
    low = torch.full((), infinity, dtype=torch.float64, device=edges.device)
    high = -low
    for piece in values.reshape(-1).split(_PIECE_ELEMENTS):
        if len(piece) == 0:
            continue
        exact = piece.to(torch.float64)
        is_nan = torch.isnan(exact)
        slots = torch.searchsorted(edges, exact, right=True)
        slots = torch.where(exact == edges[-1], bins, slots)
        slots = torch.where(is_nan, bins + 1, slots)
        counts.scatter_add_(0, slots, torch.ones_like(exact))
        is_finite = torch.isfinite(exact)
        finite = torch.where(is_finite, exact, 0.0)
        parts = [is_finite.sum(), is_nan.sum(), torch.isinf(exact).sum()]
        parts += [finite.sum(), (finite * finite).sum()]
        sums += torch.stack([part.to(torch.float64) for part in parts])
        low = torch.minimum(low, torch.where(is_finite, exact, infinity).min())
        high = torch.maximum(high, torch.where(is_finite, exact, -infinity).max())
    return torch.cat([sums, low.reshape(1), high.reshape(1), counts[1:-1]])


def _payload(tag: str, edges: Any, max_bins: int, result: Any) -> tuple[bytes, int]:
    """The payload of what `count` gave, on the CPU now, and how many values are not finite."""
    numbers = np.asarray(result.numpy(), dtype=np.float64)
    moments = dict(zip(_MOMENTS, numbers))
    num, nan_count, inf_count = (int(moments[name]) for name in _MOMENTS[:3])
    if num == 0 or nan_count or inf_count:
        tell_not_finite(tag, num, nan_count, inf_count)
    payload = _core.encode_counts(
        numbers[len(_MOMENTS) :],
        edges,
        min=float(moments["min"]),
        max=float(moments["max"]),
        sum=float(moments["sum"]),
        sum_squares=float(moments["sum_squares"]),
        num=num,
        nan_count=nan_count,
        inf_count=inf_count,
        max_bins=max_bins,
    )
    return payload, nan_count + inf_count


_told: set[str] = set()


def tell_not_finite(tag: str, num: int, nan_count: int, inf_count: int) -> None:
    """One warning for a tag whose values are not all finite, or that has none."""
    if tag in _told:
        return
    _told.add(tag)
    if num + nan_count + inf_count == 0:
        what = "there are no values"
    else:
        what = f"{nan_count:,} NaN and {inf_count:,} infinite of {num + nan_count + inf_count:,} "
        what += "values are left out of the bins"
    _log.warning(
        "tracelet: add_histogram(%.200r): %s; further ones of this tag are counted in stats "
        "without a line.", tag, what,
    )  # fmt: skip


def forget_told() -> None:
    """For a new run: each tag's first case is told again."""
    _told.clear()


_core.set_histogram_helpers(to_doubles, start, device.forget, tell_not_finite)
