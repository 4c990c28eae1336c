"""A dead process' journal: torn, damaged, reordered, fuzzed. Never a crash, never a wrong value."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tracelet import _core
from tracelet.errors import JournalError
from tracelet.journal import journal as journal_module
from tracelet.journal.format import scan_segment, segment_paths
from tracelet.journal.journal import Journal
from tracelet.journal.names import NAMES, NamesFile, read_names, stored_names
from tracelet.records import RECORD_DTYPE

COUNT = 200
# About so many a second; `.ci/fuzz` sets how long.
FUZZ = settings(
    max_examples=30 * int(os.environ.get("TRACELET_FUZZ_S", "4")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Names:
    """A tag table."""

    def __init__(self, *texts):
        self.texts = list(texts)

    def text(self, id):
        return self.texts[id - 1]

    def text_count(self):
        return len(self.texts)


def records_of(first, count):
    records = np.zeros(count, RECORD_DTYPE)
    records["sequence"] = np.arange(first + 1, first + count + 1)
    records["value"] = np.arange(first, first + count) * 0.5
    records["step"] = np.arange(first, first + count) * 3
    records["kind"] = 1
    return records


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A journal of several segments of several blocks."""
    monkeypatch.setattr(journal_module, "_BLOCK_RECORDS", 20)
    monkeypatch.setattr(journal_module, "_SEGMENT_BYTES", 3_000)
    folder = tmp_path / "written"
    folder.mkdir()
    journal = Journal(str(folder), Names("loss", "/logs"))
    payload = bytearray(os.urandom(5_000))
    for first in range(0, COUNT, 50):
        records = records_of(first, 50)
        records["kind"][::7] = 2
        records["payload_offset"][::7] = np.arange(len(records[::7])) * 100
        records["payload_size"][::7] = 60
        journal.append(records, bytes(payload))
    journal.close()
    assert len(list(folder.glob("journal-*"))) > 4
    return folder


def read_all(folder):
    """Position to (record without its offset, payload), and the journal."""
    journal = Journal.recover(str(folder))
    found = {}
    position = journal.next_position(0)
    while position is not None:
        records, payloads = journal.read(position, 1 << 20, 1 << 30)
        assert len(records)
        rows = records.copy()
        rows["payload_offset"] = 0
        data = rows.tobytes()
        starts, sizes = records["payload_offset"].tolist(), records["payload_size"].tolist()
        for n, sequence in enumerate(records["sequence"].tolist()):
            payload = payloads[starts[n] : starts[n] + sizes[n]]
            found[sequence - 1] = (data[64 * n : 64 * n + 64], payload)
        position = journal.next_position(position + len(records))
    assert journal.count_from(0) == len(found)
    return found, journal


def test_all_is_there_with_its_names_and_can_be_gone_on_with(written):
    found, journal = read_all(written)
    assert sorted(found) == list(range(COUNT))
    assert journal.damages == []
    assert read_names(str(written)) == ["", "loss", "/logs"]
    gone_on = Journal.recover(str(written), Names("loss", "/logs", "more"))
    gone_on.append(records_of(COUNT - 10, 30))
    gone_on.sync()
    gone_on.close()
    again, journal = read_all(written)
    assert sorted(again) == list(range(COUNT + 20))
    assert {p: again[p] for p in range(COUNT)} == found
    assert read_names(str(written)) == ["", "loss", "/logs", "more"]
    journal.release(COUNT + 20)
    assert list(written.glob("journal-*")) == []


def test_a_tail_torn_at_every_byte_keeps_the_whole_blocks_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "_BLOCK_RECORDS", 5)
    journal = Journal(str(tmp_path))
    journal.append(records_of(0, 12))
    journal.append(records_of(12, 4), b"")
    journal.close()
    (path,) = tmp_path.glob("journal-*")
    whole, _ = read_all(tmp_path)
    data = path.read_bytes()
    counts = []
    for size in range(len(data)):
        path.write_bytes(data[:size])
        found, journal = read_all(tmp_path)
        assert found == {p: whole[p] for p in range(len(found))}
        assert len(journal.damages) <= 1
        assert all(d.is_torn_tail and d.path == str(path) for d in journal.damages)
        counts.append(len(found))
    assert counts == sorted(counts)
    assert set(counts) == {0, 5, 10, 12}


