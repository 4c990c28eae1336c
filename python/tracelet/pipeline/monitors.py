"""What a run finds out by itself, from its start to its end, on threads of their own."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable

from tracelet import _core
from tracelet.backends.params import plain
from tracelet.monitor.environment import machine_and_program, program_folder
from tracelet.monitor.git import repository
from tracelet.monitor.git_diff import changes
from tracelet.places import warn_once
from tracelet.ranks.job import find_job, rank_here

if TYPE_CHECKING:
    from tracelet.backends.artifact import Artifact
    from tracelet.monitor.console import Console
    from tracelet.monitor.system import SystemSampler
    from tracelet.pipeline.run import Run

_log = logging.getLogger("tracelet")

CONSOLE = "console.log"
_LONGEST_NOTING_S = 1.0
"""How long a run's end waits for what is not found out so far."""
_PAUSE_S = 0.1
"""Before it begins: it would take turns with the thread that starts the run."""
_AFTER_CANCEL_S = 1.0
_LONGEST_SAMPLE_S = 1.0


class Monitors:
    """Of one run. `end` may be called again."""

    _environment: EnvironmentNoter | None = None
    _sampler: SystemSampler | None = None
    _console: Console | None = None
    _console_files: dict[str, Artifact] | None = None
    """By backend."""
    _upload_kept: Callable[[Mapping[str, Artifact]], None]
    system_points = 0
    """How many points the sampler has logged: written by its thread alone, read by any."""

    def begin(self, run: Run) -> None:
        """Begins those that the run's options ask for. Never raises: a run does not need them."""
        options = run.options
        try:
            if options.console:
                self._begin_console(run)
        except Exception as error:
            _log.warning("tracelet: what is printed is not kept: %r", error)
        try:
            if options.environment:
                keep, tell = run.notes.note_environment, run.verbs.note_environment
                with_diff = options.git_diff and rank_here() == 0
                self._environment = EnvironmentNoter(keep, tell, with_diff)
                self._environment.start()
        except Exception as error:  # no thread is to be had, or the working folder is gone
            _log.warning("tracelet: the environment of the run is not noted: %r", error)
        try:
            if options.system_metrics and is_sampled_here(run):
                self._begin_sampling(run)
        except Exception as error:
            _log.warning("tracelet: no system metrics: %r", error)

    def _begin_console(self, run: Run) -> None:
        from tracelet.backends.kept_artifacts import keep_growing
        from tracelet.monitor.console import Console

        names = [each.name for each in run.backends if not each.captures_console]
        if not names:
            return
        self._upload_kept = run.verbs.upload_kept
        # Each thing is where `end` finds it before it begins: Ctrl-C may come at any line.
        self._console_files = {}
        keep_growing(run.folder.artifacts_path, CONSOLE, names, self._console_files)
        self._console = Console(self._console_files[names[0]].content.path)
        self._console.begin()

    def _end_console(self) -> None:
        if self._console is not None:
            self._console.end()
            self._console = None
        # Not once more when it is interrupted from here on: what is handed over twice is gone when
        # it is uploaded again. What was not handed over stays in the run's folder.
        files, self._console_files = self._console_files or {}, None
        for artifact in files.values():
            if not os.path.getsize(artifact.content.path):
                artifact.discard()
        self._upload_kept({n: each for n, each in files.items() if os.path.isdir(each.place)})

    def _begin_sampling(self, run: Run) -> None:
        try:
            from tracelet.monitor.system import System, SystemSampler
        except ImportError:
            warn_once("system_metrics needs the package psutil: pip install 'tracelet[system]'")
            return
        ring, handle, steps = run.ring, run.handle, _core.StepCounter()

        def log(values: Mapping[str, float], step: int) -> None:
            # Not before the user has logged something, where that says which folder it is: a
            # sample is not to settle it.
            if (writer := handle.writer) is not None and values:
                _core.log_metrics(ring, values, step, steps, writer)
                self.system_points += len(values)

        interval_s = run.options.system_interval_s
        self._sampler = SystemSampler(System(run.folder.path), log, interval_s)
        self._sampler.start()

    def end(self, deadline_s: float) -> None:
        """Ends them all, before the queues that they fill; `deadline_s` as time.monotonic() has
        it."""
        if self._sampler is not None:
            left_s = max(0.0, deadline_s - time.monotonic())
            self._sampler.end(min(_LONGEST_SAMPLE_S, left_s / 4))
            self._sampler = None  # it has the ring, which is unmapped now
        if self._environment is not None:
            self._environment.end(deadline_s)
            self._environment = None
        if self._console_files:
            self._end_console()


def is_sampled_here(run: Run) -> bool:
    """Once on each node, and for a backend that does not do it itself."""
    job = find_job()
    is_first = job is None or job.local_rank == 0
    return is_first and not all(backend.samples_system for backend in run.backends)


class EnvironmentNoter(threading.Thread):
    """Finds out what the run runs in: what is known at once first, then what git says, where the
    user asks for that.

    Made by the thread that starts the run: all modules are there by then, so that a process that
    forks meanwhile has no half-imported one.
    """

    def __init__(
        self,
        keep: Callable[[Mapping[str, Any]], None],
        tell: Callable[[Mapping[str, Any]], None],
        with_diff: bool,
    ) -> None:
        """`keep` is called with what is known, more each time; `tell` once, with all of it."""
        super().__init__(name="tracelet-environment", daemon=True)
        self._keep = keep
        self._tell = tell
        self._with_diff = with_diff
        self._folder = _working_folder()  # that of the start: the program may leave it
        self._program_folder = program_folder(self._folder)
        self._is_ended = threading.Event()
        self._is_given_up = threading.Event()

    def run(self) -> None:
        self._is_ended.wait(_PAUSE_S)
        try:
            found = _fit(machine_and_program(self._folder, self._is_given_up))
            found.update(_fit(repository(self._program_folder)))
            self._keep(found)
            if self._with_diff:
                found.update(_fit(changes(self._program_folder, self._is_given_up)))
                self._keep(found)
            self._tell(found)
        except Exception as error:
            _log.warning("tracelet: the environment of the run is not noted: %r", error)

    def end(self, deadline_s: float) -> None:
        """Waits a little for it, then goes on without. It waits for no lock and no process."""
        if self.ident is None:
            return
        self._is_ended.set()
        self.join(min(_LONGEST_NOTING_S, max(0.0, deadline_s - time.monotonic()) / 4))
        if self.is_alive():
            self._is_given_up.set()
            self.join(min(_AFTER_CANCEL_S, max(0.0, deadline_s - time.monotonic()) / 4))


def _working_folder() -> str:
    """ "" where it is gone: that costs itself alone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _fit(found: Mapping[str, Any]) -> dict[str, Any]:
    """As any tracker takes it: an argument may be bytes that are no UTF-8."""
    return {name: plain(value) for name, value in found.items()}
