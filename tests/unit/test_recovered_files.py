"""What is cut off a dead run's event files, what stays, and what is counted as lost."""

from __future__ import annotations

import os
import struct

import pytest
from tracelet import _core
from tracelet._core import framed_event as framed
from tracelet.backends.tensorboard import recovered
from tracelet.backends.tensorboard.recovered import LEDGER, SYNCED, Before, RecoveredFiles
from tracelet.runs.ownership import NotOwnError

NAME = "events.out.tfevents.1700000000.host.1.tracelet000001"


def event(step):
    value = b"\x0a\x01a\x15" + struct.pack("<f", 1.0)
    summary = b"\x0a" + bytes([len(value)]) + value
    return framed(
        b"\x09" + bytes(8) + b"\x10" + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary
    )


VERSION = framed(b"\x09" + bytes(8) + b"\x1a\x0dbrain.Event:2")  # as every file begins


def size(events):
    return len(VERSION) + events * len(event(1))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(VERSION + event(1) + event(2) + event(3))
    return path


def recover(tmp_path, path, size_bytes, points, is_other_boot=False, synced=None):
    """The RecoveredFiles after `take_up`, and the set of files."""
    run = tmp_path / "run"
    run.mkdir()
    ledger = _core.FileLedger.create(str(run / LEDGER))
    ledger.acknowledge(ledger.add(1, str(path)), size_bytes, points, points)
    other = _core.FileLedger.create(str(run / SYNCED))
    if synced:
        other.acknowledge(other.add(1, str(path)), size(synced), synced, synced)
    del ledger, other
    ring = _core.Ring.create(str(tmp_path / "ring"), 16, 0.0)
    made = RecoveredFiles(str(run), is_other_boot)
    files = _core.EventFileSet(ring, made.ledger)
    made.take_up(files)
    return made, files


def test_what_is_behind_an_acknowledged_end_is_cut_off(path):
    recovered._cut_back(str(path), size(3))
    assert path.stat().st_size == size(3)
    recovered._cut_back(str(path), size(3) + 1)  # never made longer
    assert path.stat().st_size == size(3)
    recovered._cut_back(str(path), size(1))
    assert path.read_bytes() == VERSION + event(1)
    recovered._cut_back(str(path), 0)
    assert not path.exists()
    recovered._cut_back(str(path), 0)
    recovered._cut_back(str(path / "in-a-file"), 0)


def test_a_whole_event_is_never_taken_for_a_torn_one(path):
    recovered._cut_back(str(path), size(1), only_torn=True)
    assert path.stat().st_size == size(3)
    recovered._cut_back(str(path), 0, only_torn=True)
    assert path.stat().st_size == size(3)
    with open(path, "ab") as file:
        file.write(event(4)[:-1])
    recovered._cut_back(str(path), size(3), only_torn=True)
    assert path.stat().st_size == size(3)


def test_a_file_that_only_has_the_name_of_an_event_file_is_refused(path, tmp_path):
    assert recovered._size_of(str(path)) == size(3)
    assert recovered._size_of(str(tmp_path / "gone" / NAME)) is None
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for content, is_one in (
        (b"", True), (event(1)[:11], True), (bytes(12), True), (bytes(11) + b"\x01", False),
        (b"a text that is no event file", False),
    ):  # fmt: skip
        path.write_bytes(content)
        if is_one:
            assert recovered._size_of(str(path)) == len(content)
        else:
            with pytest.raises(NotOwnError, match="is none; it stays as it is"):
                recovered._size_of(str(path))
    if before:
        assert len(os.listdir("/proc/self/fd")) == before  # none is left open
    with pytest.raises(NotOwnError, match="names"):
        recovered._size_of(str(tmp_path / "notes.txt"))


def test_files_of_the_folder_are_those_that_are_ours_and_not_older_than_the_run(path, tmp_path):
    (tmp_path / "events.out.tfevents.1700000000.host.1.0").write_bytes(event(1))  # torch's
    os.symlink(path, tmp_path / NAME.replace("000001", "000002"))
    os.utime(path, (1000.0, 1000.0))
    assert recovered._ours_in(str(tmp_path), 1000.0) == [str(path)]
    assert recovered._ours_in(str(tmp_path), 1000.5) == []
    assert recovered._ours_in(str(tmp_path / "gone"), 0.0) == []
    run = tmp_path / "a-run"
    run.mkdir()
    assert recovered._oldest_s(str(run)) == -2.0
    for name, at_s in (("b", 500.0), ("c", 700.0)):
        (run / name).touch()
        os.utime(run / name, (at_s, at_s))
    assert recovered._oldest_s(str(run)) == 498.0


def test_a_whole_file_is_cut_back_and_gone_on_with(path, tmp_path):
    made, files = recover(tmp_path, path, size(2), 2)
    assert path.stat().st_size == size(2)
    (before,) = made.before.values()
    assert (before.is_certain, before.sequence, before.newest_s) == (True, 2, 1700000000.0)
    assert made.is_certain
    assert made.lost(files) == {}


def test_a_file_that_is_shorter_than_acknowledged_tells_what_it_lost(path, tmp_path):
    made, files = recover(tmp_path, path, size(5), 5)
    assert not made.is_certain
    (before,) = made.before.values()
    assert before.problems == [f"{path} is whole up to byte {size(3):,} of {size(5):,}"]
    assert (before.had, before.found) == (5, 3)
    assert made.lost(files) == {before.problems[0]: 2}
    made.settle()
    assert [entry[2:5] for entry in made.ledger.entries()] == [(size(3), 5, 3)]
    assert [entry[2:5] for entry in made.synced.entries()] == [(size(3), 5, 3)]


def test_a_file_that_is_gone_has_lost_all(path, tmp_path):
    path.unlink()
    made, files = recover(tmp_path, path, size(3), 3)
    assert made.lost(files) == {f"{path} is gone": 3}


def test_after_a_loss_of_power_a_file_is_believed_as_far_as_it_was_synced(path, tmp_path):
    made, files = recover(tmp_path, path, size(3), 3, is_other_boot=True, synced=2)
    (before,) = made.before.values()
    assert (before.is_certain, before.sequence) == (False, 2)
    assert (before.had, before.found, before.problems) == (3, 3, [])
    assert made.lost(files) == {}
    with open(path, "ab") as file:
        file.write(b"torn")
    made.settle()
    assert path.stat().st_size == size(3)
    assert [entry[2:5] for entry in made.synced.entries()] == [(size(3), 3, 3)]


def test_what_is_written_again_is_not_lost(path, tmp_path):
    made, _ = recover(tmp_path, path, size(3), 3)

    class Files:
        def restored(self, writer_id):
            return {1: 2, 2: 5, 3: 0}[writer_id]

    made.before = {
        1: Before(is_certain=False, had=9, found=3, problems=["a", "b"]),
        2: Before(is_certain=False, had=5),
        3: Before(is_certain=False, had=1),
        4: Before(is_certain=True, had=7),
    }
    assert made.lost(Files()) == {"a; b": 4, "lost with the power": 1}