def test_a_flipped_bit_costs_its_block_and_is_reported_with_its_byte(written):
    path = sorted(written.glob("journal-*"))[1]
    whole, journal = read_all(written)
    (block, *_) = scan_segment(str(path))[0][1:]
    data = bytearray(path.read_bytes())
    data[block.offset_bytes + 100] ^= 4
    path.write_bytes(data)
    found, journal = read_all(written)
    assert sorted(set(whole) - set(found)) == list(range(block.first, block.end))
    (damage,) = journal.damages
    assert (damage.path, damage.offset_bytes) == (str(path), block.offset_bytes)
    assert damage.size_bytes == block.size_bytes
    assert not damage.is_torn_tail
    assert f"{path} at byte {block.offset_bytes}: a block's checksum is wrong" in str(damage)


def test_a_damaged_file_header_costs_no_record_and_another_version_is_left_alone(written):
    path = min(written.glob("journal-*"))
    data = bytearray(path.read_bytes())
    data[2] ^= 1
    path.write_bytes(data)
    found, journal = read_all(written)
    assert sorted(found) == list(range(COUNT))
    assert [d.what for d in journal.damages] == ["the file's header is damaged"]
    header = b"TRCLJRNL" + (99).to_bytes(4, "little") + bytes(8)
    data[:24] = header + _core.crc32c(header).to_bytes(4, "little")
    path.write_bytes(data)
    found, journal = read_all(written)
    assert 0 < len(found) < COUNT
    assert "written by another version (format 99" in str(journal.damages[0])


def mutate(folder, data):
    """One thing that a disk, or a person, may do to a journal's files."""
    paths = sorted(folder.glob("journal-*"))
    if not paths:
        return
    path = data.draw(st.sampled_from(paths))
    content = bytearray(path.read_bytes())
    what = data.draw(st.sampled_from(
        ["truncate", "flip", "cut out", "insert", "zero", "delete", "duplicate", "swap", "append"]
    ))  # fmt: skip
    at = data.draw(st.integers(0, max(0, len(content) - 1)))
    length = data.draw(st.integers(1, 3_000))
    if what == "truncate":
        path.write_bytes(content[:at])
    elif what == "flip" and content:
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
    elif what == "cut out":
        path.write_bytes(content[:at] + content[at + length :])
    elif what == "insert":
        path.write_bytes(content[:at] + content[-length:] + content[at:])
    elif what == "zero":
        path.write_bytes(
            content[:at] + bytes(min(length, len(content) - at)) + content[at + length :]
        )
    elif what == "delete":
        path.unlink()
    elif what == "duplicate":
        # The copy's name is its own: one may be drawn that a mutation before this one has given.
        position = data.draw(st.integers(0, 10**6))
        while (copy := folder / f"journal-{position:020d}-9.bin").exists():
            position += 1
        shutil.copy(path, copy)
    elif what == "swap":
        other = data.draw(st.sampled_from(paths))
        a, b = path.read_bytes(), other.read_bytes()
        path.write_bytes(b)
        other.write_bytes(a)
    elif what == "append":
        other = data.draw(st.sampled_from(paths))
        path.write_bytes(content + other.read_bytes()[at % 50 :])


@FUZZ
@given(data=st.data())
def test_fuzzed_files_give_right_records_or_none(written, data, tmp_path_factory):
    whole, _ = read_all(written)
    folder = tmp_path_factory.mktemp("fuzzed") / "run"
    shutil.copytree(written, folder)
    for _ in range(data.draw(st.integers(1, 4))):
        mutate(folder, data)
    found, journal = read_all(folder)
    for position, content in found.items():
        assert content == whole[position]
    for damage in journal.damages:
        size_bytes = os.path.getsize(damage.path)
        assert 0 <= damage.offset_bytes < size_bytes
        assert damage.offset_bytes + damage.size_bytes <= size_bytes
    # Every block that lies whole in some file is found, whatever lies around it.
    contents = [path.read_bytes() for path in folder.glob("journal-*")]
    for block, block_bytes in blocks_of(written):
        if any(block_bytes in content for content in contents):
            assert set(range(block.first, block.end)) <= set(found)


