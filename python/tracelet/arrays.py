"""Values that the native core does not read in place, made into arrays; and edges of bins.

What is here runs for lists, named rules of bins, tensors of other devices and the like. Arrays,
CPU tensors and buffers never pass through it.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from tracelet import _core


def as_readable(values: Any) -> tuple[Any, bool]:
    """(array, is_bfloat16): an array that the core reads by the buffer protocol.

    bfloat16, which numpy lacks, comes as uint16 of the same bits. Raises TypeError for what holds
    no real numbers.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        return _read_tensor(torch, values)
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(values, masked.MaskedArray):
        values = _without_mask(values)
    try:
        array = np.asarray(values)
    except ValueError as error:  # a ragged list
        raise TypeError(f"values can't be made an array: {error}") from error
    if array.dtype.name == "bfloat16":  # of the package ml_dtypes
        return array.view(np.uint16), True
    if array.dtype.kind not in "biuf":
        array = _to_floats(array, values)
    elif array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False), False


def _without_mask(values: Any) -> Any:
    """An array of numpy.ma with NaN where it is masked: there is no value."""
    if values.dtype.kind not in "biuf" or not np.any(values.mask):
        return np.asarray(values)
    return np.asarray(values.astype(np.float64).filled(math.nan))


def _read_tensor(torch: Any, tensor: Any) -> tuple[Any, bool]:
    if tensor.is_complex() or tensor.is_quantized or tensor.device.type == "meta":
        raise TypeError(
            f"values must be real numbers that are there, not a tensor of {tensor.dtype} on "
            f"{tensor.device.type}"
        )
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.cpu().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16), True
    try:
        return tensor.numpy(), False
    except TypeError:  # float8 and others that numpy lacks
        return tensor.to(torch.float32).numpy(), False


def _to_floats(array: Any, values: Any) -> Any:
    if array.dtype.kind not in "OV":
        raise TypeError(f"values must be real numbers, not {array.dtype} ({type(values).__name__})")
    try:
        if any(value is None for value in array.flat):  # which numpy would take for NaN
            raise TypeError("None is no number")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"values must be real numbers, not {type(values).__name__}") from error


def find_edges(values: Any, bins: Any, range: Any) -> Any:
    """The edges of bins that are no number, as a contiguous float64 array.

    For one of numpy's names numpy chooses, of the finite values. Raises ValueError, TypeError.
    """
    if isinstance(bins, str):
        array, is_bfloat16 = as_readable(values)
        if is_bfloat16:
            array = (array.astype(np.uint32) << 16).view(np.float32)
        floats = array.astype(np.float64).ravel()
        floats = floats[np.isfinite(floats)]
        if range is not None:
            range = _check_range(range)
        try:
            return np.histogram_bin_edges(floats, bins, range)
        except ValueError as error:
            if bins not in _RULES:
                raise ValueError(
                    f"bins={bins!r} is no rule: 'tensorflow', {', '.join(map(repr, _RULES))}"
                ) from error
            raise
    try:
        edges = to_doubles(bins)
    except TypeError as error:
        raise TypeError(f"bins must be a number, a name or edges, not {bins!r:.200}") from error
    if edges.ndim == 0:
        raise ValueError(f"bins must be a whole number, a name or edges, not {bins!r:.200}")
    if edges.ndim != 1:
        raise ValueError(f"bins must be one-dimensional edges, not of shape {edges.shape}")
    return edges


_RULES = ("auto", "doane", "fd", "rice", "scott", "sqrt", "stone", "sturges")


def _check_range(range: Any) -> tuple[float, float]:
    try:
        first, last = map(float, range)
    except (TypeError, ValueError) as error:
        raise TypeError(f"range must be two numbers, (lower, upper), not {range!r}") from error
    if not -math.inf < first <= last < math.inf:
        raise ValueError("range: must be two finite numbers, the larger one last")
    return first, last


def to_doubles(values: Any) -> Any:
    """The values as a contiguous float64 array, in order. Raises TypeError."""
    array, is_bfloat16 = as_readable(values)
    if is_bfloat16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array, dtype=np.float64, order="C")


_core.set_array_helpers(as_readable, find_edges)
