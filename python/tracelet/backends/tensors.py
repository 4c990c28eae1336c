"""TensorProto to numpy, without TensorFlow or TensorBoard. Pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np

_Array = Any  # np.ndarray; its type parameters differ between numpy versions

STRINGS = (7,)
"""The `dtype` of tensors whose data are strings."""
_BFLOAT16, _HALF, _UINT64 = 14, 19, 23
# TensorFlow's DataType to (numpy's, the fields that may hold the values).
_TYPES: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("<f4", ("float_val",)),
    2: ("<f8", ("double_val",)),
    3: ("<i4", ("int_val",)),
    4: ("u1", ("int_val", "uint32_val")),
    5: ("<i2", ("int_val",)),
    6: ("i1", ("int_val",)),
    9: ("<i8", ("int64_val",)),
    10: ("?", ("bool_val",)),
    _BFLOAT16: ("<u4", ("half_val",)),  # the bits
    17: ("<u2", ("int_val",)),
    _HALF: ("<u4", ("half_val",)),  # the bits
    22: ("<u4", ("uint32_val",)),
    _UINT64: ("<u8", ("uint64_val",)),
}


def tensor_array(tensor: Any) -> _Array | None:
    """The values in their shape; None for a type that is no real number.

    bfloat16 becomes float32. Raises ValueError when there are not as many as the shape says.
    """
    if tensor.dtype not in _TYPES:
        return None
    dtype, fields = _TYPES[tensor.dtype]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        held_as = "<u2" if tensor.dtype in (_HALF, _BFLOAT16) else dtype
        values = np.frombuffer(tensor.tensor_content, dtype=held_as).astype(dtype)
    else:
        held = [getattr(tensor, field) for field in fields if hasattr(tensor, field)]
        # In 64 bits first: torch's int_val holds int8 and uint8 alike.
        wide = "<i8" if np.dtype(dtype).kind in "iub" and tensor.dtype != _UINT64 else dtype
        values = np.array(next((list(each) for each in held if len(each)), []), dtype=wide)
        values = values.astype(dtype)
        if len(values) == 1:  # one value stands for all
            values = np.full(shape, values[0])
    if tensor.dtype in (_HALF, _BFLOAT16):
        values = _from_bits(values, tensor.dtype)
    return values.reshape(shape)


def _from_bits(bits: _Array, dtype: int) -> _Array:
    if bits.size and bits.max() > 0xFFFF:  # torch writes the bits of a float32 for either type
        return bits.view("<f4")
    if dtype == _BFLOAT16:
        return (bits << 16).view("<f4")
    return bits.astype("<u2").view("<f2")
