"""tracelet.histogram: what may be given to it, what it refuses, and what it gives back."""

from __future__ import annotations

import array
import gc
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import tracelet
from ids import by_repr

THREES = np.random.default_rng(4).normal(size=(6, 7, 8)) * 3


def check(values, expected, bins="tensorflow"):
    """The histogram of `values` is numpy's of the array `expected`."""
    found = tracelet.histogram(values, bins)
    floats = np.asarray(expected, dtype=np.float64).ravel()
    finite = floats[np.isfinite(floats)]
    assert np.array_equal(found.counts, np.histogram(floats, found.bin_edges)[0])
    assert found.num == len(finite)
    assert found.nan_count == np.isnan(floats).sum()
    assert found.inf_count == np.isinf(floats).sum()
    assert math.isclose(found.sum, math.fsum(finite), rel_tol=1e-12, abs_tol=1e-12)
    if len(finite):
        assert (found.min, found.max) == (finite.min(), finite.max())


LISTS = [
    ([1.0, 2, True, -0.5], [1, 2, 1, -0.5]),
    ([[1.5, 2.5], [3.5, -4.5]], [1.5, 2.5, 3.5, -4.5]),
    ((1, 2, 3), [1, 2, 3]),
    ([[[]]], []),
    ([], []),
    (range(10), range(10)),
    (3, [3]),
    (2.5, [2.5]),
    (True, [1]),
    (np.float32(0.1), [np.float32(0.1)]),
    ([math.nan, math.inf, 1.0], [math.nan, math.inf, 1.0]),
    ([10**30, 2**64, -(2**63)], [1e30, 2.0**64, -(2.0**63)]),
    ([Decimal("1.25"), Fraction(1, 4), 2], [1.25, 0.25, 2]),
    ([np.arange(3), np.arange(3, 6)], range(6)),
]


@pytest.mark.parametrize(("values", "expected"), LISTS, ids=lambda v: repr(v)[:30])
def test_lists_and_single_numbers(values, expected):
    check(values, list(expected))
    check(values, list(expected), bins=5)


@pytest.mark.parametrize("code", list("bBhHiIlLqQfd"))
def test_arrays_of_the_module_array(code):
    check(array.array(code, [1, 2, 3, 100]), [1, 2, 3, 100])


def test_bytes_and_memoryviews():
    check(b"abc", [97, 98, 99])
    check(bytearray(b"\x00\xff"), [0, 255])
    check(memoryview(THREES), THREES)
    check(memoryview(THREES[::2]), THREES[::2])
    check(memoryview(THREES.astype(np.float32))[2:4], THREES[2:4].astype(np.float32))
    check(memoryview(b"abcd").cast("H"), np.frombuffer(b"abcd", np.uint16))


def test_arrays_that_are_read_only_or_of_a_subclass():
    values = THREES.copy()
    values.flags.writeable = False
    check(values, values)

    class Own(np.ndarray):
        pass

    check(THREES.view(Own), THREES)


def test_a_memory_map(tmp_path):
    values = np.memmap(tmp_path / "values", dtype=np.float32, mode="w+", shape=(5, 9))
    values[:] = THREES[:5, 0, 0][:, None]
    check(values, np.array(values))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8"])
def test_bytes_in_the_other_order(kind):
    values = abs(THREES * 100).astype(kind)
    check(values.astype(f">{kind}"), values)
    check(values.astype(f">{kind}")[:, ::-2].T, values[:, ::-2])


def test_long_doubles_and_objects():
    check(THREES.astype(np.longdouble), THREES)
    check(np.array([1, 2.5, Decimal("0.5"), True], dtype=object), [1, 2.5, 0.5, 1])
    check(np.array([], dtype=object), [])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint32"])
