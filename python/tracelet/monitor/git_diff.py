"""What is changed in the repository, by the program `git`: only where the user asks for it.

It may hang (a network file system, a lock, millions of files), so it has a deadline, and is ended
when the run is. It takes no lock and starts no hook, no monitor and no diff program of the
repository. It does start the filters that the repository or the user has set (`filter.NAME.clean`:
git-lfs is one): without them the diff would be another than the one that `git apply` takes.

While it runs it is a child of this process: an `os.wait()` of the user's may return it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any

from tracelet.monitor.git import find_git_folder

MOST_DIFF_BYTES = 64 << 10
"""What is kept of a diff: it lies in the run's record, and those have a budget."""
TIMEOUT_S = 10.0
_CANCELLED = "the run ended before git had answered"
_KILLED_S = 5.0
_LOOKS_UP_S = 0.1
_READ_BYTES = 1 << 16
# Before the command: what git would do beside it, in options that older ones know, too.
_QUIET = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_STATUS = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
_DIFF = (
    "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=dirty",
)  # fmt: skip


def changes(
    folder: str, is_cancelled: threading.Event, timeout_s: float = TIMEOUT_S
) -> Mapping[str, Any]:
    """ "git_is_changed", and "git_diff" where it is; what went wrong is "git". Empty where there is
    no repository. `is_cancelled`, set by any thread, ends it within moments."""
    found: dict[str, Any] = {}
    try:
        if not find_git_folder(folder):
            return found
        ask = _Git(folder, is_cancelled, timeout_s)
        # Its first byte says that there is a change: git is ended then.
        found["git_is_changed"] = bool(ask.said(_STATUS, 1))
        if found["git_is_changed"]:
            found["git_diff"] = _cut(ask.said(_DIFF, MOST_DIFF_BYTES + 1))
    except FileNotFoundError:
        found["git"] = "the program git is not there"
    except (_Failed, OSError, ValueError) as error:
        found["git"] = str(error)[:200]
    return found


class _Failed(Exception):  # noqa: N818
    """git could not say it."""


class _Git:
    """Asks git, for at most `timeout_s` in all, on the caller's thread: it starts the process,
    reads its pipe, ends it and waits for it, so that no lock is needed and none can be held."""

    def __init__(self, folder: str, is_cancelled: threading.Event, timeout_s: float) -> None:
        self._folder = folder
        self._is_cancelled = is_cancelled
        self._deadline_s = time.monotonic() + timeout_s

    def said(self, words: tuple[str, ...], most_bytes: int) -> bytes:
        """The first `most_bytes` of it. Raises _Failed, OSError."""
        self._check()
        process = subprocess.Popen(
            ["git", "-C", self._folder, *_QUIET, *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=_environment(), start_new_session=True, bufsize=0,
        )  # fmt: skip
        try:
            output = self._read(process, most_bytes)
            if len(output) >= most_bytes:
                return output
            code = self._wait(process)
        finally:
            _end(process)
        if code != 0:
            raise _Failed("git was ended" if code < 0 else f"git {words[0]} failed ({code})")
        return output

    def _read(self, process: subprocess.Popen[bytes], most_bytes: int) -> bytes:
        """Never in a read that has no deadline: a child of git's may hold the pipe for ever."""
        assert process.stdout is not None
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        output = bytearray()
        while len(output) < most_bytes:
            self._check()
            if poll.poll(_LOOKS_UP_S * 1000):
                piece = process.stdout.read(min(_READ_BYTES, most_bytes - len(output)))
                if not piece:
                    break
                output += piece
        return bytes(output)

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        while True:
            try:
                return process.wait(_LOOKS_UP_S)
            except subprocess.TimeoutExpired:
                self._check()

    def _check(self) -> None:
        if self._is_cancelled.is_set():
            raise _Failed(_CANCELLED)
        if time.monotonic() >= self._deadline_s:
            raise _Failed("git did not answer in time")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leaves nothing behind: no process, none that it has started, no pipe."""
    assert process.stdout is not None
    process.stdout.close()
    if process.returncode is not None or not _is_ours(process.pid):
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(_KILLED_S)
    except (OSError, subprocess.TimeoutExpired):
        return  # it is gone, or hangs in the kernel


def _is_ours(pid: int) -> bool:
    """Whether it still has the pid: an `os.wait()` of the user's may have taken it, and a signal
    to it would go to a stranger."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except AttributeError:
        return True  # macOS before Python 3.13
    except OSError:
        return False
    return True


def _environment() -> dict[str, str]:
    """It asks nobody, fetches nothing, pages nothing and writes no index."""
    quiet = {
        "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1",
        "GIT_PAGER": "", "LC_ALL": "C",
    }  # fmt: skip
    return {**os.environ, **quiet}


def _cut(diff: bytes) -> str:
    if len(diff) <= MOST_DIFF_BYTES:
        return diff.decode("utf-8", "replace")
    whole = diff[:MOST_DIFF_BYTES].rpartition(b"\n")[0]
    return whole.decode("utf-8", "replace") + "\n(cut here: only the beginning is kept)\n"
