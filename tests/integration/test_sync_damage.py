"""A dead run's ring and journal whose bytes say what no process can have written: `tracelet sync`
neither hangs nor crashes, delivers what is sound, and keeps the run with the damage named."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from dead_runs import POINTS, make_dead_runs
from readers import steps_in
from tracelet import _core
from tracelet.cli import main
from tracelet.journal.journal import Journal
from tracelet.journal.names import stored_names
from tracelet.records import RECORD_DTYPE
from tracelet.runs.stored_run import StoredRun

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SLOTS_OFFSET = 4096  # kRingFileHeaderBytes
HEAD_OFFSET = 64  # RingFileHeader.ring.head, whose upper bits are a pid
TAIL_OFFSET = 128  # RingFileHeader.ring.tail
PAYLOAD_BYTES_OFFSET = 24  # RingFileHeader.payload_bytes
POSITION_BITS = 41
LOCK_OFFSETS = (272, 328, 204)  # payloads.lock_pid, tags.lock_pid, ring.room_waiters
BAD = 71  # the position of the record that is damaged


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACELET_RING_DIR", str(tmp_path / "shm"))


def poke(path, offset, form, value):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(struct.pack(form, value))


def field(name):
    return SLOTS_OFFSET + BAD * RECORD_DTYPE.itemsize + RECORD_DTYPE.fields[name][1]


@pytest.fixture
def sync(capsys):
    """Returns the exit code, and what it said."""

    def run(dead):
        code = main(["sync", dead.run_id])
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


@pytest.mark.parametrize(
    ("name", "form", "value", "words"),
    [
        ("tag_id", "<I", 0xFFFFFFFF, "1 points are lost: name lost"),
        ("writer_id", "<I", 0xFFFFFFFF, "1 points are lost: name lost"),
        ("kind", "<H", 32, "1 points are lost: damaged record: unknown kind"),
        ("payload_size", "<Q", 2**64 - 1, "1 points are lost: damaged record: payload"),
    ],
)
@pytest.mark.slow
def test_a_record_of_the_ring_that_makes_no_sense_costs_itself_alone(
    tmp_path, sync, name, form, value, words
):
    (run,) = make_dead_runs(tmp_path, ["odd"]).values()
    poke(run.ring_path, field(name), form, value)
    sound = [step for step in range(POINTS) if step != BAD]
    for _ in range(2):  # it is no less damaged the second time, and nothing is given twice
        code, told = sync(run)
        assert code == 1
        assert words in told
        assert steps_in(tmp_path / "logs" / "odd") == sound
        assert os.path.exists(run.path)
        assert os.path.exists(run.ring_path)
    os.unlink(run.ring_path)  # as after a start of the machine
    code, told = sync(run)
    assert code == 1
    assert words in told
    assert main(["clean", run.run_id, "--yes"]) == 0
    assert not os.path.exists(run.path)


@pytest.mark.parametrize("bit", [12, 40])
@pytest.mark.slow
def test_a_bit_flipped_in_the_ring_s_head_makes_no_point_and_loses_none(tmp_path, sync, bit):
    (run,) = make_dead_runs(tmp_path, ["head"]).values()
    data = Path(run.ring_path).read_bytes()
    (head,) = struct.unpack_from("<Q", data, HEAD_OFFSET)
    assert head % (1 << POSITION_BITS) == POINTS
    poke(run.ring_path, HEAD_OFFSET, "<Q", head | 1 << bit)
    code, told = sync(run)
    assert code == 1
    assert "its head and tail are damaged" in told
    assert steps_in(tmp_path / "logs" / "head") == list(range(POINTS))
    assert os.path.exists(run.path)


@pytest.mark.slow
def test_a_tail_beyond_the_head_passes_over_no_point(tmp_path, sync, capsys):
    """Nobody ever looked at what lay between them, and the run was deleted with exit code 0."""
    (run,) = make_dead_runs(tmp_path, ["tail"]).values()
    assert struct.unpack_from("<Q", Path(run.ring_path).read_bytes(), TAIL_OFFSET) == (0,)
    poke(run.ring_path, TAIL_OFFSET, "<Q", POINTS + 1)
    assert run.pending() == POINTS
    code, told = sync(run)
    assert code == 1
    assert "its head and tail are damaged" in told
    assert steps_in(tmp_path / "logs" / "tail") == list(range(POINTS))
    assert os.path.exists(run.path)


def test_a_ring_whose_header_can_t_be_used_keeps_the_run_and_is_named(tmp_path, sync, capsys):
    """A division by its size of the payloads was a SIGFPE."""
    (run,) = make_dead_runs(tmp_path, ["zero"]).values()
    poke(run.ring_path, PAYLOAD_BYTES_OFFSET, "<Q", 0)
    assert run.pending() is None
    assert main(["runs"]) == 0
    assert " ? " in capsys.readouterr().out
    code, told = sync(run)
    assert code == 1
    assert "its header is damaged" in told
    assert os.path.exists(run.path)
    assert os.path.exists(run.ring_path)


@pytest.mark.slow
def test_a_live_pid_in_the_ring_s_locks_keeps_nobody_waiting(tmp_path, sync):
    """A process that died in a lock leaves its pid there, which may be another's by now: that is no
    damage."""
    (run,) = make_dead_runs(tmp_path, ["locked"]).values()
    data = Path(run.ring_path).read_bytes()
    for offset in LOCK_OFFSETS:
        assert struct.unpack_from("<I", data, offset) == (0,)
        poke(run.ring_path, offset, "<I", os.getpid())
    assert sync(run)[0] == 0
    assert steps_in(tmp_path / "logs" / "locked") == list(range(POINTS))
    assert not os.path.exists(run.path)


@pytest.mark.slow
def test_records_of_a_whole_block_that_no_sink_may_see_are_named_and_the_others_sent(
    tmp_path, sync
):
    """A journal's checksum says that a block is as it was written, and nothing of what was."""
    (run,) = make_dead_runs(tmp_path, ["block"]).values()
    assert sync_to_journal(run)
    code, told = sync(run)
    assert code == 1
    assert "2 records for tensorboard are lost to damage" in told
    assert "1 name lost" in told
    assert "1 damaged record: unknown kind" in told
    sound = [step for step in range(POINTS) if step not in (BAD, BAD + 1)]
    assert steps_in(tmp_path / "logs" / "block") == sound
    code, told = sync(run)
    assert code == 1
    assert "2 records for tensorboard are lost to damage" in told
    assert steps_in(tmp_path / "logs" / "block") == sound


def sync_to_journal(run: StoredRun) -> bool:
    """Moves the ring's records to a journal as a process does, two of them damaged before that."""
    ring = _core.StoredRing.open(run.ring_path)
    names = stored_names(run.path)
    names.add_missing(ring.names)
    records = np.frombuffer(ring.read(0, POINTS, 1 << 20, names)[0], RECORD_DTYPE).copy()
    records["tag_id"][BAD] = 0xFFFFFFFF
    records["kind"][BAD + 1] = 40
    journal = Journal(run.path, names)
    journal.append(records)
    journal.sync()
    journal.close()
    run.update(ring_is_drained=True, end=POINTS)
    os.unlink(run.ring_path)
    return len(records) == POINTS
