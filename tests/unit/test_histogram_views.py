"""Histograms over time for ClearML: bounded, and the same however the records came in batches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tracelet
from tracelet import _core
from tracelet.backends.base import Batch, RunInfo
from tracelet.backends.clearml.series import HistogramViews, SeriesEncoder
from tracelet.options import Options

EDGES = np.linspace(-5, 5, 31)


class Names:
    """Tag 1 is 'layer/w', 2 is 'plain', 3 a scalar's; writer 9's folder is 'logs'."""

    def text(self, id):
        return {1: "layer/w", 2: "plain", 3: "loss", 9: "logs"}[id]


def payload(counts, edges=EDGES):
    counts = np.asarray(counts, dtype=np.float64)
    return _core.encode_counts(
        counts, edges, min=edges[0], max=edges[-1], sum=0.0, sum_squares=1.0,
        num=int(counts.sum()), nan_count=0, inf_count=0, max_bins=0,
    )  # fmt: skip


def stream(count, tag_ids=(1,), payload_count=97):
    """(records, payloads, total by step): steps from 0, each with a histogram of every tag."""
    rng = np.random.default_rng(21)
    payloads, places, totals = b"", [], []
    for number in range(payload_count):
        counts = rng.integers(0, 50, 30)
        counts[0], counts[-1] = 1, 1 + number
        one = payload(counts)
        places.append((len(payloads), len(one)))
        totals.append(int(counts.sum()))
        payloads += one + b"\0" * (-len(one) % 8)
    records = np.zeros(count, dtype=tracelet.RECORD_DTYPE)
    numbers = np.arange(count)
    records["sequence"] = numbers + 1
    records["step"] = numbers // len(tag_ids)
    records["tag_id"] = np.array(tag_ids)[numbers % len(tag_ids)]
    records["writer_id"] = 9
    records["kind"] = np.where(records["tag_id"] == 3, tracelet.SCALAR, tracelet.HISTOGRAM)
    which = records["step"] % payload_count
    is_histogram = records["kind"] == tracelet.HISTOGRAM
    records["payload_offset"] = np.where(is_histogram, np.array(places)[which, 0], 0)
    records["payload_size"] = np.where(is_histogram, np.array(places)[which, 1], 0)
    records.flags.writeable = False
    return records, payloads, lambda step: totals[step % payload_count]


def views_of(records, payloads, cuts, take_between=False):
    """The last figure of each series, when the records come in pieces that end at `cuts`."""
    views = HistogramViews(SeriesEncoder("task"), 60.0)
    figures = {}
    for first, end in zip([0, *cuts], [*cuts, len(records)]):
        if first == end:
            continue
        views.observe(Batch(records[first:end], Names(), payloads))
        if take_between:
            figures.update(taken(views))
    figures.update(taken(views))
    return figures


def taken(views):
    return {
        (event["metric"], event["variant"]): event["plot_str"]
        for event in (json.loads(line) for _, line in views.take())
    }


def check_view(figure, total_of, last_step):
    (trace,) = json.loads(figure)["data"]
    assert trace["type"] == "heatmap"
    assert len(figure.encode()) <= 65_536
    assert len(trace["y"]) == len(trace["z"]) <= 49
    assert trace["y"][0] == 0
    assert trace["y"][-1] == last_step
    assert trace["y"] == sorted(set(trace["y"]))
    assert [sum(row) for row in trace["z"]] == [total_of(step) for step in trace["y"]]
    return trace


def test_a_hundred_thousand_steps_make_a_bounded_view():
    records, payloads, total_of = stream(100_000)
    ((name, figure),) = views_of(records, payloads, range(5_000, 100_000, 5_000)).items()
    assert name == ("layer", "w over time")
    trace = check_view(figure, total_of, 99_999)
    assert len(trace["y"]) >= 25
    gaps = np.diff(trace["y"][:-1])  # spread evenly over the run
    assert len(set(gaps.tolist())) == 1


@pytest.mark.parametrize("count", [1, 2, 47, 48, 49, 50, 95, 96, 97, 1_000])
def test_a_view_is_whole_at_any_length(count):
    records, payloads, total_of = stream(count)
    ((_, figure),) = views_of(records, payloads, []).items()
    trace = check_view(figure, total_of, count - 1)
    if count <= 48:
        assert trace["y"] == list(range(count))


def test_the_sizes_of_batches_do_not_matter():
    records, payloads, total_of = stream(6_000, tag_ids=(1, 3, 2))
    expected = views_of(records, payloads, [])
    assert set(expected) == {("layer", "w over time"), ("Histograms", "plain over time")}
    for figure in expected.values():
        check_view(figure, total_of, 1_999)
    rng = np.random.default_rng(1)
    for cut_count in (1, 5, 60, 700):
        cuts = sorted(rng.integers(0, 6_000, cut_count).tolist())
        assert views_of(records, payloads, cuts) == expected
        assert views_of(records, payloads, cuts, take_between=True) == expected


def test_a_batch_that_is_given_again_is_taken_in_once():
    records, payloads, _ = stream(500)
    expected = views_of(records, payloads, [])
    views = HistogramViews(SeriesEncoder("task"), 60.0)
    for first, end in [(0, 100), (0, 100), (0, 150), (150, 160), (150, 500), (150, 500)]:
        views.observe(Batch(records[first:end], Names(), payloads))
    assert taken(views) == expected


def test_a_view_is_given_when_it_changed_or_was_put_back():
    records, payloads, _ = stream(20, tag_ids=(1, 2))
    views = HistogramViews(SeriesEncoder("task"), 0.0)
    assert views.are_due
    assert views.take() == []
    views.observe(Batch(records[:10], Names(), payloads))
    first = views.take()
    assert len(first) == 2
    assert views.take() == []
    views.put_back(first[1][0])
    assert [key for key, _ in views.take()] == [first[1][0]]
    views.observe(Batch(records[10:11], Names(), payloads))
    assert [key for key, _ in views.take()] == [first[0][0]]
    assert not HistogramViews(SeriesEncoder("task"), 60.0).are_due


def test_steps_in_any_order_and_twice_are_shown_sorted_with_the_last_one():
    records, payloads, _ = stream(40)
    mixed = records.copy()
    mixed["step"] = np.array([5, -3, 5, 2**62, 0, 5, 9, 9])[np.arange(40) % 8]
    mixed.flags.writeable = False
    ((_, figure),) = views_of(mixed, payloads, []).items()
    (trace,) = json.loads(figure)["data"]
    assert trace["y"] == [-3, 0, 5, 9, 2**62]


def test_the_largest_view_has_its_room():
    """Counts of nine digits in every cell, numbers of the longest form, long steps."""
    rng = np.random.default_rng(2)
    edges = np.sort(rng.normal(size=1000)) * 1.2345678e-300
    blob = payload(rng.integers(10**12, 10**13, 999), edges)
    records = np.zeros(1_000, dtype=tracelet.RECORD_DTYPE)
    records["sequence"] = np.arange(1, 1_001)
    records["step"] = 2**62 + np.arange(1_000)
    records["tag_id"], records["writer_id"] = 1, 9
    records["kind"], records["payload_size"] = tracelet.HISTOGRAM, len(blob)
    records.flags.writeable = False
    ((_, figure),) = views_of(records, blob, []).items()
    assert len(figure.encode()) <= 65_536
    json.loads(figure)


def test_a_payload_that_did_not_come_is_passed_over():
    records, payloads, total_of = stream(30)
    broken = records.copy()
    broken["payload_size"][10] = 8
    broken["payload_offset"][11] = 1 << 60
    broken.flags.writeable = False
    ((_, figure),) = views_of(broken, payloads, []).items()
    trace = check_view(figure, total_of, 29)
    assert trace["y"] == [step for step in range(30) if step not in (10, 11)]


def kept_views(tmp_path, is_reopened):
    info = RunInfo(Options(), "run", str(tmp_path), {} if is_reopened else None)
    return HistogramViews.of_run(SeriesEncoder("task"), info)


def test_another_process_goes_on_with_the_views_that_were_kept(tmp_path):
    records, payloads, _ = stream(300, (1, 2, 3))
    expected = views_of(records, payloads, [])
    first = kept_views(tmp_path, False)
    first.observe(Batch(records[:200], Names(), payloads))
    assert taken(first)
    first.observe(Batch(records[200:220], Names(), payloads))  # dies before it keeps these
    second = kept_views(tmp_path, True)
    assert taken(second) == views_of(records[:200], payloads, [])  # that may not have been sent
    second.observe(Batch(records[190:], Names(), payloads))
    assert taken(second) == expected


def test_views_that_are_not_kept_whole_are_not_shown(tmp_path):
    records, payloads, _ = stream(60, (1, 2))
    first = kept_views(tmp_path, False)
    first.observe(Batch(records, Names(), payloads))
    taken(first)
    path = tmp_path / "clearml_views.bin"
    content = path.read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(300):
        at = int(rng.integers(9, len(content)))
        changed = bytearray(content)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed[: at + 1] if rng.random() < 0.3 else changed)
        views = kept_views(tmp_path, True)
        views.observe(Batch(records, Names(), payloads))
        assert taken(views) == {}
    path.unlink()
    views = kept_views(tmp_path, True)
    views.observe(Batch(records, Names(), payloads))
    assert taken(views) == {}