def test_elements_that_are_not_aligned(dtype):
    values = (abs(THREES) * 50).astype(dtype)
    memory = b"x" + values.tobytes()
    shifted = np.frombuffer(memory, dtype=dtype, offset=1)
    assert shifted.ctypes.data % shifted.itemsize == 1
    check(shifted, values)
    check(shifted[::3], values.ravel()[::3])
    records = np.zeros(values.size, dtype=[("flag", "u1"), ("value", dtype)])
    records["value"] = values.ravel()
    check(records["value"], values)
    check(records["value"], values, bins=10)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_tensors_with_gradients_and_parameters(torch):
    leaf = torch.tensor(THREES, requires_grad=True)
    check(leaf, THREES)
    check((leaf * 2).exp(), np.exp(THREES * 2), bins=20)
    parameter = torch.nn.Parameter(torch.tensor(THREES, dtype=torch.float32))
    check(parameter, THREES.astype(np.float32))
    check(parameter[2:, ::3].transpose(0, 2), THREES.astype(np.float32)[2:, ::3])
    buffer = torch.nn.Buffer(torch.tensor(THREES)) if hasattr(torch.nn, "Buffer") else leaf
    check(buffer, THREES)

    class Own(torch.Tensor):
        pass

    check(torch.tensor(THREES).as_subclass(Own), THREES)
    with torch.inference_mode():
        check(torch.tensor(THREES) + 0, THREES)


def test_tensors_that_are_views_of_any_kind(torch):
    tensor = torch.tensor(THREES)
    check(tensor.permute(2, 0, 1)[::2], THREES.transpose(2, 0, 1)[::2])
    check(tensor[1:2, 3].expand(5, 8), np.broadcast_to(THREES[1:2, 3], (5, 8)))
    check(tensor[0, 0, 0], THREES[0, 0, 0])
    check(tensor.flip(0), THREES[::-1])
    check(tensor.to(memory_format=torch.contiguous_format).unsqueeze(0), THREES)
    check(torch.empty(0, 3), [])
    check(tensor[3:3], [])
    negated = torch.complex(tensor, tensor + 1).conj().imag
    assert negated.is_neg()
    check(negated, -(THREES + 1))
    check(negated[1:, ::2].transpose(0, 2), -(THREES + 1)[1:, ::2])
    check(torch.complex(tensor.float(), tensor.float()).real, THREES.astype(np.float32))


def test_sparse_tensors_and_dtypes_that_numpy_lacks(torch):
    tensor = torch.tensor(np.where(abs(THREES[0]) > 3, THREES[0], 0))
    check(tensor.to_sparse(), tensor.numpy())
    for dtype in (torch.float8_e5m2, torch.float8_e4m3fn, torch.bfloat16):
        small = torch.tensor(THREES).to(dtype)
        check(small, small.float().numpy())
        check(small[::2, 1:], small[::2, 1:].float().numpy(), bins=7)
        check(small, small.float().numpy(), bins="sqrt")
    edges = torch.tensor([-3.0, 0, 3], dtype=torch.bfloat16, requires_grad=True)
    check(torch.tensor(THREES), THREES, bins=edges)


def test_tensors_that_hold_no_real_numbers_raise(torch):
    for values in (
        torch.empty(3, device="meta"),
        torch.tensor([1j]),
    ):
        with pytest.raises(TypeError, match="values must be real numbers"):
            tracelet.histogram(values)


@pytest.mark.parametrize(
    "values",
    [
        1j, [1j, 2], np.array([1j]), "abc", ["a", "b"], [[1.0], [1.0, 2.0]], None, [1.0, None],
        object(), {1: 2}, {1, 2}, np.array(["1"]), np.array([1], dtype="M8[s]"),
        np.array([1], dtype="m8[s]"), np.zeros(2, dtype="i4,f4"), (x for x in [1]),
        np.array([1j], dtype=object),
    ],
    ids=by_repr,
)  # fmt: skip
def test_values_that_are_no_real_numbers_raise(values):
    with pytest.raises(TypeError, match="values"):
        tracelet.histogram(values)


