"""Names in a tracker that has one flat space of them."""

from __future__ import annotations

import numpy as np
from tracelet.backends.base import Batch
from tracelet.backends.flat_names import FlatNames, SeriesNames
from tracelet.records import RECORD_DTYPE


class Lines:
    def __init__(self):
        self.lines = []
        self.is_closed = False

    def read(self, *types):
        return list(self.lines)

    def append(self, *line):
        self.lines.append(line)

    def close(self):
        self.is_closed = True


def test_two_series_never_share_a_name_and_another_process_goes_on_with_the_same():
    lines = Lines()
    names = FlatNames(lines, str.lower)
    given = {
        ("", "Loss"): "loss", ("runs/a", "loss"): "a/loss", ("runs/b/", "LOSS"): "b/loss",
        ("runs/b", "other"): "other",
    }  # fmt: skip
    for series, name in given.items():
        assert names.name(*series) == name
    third = names.name("else/a", "loss")
    assert third.startswith("loss ")
    assert len(third) == len("loss ") + 16
    nowhere = names.name("", "LOSS")
    assert nowhere.startswith("loss ")
    assert nowhere != third
    assert len(lines.lines) == 6
    again = FlatNames(lines, str.lower)
    for series, name in {**given, ("else/a", "loss"): third, ("", "LOSS"): nowhere}.items():
        assert (again.name(*series), names.name(*series)) == (name, name)
    assert len(lines.lines) == 6
    assert again.name("runs/c", "Other") == "c/other"
    names.close()
    assert lines.is_closed


class Texts:
    def __init__(self):
        self.asked = []

    def text(self, id):
        self.asked.append(id)
        return {0: "", 1: "/logs/a\0", 2: "/logs/b\0", 3: "loss", 4: "acc", (1 << 32) - 1: "z"}[id]


def test_a_series_has_its_name_by_its_records_ids_and_is_asked_for_once():
    texts, lines = Texts(), Lines()
    series = SeriesNames(FlatNames(lines, str))
    ids = [(1, 3), (1, 4), (2, 3), (1, 3), (0, 4), (0, (1 << 32) - 1)]
    records = np.zeros(len(ids), RECORD_DTYPE)
    records["writer_id"], records["tag_id"] = zip(*ids)
    batch = Batch(records, texts)
    found = series.of(batch, batch.records)
    assert [*found[:4], found[5]] == ["loss", "acc", "b/loss", "loss", "z"]
    assert found[4].startswith("acc ")
    assert [line[2] for line in lines.lines] == list(dict.fromkeys(found))  # as they appear
    asked = len(texts.asked)
    assert series.of(batch, batch.records[2:3]) == ["b/loss"]
    assert series.of(batch, batch.records[:0]) == []
    assert len(texts.asked) == asked
    series.close()
    assert lines.is_closed
