"""Histograms of a run: values not finite, tensors that change, threads, forks, full rings."""

from __future__ import annotations

import os
import pathlib
import sys
import threading
import time

import numpy as np
import pytest
import tracelet
from readers import event_files, events, histograms

torch = pytest.importorskip("torch")
from torch.utils.tensorboard import SummaryWriter  # noqa: E402


def start(**config):
    return tracelet.start_logging("capture", "tests", backend="tensorboard", config=config)


@pytest.fixture
def run(tmp_path):
    return start()


@pytest.fixture
def writer(tmp_path):
    return SummaryWriter(tmp_path / "log")


def logged(writer, tag="t"):
    tracelet.stop_logging()
    return histograms(writer.log_dir)[tag]


NAN, INF = float("nan"), float("inf")


def test_values_that_are_not_finite_are_left_out_and_told_once_a_tag(run, writer, caplog):
    some = torch.tensor([1.0, NAN, 2.0, INF, -INF, NAN, -3.0])
    for step in range(50):
        writer.add_histogram("some", some, step)
        writer.add_histogram("all", torch.full((4,), NAN), step)
        writer.add_histogram("empty", torch.empty(0, 3), step)
        writer.add_histogram("good", torch.ones(5), step)
    writer.add_histogram("list", [1.0, NAN], 0)
    tracelet.stop_logging()
    assert run.stats.not_finite_values == 50 * (4 + 4) + 1
    assert run.stats.accepted == run.stats.delivered["tensorboard"] == 201
    assert (run.stats.dropped, run.stats.not_finite) == ({}, 0)
    told = [line for line in caplog.text.splitlines() if "tracelet" in line]
    assert sum("'some'" in line and "2 NaN and 2 infinite of 7" in line for line in told) == 1
    assert sum("'all'" in line and "4 NaN and 0 infinite of 4" in line for line in told) == 1
    assert sum("'empty'" in line and "no values" in line for line in told) == 1
    assert sum("'list'" in line for line in told) == 1
    assert len(told) == 4
    found = histograms(writer.log_dir)
    finite = tracelet.histogram([1.0, 2.0, -3.0])
    for step, histo in found["some"]:
        assert 0 <= step < 50
        assert (histo.min, histo.max, histo.num) == (-3.0, 2.0, 3.0)
        assert (histo.sum, histo.sum_squares) == (0.0, 14.0)
        assert [count for count in histo.bucket if count] == list(finite.counts[finite.counts > 0])
    for tag in ("all", "empty"):
        assert len(found[tag]) == 50
        for _, histo in found[tag]:
            assert not histo.bucket
            assert (histo.num, histo.min, histo.max, histo.sum) == (0, 0, 0, 0)
    assert len(found["good"]) == 50


def test_each_run_tells_of_a_tag_anew(writer, caplog):
    for _ in range(2):
        start()
        writer.add_histogram("t", [NAN, 1.0], 1)
        tracelet.stop_logging()
    assert caplog.text.count("1 NaN and 0 infinite of 2") == 2


def test_infinities_are_in_bins_that_reach_there(run, writer):
    writer.add_histogram("t", [-INF, 1.0, 2.0, INF, NAN], 1, bins=[-INF, 1.5, INF])
    ((_, histo),) = logged(writer)
    assert list(histo.bucket) == [0, 2, 2]
    assert (histo.min, histo.max, histo.num) == (1, 2, 2)


def test_a_histogram_beyond_the_payloads_room_raises_and_loses_nothing_else(writer):
    run = start(payload_bytes=65_536)
    values = np.random.default_rng(1).normal(size=100_000)
    writer.add_scalar("loss", 1.0, 1)
    writer.add_histogram("t", values, 1)
    for bins in (50_000, "tensorflow"):
        if bins != "tensorflow":
            with pytest.raises(ValueError, match=r"'t'.*payload_bytes"):
                writer.add_histogram("t", values, 2, bins=bins)
        writer.add_histogram("t", values, 3)
    writer.add_histogram("t", values, 4, bins=50_000, max_bins=1_000)
    tracelet.stop_logging()
    assert [step for step, _ in histograms(writer.log_dir)["t"]] == [1, 3, 3, 4]
    assert run.stats.accepted == run.stats.delivered["tensorboard"] == 5


