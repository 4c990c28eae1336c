"""The git repository that the program lies in: commit, branch, whether it is changed, the diff.

By the program `git`, which reads more kinds of repositories than one would write down here. It may
hang (a network file system, a lock, millions of files), so it has a deadline, and is ended when the
run is. It changes nothing: no lock is taken, no hook or other program of the repository is run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any

from tracelet.redact import bare_url

MOST_DIFF_BYTES = 64 << 10
"""What is kept of a diff: it lies in the run's record, and those have a budget."""
TIMEOUT_S = 10.0
_MOST_OUTPUT_BYTES = 16 << 20
_CANCELLED = "the run ended before git had answered"
_KILLED_S = 5.0
_READ_BYTES = 1 << 16
# Before the command: what git would do beside it, in options that older ones know, too.
_QUIET = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_STATUS = (
    "status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=dirty",
)  # fmt: skip
_DIFF = (
    "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=dirty",
)  # fmt: skip


def has_repository(folder: str) -> bool:
    """Whether git would find one from there, without starting it."""
    if os.environ.get("GIT_DIR"):
        return True
    while not os.path.lexists(os.path.join(folder, ".git")):
        above = os.path.dirname(folder)
        if above == folder:
            return False
        folder = above
    return True


class Git:
    """Asks git, for at most `timeout_s` in all. `cancel` may be called by any thread."""

    def __init__(self, folder: str, timeout_s: float = TIMEOUT_S) -> None:
        self._folder = folder
        self._deadline_s = time.monotonic() + timeout_s
        self._lock = threading.Lock()  # of the two below; never held while one waits
        self._process: subprocess.Popen[bytes] | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        """Ends what is asked now, and answers nothing more."""
        with self._lock:
            self._is_cancelled = True
            process = self._process
        self._end(process)

    def found(self, with_diff: bool) -> Mapping[str, Any]:
        """What is known of the repository, "git_commit" and so on; what went wrong is "git". Empty
        where there is none."""
        if not has_repository(self._folder):
            return {}
        found: dict[str, Any] = {}
        try:
            found.update(_read_status(self._ask(*_STATUS)))
            with contextlib.suppress(_Failed):  # there is none
                found["git_remote"] = bare_url(
                    _text(self._ask("config", "--get", "remote.origin.url")).strip()
                )
            if with_diff and found.get("git_is_changed"):
                found["git_diff"] = _cut(self._ask(*_DIFF, most_bytes=MOST_DIFF_BYTES + 1))
        except FileNotFoundError:
            found["git"] = "the program git is not there"
        except (_Failed, OSError, ValueError) as error:
            found["git"] = str(error)[:200]
        return found

    def _ask(self, *words: str, most_bytes: int = _MOST_OUTPUT_BYTES) -> bytes:
        """What git says, the first `most_bytes` of it. Raises _Failed, OSError."""
        with self._lock:
            if self._is_cancelled:
                raise _Failed(_CANCELLED)
            process = self._process = subprocess.Popen(
                ["git", "-C", self._folder, *_QUIET, *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=_environment(), start_new_session=True,
            )  # fmt: skip
        # Ends it from beside: a read of its pipe has no deadline of its own.
        left_s = max(0.0, self._deadline_s - time.monotonic())
        timer = threading.Timer(left_s, self._end, [process])
        timer.daemon = True
        try:
            timer.start()
            assert process.stdout is not None
            output = bytearray()
            while len(output) < most_bytes and (piece := process.stdout.read(_READ_BYTES)):
                output += piece
            is_whole = len(output) < most_bytes
            if not is_whole:
                self._end(process)
            process.stdout.close()
            code = process.wait(max(1.0, self._deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._end(process)
            code = process.wait(_KILLED_S)
        finally:
            timer.cancel()
            if process.returncode is None:
                self._end(process)
            with self._lock:
                self._process = None
        if is_whole and code != 0:
            if self._is_cancelled:
                raise _Failed(_CANCELLED)
            if time.monotonic() >= self._deadline_s:
                raise _Failed("git did not answer in time")
            raise _Failed("git was ended" if code < 0 else f"git {words[0]} failed ({code})")
        return bytes(output[:most_bytes])

    def _end(self, process: subprocess.Popen[bytes] | None) -> None:
        """With what it has started, which may hold its pipe open and outlive it: all that is in the
        session of its own. Its pid is its own as long as nobody has waited for it."""
        with self._lock, contextlib.suppress(OSError):
            if process is None or process is not self._process:
                return
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()


class _Failed(Exception):  # noqa: N818
    """git could not say it."""


def _environment() -> dict[str, str]:
    """It asks nobody, fetches nothing, pages nothing and writes no index."""
    quiet = {
        "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1",
        "GIT_PAGER": "", "LC_ALL": "C",
    }  # fmt: skip
    return {**os.environ, **quiet}


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")


def _read_status(output: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    is_changed = False
    for line in _text(output).splitlines():
        if line.startswith("# branch.oid ") and "(initial)" not in line:
            found["git_commit"] = line.split(" ", 2)[2]
        elif line.startswith("# branch.head "):
            found["git_branch"] = line.split(" ", 2)[2]
        elif line and not line.startswith("#"):
            is_changed = True
    if "git_branch" not in found:
        raise ValueError("git status says nothing that is known")
    found["git_is_changed"] = is_changed
    return found


def _cut(diff: bytes) -> str:
    if len(diff) <= MOST_DIFF_BYTES:
        return _text(diff)
    whole = diff[:MOST_DIFF_BYTES].rpartition(b"\n")[0]
    return _text(whole) + "\n(cut here: only the beginning is kept)\n"
