"""The queue of uploads: what fails, is refused, is left at the deadline; and what is uploaded."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from tracelet.backends import content as contents
from tracelet.backends.clearml import storage
from tracelet.pipeline.uploads import Uploads
from waiting import wait_until


class FakeUpload:
    """Fails as often as it is told, or until it is let go."""

    def __init__(self, name, failures=0, refused=False, hold=None, size_bytes=1):
        self.name = name
        self.size_bytes = size_bytes
        self.failures = failures
        self.refused = refused
        self.hold = hold
        self.attempts = 0
        self.done = self.discarded = False
        self.kept_in = None

    def upload(self):
        self.attempts += 1
        if self.hold is not None:
            self.hold.wait(10)
        if self.attempts <= self.failures:
            raise OSError(f"attempt {self.attempts} of {self.name}")
        self.done = True

    def is_refused(self, error):
        return self.refused

    def keep(self, folder):
        self.kept_in = folder
        return ""

    def discard(self):
        self.discarded = True


def test_what_fails_is_tried_again_and_holds_back_no_other(caplog):
    uploads = Uploads("aside")
    failing, other, refused = (
        FakeUpload("failing", failures=3),
        FakeUpload("other"),
        FakeUpload("refused", failures=9, refused=True),
    )
    for each in (failing, refused, other):
        uploads.add(each)
    wait_until(lambda: other.done)
    assert not failing.done
    uploads.finish(10)
    assert failing.done
    assert failing.discarded
    assert failing.attempts == 4
    assert (refused.attempts, refused.kept_in) == (1, "aside")
    assert uploads.counts == {"uploaded": 2, "failed": 1}
    words = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([line for line in words if "failing can't be sent now" in line]) == 1
    (line,) = [line for line in words if "refused is not on the server" in line]
    assert "attempt 1 of refused" in line


def test_what_is_left_at_the_deadline_is_named_once_and_counted(caplog):
    hold = threading.Event()
    uploads = Uploads("aside")
    hanging, waiting = FakeUpload("hanging", hold=hold), FakeUpload("waiting")
    uploads.add(hanging)
    uploads.add(waiting)
    start_s = time.monotonic()
    uploads.finish(0.3)
    assert time.monotonic() - start_s < 1
    assert uploads.counts == {"failed": 2}
    hold.set()  # comes back too late: it is counted already
    time.sleep(0.1)
    assert uploads.counts == {"failed": 2}
    words = [record.getMessage() for record in caplog.records]
    assert [line.count("is not on the server") for line in words] == [1, 1]


def test_the_last_thing_is_done_last_once_and_not_counted():
    uploads = Uploads("aside")
    order = []
    for name in ("first", "second"):
        last = FakeUpload(name, size_bytes=None)
        last.upload = lambda name=name: order.append(name)
        uploads.at_end(last)
    each = FakeUpload("each")
    each.upload = lambda: order.append("each")
    uploads.add(each)
    uploads.finish(5)
    assert order == ["each", "second"]
    assert uploads.counts == {"uploaded": 1}


def test_without_uploads_there_is_no_thread():
    before = threading.active_count()
    uploads = Uploads("aside")
    uploads.finish(0)
    assert uploads.counts == {}
    assert threading.active_count() == before


def test_a_large_file_that_changes_meanwhile_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "COPIED_BYTES", 10)
    path = tmp_path / "large.bin"
    path.write_bytes(b"x" * 100)
    found = contents.content_of(path, "large.bin", str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()
    found.check_unchanged()
    path.write_bytes(b"y" * 101)
    with pytest.raises(contents.ChangedError, match="changed before it was uploaded"):
        found.check_unchanged()
    path.unlink()
    with pytest.raises(contents.ChangedError):
        found.check_unchanged()


def test_a_small_file_and_an_array_are_those_of_the_call(tmp_path):
    path = tmp_path / "small.txt"
    path.write_text("first")
    found = contents.content_of(path, "small.txt", str(tmp_path / "copy"))
    path.write_text("second")
    assert (tmp_path / "copy").read_text() == "first"
    assert found.path == str(tmp_path / "copy")
    array = np.arange(3)
    found = contents.content_of(array, "folder/array", "unused")
    array[:] = 9
    found.write(str(tmp_path / found.filename))
    assert np.load(tmp_path / "array.npz")["folder/array"].tolist() == [0, 1, 2]


def test_reading_a_large_file_is_told_on_stderr(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storage, "_FIRST_PROGRESS_S", 0.0)
    monkeypatch.setattr(storage, "_PROGRESS_INTERVAL_S", 0.0)
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(3_000_000))
    with storage.ProgressFile(str(path), "artifact 'large.bin'", 3_000_000) as file:
        while file.read(1_000_000):
            pass
    lines = capsys.readouterr().err.splitlines()
    assert "uploading artifact 'large.bin': 2 of 3 MB" in lines[2]
