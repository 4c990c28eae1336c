"""Histograms of tensors on a device, with the CPU in its place."""

from __future__ import annotations

import numpy as np
import pytest
import tracelet
from readers import event_file_scalars, histograms
from tracelet import _core
from tracelet.backends.base import UNREADABLE
from tracelet.capture import device
from tracelet.capture.histogram import count

torch = pytest.importorskip("torch")
from torch.utils.tensorboard import SummaryWriter  # noqa: E402


@pytest.fixture
def cpu_as_device():
    _core.treat_cpu_as_device(True)
    yield
    _core.treat_cpu_as_device(False)


@pytest.fixture
def writer(tmp_path):
    return SummaryWriter(tmp_path / "log")


def start(backend="tensorboard", **config):
    return tracelet.start_logging("device", "tests", backend=backend, config=config)


def write_both_ways(tmp_path, calls):
    """What the calls leave, and the stats, of the normal way and of the way by the device."""
    found = []
    for is_device in (False, True):
        _core.treat_cpu_as_device(is_device)
        try:
            run = start()
            writer = SummaryWriter(tmp_path / f"log{is_device}")
            for number, (args, kwargs) in enumerate(calls):
                writer.add_histogram("t", *args, **kwargs, global_step=number)
            tracelet.stop_logging()
        finally:
            _core.treat_cpu_as_device(False)
        found.append((histograms(writer.log_dir)["t"], run.stats))
    return found


def check_both_ways(tmp_path, calls):
    (normal, stats), (by_device, device_stats) = write_both_ways(tmp_path, calls)
    assert len(normal) == len(by_device) == len(calls)
    for (step, ours), (device_step, theirs), (args, _) in zip(normal, by_device, calls):
        assert step == device_step
        assert list(ours.bucket_limit) == list(theirs.bucket_limit)
        assert list(ours.bucket) == list(theirs.bucket)
        assert (ours.min, ours.max, ours.num) == (theirs.min, theirs.max, theirs.num)
        floats = torch.as_tensor(args[0]).detach().double()
        floats = floats[floats.isfinite()]
        assert abs(ours.sum - theirs.sum) <= 1e-12 * float(floats.abs().sum())
        assert abs(ours.sum_squares - theirs.sum_squares) <= 1e-12 * float((floats**2).sum())
    assert stats == device_stats


RNG = np.random.default_rng(8)
NORMAL = RNG.normal(size=5000) * 10.0 ** RNG.integers(-6, 5, 5000)
EDGES = [
    [-10.0, 0.0, 10.0], np.linspace(-3, 3, 50), torch.linspace(-1, 1, 12), [-1e30, 0, 0, 5, 1e30],
    [-np.inf, 0.0, np.inf], [5.0, 5.0, 5.0], range(-5, 6),
]  # fmt: skip


@pytest.mark.parametrize(
    "dtype",
    [
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "bool",
    ],
)
def test_every_dtype_and_bins(tmp_path, dtype):
    values = torch.tensor(np.clip(NORMAL, -120, 120))
    if dtype == "uint8":
        values = values.abs()
    values = values.to(getattr(torch, dtype))
    calls = [((values,), {}), ((values,), {"bins": "tensorflow", "max_bins": 30})]
    calls += [((values,), {"bins": edges}) for edges in EDGES]
    calls += [((values,), {"bins": edges, "max_bins": 5}) for edges in EDGES]
    calls += [((values,), {"bins": bins}) for bins in (10, "sqrt")]  # the copy's way
    if values.is_floating_point():
        others = values.clone()
        others[::7], others[3::11], others[5::13] = float("nan"), float("inf"), -float("inf")
        calls += [((others,), {}), ((others,), {"bins": EDGES[4]}), ((others,), {"bins": EDGES[1]})]
        calls += [((values[:9] * float("nan"),), {})]
    check_both_ways(tmp_path, calls)


def test_values_at_every_edge_and_beside_it(tmp_path):
    edges = _core.tensorflow_edges()
    near = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)])
    own = np.sort(RNG.normal(size=300))
    beside = np.concatenate([own, np.nextafter(own, -np.inf), np.nextafter(own, np.inf)])
    calls = [((torch.tensor(near),), {}), ((torch.tensor(near, dtype=torch.float32),), {})]
    calls += [((torch.tensor(beside),), {"bins": own})]
    check_both_ways(tmp_path, calls)


def test_empty_tensors_views_and_gradients(tmp_path):
    tensor = torch.tensor(NORMAL).reshape(10, 5, 100)
    tensors = [
        torch.empty(0), torch.empty(3, 0, 2), tensor[3:3], tensor[0, 0, 0], tensor.permute(2, 0, 1),
        tensor[::3, 1:, ::7], tensor[:1, :1].expand(4, 3, 100), torch.nn.Parameter(tensor.float()),
        torch.complex(tensor, tensor).conj().imag, torch.zeros(4), -torch.zeros(4),
    ]  # fmt: skip
    calls = [((each,), kwargs) for each in tensors for kwargs in ({}, {"bins": EDGES[0]})]
    check_both_ways(tmp_path, calls)


def test_a_tensor_longer_than_a_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("tracelet.capture.histogram._PIECE_ELEMENTS", 1000)
    calls = [((torch.tensor(NORMAL[:size]),), {}) for size in (999, 1000, 1001, 5000)]
    check_both_ways(tmp_path, calls)


