"""What is opened for a recovery: this user's own regular files, without a link or a wait."""

from __future__ import annotations

import os
import threading

import pytest
from tracelet.runs.ownership import (
    NotOwnError,
    check_own_folder,
    is_own_file,
    is_own_folder,
    open_own,
    read_own,
)  # fmt: skip

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"0123456789")
    return folder


@pytest.fixture
def odd(folder):
    """What is no file: {what it is called: its path}."""
    os.symlink(folder / "file", folder / "link")
    os.mkfifo(folder / "pipe")
    (folder / "inner").mkdir()
    return {"a link": folder / "link", "a pipe": folder / "pipe", "a folder": folder / "inner"}


def test_what_is_no_file_is_not_opened_and_nothing_waits_for_it(folder, odd):
    def open_all():
        for what, path in odd.items():
            with pytest.raises(NotOwnError, match=f"{path} is {what} where a regular file"):
                open_own(str(path))
            with pytest.raises((NotOwnError, OSError)):
                os.close(open_own(str(path), os.O_RDWR | os.O_CREAT))
            assert not is_own_file(str(path))
        told.append("all")

    told = []
    before = os.listdir("/dev/fd")
    thread = threading.Thread(target=open_all, daemon=True)
    thread.start()
    thread.join(30)
    assert told == ["all"]
    assert len(os.listdir("/dev/fd")) == len(before)
    assert (folder / "file").read_bytes() == b"0123456789"


def test_a_file_that_is_swapped_for_a_pipe_or_a_link_as_it_is_opened_is_seen(
    folder, odd, monkeypatch
):
    status = os.lstat(folder / "file")
    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", lambda path: status)
        with pytest.raises(NotOwnError, match="a pipe"):
            open_own(str(odd["a pipe"]))
        with pytest.raises(OSError, match="link"):
            open_own(str(odd["a link"]))


def test_another_users_file_is_left_alone(folder, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    before = os.listdir("/dev/fd")
    with pytest.raises(NotOwnError, match="belongs to the user"):
        open_own(str(folder / "file"))
    with pytest.raises(NotOwnError, match="belongs to the user"):
        open_own(str(folder / "file"), os.O_RDWR | os.O_CREAT)
    assert len(os.listdir("/dev/fd")) == len(before)
    assert not is_own_folder(str(folder))


def test_files_that_are_made_are_for_the_owner_alone(folder):
    os.close(open_own(str(folder / "new"), os.O_RDWR | os.O_CREAT))
    assert os.stat(folder / "new").st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError):
        open_own(str(folder / "gone"))
    assert not is_own_file(str(folder / "gone"))


def test_a_file_is_read_as_far_as_its_kind_is_long(folder):
    assert read_own(str(folder / "file"), 10) == b"0123456789"
    with pytest.raises(NotOwnError, match=r"larger than any of its kind \(9 bytes\)"):
        read_own(str(folder / "file"), 9)


def test_a_folder_is_checked_with_all_in_it(folder, odd):
    assert is_own_folder(str(folder))
    assert not is_own_folder(str(folder / "file"))
    os.symlink(folder, folder.parent / "to-it")
    assert not is_own_folder(str(folder.parent / "to-it"))
    with pytest.raises(NotOwnError):
        check_own_folder(str(folder.parent / "to-it"))
    for name in ("link", "pipe"):
        with pytest.raises(NotOwnError):
            check_own_folder(str(folder))
        os.unlink(odd[f"a {name}"])
    check_own_folder(str(folder))
    os.symlink(folder / "file", folder / "inner" / "link")
    with pytest.raises(NotOwnError, match="inner"):
        check_own_folder(str(folder))
    check_own_folder(str(folder), apart_from=("inner",))
    os.symlink(folder / "file", folder / "z-link")
    with pytest.raises(NotOwnError, match="z-link"):
        check_own_folder(str(folder), apart_from=("inner",))
