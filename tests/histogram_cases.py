"""Arrays for tests of histograms: every dtype and layout, values at edges and beside them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

DTYPES = [
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8",
    "uint16", "uint32", "uint64", "bool",
]  # fmt: skip
RULES = ["auto", "doane", "fd", "rice", "scott", "sqrt", "stone", "sturges"]

_SPECIAL = [
    0.0, -0.0, 5e-324, -5e-324, 1e-310, 1.4e-45, 1e-40, -6e-8, 2.0**-126, 2.0**-14, 1e-12, 1e20,
    -1e20, 65504.0, 3.4028234663852886e38, -3.4028234663852886e38, 1e150, -1e150, np.inf, -np.inf,
    np.nan,
]  # fmt: skip


def as_float64(values, dtype):
    """The values one by one, as what a histogram compares; bfloat16 comes as uint16 of its bits."""
    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64).ravel()


def fill(rng, dtype, count, edges, is_finite=False):
    """Random values, of which many lie at an edge, at its neighbours, or are special."""
    scale = 10.0 ** rng.choice([-14, -3, 0, 0, 2, 6, 19])
    floats = rng.normal(size=count) * scale
    special = [x for x in _SPECIAL if not is_finite or abs(x) < 1e19]
    kind = rng.integers(0, 6, count)
    floats = np.where(kind == 1, rng.choice(special, count), floats)
    if edges is not None and len(edges):
        at_edge = rng.choice(edges, count)
        beside = np.nextafter(at_edge, rng.choice([-np.inf, np.inf], count))
        floats = np.where(kind == 2, at_edge, np.where(kind == 3, beside, floats))
    if is_finite:
        floats = np.where(np.isfinite(floats), floats, 1.0)
    values = _to_dtype(floats, dtype)
    # One step of the dtype itself to either side.
    if dtype in ("float16", "float32"):
        with np.errstate(over="ignore"):
            moved = np.nextafter(values, rng.choice([-np.inf, np.inf], count).astype(dtype))
        values = np.where(kind == 4, moved, values)
    elif dtype == "bfloat16":
        values = np.where(kind == 4, values + rng.choice([0, 1], count).astype(np.uint16), values)
    elif dtype not in ("float64", "bool"):
        limits = np.iinfo(dtype)
        extremes = np.array([limits.min, limits.max, limits.max // 2 + 1], dtype=dtype)
        values = np.where(kind == 4, rng.choice(extremes, count), values)
    return values


def _to_dtype(floats, dtype):
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "bool":
            return floats > 0
        if dtype == "bfloat16":
            return (floats.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        if dtype.startswith("float"):
            return floats.astype(dtype)
        limits = np.iinfo(dtype)
        inside = np.nan_to_num(floats).clip(limits.min / 2, limits.max / 2)
        return inside.astype(dtype)


@st.composite
def layouts(draw, may_be_negative=True):
    """(shape of the memory, how to view it): of up to 4 dimensions, 0-d and empty ones too."""
    sides = draw(st.lists(st.integers(0, 6), max_size=4))
    if sides and draw(st.booleans()):
        sides[draw(st.integers(0, len(sides) - 1))] = draw(st.integers(1000, 3000))
        if len(sides) > 2:
            sides = sides[:2]
    steps = [draw(st.sampled_from([1, 1, 2, 3] + [-1, -2] * may_be_negative)) for _ in sides]
    order = draw(st.permutations(range(len(sides))))
    repeats = draw(st.sampled_from([None, None, 1, 3]))
    axis = draw(st.integers(0, len(sides)))
    shape = [side * abs(step) for side, step in zip(sides, steps)]

    def view(memory):
        viewed = memory[tuple(slice(None, None, step) for step in steps)].transpose(order)
        if repeats is not None:
            viewed = np.broadcast_to(viewed, (repeats, *viewed.shape))
            viewed = np.moveaxis(viewed, 0, axis)
        return viewed

    return shape, view


@st.composite
def explicit_edges(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.sampled_from([2, 3, 9, 65, 700]))
    first, width = rng.normal() * 10.0 ** rng.integers(-8, 9), 10.0 ** rng.integers(-9, 10)
    kind = draw(st.sampled_from(["even", "nearly even", "uneven", "duplicate", "infinite", "one"]))
    if kind == "even":
        return np.linspace(first, first + width, count)
    if kind == "nearly even":
        edges = np.linspace(first, first + width, count)
        return np.sort(edges + rng.uniform(-0.2, 0.2, count) * width / count)
    edges = np.sort(rng.normal(size=count) * 10.0 ** rng.integers(-6, 6, count))
    if kind == "duplicate":
        edges = np.sort(rng.choice(edges, count))
    elif kind == "infinite":
        edges[0], edges[-1] = draw(
            st.sampled_from([(-np.inf, np.inf), (edges[0], np.inf), (-np.inf, edges[-1])])
        )
    elif kind == "one":
        edges[:] = 0.5
    return edges


def bins_and_range():
    """(bins, range) without the rules, which choose by the values."""
    numbers = st.integers(1, 300) | st.integers(1, 5)
    bounds = st.floats(-1e12, 1e12)
    ranges = st.tuples(bounds, bounds).map(lambda pair: (min(pair), max(pair)))
    return st.one_of(
        st.just(("tensorflow", None)),
        st.tuples(numbers, st.none()),
        st.tuples(numbers, ranges),
        st.tuples(explicit_edges(), st.none()),
    )
