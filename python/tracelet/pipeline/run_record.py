"""What is noted of a run in the history when it ends."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tracelet.fork import renew_at_fork
from tracelet.options import Options
from tracelet.places import default_history_dir
from tracelet.redact import redacted, without_user
from tracelet.runs.history import RunRecord, write_record
from tracelet.runs.ledgers import EVENT_FILES, noted_paths
from tracelet.runs.living_notes import keep_environment, keep_notes
from tracelet.runs.summaries import kept_summary

if TYPE_CHECKING:
    from tracelet.runs.run_folder import RunFolder
    from tracelet.stats import Stats

_log = logging.getLogger("tracelet")

_MOST_PARAMS = 500
_LONGEST = 500
_FREE_WRITES = 50


class RunNotes:
    """Collects while the run lives what its record says of it. Any thread."""

    def __init__(self, options: Options, folder: RunFolder) -> None:
        self._options = options
        self._folder = folder
        self._params: dict[str, Any] = {}
        self._environment: Mapping[str, Any] = {}
        self._tags: tuple[str, ...] = tuple(options.tags or ())
        self._writes = 0
        self._write_again_s = 0.0  # as time.monotonic() has it
        self._failure = "finished"
        self._files: list[str] = []
        self.renew_in_child()
        renew_at_fork(self)
        if self._tags:
            self._keep()

    @property
    def tags(self) -> tuple[str, ...]:
        return self._tags

    def renew_in_child(self) -> None:
        # A signal's handler, or a value's own text, may come back here: SIGTERM ends the run.
        self._lock = threading.RLock()

    def note_params(self, params: Mapping[str, Any]) -> None:
        """Parameters by their flat names: few and short ones, and no secrets."""
        with self._lock:
            for name, value in params.items():
                short_name = name[:_LONGEST]
                if len(self._params) >= _MOST_PARAMS and short_name not in self._params:
                    continue  # one that is known already may be behind it
                self._params[short_name] = _shown(redacted(name, value))
            self._keep()

    def note_tags(self, tags: Sequence[str]) -> None:
        with self._lock:
            self._tags = tuple(tags)
            self._keep(is_rare=True)

    def note_environment(self, environment: Mapping[str, Any]) -> None:
        """What the run runs in, flat and plain, without secrets."""
        with self._lock:
            self._environment = dict(environment)
        try:
            keep_environment(self._folder.path, environment)
        except Exception as error:  # a full disk, a folder that is gone
            _log.debug("tracelet: the environment is not in the run's folder: %r", error)

    def _keep(self, is_rare: bool = False) -> None:
        """In the run's folder, for those that look at a run that goes on, or was killed. It costs
        the call no error. A loop that sets parameters pays for it once a second: those that came
        last may be missing there then, and never in the record at the run's end."""
        is_loop = self._writes >= _FREE_WRITES and not is_rare
        if is_loop and time.monotonic() < self._write_again_s:
            return
        self._writes += 1
        self._write_again_s = time.monotonic() + 1.0
        try:
            keep_notes(self._folder.path, self._params, self._tags)
        except Exception as error:  # a full disk, a folder that is gone
            _log.debug("tracelet: parameters and tags are not in the run's folder: %r", error)

    def note_failure(self, failure: BaseException) -> None:
        if isinstance(failure, SystemExit) and not failure.code:
            return  # sys.exit(0) is an end as good as any other
        is_stop = isinstance(failure, (KeyboardInterrupt, SystemExit))
        self._failure = "stopped" if is_stop else "failed"

    def note_end_of_process(self) -> None:
        """An exception that nobody has caught, and no `with` block has seen, may be what ends it.
        `sys.exit(1)` there leaves no trace to be found."""
        failure = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
        if failure is not None and self._failure == "finished":
            self.note_failure(failure)

    def event_files(self) -> list[str]:
        """In the order in which they were begun, also once the run's folder is gone."""
        return noted_paths(os.path.join(self._folder.path, EVENT_FILES)) or self._files

    def write(self, stats: Stats, is_delivered: bool) -> None:
        """Writes the record. The run's folder must still be there. Never raises: it is no point
        that would be lost."""
        options, manifest = self._options, self._folder.manifest
        with self._lock:
            params, environment = dict(self._params), self._environment
        path = self._folder.path
        self._files = self.event_files()
        record = RunRecord(
            run_id=self._folder.run_id,
            exp_name=options.task_name or options.exp_name,
            project=options.project,
            backends=tuple(options.backend),
            state=self._failure if is_delivered else "unsent",
            started_s=float(manifest["started_s"]),
            ended_s=time.time(),
            points=stats.accepted,
            host=str(manifest.get("host", "")),
            ids=dict(manifest.get("ids", {})),
            urls=dict(manifest.get("urls", {})),
            tags=self._tags,
            params=params,
            environment=environment,
            files=tuple(self._files),
            dropped=dict(stats.dropped),
            summary=kept_summary(path),
        )
        try:
            write_record(history_dir_of(options), record, options.history_runs)
        except Exception as error:  # whatever it is, the rest of the end is done
            _log.warning(
                "tracelet: the run is not noted in the history (option history_dir): %s", error
            )


def _shown(value: Any) -> Any:
    """A value as it is noted. A list may hold URLs: it is looked through as the text that it is.
    What has no text, as an int of more digits than Python writes, costs itself alone."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and value.bit_length() < 64:
        return value
    try:
        return without_user(str(value))[:_LONGEST]
    except Exception:  # of an object of the user's
        return f"({type(value).__name__} without a text)"


def history_dir_of(options: Options) -> str:
    return options.history_dir or default_history_dir(options.runs_dir)
