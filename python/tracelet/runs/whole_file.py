"""Small files, written whole or not at all: also when the machine loses its power meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os


def write_whole(
    path: str, data: bytes, mode: int = 0o600, new_path: str = "", is_synced: bool = True
) -> None:
    """Has `path` hold `data`, or what it held before. Raises OSError.

    Where several processes write the same file, each gives a `new_path` of its own beside it.
    Without `is_synced` nothing waits for a disk: a loss of power may leave the file half written.

    The content reaches the disk before the name does: a rename alone may be there after a loss of
    power while what it names is empty. The folder is synced last, so that the name is kept too.
    """
    new_path = new_path or path + ".new"
    # Exclusively: nothing that lies there, a link for one, is written through.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new_path)
    fd = os.open(new_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            if is_synced:
                file.flush()
                os.fsync(file.fileno())
        os.replace(new_path, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new_path)
        raise
    if is_synced:
        sync_folder(os.path.dirname(path) or ".")


def sync_folder(folder: str) -> None:
    """Has the names in a folder reach the disk, as far as its file system has a way to. Raises
    OSError."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # no folder can be opened here
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)


def sync_file(path: str) -> None:
    """Has a file's content reach the disk; nothing for one that is not there. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        getattr(os, "fdatasync", os.fsync)(fd)
    finally:
        os.close(fd)


def sync_names(path: str) -> None:
    """Has a new file's name reach the disk, with those of the folders above it, which may be as
    new. Raises OSError for its own folder."""
    folder = os.path.dirname(os.path.abspath(path))
    sync_folder(folder)
    while (above := os.path.dirname(folder)) != folder:
        folder = above
        with contextlib.suppress(OSError):  # not this user's, and older
            sync_folder(folder)