def test_what_is_changed_in_place_after_the_call_does_not_change_what_was_logged(run, writer):
    tensor = torch.empty(1000)
    for step in range(2000):
        tensor.fill_(step)
        writer.add_histogram("t", tensor, step)
        tensor.fill_(-1)
    edges = [0.0, 1.0, 2.0]
    array, changing = np.zeros(50), list(edges)
    writer.add_histogram("u", array, 0, bins=changing)
    array += 5
    changing[0] = 1.5
    large = torch.ones(5_000_000)
    writer.add_histogram("large", large, 0)
    large.zero_()
    for step, histo in logged(writer):
        assert (histo.min, histo.max, histo.sum) == (step, step, 1000 * step)
    found = histograms(writer.log_dir)
    assert len(found["t"]) == 2000
    assert list(found["u"][0][1].bucket) == [0, 50]
    assert (found["large"][0][1].min, found["large"][0][1].num) == (1, 5_000_000)


def test_four_threads_log_one_tensor_at_once(run, writer):
    shared = torch.tensor(np.random.default_rng(3).normal(size=60_000))
    expected = np.histogram(shared.numpy(), bins=50)[0]
    tags = [f"thread{number}" for number in range(4)]
    errors = []

    def log(tag):
        try:
            for step in range(300):
                writer.add_histogram(tag, shared[: 60_000 if step % 2 else 600], step, bins=50)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=log, args=(tag,)) for tag in tags]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracelet.stop_logging()
    assert errors == []
    found = histograms(writer.log_dir)
    small = np.histogram(shared.numpy()[:600], bins=50)[0]
    for tag in tags:
        assert [step for step, _ in found[tag]] == list(range(300))
        for step, histo in found[tag]:
            assert list(histo.bucket) == [0, *(expected if step % 2 else small)]


def test_other_threads_run_while_a_large_tensor_is_counted(writer):
    start(histogram_threads=1)
    large = torch.ones(32 << 20)
    small = torch.ones(100)
    count, is_over = [0], threading.Event()

    def advance():
        while not is_over.is_set():
            for _ in range(200):
                count[0] += 1
            time.sleep(0)  # lets go of the GIL

    def advanced_during(values):
        before = count[0]
        writer.add_histogram("t", values, 1)
        return count[0] - before

    writer.add_histogram("t", small, 0)
    interval_s = sys.getswitchinterval()
    thread = threading.Thread(target=advance)
    thread.start()
    # Nobody is made to let go of the GIL: the thread advances only when the call does so itself.
    sys.setswitchinterval(5)
    try:
        while count[0] < 1000:
            time.sleep(0.001)
        during_small = min(advanced_during(small) for _ in range(5))
        during_large = advanced_during(large)
    finally:
        sys.setswitchinterval(interval_s)
        is_over.set()
        thread.join()
    assert during_small == 0
    assert during_large >= 2000
    assert logged(writer)[-1][1].num == 32 << 20


METHODS = ["add_scalar", "add_scalars", "add_histogram", "add_histogram_raw", "flush", "close"]


