"""Points on their way to W&B: which of them make a row, and which row is sent once."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("wandb")

from tracelet.backends import parts
from tracelet.backends.base import UNREADABLE, Batch
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.kept import KeptLines
from tracelet.backends.parts import NoForm, Parameters, Scalar
from tracelet.backends.wandb import media
from tracelet.backends.wandb import sink as sink_module
from tracelet.backends.wandb.log_file import row_column
from tracelet.backends.wandb.names import artifact_name, clean_name, project_name, tag_names
from tracelet.backends.wandb.rows import Plan, Plans, Point, rows_of
from tracelet.backends.wandb.sink import DISABLED, DisabledSink, WandbSink
from tracelet.errors import SinkUnavailableError
from tracelet.histograms import Histogram
from tracelet.records import AWAITS_DEVICE, EVENT, HISTOGRAM, RECORD_DTYPE, SCALAR

# ---- Rows, and the batches that they are of.


def test_a_row_ends_where_the_step_changes_or_a_tag_comes_again():
    points = [Point("a", 1, 0.1, 1.0), Point("b", 1, 0.2, 2.0), Point("a", 1, 0.3, 3.0),
              Point("a", 0, 0.4, 4.0)]  # fmt: skip
    rows = [(row.step, row.wall_time_s, row.values) for row in rows_of(points)]
    assert rows == [(1, 0.1, {"a": 1.0, "b": 2.0}), (1, 0.3, {"a": 3.0}), (0, 0.4, {"a": 4.0})]


def test_batches_have_the_numbers_that_they_were_written_down_with(tmp_path):
    plans = Plans(KeptLines(str(tmp_path), "rows"), 3)
    assert plans.next_row(0) == 3
    assert plans.next_row(5) == 5
    plans.add(Plan(1, 10, 3, 4))
    plans.add(Plan(11, 20, 7, 2))
    assert plans.next_row(0) == 9
    assert plans.of(1, 10) == plans.of(1, 12) == Plan(1, 10, 3, 4)
    assert plans.of(1, 9) is plans.of(2, 10) is None
    assert (plans.next_first(0), plans.next_first(1), plans.next_first(11)) == (1, 11, None)
    plans.settle(6)
    assert plans.done == 0
    plans.settle(7)
    assert (plans.done, plans.of(1, 10)) == (10, None)
    plans.close()
    again = Plans(KeptLines(str(tmp_path), "rows"), 3)
    assert again.of(1, 10) == Plan(1, 10, 3, 4)
    again.add(Plan(15, 20, 9, 1))  # what began behind it is of no use any more
    assert again.of(11, 20) is None
    assert again.of(15, 20) == Plan(15, 20, 9, 1)
    again.settle(100)
    assert again.done == 20
    again.close()
    with open(tmp_path / "rows", "a") as file:
        file.write('[1, 2, 3]\n{"a": 1}\n[1, 2, 3, "x"]\n[21, 22, 10, 1]\n')
    assert Plans(KeptLines(str(tmp_path), "rows"), 3).next_row(0) == 11


def test_a_long_list_of_batches_is_cut_to_those_that_are_open_and_one_unwritten_sends_nothing():
    class Lines:
        is_large, replaced, appended = True, None, True

        def read(self):
            return [[1, 10, 0, 2], [11, 20, 2, 2]]

        def replace(self, rows):
            self.replaced = rows

        def append(self, *plan):
            return self.appended

    lines = Lines()
    plans = Plans(lines, 0)
    plans.settle(2)
    plans.add(Plan(21, 30, 4, 1))
    assert lines.replaced == [(1, 10, 0, 2), (11, 20, 2, 2)]
    lines.appended = False
    with pytest.raises(SinkUnavailableError):
        plans.add(Plan(31, 40, 5, 1))
    assert plans.of(31, 40) is None


class Names:
    def text(self, id):
        return {0: "", 1: "/logs\0", 2: "a", 3: "b", 4: "c"}[id]


def batch_of(*records):
    """Of (kind, sequence, tag id, step, value, flags)."""
    rows = np.zeros(len(records), RECORD_DTYPE)
    for number, (kind, sequence, tag_id, step, value, flags) in enumerate(records):
        rows[number]["kind"], rows[number]["sequence"] = kind, sequence
        rows[number]["tag_id"], rows[number]["step"] = tag_id, step
        rows[number]["value"], rows[number]["flags"] = value, flags
        rows[number]["wall_time"], rows[number]["writer_id"] = sequence + 0.5, 1
    rows.flags.writeable = False
    return Batch(rows, Names(), b"")


def scalars(first, count, step=None):
    return [(SCALAR, n, 2, n if step is None else step, n / 2, 0)
            for n in range(first, first + count)]  # fmt: skip


class Rows:
    """W&B, in whose file a row is as soon as it is logged, unless `stops`."""

    def __init__(self):
        self.rows, self.stops = [], False
        self.log = SimpleNamespace(rows_end=0, refresh=lambda: None, wait_for=self.wait_for)

    def log_row(self, number, step, wall_time_s, values):
        self.rows.append((number, step, wall_time_s, dict(values)))
        if not self.stops:
            self.log.rows_end = number + 1

    def wait_for(self, is_there, what):
        assert what == "rows"
        if not is_there():
            raise SinkUnavailableError("away")


@pytest.fixture
def made(tmp_path):
    def make(rows):
        plans = Plans(KeptLines(str(tmp_path), "rows"), 0)
        names = FlatNames(KeptLines(str(tmp_path), "names"), clean_name)
        params = []
        sink = WandbSink(rows, plans, names, params.append)
        sink.params = params
        return sink

    return make


def test_what_is_given_again_is_no_row_a_second_time(made):
    rows = Rows()
    sink = made(rows)
    rows.stops = True
    first = batch_of(*scalars(1, 3), *scalars(4, 1, step=9))
    for _ in range(2):
        with pytest.raises(SinkUnavailableError):
            sink.write(first)
    assert [number for number, *_ in rows.rows] == [0, 1, 2, 3]  # handed to W&B once
    assert rows.rows[1] == (1, 2, 2.5, {"a": 1.0})
    rows.log.rows_end = 2  # the process dies now; another one gives all of it again, and more
    sink.close(False)
    after = Rows()
    after.log.rows_end = 2
    other = made(after)
    delivery = other.write(batch_of(*scalars(1, 3), *scalars(4, 1, step=9), *scalars(5, 2)))
    assert [number for number, *_ in after.rows] == [2, 3, 4, 5]
    assert (delivery.delivered, delivery.set_aside) == (6, {})
    assert other.write(batch_of(*scalars(5, 2))).delivered == 2
    assert len(after.rows) == 4
    other.close(False)


def test_a_batch_that_begins_before_one_that_is_written_down_ends_there(made):
    rows = Rows()
    rows.stops = True
    sink = made(rows)
    with pytest.raises(SinkUnavailableError):
        sink.write(batch_of(*scalars(5, 2, step=1)))
    sink.close(False)
    after = Rows()
    made(after).write(batch_of(*scalars(3, 4, step=1)))
    found = [(number, values["a"]) for number, _, _, values in after.rows]
    assert found == [(2, 1.5), (3, 2.0), (4, 2.5), (5, 3.0)]  # no number a second time


def test_a_value_that_is_nothing_for_wandb_costs_itself_alone(made, monkeypatch, caplog):
    def fail(folder):
        raise ValueError("no image")

    forms = {2: media.Form(fail), 3: media.Form(lambda folder: f"made in {os.path.isdir(folder)}")}
    rows, done = Rows(), []
    sink = made(rows)
    monkeypatch.setattr(Batch, "histogram", lambda batch, record: int(record["tag_id"]))
    monkeypatch.setattr(sink_module, "histogram_form", forms.get)
    kinds = [(HISTOGRAM, 1, 2, 7, 0, 0), (HISTOGRAM, 2, 3, 7, 0, 0), (SCALAR, 3, 4, 7, 0.5, 0),
             (SCALAR, 4, 4, 8, 0.5, AWAITS_DEVICE)]  # fmt: skip
    delivery = sink.write(batch_of(*kinds))
    assert (delivery.delivered, delivery.not_finite) == (2, 0)
    assert delivery.set_aside == {UNREADABLE: 2}
    assert rows.rows == [(0, 7, 1.5, {"b": "made in True", "c": 0.5})]
    assert "no image" in caplog.text
    monkeypatch.setattr(Batch, "histogram", lambda *_: done[0])  # an IndexError is no ValueError
    with pytest.raises(IndexError):
        sink.write(batch_of((HISTOGRAM, 5, 2, 7, 0, 0)))

    def unreadable(*_):
        raise ValueError

    monkeypatch.setattr(Batch, "histogram", unreadable)
    assert sink.write(batch_of((HISTOGRAM, 6, 2, 7, 0, 0))).set_aside == {UNREADABLE: 1}


def test_an_error_of_the_disk_is_tried_again_and_takes_no_value_for_bad(made, monkeypatch):
    def fail(folder):
        raise OSError(28, "No space left on device")

    sink = made(Rows())
    monkeypatch.setattr(Batch, "histogram", lambda *_: None)
    monkeypatch.setattr(sink_module, "histogram_form", lambda _: media.Form(fail))
    with pytest.raises(OSError, match="No space"):
        sink.write(batch_of((HISTOGRAM, 1, 2, 7, 0, 0)))


def test_an_event_gives_values_parameters_and_reasons(made, monkeypatch):
    rows = Rows()
    sink = made(rows)
    monkeypatch.setattr(Batch, "event", lambda batch, record: int(record["sequence"]))
    monkeypatch.setattr(parts, "parts_of", {
        1: [Scalar("a", 1.0), Scalar("b", 2.0)], 2: [Parameters({"lr": 1})], 3: [NoForm("graph")],
    }.get)  # fmt: skip
    delivery = sink.write(batch_of(*((EVENT, n, 2, 7, 0, 0) for n in (1, 2, 3))))
    assert (delivery.delivered, delivery.set_aside) == (2, {"no form on wandb: graph": 1})
    assert rows.rows == [(0, 7, 1.5, {"a": 1.0, "b": 2.0})]
    assert sink.params == [{"lr": 1}]


def test_a_wandb_that_is_disabled_takes_nothing_and_says_so():
    delivery = DisabledSink().write(batch_of(*scalars(1, 3)))
    assert (delivery.delivered, delivery.not_finite) == (0, 0)
    assert delivery.set_aside == {DISABLED: 3}


def test_many_bins_become_few_and_keep_their_counts():
    import wandb

    for bins in (3, 512, 513, 1025):
        counts, edges = np.arange(bins), np.arange(bins + 1.0)
        made = media.histogram_form(Histogram(counts, edges, *[0.0] * 4, 0, 0, 0)).make("")
        assert isinstance(made, wandb.Histogram)
        assert len(made.histogram) <= 512
        assert sum(made.histogram) == counts.sum()
        assert (made.bins[0], made.bins[-1]) == (0.0, float(bins))
        assert len(made.bins) == len(made.histogram) + 1
        if bins <= 512:
            assert list(made.histogram) == counts.tolist()


# ---- Names.


def test_names_are_such_as_wandb_takes():
    assert clean_name("loss/train") == "loss/train"
    for name in ("", "  ", "_step", "global_step", "_timestamp", row_column("a-run")):
        assert clean_name(name) == f"tag {name}"
    assert clean_name("a\0b") == "a\ufffdb"
    assert clean_name("a\udcff") == "a?"
    assert clean_name("x" * 1_000) == "x" * 1_000
    long, other = clean_name("x" * 1_001), clean_name("x" * 1_002)
    assert len(long) == len(other) == 1_000
    assert long != other
    assert long.startswith("x" * 983 + "-")
    assert project_name("a/b\\c#d?e%f:g\0h" + "x" * 200) == "a-b-c-d-e-f-g-h" + "x" * 113
    assert tag_names(["a", "", "a", "b" * 65]) == ["a", "b" * 64]
    assert len(artifact_name("n" * 300)) <= 128
