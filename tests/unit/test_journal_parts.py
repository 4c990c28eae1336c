"""The journal's index and its notes of what was given up, by themselves."""

from __future__ import annotations

import os

import pytest
from tracelet.journal import index as indexes
from tracelet.journal.drops import DROPPED, DropNotes, Drops
from tracelet.journal.format import Block
from tracelet.journal.index import JournalIndex, Span


def block(first, count, path="a", offset_bytes=0, payload_bytes=0):
    return Block(first, count, path, offset_bytes, payload_bytes)


def neighbours(*counts, path="a", first=0):
    """Blocks that follow one another."""
    blocks, offset_bytes = [], 0
    for count in counts:
        blocks.append(block(first, count, path, offset_bytes))
        first, offset_bytes = first + count, offset_bytes + blocks[-1].size_bytes
    return blocks


def index_of(*blocks):
    index = JournalIndex()
    for each in blocks:
        index.add(each)
    return index


def test_neighbours_are_remembered_together_and_no_others():
    first, second = neighbours(10, 5)
    assert len(index_of(first, second)) == 1
    assert list(index_of(first, second)) == [
        Span(0, 15, "a", 0, first.size_bytes + second.size_bytes)
    ]
    for other in (
        block(11, 5, "a", second.offset_bytes), block(10, 5, "b", second.offset_bytes),
        block(10, 5, "a", second.offset_bytes + 1),
    ):  # fmt: skip
        assert len(index_of(first, other)) == 2


def test_whether_anything_was_let_go_of_is_told_of_one_span_too():
    index = index_of(*neighbours(10))
    assert index.release(9) is False
    assert index.release(10) is True
    assert (len(index), index.size_bytes) == (0, 0)
    assert index.release(10) is False


def test_spans_grow_up_to_what_is_read_at_once(monkeypatch):
    first, second, third = neighbours(10, 10, 10)
    monkeypatch.setattr(indexes, "_JOINED_BYTES", first.size_bytes * 2)
    index = index_of(first, second, third)
    assert [(span.first, span.end) for span in index] == [(0, 20), (20, 30)]
    assert index.size_bytes == 3 * first.size_bytes
    assert (index.end, JournalIndex().end) == (30, 0)


def test_positions_are_found_and_gaps_are_none():
    index = index_of(block(5, 5, "a"), block(20, 5, "b"), block(25, 5, "c"))
    found = {at: span and span.path for at, span in ((at, index.at(at)) for at in range(31))}
    assert {at for at, path in found.items() if path is None} == {*range(5), *range(10, 20), 30}
    assert [found[at] for at in (5, 9, 20, 24, 25, 29)] == ["a", "a", "b", "b", "c", "c"]
    assert [span.path for span in index.from_position(9)] == ["a", "b", "c"]
    assert [span.path for span in index.from_position(10)] == ["b", "c"]
    assert [span.path for span in index.from_position(30)] == []
    assert JournalIndex().at(0) is None


def test_what_is_released_dropped_or_replaced_is_taken_from_the_size():
    blocks = [block(0, 5, "a"), block(5, 5, "b"), block(10, 5, "c")]
    one = blocks[0].size_bytes
    index = index_of(*blocks)
    assert not index.release(4)
    assert index.release(10)
    assert ([span.path for span in index], index.size_bytes) == (["c"], one)
    index = index_of(*blocks)
    index.drop_file("b")
    assert ([span.path for span in index], index.size_bytes) == (["a", "c"], 2 * one)
    (span, _) = index
    index.replace(span, [block(0, 1, "x"), block(3, 2, "y")])
    assert [each.path for each in index] == ["x", "y", "c"]
    assert index.size_bytes == sum(each.size_bytes for each in index)
    index.replace(span, [])  # it is not there any more
    assert len(index) == 3


@pytest.fixture
def notes(tmp_path):
    notes = DropNotes(str(tmp_path))
    yield notes
    notes.close()


def test_ranges_that_follow_one_another_are_one_note(notes, tmp_path):
    for first, end in ((10, 10), (10, 20), (20, 25), (30, 31), (31, 40), (0, 3)):
        notes.note(first, end)
    assert os.path.getsize(tmp_path / DROPPED) == 3 * 32
    drops = Drops.read(str(tmp_path))
    gone = {*range(3), *range(10, 25), *range(30, 40)}
    for first in range(42):
        for end in range(first, 42):
            assert drops.count_between(first, end) == len(gone & set(range(first, end)))


def test_who_goes_on_writes_behind_the_notes_that_are_there(notes, tmp_path):
    before = len(os.listdir("/dev/fd"))
    notes.note(0, 5)
    notes.close()
    notes.close()
    assert len(os.listdir("/dev/fd")) == before
    others = DropNotes(str(tmp_path))
    others.note(5, 9)
    others.close()
    assert os.path.getsize(tmp_path / DROPPED) == 2 * 32
    assert Drops.read(str(tmp_path)).count_between(0, 100) == 9


def test_a_damaged_note_is_none_and_those_around_it_count(notes, tmp_path):
    for first in (0, 20, 40):
        notes.note(first, first + 10)
    whole = (tmp_path / DROPPED).read_bytes()
    for at in range(20):  # what the checksum is of, and the checksum
        data = bytearray(whole)
        data[32 + at] ^= 1
        (tmp_path / DROPPED).write_bytes(data)
        assert Drops.read(str(tmp_path)).count_between(0, 100) == 20
    (tmp_path / DROPPED).write_bytes(whole[:-1])
    assert Drops.read(str(tmp_path)).count_between(0, 100) == 20
    (tmp_path / DROPPED).unlink()
    assert Drops.read(str(tmp_path)).count_between(0, 100) == 0


def test_a_note_that_is_not_written_whole_is_told(notes, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda fd, data: len(data) - 1)
    with pytest.raises(OSError, match="31 of 32 bytes could be written"):
        notes.note(0, 5)
