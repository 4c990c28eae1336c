"""Scalars that lie on a device, with the CPU in its place: no call waits for their value."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tracelet
from readers import event_file_scalars, session_scalars
from tracelet import _core
from tracelet.backends.base import UNREADABLE
from tracelet.capture import device

torch = pytest.importorskip("torch")
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

pytestmark = pytest.mark.usefixtures("cpu_as_device", "nothing_stays_parked")


@pytest.fixture
def cpu_as_device():
    _core.treat_cpu_as_device(True)
    yield
    _core.treat_cpu_as_device(False)


@pytest.fixture
def nothing_stays_parked():
    before = set(device._parked)
    yield
    tracelet.stop_logging()
    assert set(device._parked) == before


@pytest.fixture
def no_waiting(monkeypatch):
    """The thread that logs does not call what waits for a device; the drainer may."""
    for name in ("item", "__float__", "tolist", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)

        def method(self, *args, original=original, name=name, **kwargs):
            assert threading.current_thread() is not threading.main_thread(), name
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, method)


@pytest.fixture
def writer(tmp_path):
    return SummaryWriter(tmp_path / "log")


def start(backend="tensorboard", **config):
    return tracelet.start_logging("device", "tests", backend=backend, config=config)


def logged(writer, tag="t"):
    return [(step, value) for step, value, _ in event_file_scalars(writer.log_dir)[tag]]


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float64", "int8", "int64", "uint8", "bool"]
)
def test_every_dtype_arrives_in_its_place(writer, no_waiting, dtype):
    values = torch.tensor([0, 1, 3, 1.5]).to(getattr(torch, dtype))
    expected = [float(value) for value in np.from_dlpack(values.to(torch.float64))]
    run = start()
    for step in range(4):
        writer.add_scalar("t", values[step], 2 * step)
        writer.add_scalar("t", float(step), 2 * step + 1)
    tracelet.stop_logging()
    assert logged(writer) == [
        point for step in range(4) for point in ((2 * step, expected[step]), (2 * step + 1, step))
    ]
    assert (run.stats.accepted, run.stats.pending, run.stats.dropped) == (8, 0, {})


def test_every_way_to_log_one_and_every_shape(writer, no_waiting, tmp_path):
    run = start(log_dir=str(tmp_path / "log"))
    loss = torch.nn.Parameter(torch.tensor(0.5)) * 3
    writer.add_scalar("t", loss, 1)
    writer.add_scalar("t", loss.reshape(1, 1), global_step=2, walltime=5.0)
    writer.add_scalar("t", torch.nn.Parameter(torch.tensor(2.5)))
    writer.add_scalars("many", {"a": loss, "b": 1.0}, 3)
    run.log_metric("metric", loss, 4)
    tracelet.stop_logging()
    assert logged(writer) == [(1, 1.5), (2, 1.5), (0, 2.5)]
    assert [value for _, value, _ in event_file_scalars(tmp_path / "log" / "many_a")["many"]] == [
        1.5
    ]
    found = {}
    for folder in (tmp_path / "log").parent.rglob("log"):
        found.update(event_file_scalars(folder))
    assert [(step, value) for step, value, _ in found["metric"]] == [(4, 1.5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_done_to_it_afterwards_is_not_seen(writer, dtype):
    start()
    value = torch.zeros((), dtype=dtype)
    for step in range(100):
        writer.add_scalar("t", value, step)
        value += 1
    tracelet.stop_logging()
    assert logged(writer) == [(step, step) for step in range(100)]


@pytest.mark.parametrize("backend", ["tensorboard", "clearml"])
def test_not_finite_ones_are_kept_or_counted_as_others_are(writer, backend):
    if backend == "clearml":
        pytest.importorskip("clearml")
    run = start(backend)
    for step, value in enumerate((float("nan"), float("inf"), 1.0)):
        writer.add_scalar("t", torch.tensor(value), step)
    url = run.url
    tracelet.stop_logging()
    assert str(logged(writer)) == "[(0, nan), (1, inf), (2, 1.0)]"
    if backend == "clearml":
        assert session_scalars(url)["t", "t"][0][:2] == (2, 1.0)
        assert run.stats.not_finite == 2


@pytest.mark.parametrize("failure", ["is never done", "raises"])
@pytest.mark.parametrize("backend", ["tensorboard", "clearml"])
@pytest.mark.parametrize("aggregate", [{}, {"*": {"every_steps": 2}}])
def test_a_device_that_fails_costs_that_point_alone(
    writer, monkeypatch, caplog, failure, backend, aggregate
):
    if backend == "clearml":
        pytest.importorskip("clearml")
    calls = []

    def wait(event):
        calls.append(event)
        if len(calls) == 3 and failure == "raises":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return len(calls) != 3

    monkeypatch.setattr(device, "_wait", wait)
    run = start(backend, aggregate=aggregate)
    for step in range(6):
        writer.add_scalar("t", torch.tensor(float(step)), step)
    tracelet.stop_logging()
    assert logged(writer) == [(step, step) for step in (0, 1, 3, 4, 5)]
    assert run.stats.dropped == {UNREADABLE: 2 if backend == "clearml" else 1}
    assert run.stats.delivered["tensorboard"] == 5
    assert (run.stats.accepted, run.stats.pending) == (6, 0)
    assert "device" in caplog.text


def test_wrong_ones_raise_as_ever_and_none_is_left_behind(writer):
    start()
    with pytest.raises((TypeError, ValueError), match=r"'t'.*exactly one"):
        writer.add_scalar("t", torch.zeros(2), 1)
    with pytest.raises(TypeError, match=r"'t'.*exactly one"):
        writer.add_scalar("t", torch.zeros((), dtype=torch.complex64), 1)
    with pytest.raises(TypeError, match=r"tag must be a str"):
        writer.add_scalar(5, torch.zeros(()), 1)
    with pytest.raises(TypeError, match=r"'t'.*global_step"):
        writer.add_scalar("t", torch.zeros(()), "one")
    writer.add_scalar("t", torch.ones(()), 1)
    tracelet.stop_logging()
    assert logged(writer) == [(1, 1.0)]


def test_one_that_finds_the_ring_full_is_counted_and_forgotten(tmp_path, monkeypatch):
    class Stuck:
        name, is_remote, takes_every_point = "stuck", False, True
        lets_go = False

        def write(self, batch):
            while not Stuck.lets_go:
                pass
            return tracelet.Delivery(len(batch))

        def close(self, process_is_ending):
            pass

    tracelet.register_sink("stuck", lambda info: Stuck())
    run = start("stuck", ring_slots=16, full_ring_timeout_s=0.05, tensorboard="off")
    writer = SummaryWriter(tmp_path / "log")
    for step in range(60):
        writer.add_scalar("t", torch.tensor(1.0), step)
    dropped = run.stats.dropped["ring full"]
    Stuck.lets_go = True
    tracelet.stop_logging()
    assert dropped > 20
    assert run.stats.accepted == 60 - dropped == run.stats.delivered["stuck"]
