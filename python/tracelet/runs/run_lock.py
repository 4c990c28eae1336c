"""A lock on a file, held by a process until it lets go or dies."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable
from typing import Any

from tracelet.fork import renew_at_fork
from tracelet.runs.ownership import NotOwnError, open_own, read_own
from tracelet.runs.process_identity import is_alive, process_identity, processes_that_map

_POLL_S = 0.02
_MOST_CLAIM_BYTES = 1 << 16
# What reading a claim can raise: it is being written, is gone, or is none.
_UNREADABLE = (OSError, ValueError, AttributeError, KeyError, TypeError, NotOwnError)


class RunLock:
    """Exclusive between processes. One thread.

    By flock, which the kernel gives back when the last process that has the file open is gone: so
    children of a fork close it. Where the file system has no
    flock, by a file that is created exclusively and names its process, and is taken from the dead.

    Such a claim is never removed by the name that all share: between a look at it and its removal
    it may have become another's. It is renamed first, to a name that nobody else makes, and looked
    at there. One that turns out to be somebody's holds the lock by that name too: who creates a
    claim has the lock only when it then sees none of another beside its own.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._claim_path = f"{path}.claim"
        self._fd: int | None = None
        self._has_claim = False
        self._token = ""  # which claim is its own
        renew_at_fork(self)

    def renew_in_child(self) -> None:
        """The lock is the parent's, and ends with that: a child that outlives it holds nothing."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)  # which gives back no lock that the parent has, too
        self._has_claim = False

    def acquire(self, timeout_s: float = 0.0) -> bool:
        """Whether the lock was to be had within the time. Raises OSError for a folder that is not
        there or may not be written, NotOwnError."""
        deadline_s = time.monotonic() + timeout_s
        while not self._try_acquire():
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def seize(self) -> bool:
        """Takes it also from a claim that is in `doubt`: for what nobody holds for long."""
        if self.doubt(self._path):
            _remove_claims(self._claim_path, _is_in_doubt)
        return self.acquire()

    def _try_acquire(self) -> bool:
        fd = open_own(self._path, os.O_RDWR | os.O_CREAT)
        if (locked := _flock(fd, shared=False)) is True:
            self._fd = fd
            return True
        os.close(fd)
        return locked is None and self._try_claim()

    def _try_claim(self) -> bool:
        try:
            fd = os.open(self._claim_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            _remove_claims(self._claim_path, _claim_is_dead)
            return False  # a caller that can wait tries again
        self._token = os.urandom(8).hex()
        with open(fd, "w", encoding="utf-8") as file:
            json.dump({**process_identity(), "claim": self._token}, file)
        self._has_claim = True
        others = (path for path in _claims(self._claim_path) if not self._is_own(path))
        if any(os.path.exists(path) and not _claim_is_dead(path) for path in others):
            self._let_go_of_claim()
        return self._has_claim

    def _is_own(self, path: str) -> bool:
        with contextlib.suppress(*_UNREADABLE):
            return bool(_read_claim(path)["claim"] == self._token)
        return False

    def _let_go_of_claim(self) -> None:
        self._has_claim = False
        with contextlib.suppress(OSError):  # no descriptor is left: it ends with this process
            _remove_claims(self._claim_path, self._is_own)

    def release(self) -> None:
        """Lets go, also where forked children have the file open."""
        if self._fd is not None:
            import fcntl

            # First: a child that is forked meanwhile must not close what has this number then.
            fd, self._fd = self._fd, None
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
        if self._has_claim:
            self._let_go_of_claim()

    @classmethod
    def is_held(cls, path: str) -> bool | None:
        """Whether a process holds the lock; None when that can't be told. Takes nothing."""
        try:
            fd = open_own(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        except (OSError, NotOwnError):
            return None
        try:
            # Shared: two that look at once don't disturb each other.
            locked = _flock(fd, shared=True)
        finally:
            os.close(fd)
        if locked is not None:
            return not locked
        claims = _claims(f"{path}.claim")
        return any(os.path.exists(claim) and not _claim_is_dead(claim) for claim in claims)

    @classmethod
    def doubt(cls, path: str) -> str:
        """In words: a claim holds the lock of which nobody here can tell whether its process lives,
        as it is another host's, or another container's, or died while it wrote the claim. It is
        taken from nobody, and would hold the lock for ever: people are told. "" else."""
        if cls.is_held(path) is False or _has_flock(path):
            return ""
        for claim_path in _claims(f"{path}.claim"):
            if _is_in_doubt(claim_path):
                return (
                    f"{claim_path} is of {_process_of(claim_path)}, and whether that one lives "
                    "can't be told here. If it has ended, remove this file"
                )
        return ""


def take_from_users(path: str) -> int | None:
    """Takes a file that its users hold together (RunFolder.hold_ring) for this process alone.

    A descriptor, to be closed by the caller; None when somebody holds it; -1 for one that is not
    there, or is not this user's: who reads it has more to say. Raises OSError when it can't be
    opened, as where no descriptor is left: it must not be taken for one that nobody holds.
    """
    try:
        fd = _opened(path)
    except (FileNotFoundError, NotOwnError):
        return -1
    if os.name == "nt":  # there it could not be removed while it is open
        os.close(fd)
        return -1
    locked = _flock(fd, shared=False)
    if locked is False or (locked is None and processes_that_map(path)):
        os.close(fd)
        return None
    return fd


def _opened(path: str) -> int:
    try:
        return open_own(path, os.O_RDWR)  # NFS locks nothing else exclusively
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    return open_own(path, os.O_RDONLY)  # other file systems do, also one that is mounted read-only


def _flock(fd: int, shared: bool) -> bool | None:
    """Whether the lock was to be had; None where there is no flock."""
    try:
        import fcntl

        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _has_flock(path: str) -> bool:
    try:
        fd = open_own(path, os.O_RDWR)
    except (OSError, NotOwnError):
        return False
    try:
        return _flock(fd, shared=True) is not None
    finally:
        os.close(fd)


def _claims(path: str) -> list[str]:
    """Where claims may lie: the name by which they are created, and what was renamed."""
    folder, name = os.path.split(path)
    try:
        names = sorted(os.listdir(folder or "."))
    except FileNotFoundError:
        return []
    return [path, *(os.path.join(folder, each) for each in names if each.startswith(f"{name}."))]


def _remove_claims(path: str, is_meant: Callable[[str], bool]) -> None:
    """Removes those that are meant, and none that another process has made meanwhile."""
    if is_meant(path):
        with contextlib.suppress(FileNotFoundError):  # another was first, or it was moved
            os.rename(path, f"{path}.{os.urandom(8).hex()}")
    for moved in _claims(path)[1:]:
        if is_meant(moved):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(moved)


def _read_claim(path: str) -> Any:
    return json.loads(read_own(path, _MOST_CLAIM_BYTES))


def _claim_is_dead(path: str) -> bool:
    try:
        return is_alive(_read_claim(path)) is False
    except _UNREADABLE:
        return False  # being written, or just gone


def _is_in_doubt(path: str) -> bool:
    """Whether nobody here can tell if its process lives, or which one that is."""
    try:
        return is_alive(_read_claim(path)) is None
    except FileNotFoundError:
        return False
    except _UNREADABLE:
        return True


def _process_of(path: str) -> str:
    try:
        claim = _read_claim(path)
        return f"process {claim.get('pid')} on {claim.get('host')}"
    except _UNREADABLE:
        return "a process that it does not name"