@pytest.mark.parametrize("values", [THREES, [1.0, 2.0]], ids=["array", "list"])
@pytest.mark.parametrize(
    ("bins", "error"),
    [
        (0, ValueError), (-1, ValueError), (10**30, ValueError), (2.5, ValueError),
        ("nonsense", ValueError), ("", ValueError), ([], ValueError), ([1.0], ValueError),
        ([3, 2, 1], ValueError), ([1, math.nan, 3], ValueError), ([math.nan] * 3, ValueError),
        ([[1, 2], [3, 4]], ValueError), (None, TypeError), (["a", "b"], TypeError),
        ([1j, 2], TypeError), (object(), TypeError), ([[1], [1, 2]], TypeError),
    ],
    ids=by_repr,
)  # fmt: skip
def test_bins_that_are_no_bins_raise_naming_bins(values, bins, error):
    with pytest.raises(error, match="bins"):
        tracelet.histogram(values, bins)


@pytest.mark.parametrize("bins", [10, "auto"])
@pytest.mark.parametrize(
    ("range", "error"),
    [
        ((2, 1), ValueError), ((0, math.inf), ValueError), ((-math.inf, 0), ValueError),
        ((math.nan, 1), ValueError), ((1,), TypeError), ((1, 2, 3), TypeError), (5, TypeError),
        ("ab", TypeError), ((None, 1), TypeError), ((1j, 2), TypeError),
    ],
    ids=by_repr,
)  # fmt: skip
def test_ranges_that_are_no_ranges_raise_naming_range(bins, range, error):
    with pytest.raises(error, match="range"):
        tracelet.histogram(THREES, bins, range)


@pytest.mark.parametrize("threads", [0, -1, "x", 2.0], ids=by_repr)
def test_threads_below_one_raise_naming_threads(threads):
    with pytest.raises(ValueError, match="threads"):
        tracelet.histogram(THREES, threads=threads)


def test_a_call_that_raised_leaves_the_next_one_right():
    for bad in (dict(bins=0), dict(bins=5, range=(2, 1)), dict(bins=[2, 1])):
        with pytest.raises(ValueError, match=r"bins|range"):
            tracelet.histogram(THREES, **bad)
        check(THREES, THREES)


def test_results_own_their_memory():
    values = THREES.copy()
    edges = [-3.0, 0.0, 3.0]
    found = tracelet.histogram(values, edges)
    expected = np.histogram(values, edges)[0]
    counts, bin_edges = found.counts, found.bin_edges
    assert (counts.dtype, bin_edges.dtype) == (np.int64, np.float64)
    assert counts.flags.writeable
    del values, found
    gc.collect()
    for _ in range(100):  # memory that is freed would be used again here
        tracelet.histogram(np.ones(1000), [0.0, 0.5, 1.0])
    assert np.array_equal(counts, expected)
    assert np.array_equal(bin_edges, [-3.0, 0.0, 3.0])
    counts += 1  # nobody else's
    check(THREES, THREES, bins=edges)
    check(THREES, THREES)


def test_an_array_may_be_resized_after_its_histogram():
    """No buffer is held."""
    values = bytearray(b"abc")
    tracelet.histogram(values)
    values.extend(b"def")
    check(values, list(b"abcdef"))
    with pytest.raises(ValueError, match="bins"):
        tracelet.histogram(values, 0)
    values.extend(b"ghi")


def test_it_needs_neither_a_run_nor_torch(run_script):
    run_script(
        """
        import sys
        sys.modules["torch"] = None
        sys.modules["clearml"] = None
        import numpy as np, tracelet
        values = np.random.default_rng(1).normal(size=10_000)
        for bins in ("tensorflow", 30, "auto", [-1.0, 0.0, 1.0]):
            found = tracelet.histogram(values, bins)
            assert np.array_equal(found.counts, np.histogram(values, found.bin_edges)[0])
        assert tracelet.histogram([1, 2, 3], 3).counts.tolist() == [1, 1, 1]
        assert tracelet.get_active_experiment() is None
        """
    )


@pytest.mark.parametrize("value", [np.datetime64("2020"), np.timedelta64(5, "s")])
def test_a_buffer_without_a_shape_is_refused_not_followed(value):
    """numpy's scalars of time give none, though it is asked for: that was a SIGSEGV."""
    with pytest.raises(TypeError, match="must be real numbers"):
        tracelet.histogram(value)
