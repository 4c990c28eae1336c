"""What reaches the disk, and what is tried again: DiskSync, and the journal's own sync."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest
from tracelet.journal import journal as journal_module
from tracelet.journal.disk_sync import DiskSync
from tracelet.journal.journal import Journal
from tracelet.records import RECORD_DTYPE
from tracelet.runs import small_files
from tracelet.runs.small_files import SmallFiles


class NoJournal:
    end = 0
    has_retired_files = False

    def sync(self):
        pass


class Nothing:
    def sync(self):
        pass


class Lane:
    def __init__(self):
        self.position, self.durable_position = 1, 0
        self.synced: list[int] = []
        self.errors: list[Exception] = []
        self.is_syncing, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def sync_sink(self):
        if self.errors:
            raise self.errors.pop()
        position = self.position
        self.is_syncing.set()
        assert self.may_go_on.wait(30)
        self.synced.append(position)


def test_what_came_while_a_sync_was_under_way_is_synced_at_the_end():
    lane = Lane()
    lane.may_go_on.clear()
    sync = DiskSync(NoJournal(), Nothing(), [lane], Nothing(), 0.01)
    sync.start()
    assert lane.is_syncing.wait(30)
    lane.position = 2  # the run's last points
    threading.Timer(0.2, lane.may_go_on.set).start()
    sync.stop(30.0)
    assert not sync.is_alive()
    assert lane.synced[-1] == 2


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "none left"), RuntimeError("a user's")])
def test_a_sink_that_could_not_be_synced_is_synced_the_next_time(error):
    lane = Lane()
    lane.errors = [error]
    sync = DiskSync(NoJournal(), Nothing(), [lane], Nothing(), 0.01)
    sync.start()
    assert lane.is_syncing.wait(30)  # though nothing new has come
    sync.stop(30.0)
    assert 1 in lane.synced


def test_segments_that_could_not_be_synced_are_synced_the_next_time(tmp_path, monkeypatch):
    journal = Journal(str(tmp_path))
    journal.segment_bytes = 1
    for sequence in (1, 2, 3):
        record = np.zeros(1, RECORD_DTYPE)
        record["sequence"] = sequence
        journal.append(record)
    synced, folders = set(), []

    def name_of(fd):
        return os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))

    def fail(_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(journal_module, "sync_folder", folders.append)
    monkeypatch.setattr(journal_module, "_sync_file", fail)
    with pytest.raises(OSError, match="broken"):
        journal.sync()
    monkeypatch.setattr(journal_module, "_sync_file", lambda fd: synced.add(name_of(fd)))
    journal.sync()
    assert {name for name in os.listdir(tmp_path) if name.startswith("journal-")} <= synced
    assert folders
    assert not journal.has_retired_files
    journal.close()


def test_small_files_reach_the_disk_before_what_refers_to_them():
    """A row that W&B has by its number, a series by its name: positions that went on without them
    would have another process number and name anew."""
    order = []

    class Noting:
        def __init__(self, what):
            self.what = what

        def sync(self):
            order.append(self.what)

    lane = Lane()
    lane.sync_sink = lambda: order.append("sink")
    sync = DiskSync(NoJournal(), Noting("small files"), [lane], Noting("positions"), 100.0)
    sync.start()
    sync.stop(30.0)
    assert order[:3] == ["small files", "sink", "positions"]


@pytest.fixture
def synced(monkeypatch):
    """The names of the files, and "/" for the folder, that were synced since it was cleared."""
    names = []
    monkeypatch.setattr(small_files, "sync_file", lambda path: names.append(os.path.basename(path)))
    monkeypatch.setattr(small_files, "sync_folder", lambda path: names.append("/"))
    return names


def test_a_small_file_that_was_written_since_is_synced_and_no_other(tmp_path, synced):
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "mlflow_names.jsonl").write_text("[1]\n")
    (tmp_path / "journal-0.bin").write_text("the journal's own")
    (tmp_path / "folder.json").mkdir()
    files = SmallFiles(str(tmp_path))
    files.sync()
    assert sorted(synced) == ["/", "mlflow_names.jsonl", "notes.json"]
    assert synced[-1] == "/"  # the names last: what they name is there then
    synced.clear()
    files.sync()
    assert synced == []
    with open(tmp_path / "mlflow_names.jsonl", "a") as file:
        file.write("[2]\n")
    (tmp_path / "new").write_text("{}")
    os.replace(tmp_path / "new", tmp_path / "notes.json")  # of the same size
    files.sync()
    assert sorted(synced) == ["/", "mlflow_names.jsonl", "notes.json"]


def test_a_small_file_that_could_not_be_synced_is_synced_the_next_time(
    tmp_path, synced, monkeypatch
):
    (tmp_path / "notes.json").write_text("{}")
    files = SmallFiles(str(tmp_path))

    def fail(path):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as broken:
        broken.setattr(small_files, "sync_folder", fail)
        with pytest.raises(OSError, match="broken"):
            files.sync()
    synced.clear()
    files.sync()
    assert synced == ["notes.json", "/"]


def test_of_a_run_s_folder_that_is_removed_the_journal_alone_tells(tmp_path, synced):
    SmallFiles(str(tmp_path / "gone")).sync()
    assert synced == []
