"""tracelet.histogram: counts, edges and moments are numpy's, for every dtype, layout and bins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tracelet

pytest.importorskip("hypothesis")

from histogram_cases import (
    DTYPES,
    RULES,
    as_float64,
    bins_and_range,
    fill,
    layouts,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tracelet import _core

LARGEST = np.finfo(np.float64).max
many = settings(max_examples=50, deadline=None)  # of each dtype, others in each run of the tests
seeds = st.integers(0, 2**32)


def edges_by_numpy(floats, bins, range):
    """What numpy makes of the finite values, None where it refuses."""
    if isinstance(bins, str) and bins == "tensorflow":
        return _core.tensorflow_edges()
    try:
        edges = np.histogram_bin_edges(floats[np.isfinite(floats)], bins, range)
    except ValueError:
        return None
    # A range with fewer numbers than bins: numpy refuses it from 2.1 on, and repeated edges before.
    if isinstance(bins, int) and not np.all(edges[:-1] < edges[1:]):
        return None
    return edges


def check_moments(found, floats):
    finite = floats[np.isfinite(floats)]
    assert found.num == len(finite)
    assert found.nan_count == np.isnan(floats).sum()
    assert found.inf_count == np.isinf(floats).sum()
    if len(finite) == 0:
        assert math.isnan(found.min)
        assert math.isnan(found.max)
        assert (found.sum, found.sum_squares) == (0.0, 0.0)
        return
    assert found.min == finite.min()
    assert found.max == finite.max()
    wide = finite.astype(np.longdouble)
    total, squares, size = wide.sum(), (wide * wide).sum(), abs(wide).sum()
    if size < LARGEST:
        assert abs(found.sum - total) <= 1e-12 * size
    if squares > LARGEST:
        assert found.sum_squares == np.inf
    else:
        smallest = len(finite) * 5e-324  # squares below it are 0
        assert abs(found.sum_squares - squares) <= 1e-12 * squares + smallest


def check(values, floats, bins, range, threads=None):
    """The histogram of `values`, which are `floats` one by one, against numpy's."""
    edges = edges_by_numpy(floats, bins, range)
    if edges is None:
        with pytest.raises(ValueError, match=r"bins|range"):
            tracelet.histogram(values, bins, range)
        return None
    found = tracelet.histogram(values, bins, range, threads)
    assert found.bin_edges.dtype == np.float64
    assert np.array_equal(found.bin_edges, edges)
    assert found.counts.dtype == np.int64
    assert np.array_equal(found.counts, np.histogram(floats, edges)[0])
    check_moments(found, floats)
    return found


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "bfloat16"])
@many
@given(layout=layouts(), bins_range=bins_and_range(), seed=seeds)
def test_counts_edges_and_moments_are_numpys(dtype, layout, bins_range, seed):
    shape, view = layout
    bins, range = bins_range
    rng = np.random.default_rng(seed)
    edges = edges_by_numpy(np.array([-3.0, 3.0]), bins, range)
    memory = fill(rng, dtype, math.prod(shape), edges).reshape(shape)
    values = view(memory)
    check(values, as_float64(values, dtype), bins, range)


@pytest.mark.parametrize("dtype", DTYPES)
@many
@given(layout=layouts(may_be_negative=False), bins_range=bins_and_range(), seed=seeds)
def test_tensors_are_counted_as_arrays_are(dtype, layout, bins_range, seed):
    torch = pytest.importorskip("torch")
    shape, view = layout
    bins, range = bins_range
    rng = np.random.default_rng(seed)
    edges = edges_by_numpy(np.array([-3.0, 3.0]), bins, range)
    memory = fill(rng, dtype, math.prod(shape), edges).reshape(shape)
    values = view(memory)
    tensor = torch.from_numpy(memory).as_strided(
        values.shape, [stride // memory.itemsize for stride in values.strides]
    )
    if dtype == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    floats = as_float64(values, dtype)
    assert np.array_equal(tensor.double().numpy().ravel(), floats, equal_nan=True)
    check(tensor, floats, bins, range)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=20, deadline=None)
