"""add_histogram and add_histogram_raw: their events are those that torch's own writer writes."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest
import tracelet
from readers import event_files, events, histograms

torch = pytest.importorskip("torch")
from torch.utils.tensorboard import SummaryWriter  # noqa: E402


@pytest.fixture
def run(tmp_path):
    return tracelet.start_logging("capture", "tests", backend="tensorboard")


def as_array(values):
    if isinstance(values, torch.Tensor):
        values = values.detach().double().numpy()
    return np.asarray(values, dtype=np.float64).ravel()


def write_both(tmp_path, calls):
    """The calls' summary events as torch writes them, and as we do. `calls` gets a writer."""
    theirs = SummaryWriter(tmp_path / "theirs")
    calls(theirs)
    theirs.close()
    tracelet.start_logging("capture", "tests", backend="tensorboard")
    ours = SummaryWriter(tmp_path / "ours")
    calls(ours)
    tracelet.stop_logging()
    (their_file,) = pathlib.Path(theirs.log_dir).glob("*tfevents*")
    (our_file,) = event_files(ours.log_dir)
    return events(their_file)[1:], events(our_file)[1:]


def check_event(ours, theirs, size, squares):
    """Equal but for the sums, which are added up in another order: `size` is the sum of |x|."""
    assert (ours.step, ours.wall_time) == (theirs.step, theirs.wall_time)
    (our_value,), (their_value,) = ours.summary.value, theirs.summary.value
    assert our_value.tag == their_value.tag
    our_histo, their_histo = our_value.histo, their_value.histo
    assert list(our_histo.bucket_limit) == list(their_histo.bucket_limit)
    assert list(our_histo.bucket) == list(their_histo.bucket)
    for name in ("min", "max", "num"):
        assert getattr(our_histo, name) == getattr(their_histo, name)
    assert abs(our_histo.sum - their_histo.sum) <= 1e-12 * size
    assert abs(our_histo.sum_squares - their_histo.sum_squares) <= 1e-12 * squares
    for histo in (our_histo, their_histo):
        for name in ("bucket_limit", "bucket", "min", "max", "num", "sum", "sum_squares"):
            histo.ClearField(name)
    assert our_value.SerializeToString() == their_value.SerializeToString()  # nothing else in it


def check_same(tmp_path, calls):
    """Each call is (args, kwargs) of add_histogram, without the wall time."""

    def log(writer):
        for number, (args, kwargs) in enumerate(calls):
            writer.add_histogram(*args, **{"walltime": 1e9 + number / 7, **kwargs})

    theirs, ours = write_both(tmp_path, log)
    assert len(theirs) == len(ours) == len(calls)
    for their, our, (args, kwargs) in zip(theirs, ours, calls):
        floats = as_array(args[1] if len(args) > 1 else kwargs["values"])
        check_event(our, their, abs(floats).sum(), (floats * floats).sum())


RNG = np.random.default_rng(6)
NORMAL = RNG.normal(size=3000) * 10.0 ** RNG.integers(-4, 5, 3000)
CLIPPED = np.clip(NORMAL, -100, 100)
BINS = [
    "tensorflow", 1, 10, 64, 1000, "auto", "fd", "sqrt", "doane", [-10.0, 0, 10],
    np.linspace(-20, 20, 41), [-1e300, -5, -5, 0, 0, 3, 1e300], [-np.inf, 0, np.inf],
    torch.linspace(-9, 9, 19), np.array(7), torch.tensor(7),
]  # fmt: skip
DTYPES = [
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16",
    "uint32", "uint64", "bool",
]  # fmt: skip


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_every_dtype_and_bins(tmp_path, dtype):
    floats = CLIPPED
    if dtype == "bfloat16":  # torch takes float16 for it, so values that both hold
        values = torch.tensor(np.round(floats)).to(torch.bfloat16)
    else:
        values = floats > 0 if dtype == "bool" else np.abs(floats).astype(dtype)
    many_bins = [bins for bins in BINS if not isinstance(bins, str) or "float" in dtype]
    calls = [(("tag", values, number), {"bins": bins}) for number, bins in enumerate(many_bins)]
    if dtype not in ("bfloat16", "bool"):
        tensor = torch.from_numpy(values)
        calls += [(("tensor", tensor, number), {"bins": bins}) for number, bins in enumerate(BINS)]
    check_same(tmp_path, calls)


@pytest.mark.parametrize("bins", BINS, ids=lambda bins: repr(bins)[:30])
def test_max_bins(tmp_path, bins):
    calls = [
        (("tag", torch.tensor(CLIPPED[:size]), size), {"bins": bins, "max_bins": max_bins})
        for max_bins in (1, 2, 7, 20, 63, 1000, 1548, 10**6)
        for size in (1, 17, 3000)
    ]
    check_same(tmp_path, calls)


