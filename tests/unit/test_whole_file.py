"""Small files, folders and names that reach the disk; ledgers that are gone on with."""

from __future__ import annotations

import errno
import os

import pytest
from tracelet import _core
from tracelet.runs import whole_file
from tracelet.runs.ledgers import recover_ledger, settle_ledger
from tracelet.runs.manifest import FORMAT, decoded, encoded
from tracelet.runs.private_file import private
from tracelet.runs.whole_file import sync_file, sync_folder, sync_names, write_whole


@pytest.fixture
def synced(monkeypatch):
    """What is synced: the paths, in order."""
    paths = []
    opened = {}
    real_open, real_close = os.open, os.close

    def open_(path, *arguments, **named):
        fd = real_open(path, *arguments, **named)
        opened[fd] = str(path)
        return fd

    def close(fd):
        opened.pop(fd, None)
        real_close(fd)

    monkeypatch.setattr(whole_file.os, "open", open_)
    monkeypatch.setattr(whole_file.os, "close", close)
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(whole_file.os, name, lambda fd: paths.append(opened[fd]))
    yield paths
    assert not [path for path in opened.values() if os.path.isdir(path)]  # each is closed again


def test_each_of_several_writers_has_a_new_file_of_its_own(tmp_path):
    path, new = tmp_path / "file", tmp_path / "mine"
    new.write_bytes(b"of one that died")
    write_whole(str(path), b"first", 0o640, str(new))
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_who_makes_the_new_file_meanwhile_is_not_written_over(tmp_path, monkeypatch):
    other = tmp_path / "file.new"
    other.write_bytes(b"another's")
    monkeypatch.setattr(whole_file.os, "unlink", lambda path: None)  # it is made after that
    with pytest.raises(FileExistsError):
        write_whole(str(tmp_path / "file"), b"mine")
    assert other.read_bytes() == b"another's"


def test_the_folder_of_a_name_without_one_is_the_working_folder(tmp_path, monkeypatch, synced):
    monkeypatch.chdir(tmp_path)
    write_whole("file", b"content")
    assert synced[-1] == "."
    write_whole(str(tmp_path / "file"), b"content")
    assert synced[-1] == str(tmp_path)


def test_a_folder_that_can_not_be_synced_by_its_kind_is_none_to_fail_for(tmp_path, monkeypatch):
    before = len(os.listdir("/dev/fd"))
    for number in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EIO, errno.ENOSPC):

        def fail(fd, number=number):
            raise OSError(number, "refused")

        monkeypatch.setattr(whole_file.os, "fsync", fail)
        if number in (errno.EIO, errno.ENOSPC):
            with pytest.raises(OSError, match="refused"):
                sync_folder(str(tmp_path))
        else:
            sync_folder(str(tmp_path))
    assert len(os.listdir("/dev/fd")) == before


def test_a_file_is_synced_and_one_that_is_not_there_is_not_missed(tmp_path, synced):
    (tmp_path / "file").touch()
    before = len(os.listdir("/dev/fd"))
    for name in ("file", "gone", "file/in-a-file"):
        sync_file(str(tmp_path / name))
    assert synced == [str(tmp_path / "file")]
    assert len(os.listdir("/dev/fd")) == before


def test_a_new_name_is_synced_with_those_of_all_folders_above_it(tmp_path, synced, monkeypatch):
    sync_names(str(tmp_path / "file"))
    above = [str(tmp_path), *(str(folder) for folder in tmp_path.parents)]
    assert synced == above

    def refuse(folder):
        if folder != str(tmp_path):
            raise PermissionError
        synced.append("own")

    monkeypatch.setattr(whole_file, "sync_folder", refuse)
    sync_names(str(tmp_path / "file"))  # those above are older, and not this user's
    assert synced[-1] == "own"
    with pytest.raises(PermissionError):
        sync_names(str(tmp_path / "inner" / "file"))


def test_a_private_file_is_its_owners_alone(tmp_path):
    with open(tmp_path / "file", "w", opener=private) as file:
        file.write("secret")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_ledger_in_which_something_was_lost_says_so_until_it_is_settled(tmp_path):
    path = str(tmp_path / "ledger.bin")
    _core.FileLedger.create(path)
    assert recover_ledger(path)[1] is False
    data = bytearray((tmp_path / "ledger.bin").read_bytes())
    (tmp_path / "ledger.bin").write_bytes(bytes(len(data)))
    for _ in range(3):  # a new one looks whole
        ledger, is_damaged = recover_ledger(path)
        assert is_damaged is True
        assert ledger.entries() == []
    settle_ledger(path)
    settle_ledger(path)
    assert recover_ledger(path)[1] is False


MANIFEST = {"format": FORMAT, "run": "a-run", "ring": "/dev/shm/x", "end": 17}


def test_a_manifest_is_read_as_it_was_written_and_damage_is_seen():
    data = encoded(MANIFEST)
    assert decoded(data) == MANIFEST
    assert encoded({**MANIFEST, "crc32c": "of before"}) == data
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1
        with pytest.raises((ValueError, TypeError)):
            decoded(bytes(flipped))


def test_a_manifest_without_a_checksum_is_read_in_the_formats_that_had_none():
    assert decoded(b'{"run": "x"}') == {"run": "x", "format": 1}
    assert decoded(b'{"run": "x", "format": 2}') == {"run": "x", "format": 2}
    # A later one is left to the version that wrote it: who reads it sees its number.
    assert decoded(b'{"format": 4, "run": "x"}') == {"run": "x", "format": 4}
    for text in (b'{"format": 3}', b'{"format": 1, "crc32c": "00000000"}', b'{"format": "1"}', b""):
        with pytest.raises(ValueError, match=r"manifest|Expecting"):
            decoded(text)
