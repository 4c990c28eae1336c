"""What lies on disk is opened as this user's own regular file, or not at all.

A runs' folder may be shared (TRACELET_DIR), copied or made up: a link there would be followed, a
pipe waited for, another user's file read or written in this user's name.
"""

from __future__ import annotations

import os
import stat

from tracelet.errors import TraceletError

# None of them on Windows, which has neither such links nor pipes in folders.
_NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)


class NotOwnError(TraceletError):
    """What lies there is no file or folder of this user's own."""


def open_own(path: str, flags: int = os.O_RDONLY) -> int:
    """Opens a regular file of this user's, without following a link or waiting for a pipe.

    Raises NotOwnError, OSError. A file that `flags` make is made for the owner alone.
    """
    _check(path, os.lstat(path) if not flags & os.O_CREAT else None, wants_folder=False)
    fd = os.open(path, flags | _NO_LINK | _NO_WAIT, 0o600)
    try:
        _check(path, os.fstat(fd), wants_folder=False)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_own(path: str, most_bytes: int) -> bytes:
    """The content of such a file. Raises NotOwnError, also for one that is larger; OSError."""
    with open(open_own(path), "rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise NotOwnError(f"{path} is larger than any of its kind ({most_bytes} bytes)")
    return data


def is_own_file(path: str) -> bool:
    return _is_own(path, wants_folder=False)


def is_own_folder(path: str) -> bool:
    """Whether it is a folder of this user's, and no link to one. What is in it is not looked at."""
    return _is_own(path, wants_folder=True)


def _is_own(path: str, wants_folder: bool) -> bool:
    try:
        _check(path, os.lstat(path), wants_folder)
    except (OSError, TraceletError):
        return False
    return True


def check_own_folder(path: str, apart_from: tuple[str, ...] = ()) -> None:
    """Raises NotOwnError unless the folder and all in it are this user's, and none of it a link or
    a pipe. Of the folders `apart_from` the content is not looked at: it is the user's own choice.

    Raises OSError when it can't be read.
    """
    _check(path, os.lstat(path), wants_folder=True)
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # of a run that goes on
            if not stat.S_ISDIR(status.st_mode):
                _check(entry.path, status, wants_folder=False)
            elif entry.name in apart_from:
                _check(entry.path, status, wants_folder=True)
            else:
                check_own_folder(entry.path)


def _check(path: str, status: os.stat_result | None, wants_folder: bool) -> None:
    if status is None:
        return
    mode = status.st_mode
    if not (stat.S_ISDIR(mode) if wants_folder else stat.S_ISREG(mode)):
        wanted = "folder" if wants_folder else "regular file"
        raise NotOwnError(f"{path} is {_kind_of(mode)} where a {wanted} belongs; it is left alone")
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise NotOwnError(
            f"{path} belongs to the user {status.st_uid}, this is {os.geteuid()}; it is left alone"
        )


def _kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder",
        stat.S_IFREG: "a file", stat.S_IFSOCK: "a socket",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "a device")