def test_restored_exactly_and_a_kept_bound_method_goes_to_torch(writer):
    originals = {name: SummaryWriter.__dict__[name] for name in METHODS}
    for _ in range(2):
        start()
        kept, kept_raw = writer.add_histogram, writer.add_histogram_raw
        assert all(SummaryWriter.__dict__[name] is not originals[name] for name in METHODS)
        tracelet.stop_logging()
        assert all(SummaryWriter.__dict__[name] is originals[name] for name in METHODS)
    kept("t", torch.tensor([1.0, 2.0]), global_step=4, bins=[0.0, 3.0])
    kept_raw("r", 0, 1, 1, 1, 1, bucket_limits=[1.0], bucket_counts=[2], global_step=5)
    writer.close()
    files = [path for path in pathlib.Path(writer.log_dir).glob("*tfevents*") if path.is_file()]
    assert not any(path in event_files(writer.log_dir) for path in files)
    values = [value for path in files for event in events(path) for value in event.summary.value]
    assert [(value.tag, list(value.histo.bucket)) for value in values] == [
        ("t", [0, 2]),
        ("r", [2]),
    ]
    with pytest.raises(TypeError, match="values"):
        kept("t")


def test_signatures_are_those_of_torch():
    import inspect

    def parameters():
        return [
            [(p.name, p.default) for p in inspect.signature(method).parameters.values()]
            for method in (SummaryWriter.add_histogram, SummaryWriter.add_histogram_raw)
        ]

    before = parameters()
    start()
    assert parameters() == before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_childs_histograms_arrive(run_script, tmp_path):
    run_script(
        """
        import os, torch, tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging("forks", "tests", backend="tensorboard")
        writer = SummaryWriter("log")
        big = torch.ones(2_000_000)
        writer.add_histogram("parent", big, 0)
        children = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                for step in range(500):
                    writer.add_histogram(f"child{number}", torch.full((100,), step), step, bins=5)
                writer.add_histogram(f"child{number}", big, 500)
                os._exit(0)
            children.append(pid)
        for step in range(1, 500):
            writer.add_histogram("parent", big[:step], step)
        assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
        tracelet.stop_logging()
        assert experiment.stats.accepted == 3 * 501 + 500, experiment.stats
        """
    )
    found = histograms(tmp_path / "log")
    for number in range(3):
        points = found[f"child{number}"]
        assert [step for step, _ in points] == list(range(501))
        assert all(histo.sum == 100 * step for step, histo in points[:500])
        assert points[500][1].num == 2_000_000
    assert [step for step, _ in found["parent"]] == list(range(500))


@pytest.mark.parametrize("ring_slots", [16, 1 << 17])
def test_twenty_thousand_histograms_pass_through_little_room(writer, ring_slots):
    run = start(payload_bytes=65_536, ring_slots=ring_slots)
    values = torch.arange(64.0)
    for step in range(20_000):
        writer.add_histogram("t", values[: 1 + step % 64], step)
    points = logged(writer)
    assert [step for step, _ in points] == list(range(20_000))
    assert all(histo.num == 1 + step % 64 == sum(histo.bucket) for step, histo in points)
    assert run.stats.dropped == {}


def test_a_sink_of_ones_own_reads_histograms():
    kept = []

    class Sink:
        name, is_remote, takes_every_point = "mine", False, False

        def write(self, batch):
            for record in batch.records:
                if record["kind"] == tracelet.HISTOGRAM:
                    kept.append((batch.tag(record["tag_id"]), batch.histogram(record)))
            return tracelet.Delivery(len(batch))

        def close(self, process_is_ending):
            pass

    values = np.random.default_rng(5).normal(size=4000)
    tracelet.register_sink("mine", lambda info: Sink())
    tracelet.start_logging("own", "tests", backend="mine")
    writer = SummaryWriter("log")
    writer.add_scalar("s", 1.0, 1)
    writer.add_histogram("t", values, 1)
    writer.add_histogram("t", [*values, NAN, INF], 2, bins=30)
    tracelet.stop_logging()
    (tag, first), (_, second) = kept
    assert tag == "t"
    assert np.array_equal(first.counts, np.histogram(values, first.bin_edges)[0])
    whole = tracelet.histogram(values)
    assert first.counts.sum() == whole.num == first.num
    assert (first.min, first.max, first.sum) == (whole.min, whole.max, whole.sum)
    assert np.array_equal(second.counts, np.histogram(values, second.bin_edges)[0])
    assert (second.nan_count, second.inf_count, second.num) == (1, 1, 4000)
