"""Where the handle's own points go among the event files: one experiment is one run in
TensorBoard's list."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from typing import Callable

from tracelet.backends.kept import KeptLines
from tracelet.fork import renew_at_fork
from tracelet.options import Options
from tracelet.writer_key import key_of_rank, split_writer_key

_log = logging.getLogger("tracelet")

_KEPT = "tensorboard_folder.jsonl"


# Which handle noted a SummaryWriter's folder first, in this process: its number, by `writer_key`.
# Written by each one's `note_writer`; whichever of two threads comes first has it.
_noted: dict[str, int] = {}
_numbers = itertools.count()


class HandleFolder:
    """The folder that the option `log_dir` names; else the first SummaryWriter's; before there is
    one, runs/EXP_NAME, which a SummaryWriter() without a folder of its own then takes.

    It is settled by the first writer, or by the first point that the handle logs: a series is never
    divided. What is logged before that and is no point (parameters) is logged once more where the
    first writer is. Any thread; in a forked child it goes on as it was at the fork.
    """

    def __init__(
        self,
        options: Options,
        run_dir: str,
        reopened: str | None = None,
        rank: int | None = None,
    ) -> None:
        """`reopened`: the default folder of a dead process' run, which is gone on with. `rank`: of
        a process that logs into another's run, in folders of its own below these."""
        self.default = options.handle_log_dir if reopened is None else reopened
        """"" where what the handle logs has no event file."""
        self._is_backend = "tensorboard" in options.backend
        self._is_fixed = options.log_dir is not None or not self._is_backend
        self._default_key = key_of_rank(self.default, rank)
        self._is_kept = rank is None  # what the file has is the leading rank's
        self.writer: str | None = self._default_key if self._is_fixed else None
        """The `writer_key` of what the handle logs; None until it is settled. Read without the
        lock by each log_metric: it is set once."""
        self._number = next(_numbers)
        self._lines = KeptLines(run_dir, _KEPT)
        self._has_writer = False
        self._is_used = False  # something that is no point lies in the default folder
        self._on_moved: Callable[[], None] | None = None
        self.takes_earlier_writers = True
        """Whether a writer from before the run may be the first. Not in a run inside another: it is
        that one's."""
        self.renew_in_child()
        renew_at_fork(self)
        if reopened is not None:
            self._restore()

    def renew_in_child(self) -> None:
        # Reentrant: a signal's handler may log as well.
        self._lock = threading.RLock()

    def _restore(self) -> None:
        for (writer,) in self._lines.read(str):
            self.writer = writer

    @property
    def path(self) -> str:
        """The folder as it is known now; what is put there settles nothing."""
        with self._lock:
            self._is_used = True
            return split_writer_key(self.writer or self.default)[0]

    def settle(self) -> str:
        """The `writer_key` of a point."""
        with self._lock:
            if self.writer is None:
                self._set(self._default_key)
            assert self.writer is not None
            return self.writer

    def for_params(self, on_moved: Callable[[], None]) -> str:
        """The `writer_key` of what is no point; `on_moved` is called when the first writer has
        another folder, and logs it there."""
        with self._lock:
            self._is_used = True
            self._on_moved = on_moved
            return self.writer if self.writer is not None else self.default

    def of_new_writer(self) -> str | None:
        """The folder that a SummaryWriter without one takes; None for its package's own choice."""
        with self._lock:
            if self._has_writer or not self._is_backend:
                return None
            is_default = self.writer == self._default_key or (self.writer is None and self._is_used)
            return self.default if is_default else None

    def note_writer(self, key: str, is_earlier: bool = False) -> None:
        """A SummaryWriter logs to the run, under this `writer_key`."""
        is_others = _noted.setdefault(key, self._number) != self._number
        if self._has_writer or "://" in key:
            return
        if is_earlier and (is_others or not self.takes_earlier_writers):
            return  # of a run inside this one, or of one before it
        with self._lock:
            if self._has_writer:
                return
            self._has_writer = True
            if self.writer is not None:
                return
            self._set(key)
            on_moved = self._on_moved
            if on_moved is None or split_writer_key(key)[0] == self.default:
                return
        try:
            on_moved()
        except Exception as error:
            _log.warning("tracelet: the parameters are not shown in %s: %s", key, error)

    def _set(self, key: str) -> None:
        self.writer = key
        if self._is_kept:
            self._lines.append(key)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._lines.close()
