"""progress.bin and small files: whole at any instant, damage is seen, older versions are read."""

from __future__ import annotations

import os
import struct

import pytest
from tracelet.errors import TraceletError
from tracelet.runs import whole_file
from tracelet.runs.progress import PROGRESS, Progress
from tracelet.runs.whole_file import write_whole


def positions_in(folder):
    progress = Progress.open(str(folder))
    try:
        return [progress[number] for number in range(progress.count)]
    finally:
        progress.close()


def test_positions_are_those_that_were_set_last(tmp_path):
    progress = Progress.create(str(tmp_path), [3, 0])
    for position in range(4, 40):
        progress[0] = position
    progress[1] = 7
    progress.close()
    assert positions_in(tmp_path) == [39, 7]
    gone_on = Progress.open(str(tmp_path))
    gone_on[0] = 50
    gone_on.close()
    assert positions_in(tmp_path) == [50, 7]


def test_a_flipped_bit_gives_the_position_before_or_is_told_and_never_another(tmp_path):
    progress = Progress.create(str(tmp_path), [100, 7])
    progress[0] = 200
    progress.close()
    path = tmp_path / PROGRESS
    good = path.read_bytes()
    seen = set()
    for bit in range(len(good) * 8):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            seen.add(tuple(positions_in(tmp_path)))
        except TraceletError:
            seen.add(None)
    assert seen == {(200, 7), (100, 7), None}


def test_an_empty_a_zeroed_and_a_cut_off_file_are_refused(tmp_path):
    Progress.create(str(tmp_path), [100, 7]).close()
    path = tmp_path / PROGRESS
    good = path.read_bytes()
    for data in (b"", bytes(len(good)), good[:100], b"TRCLPROG"):
        path.write_bytes(data)
        with pytest.raises(TraceletError, match="damaged"):
            positions_in(tmp_path)


def test_a_file_of_version_1_is_read_and_gone_on_with(tmp_path):
    head = struct.pack("<8sII", b"TRCLPROG", 1, 2).ljust(64, b"\0")
    slots = b"".join(struct.pack("<Q", position).ljust(64, b"\0") for position in (5, 6))
    (tmp_path / PROGRESS).write_bytes(head + slots)
    assert positions_in(tmp_path) == [5, 6]
    progress = Progress.open(str(tmp_path))
    progress[1] = 9
    progress.close()
    assert positions_in(tmp_path) == [5, 9]


def test_a_small_file_is_on_disk_before_its_name_is_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            whole_file.os, name, lambda *a, n=name, f=real: (calls.append(n), f(*a))[1]
        )
    path = tmp_path / "manifest.json"
    write_whole(str(path), b"first")
    assert calls == ["fsync", "replace", "fsync"]
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(str(path), b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_a_link_in_the_place_of_the_new_file_is_not_written_through(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"kept")
    (tmp_path / "file.new").symlink_to(other)
    write_whole(str(tmp_path / "file"), b"new")
    assert other.read_bytes() == b"kept"
    assert (tmp_path / "file").read_bytes() == b"new"