def test_the_default_bins_are_the_writers_own(tmp_path):
    """torch takes them from the writer, also after they were replaced or changed in place."""

    def calls(writer):
        def log(bins):
            writer.default_bins = bins
            for values in (np.arange(10.0), torch.arange(10.0)):
                writer.add_histogram("given", values, 1, bins="tensorflow", walltime=1.0)
                writer.add_histogram("default", values, 1, walltime=1.0)
                writer.add_histogram("own", values, 1, [0.0, 1.0], walltime=1.0)

        standard = writer.default_bins
        for bins in (standard, [0.0, 5.0, 10.0], standard, (0, 3, 9), np.array([0.0, 9.0]), 3,
                     [*standard, 1e30], list(standard)):  # fmt: skip
            log(bins)
        standard[-1] = 1e30
        log(standard)

    theirs, ours = write_both(tmp_path, calls)
    assert len(theirs) == len(ours) == 9 * 2 * 3
    for their_event, our_event in zip(theirs, ours):
        check_event(our_event, their_event, 45.0, 285.0)


def test_masked_values_are_counted_as_nan_and_left_out(run, tmp_path):
    writer = SummaryWriter(tmp_path / "log")
    writer.add_histogram("some", np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False]), 1)
    writer.add_histogram("ints", np.ma.array([1, 2, 3], mask=[False, True, False]), 1)
    writer.add_histogram("none", np.ma.array([1.0, 2.0, 3.0]), 1)
    writer.add_histogram("one", np.ma.masked, 1)
    writer.add_histogram("floats", np.ma.array(np.ones(2, np.float16), mask=[True, False]), 1)
    tracelet.stop_logging()
    found = {
        tag: (each[0][1].num, each[0][1].sum) for tag, each in histograms(tmp_path / "log").items()
    }
    assert found == {
        "some": (2.0, 4.0), "ints": (2.0, 4.0), "none": (3.0, 6.0), "one": (0.0, 0.0),
        "floats": (1.0, 1.0),
    }  # fmt: skip
    assert run.stats.not_finite_values == 4


def test_shapes_and_views(tmp_path):
    tensor = torch.tensor(NORMAL).reshape(10, 6, 50)
    values = [
        tensor, tensor.permute(2, 0, 1), tensor[::3, 1:, ::7], tensor[0, 0, 0], tensor.unsqueeze(0),
        tensor[:1].expand(4, 6, 50), tensor.float().transpose(0, 1), NORMAL[::-2],
        NORMAL.reshape(50, 60).T, NORMAL.astype(">f4"), np.float32(2.5), 7, -0.0, np.zeros(5),
        torch.full((3, 3), 1e-300), torch.tensor([1e25, -1e25, 5.0]),
    ]  # fmt: skip
    check_same(tmp_path, [(("tag", value, step), {}) for step, value in enumerate(values)])


def test_positional_and_keyword_arguments(tmp_path):
    values = torch.tensor(NORMAL)
    calls = [
        (("a", values), {}),
        (("a", values, 3), {"max_bins": None}),
        ((), {"tag": "b", "values": values, "global_step": 4}),
        (("b", values), {"bins": 10, "global_step": np.int64(5), "max_bins": 4}),
        (("c", values), {"walltime": 12.5, "global_step": torch.tensor(2**40)}),
        (("c",), {"max_bins": 30, "values": values, "global_step": -2}),
    ]
    check_same(tmp_path, calls)
    with_positions = lambda writer: writer.add_histogram("d", values, 6, 20, 77.0, 5)  # noqa: E731
    (theirs,), (ours,) = write_both(tmp_path / "positions", with_positions)
    check_event(ours, theirs, abs(NORMAL).sum(), (NORMAL**2).sum())


TAGS = ["", "a/b", "ünï/😀\n\"'\\", "x" * 10_000, "/lead", "trail/", "2026-01-01"]


def test_tags_of_all_kinds(tmp_path):
    calls = [((tag, torch.tensor(NORMAL[:50]), step), {}) for step, tag in enumerate(TAGS)]
    check_same(tmp_path, calls)


def test_scalars_and_histograms_keep_their_order_in_the_file(tmp_path):
    def calls(writer):
        for step in range(300):
            writer.add_scalar("loss", step * 0.5, step, 1e9 + step)
            if step % 3 == 0:
                writer.add_histogram("w", torch.arange(step + 1.0), step, walltime=1e9 + step)
            if step % 50 == 0:
                writer.add_scalar("w", 1.0, step, 1e9)

    theirs, ours = write_both(tmp_path, calls)
    assert len(theirs) == len(ours) == 406
    for our, their in zip(ours, theirs):
        if their.summary.value[0].HasField("histo"):
            check_event(our, their, 1e5, 1e7)
        else:
            assert our.SerializeToString() == their.SerializeToString()


