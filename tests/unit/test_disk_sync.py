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


class NoJournal:
    end = 0
    has_retired_files = False

    def sync(self):
        pass


class NoProgress:
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
    sync = DiskSync(NoJournal(), [lane], NoProgress(), 0.01)
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
    sync = DiskSync(NoJournal(), [lane], NoProgress(), 0.01)
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
