"""Whose points of a tag the backends get, where several ranks log it: `ranks/series.py`."""

from __future__ import annotations

import numpy as np
import pytest
from tracelet.ranks.series import ANOTHER_RANKS, OWNERS, RankSeries
from tracelet.records import RECORD_DTYPE, SCALAR, SKIPPED
from tracelet.writer_key import key_of_rank, key_without_rank, rank_of_key, split_writer_key


class Names:
    """A tag table in memory."""

    def __init__(self):
        self.texts = [""]

    def intern(self, text):
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text)

    def text(self, id):
        return self.texts[id]

    def text_count(self):
        return len(self.texts) - 1


class Job:
    def __init__(self, folder, rules=None, window_s=10.0):
        self.names, self.now_s = Names(), 100.0
        self.series = RankSeries(
            rules or {}, 0, window_s, self.names, str(folder), lambda: self.now_s
        )

    def records(self, *points):
        """Each (rank, tag): rank 0 leads."""
        made = np.zeros(len(points), RECORD_DTYPE)
        for record, (rank, tag) in zip(made, points):
            key = key_of_rank("/log", rank or None)
            record["tag_id"], record["writer_id"] = self.names.intern(tag), self.names.intern(key)
            record["kind"], record["value"] = SCALAR, rank
        return made

    def select(self, records):
        chosen, others = self.series.select(records)
        chosen = np.frombuffer(chosen, RECORD_DTYPE)
        named = [
            (self.names.text(each["tag_id"]), self.names.text(each["writer_id"]), each["value"])
            for each in chosen
        ]
        return named, others


@pytest.mark.parametrize("key", ["/a/b", "/a/b\0.suffix", "", "s3://bucket/a"])
def test_a_key_of_a_rank_tells_its_rank_and_the_key_without(key):
    own = key_of_rank(key, 12)
    assert rank_of_key(own) == 12
    assert rank_of_key(key) is None
    assert key_without_rank(own) == key
    folder, suffix = split_writer_key(own)
    assert suffix == split_writer_key(key)[1]
    assert folder == ("/a/b/rank-12" if key.startswith("/a") else key)
    assert key_of_rank(key, None) == key
    assert key_without_rank("/a/rank-3/main_entry\0\0003") == "/a/main_entry"


def test_what_the_leading_rank_logs_is_its_at_once(tmp_path):
    job = Job(tmp_path)
    records = job.records((0, "loss"), (1, "loss"), (2, "loss"), (0, "loss"))
    assert job.series.ready(records) == 4
    assert job.select(records) == ([("loss", "/log", 0.0)] * 2, 2)


def test_one_process_alone_has_its_records_as_they_are(tmp_path):
    job = Job(tmp_path)
    records = job.records((0, "loss"), (0, "acc"))
    assert not job.series.is_needed
    assert job.series.ready(records) == 2
    assert job.series.select(records)[0] is records


def test_a_tag_of_another_rank_waits_for_a_lower_one_and_what_lies_behind_it_too(tmp_path):
    job = Job(tmp_path)
    records = job.records((0, "a"), (2, "loss"), (0, "a"), (1, "loss"))
    job.series.observe(records)
    assert job.series.ready(records) == 1
    job.now_s += 9.9
    assert job.series.ready(records) == 1
    job.now_s += 0.1
    assert job.series.ready(records) == 4
    expected = [("a", "/log", 0.0), ("a", "/log", 0.0), ("loss", "/log", 1.0)]
    assert job.select(records) == (expected, 1)
    # It stays that rank's, whoever comes later.
    assert job.select(job.records((0, "loss"), (1, "loss"))) == ([("loss", "/log", 1.0)], 1)


def test_the_leading_rank_that_comes_in_time_has_the_tag(tmp_path):
    job = Job(tmp_path)
    early = job.records((3, "loss"))
    assert job.series.ready(early) == 0
    job.series.observe(job.records((0, "loss")))
    assert job.series.ready(early) == 1
    assert job.select(early) == ([], 1)


def test_at_the_end_nothing_is_waited_for(tmp_path):
    job = Job(tmp_path)
    records = job.records((3, "loss"), (2, "loss"))
    assert job.series.ready(records) == 0
    job.series.decide_all()
    assert job.select(records) == ([("loss", "/log", 2.0)], 1)
    assert job.select(job.records((3, "new"))) == ([("new", "/log", 3.0)], 0)


def test_who_comes_after_a_crash_decides_the_same(tmp_path):
    job = Job(tmp_path, window_s=0.0)
    assert job.select(job.records((2, "loss"))) == ([("loss", "/log", 2.0)], 0)
    (line,) = (tmp_path / OWNERS).read_text().splitlines()
    assert line == '["loss", 2]'
    later = Job(tmp_path)
    assert later.series.ready(later.records((0, "loss"), (2, "loss"))) == 2
    assert later.select(later.records((0, "loss"), (2, "loss"))) == ([("loss", "/log", 2.0)], 1)


def test_each_is_a_series_a_rank(tmp_path):
    job = Job(tmp_path, {"grad/*": "each", "*": "first"})
    records = job.records((0, "grad/a"), (3, "grad/a"), (3, "loss"), (0, "loss"))
    assert job.series.ready(job.records((0, "grad/a"))) == 1
    job.series.observe(records)
    assert job.series.ready(records) == 4
    assert job.select(records) == (
        [("grad/a/rank 0", "/log", 0.0), ("grad/a/rank 3", "/log", 3.0), ("loss", "/log", 0.0)], 1
    )  # fmt: skip


def test_a_record_that_is_no_point_is_nobodys(tmp_path):
    job = Job(tmp_path)
    records = job.records((1, "loss"), (0, "loss"))
    records["kind"][0], records["tag_id"][0], records["writer_id"][0] = SKIPPED, 1 << 31, 1 << 31
    job.series.observe(records)
    assert job.series.ready(records) == 2


def test_it_is_told_once_which_rank_it_is(tmp_path, caplog):
    job = Job(tmp_path)
    for _ in range(3):
        job.select(job.records((0, "loss"), (1, "loss"), (0, "acc"), (1, "acc")))
    assert caplog.text.count("several ranks log 'loss'") == 1
    assert ANOTHER_RANKS in caplog.text
    assert "rank 0" in caplog.text
    assert "acc" not in caplog.text