@given(
    dtype=st.sampled_from([name for name in DTYPES if name != "bfloat16"]),
    count=st.integers(0, 500),
    seed=seeds,
    range=st.sampled_from([None, (-1.0, 2.0), (5.0, 5.0)]),
)
def test_rules_choose_the_edges_that_numpy_chooses(rule, dtype, count, seed, range):
    rng = np.random.default_rng(seed)
    floats = rng.normal(size=count) * 30
    values = floats > 0 if dtype == "bool" else np.abs(floats).astype(dtype)
    if dtype.startswith("float") and count:
        values[rng.integers(0, count, count // 10)] = rng.choice([np.nan, np.inf, -np.inf])
    check(values, as_float64(values, dtype), rule, range)


@many
@given(
    first=st.floats(-1e300, 1e300),
    width=st.floats(0, 1e300),
    bins=st.integers(1, 3000),
    seed=seeds,
)
def test_edges_over_a_range_of_any_size_are_numpys(first, width, bins, seed):
    range = (first, first + width)
    edges = edges_by_numpy(np.empty(0), bins, range)
    values = fill(np.random.default_rng(seed), "float64", 300, edges)
    check(values, values, bins, range)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=30, deadline=None)
@given(bins=st.integers(1, 2000), seed=seeds, shift=st.sampled_from([0.0, 1.0, 1e3, 1e7, -1e15]))
def test_values_beside_the_edges_of_even_bins_far_from_zero(dtype, bins, seed, shift):
    """Where a step of float32 is wider than a bin, or nearly so."""
    rng = np.random.default_rng(seed)
    range = (shift, shift + 10.0 ** rng.integers(-3, 5))
    edges = edges_by_numpy(np.empty(0), bins, range)
    if edges is None:
        edges = np.array(range)
    near = [edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)]
    values = np.concatenate([*near, rng.uniform(*range, 2000)]).astype(dtype)
    values = np.concatenate([values, np.nextafter(values, np.array(np.inf, dtype))])
    check(values, as_float64(values, dtype), bins, range)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("bins", ["tensorflow", 100, "uneven"])
def test_every_value_of_the_small_dtypes(dtype, bins):
    bits = np.arange(65536, dtype=np.uint16)
    values = bits if dtype == "bfloat16" else bits.view(dtype)
    if bins == "uneven":
        bins = np.sort(np.random.default_rng(3).normal(size=200) * 300)
    floats = as_float64(values, dtype)
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch")
        values = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    check(values, floats, bins, None)


def test_every_edge_of_tensorboard_and_its_neighbours_in_float32_and_float64():
    edges = _core.tensorflow_edges()
    near = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)])
    check(near, near, "tensorflow", None)
    single = near.astype(np.float32)
    infinity = np.float32(np.inf)
    single = np.concatenate(
        [single, np.nextafter(single, -infinity), np.nextafter(single, infinity)]
    )
    check(single, single.astype(np.float64), "tensorflow", None)


def test_tensorboards_edges_are_those_of_torchs_writer(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    writer = tensorboard.SummaryWriter(tmp_path)
    assert np.array_equal(_core.tensorflow_edges(), writer.default_bins)
    writer.close()


BIG = 1_000_000


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "uint8"])
@pytest.mark.parametrize("bins", ["tensorflow", 256, "uneven"])
def test_a_million_values_and_any_number_of_threads_give_the_same(dtype, bins):
    rng = np.random.default_rng(11)
    if bins == "uneven":
        bins = np.sort(rng.normal(size=300))
    memory = fill(rng, dtype, BIG, _core.tensorflow_edges(), is_finite=True)
    values = memory
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch")
        values = torch.from_numpy(memory.view(np.int16)).view(torch.bfloat16)
    first = check(values, as_float64(memory, dtype), bins, None, threads=1)
    assert first.counts.sum() > 0
    for threads in (2, 4, None, 7):
        other = tracelet.histogram(values, bins, threads=threads)
        assert np.array_equal(other.counts, first.counts)
        assert (other.min, other.max, other.sum, other.sum_squares, other.num) == (
            first.min, first.max, first.sum, first.sum_squares, first.num,
        )  # fmt: skip


def test_a_big_array_that_is_not_contiguous_is_split_between_threads():
    rng = np.random.default_rng(12)
    memory = rng.normal(size=(1100, 3, 700)).astype(np.float32)
    values = memory[::-1, ::2, 5:].transpose(2, 0, 1)
    for threads in (1, 2, 4):
        check(values, as_float64(values, "float32"), "tensorflow", None, threads)