def test_count_is_numpys():
    values = NORMAL.copy()
    values[::50], values[1::50], values[2::50] = np.nan, np.inf, -np.inf
    for edges in (
        _core.tensorflow_edges(),
        np.array([-np.inf, -1, -1, 0, 2]),
        np.array([0.0, 0.0]),
    ):
        found = count(torch, torch.tensor(values), torch.tensor(edges)).numpy()
        num, nan_count, inf_count, total, squares, low, high = found[:7]
        finite = values[np.isfinite(values)]
        assert np.array_equal(found[7:], np.histogram(values, edges)[0])
        assert (num, nan_count, inf_count) == (len(finite), 100, 200)
        assert (low, high) == (finite.min(), finite.max())
        assert abs(total - finite.sum()) <= 1e-12 * abs(finite).sum()
        assert abs(squares - (finite**2).sum()) <= 1e-12 * (finite**2).sum()


def test_what_is_changed_after_the_call_does_not_change_what_was_logged(cpu_as_device, writer):
    start()
    tensor, edges = torch.empty(1000), torch.tensor([0.0, 1e6])
    for step in range(100):
        tensor.fill_(step)
        writer.add_histogram("t", tensor, step)
        writer.add_histogram("own", tensor, step, bins=edges)
        tensor.fill_(-1)
    tracelet.stop_logging()
    found = histograms(writer.log_dir)
    for tag in ("t", "own"):
        assert [step for step, _ in found[tag]] == list(range(100))
        assert all(histo.sum == 1000 * step for step, histo in found[tag])


def test_values_that_are_not_finite_are_told_once_a_tag(cpu_as_device, writer, caplog):
    run = start()
    for step in range(20):
        writer.add_histogram("some", torch.tensor([1.0, np.nan, np.inf]), step)
        writer.add_histogram("empty", torch.empty(0), step)
    tracelet.stop_logging()
    assert caplog.text.count("1 NaN and 1 infinite of 3 values") == 1
    assert caplog.text.count("there are no values") == 1
    assert run.stats.not_finite_values == 40


@pytest.mark.parametrize("failure", ["is never done", "raises", "gives nothing"])
@pytest.mark.parametrize("backend", ["tensorboard", "clearml"])
def test_a_device_that_fails_costs_that_record_alone(
    cpu_as_device, writer, monkeypatch, caplog, failure, backend
):
    calls = []

    def wait(event):
        calls.append(event)
        if len(calls) == 3 and failure == "raises":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return len(calls) != 3

    if failure == "gives nothing":
        complete = device.complete
        monkeypatch.setattr(
            device, "complete", lambda ticket: complete(ticket) if wait(None) else None
        )
    else:
        monkeypatch.setattr(device, "_wait", wait)
    if backend == "clearml":
        pytest.importorskip("clearml")
    run = start(backend)
    for step in range(6):
        writer.add_scalar("s", step, step)
        writer.add_histogram("t", torch.ones(10 + step), step)
    tracelet.stop_logging()
    assert len(calls) == 6
    found = histograms(writer.log_dir)["t"]
    assert [(step, histo.num) for step, histo in found] == [
        (step, 10 + step) for step in (0, 1, 3, 4, 5)
    ]
    assert [step for step, _, _ in event_file_scalars(writer.log_dir)["s"]] == list(range(6))
    sinks = 2 if backend == "clearml" else 1
    assert run.stats.dropped == {UNREADABLE: sinks}
    assert run.stats.delivered["tensorboard"] == 11
    assert run.stats.delivered.get("clearml", 11) == 11
    assert (run.stats.accepted, run.stats.pending) == (12, 0)
    if failure != "gives nothing":
        assert "device" in caplog.text


def test_a_ring_that_is_full_of_them_waits_for_room(cpu_as_device, writer):
    run = start(payload_bytes=65_536)
    values = torch.arange(100.0)
    for step in range(200):
        writer.add_histogram("t", values[: 1 + step % 100], step)
        writer.add_scalar("s", step, step)
    tracelet.stop_logging()
    assert [histo.num for _, histo in histograms(writer.log_dir)["t"]] == [
        1 + step % 100 for step in range(200)
    ]
    assert run.stats.dropped == {}


def test_edges_too_many_for_the_payloads_raise_and_are_forgotten(cpu_as_device, writer):
    start(payload_bytes=65_536)
    before = len(device._parked)
    for _ in range(3):
        with pytest.raises(ValueError, match=r"'t'.*payload_bytes"):
            writer.add_histogram("t", torch.ones(10), bins=np.linspace(0, 2, 10_000))
    for bins in ([3, 2, 1], [[1, 2]], [1.0, float("nan")], ["a"], 0, "nonsense"):
        with pytest.raises((TypeError, ValueError), match=r"'t'.*bins"):
            writer.add_histogram("t", torch.ones(10), bins=bins)
    with pytest.raises((TypeError, ValueError), match=r"'t'.*values"):
        writer.add_histogram("t", torch.ones(2, dtype=torch.complex64))
    writer.add_histogram("t", torch.ones(10), 1)
    tracelet.stop_logging()
    assert [step for step, _ in histograms(writer.log_dir)["t"]] == [1]
    assert len(device._parked) == before