def blocks_of(folder):
    for path in segment_paths(str(folder)):
        content = Path(path).read_bytes()
        for block in scan_segment(path)[0]:
            yield block, content[block.offset_bytes : block.offset_bytes + block.size_bytes]


def test_what_changes_while_it_is_read_is_an_error_with_its_place(written):
    """The blocks beside it, which the index has together with it, are read as before."""
    journal = Journal.recover(str(written))
    path = Path(segment_paths(str(written))[1])
    before, block, after = scan_segment(str(path))[0][:3]
    data = bytearray(path.read_bytes())
    data[block.offset_bytes + 40] ^= 1
    path.write_bytes(data)
    records, _ = journal.read(before.first, 1 << 20, 1 << 30)
    assert records["sequence"].tolist() == list(range(before.first + 1, block.first + 1))
    with pytest.raises(JournalError, match=f"at byte {block.offset_bytes}"):
        journal.read(block.first, 10, 1 << 20)
    count = journal.count_from(0)
    journal.drop_block_at(block.first)
    assert journal.count_from(0) == count - block.count
    assert journal.next_position(block.first) == after.first
    assert len(journal.read(before.first, 1 << 20, 1 << 30)[0]) == before.count
    assert len(journal.read(after.first, after.count, 1 << 30)[0]) == after.count


def test_memory_grows_with_the_bytes_of_an_outage_and_not_with_its_hours(tmp_path):
    """Each drain writes a block, four a second, however little there is: 345,600 a day."""
    journal = Journal(str(tmp_path))
    for position in range(5_000):
        journal.append(records_of(position, 1))
    assert len(journal._index) <= 2
    assert journal.size_bytes == 5_000 * (64 + 32)
    records, _ = journal.read(1_234, 3_000, 1 << 20)
    assert records["sequence"].tolist() == list(range(1_235, 4_235))
    journal.release(4_999)
    assert journal.count_from(4_999) == 1
    journal.release(5_000)
    assert journal.size_bytes == 0
    journal.close()


@FUZZ
@given(
    texts=st.lists(st.text(max_size=20), max_size=8),
    cut=st.integers(0, 400),
    flip=st.one_of(st.none(), st.integers(0, 3_000)),
)
def test_names_are_right_as_far_as_they_go(texts, cut, flip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    names = Names()
    file = NamesFile(str(folder))
    for text in texts:
        names.texts.append(text)
        file.update(names)
    file.close()
    assert read_names(str(folder)) == ["", *texts]
    path = folder / NAMES
    if not path.exists():
        return
    content = bytearray(path.read_bytes()[: max(1, path.stat().st_size - cut)])
    if flip is not None:
        content[flip // 8 % len(content)] ^= 1 << flip % 8
    path.write_bytes(content)
    found = stored_names(str(folder))
    known = {id: found.text(id) for id in range(1, found.text_count() + 1) if found.knows(id)}
    assert known == {id: texts[id - 1] for id in known}
    # Each update wrote a block of one: a flipped bit costs one string, wherever it is.
    assert cut or len(texts) - len(known) <= 1
    # Gone on with: what is lost is written anew.
    file = NamesFile(str(folder), found)
    file.update(names)
    file.close()
    assert read_names(str(folder)) == ["", *texts]


def test_lost_names_shift_no_other(tmp_path):
    names = Names()
    file = NamesFile(str(tmp_path))
    for text in ("a", "b", "c", "d"):
        names.texts.append(text)
        file.update(names)
    file.close()
    path = tmp_path / NAMES
    data = bytearray(path.read_bytes())
    size = (len(data) - 16) // 4  # of a block
    for block in (1, 2):
        data[16 + block * size + 4] ^= 1
    path.write_bytes(data)
    found = read_names(str(tmp_path))
    assert found == ["", "a", "(name 2 lost)", "(name 3 lost)", "d"]
    assert len(set(found)) == len(found)