def test_raw_histograms(tmp_path):
    counts, edges = np.histogram(NORMAL, bins=30)
    moments = dict(min=NORMAL.min(), max=NORMAL.max(), num=len(NORMAL), sum=1.5, sum_squares=2.5)

    def calls(writer):
        add = writer.add_histogram_raw
        add("r", **moments, bucket_limits=edges[1:].tolist(), bucket_counts=counts.tolist(),
            global_step=1, walltime=5.0)  # fmt: skip
        add("r", -1, 4.5, 10, 20, 50, [1, 2, 3, 4.0], [1, 0, 3.5, 0], 9, 6.0)
        add("r", 0.0, 0, 0, 0, 0, [], [], walltime=7.0)
        add("ü", 0, 1, 2.5, math.inf, math.inf, np.array([1.0, math.inf]), np.array([1, 2]),
            global_step=3, walltime=8.0)  # fmt: skip

    theirs, ours = write_both(tmp_path, calls)
    assert len(theirs) == len(ours) == 4
    for our, their in zip(ours, theirs):
        assert our.SerializeToString() == their.SerializeToString()


def test_raw_histograms_of_tensors(run, tmp_path):
    writer = SummaryWriter(tmp_path / "log")
    one = torch.tensor(1.0)
    limits, counts = torch.tensor([1.0, 2.0]), torch.tensor([3, 4])
    writer.add_histogram_raw("r", one, one * 2, torch.tensor(7), one, one, limits, counts, 1)
    tracelet.stop_logging()
    ((step, histo),) = histograms(writer.log_dir)["r"]
    assert (step, histo.min, histo.max, histo.num) == (1, 1.0, 2.0, 7.0)
    assert (list(histo.bucket_limit), list(histo.bucket)) == ([1.0, 2.0], [3.0, 4.0])


def test_the_loop_of_the_users_page_works_as_written(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
    model(torch.randn(4, 20)).sum().backward()

    def calls(writer):
        for epoch in range(3):
            for name, param in model.named_parameters():
                writer.add_histogram(name, param, epoch)
                writer.add_histogram(f"{name}.grad", param.grad, epoch)

    theirs, ours = write_both(tmp_path, calls)
    assert len(theirs) == len(ours) == 3 * 4 * 2
    for our, their in zip(ours, theirs):
        our.wall_time = their.wall_time
        check_event(our, their, 1e3, 1e3)


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "words"),
    [
        (("t", 1j), {}, TypeError, r"add_histogram\('t'\): values must be real"),
        (("t", "abc"), {}, TypeError, r"'t'.*values"),
        (("t", None), {}, TypeError, r"'t'.*values"),
        (("t", torch.empty(3, device="meta")), {}, TypeError, r"'t'.*meta"),
        (("t", [1.0], 1, 0), {}, ValueError, r"'t'.*bins"),
        (("t", [1.0], 1, "nonsense"), {}, ValueError, r"'t'.*bins='nonsense'"),
        (("t", [1.0], 1, [2, 1]), {}, ValueError, r"'t'.*bins"),
        (("t", [1.0], 1, ["a"]), {}, TypeError, r"'t'.*bins"),
        (("t", [1.0], 1, 10**30), {}, ValueError, r"'t'.*bins"),
        (("t", [1.0]), {"max_bins": 0}, ValueError, r"'t'.*max_bins"),
        (("t", [1.0]), {"max_bins": 10**30}, ValueError, r"'t'.*max_bins"),
        (("t", [1.0]), {"max_bins": "x"}, TypeError, r"'t'.*max_bins"),
        (("t", [1.0], "x"), {}, (TypeError, ValueError), r"'t'.*global_step"),
        (("t", [1.0]), {"walltime": "x"}, (TypeError, ValueError), r"'t'.*walltime"),
        ((5, [1.0]), {}, TypeError, "tag must be a str"),
        (("t",), {}, TypeError, "missing required argument: 'values'"),
        (("t", [1.0]), {"step": 1}, TypeError, "unexpected keyword argument 'step'"),
    ],
)
def test_wrong_calls_raise_naming_the_tag_and_lose_nothing(
    run, tmp_path, args, kwargs, error, words
):
    writer = SummaryWriter(tmp_path / "log")
    writer.add_histogram("t", [1.0], 1)
    with pytest.raises(error, match=words):
        writer.add_histogram(*args, **kwargs)
    writer.add_histogram("t", [1.0, 2.0], 2)
    tracelet.stop_logging()
    assert [(step, histo.num) for step, histo in histograms(writer.log_dir)["t"]] == [
        (1, 1.0), (2, 2.0),
    ]  # fmt: skip


def test_wrong_raw_calls_raise(run, tmp_path):
    writer = SummaryWriter(tmp_path / "log")
    with pytest.raises(ValueError, match=r"len\(bucket_limits\) != len\(bucket_counts\)"):
        writer.add_histogram_raw("t", 0, 1, 1, 1, 1, [1, 2], [1])
    with pytest.raises(TypeError, match=r"'t'.*min, max, num"):
        writer.add_histogram_raw("t", None, 1, 1, 1, 1, [1], [1])
    with pytest.raises(TypeError, match="'t'"):
        writer.add_histogram_raw("t", 0, 1, 1, 1, 1, ["a"], [1])
    tracelet.stop_logging()
    assert run.stats.accepted == 0
