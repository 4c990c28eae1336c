"""One run: the ring, the drainer, the lanes and their sinks, put together and taken apart."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from tracelet import _core
from tracelet.backends import EVENT_FILES, Backend, RunInfo, open_backend
from tracelet.backends.absent import AbsentBackend
from tracelet.backends.handle_folder import HandleFolder
from tracelet.backends.tensorboard import TensorBoardSink
from tracelet.backends.tensorboard.paths import check_folder
from tracelet.capture import device, histogram
from tracelet.capture.events import EventCapture
from tracelet.capture.watch import Watches
from tracelet.errors import TraceletError
from tracelet.journal.disk_sync import DiskSync
from tracelet.journal.journal import Journal
from tracelet.options import Options
from tracelet.pipeline.attached_run import flush_from_outside, stats_from_outside
from tracelet.pipeline.drainer import Drainer
from tracelet.pipeline.lane import Lane
from tracelet.pipeline.late_worker import LateWorker
from tracelet.pipeline.live import Live
from tracelet.pipeline.run_end import (
    SYNC_TIMEOUT_S,
    close_backends,
    finish_folder,
    leave_folder,
)
from tracelet.pipeline.run_lines import RunLines
from tracelet.pipeline.run_record import RunNotes
from tracelet.pipeline.run_stats import stats_of
from tracelet.pipeline.verbs import Verbs
from tracelet.ranks.job import find_job
from tracelet.ranks.meeting import Member
from tracelet.ranks.series import RankSeries
from tracelet.redact import without_user
from tracelet.runs.deletion import NothingLogged
from tracelet.runs.notices import tell_of_network_file_system, tell_of_unsent_runs
from tracelet.runs.process_identity import process_identity
from tracelet.runs.progress import Progress
from tracelet.runs.run_folder import RunFolder, manifest_of
from tracelet.runs.small_files import SmallFiles
from tracelet.runs.summaries import keep_summary
from tracelet.stats import Stats
from tracelet.summary import SeriesSummary, named

if TYPE_CHECKING:
    from tracelet.pipeline.monitors import Monitors

_log = logging.getLogger("tracelet")

_POLL_S = 0.002
_RUN_ENDED = "run ended"
_CLOSE_S = 1.0  # of the time-out, or a quarter of it: kept for closing a task
_LONGEST_WAIT_FOR_RANKS_S = 3.0
_POLL_RANKS_S = 0.02
_SPARE_DESCRIPTORS = 8  # a folder within a folder is removed with 3


class Run:
    """A run from its start to its end. Its methods may be called by any thread.

    Raises on construction what a sink raises that can't be started; nothing is left behind then.
    """

    def __init__(
        self, options: Options, note_open: Callable[[Run], object], member: Member | None = None
    ) -> None:
        """`note_open` is called with the run when all of it has begun: from then on it is for the
        caller to end it, should Ctrl-C come before the run has reached a variable. One that was
        closed here after all has nothing left to end. `member`: of a job whose ranks log into one
        run, which this process leads."""
        self.options = options
        self._member = member
        self.backends: list[Backend] = []
        """Those that the user named, in that order."""
        self._live: Live | None = None
        self.is_forked = False
        """Whether this is a child of the run's process: its drainer and sinks are there."""
        self.rank = None if member is None else member.marked_rank
        """What this process' writers are marked with."""
        self._final_stats: Stats | None = None  # set before _live is let go of
        self._final_summary: dict[str, SeriesSummary] = {}  # likewise
        self.watches = Watches()
        self._monitors: Monitors | None = None
        with _spare_descriptors() as let_go_of_spare:
            self.folder = RunFolder(options) if member is None else member.folder
            try:
                if member is None:
                    self.folder.make()
                self.lines = RunLines(options, self.folder.run_id)
                self._open(options)
                note_open(self)
            except BaseException:
                let_go_of_spare()
                self._close_unused()
                if member is not None:
                    self.folder.leave_to_others()
                elif self.folder.is_made:
                    with contextlib.suppress(OSError):  # the start's error is the one to be told
                        self.folder.remove(NothingLogged(0))
                raise

    def _open(self, options: Options) -> None:
        self.handle = HandleFolder(options, self.folder.path)
        for name in options.backend:
            self.backends.append(self._open_backend(name))
        ring = self._make_ring() if self._member is None else self._member.ring
        if self.handle.default:
            ring.intern(self.handle.default)  # the table's first room is taken while there is some
        self._late_points = ring.late_points
        if self._member is None:
            self.folder.hold_ring()
        self.notes = RunNotes(options, self.folder)
        self.verbs = Verbs(self.backends, self.folder.artifacts_path, self.push_event, self.notes)
        largest_bytes = options.payload_bytes // 4
        self.event_capture = EventCapture(
            self.folder.payloads_path, largest_bytes, self.make_event_file, self.handle
        )
        self._journal = (
            Journal.recover(self.folder.path, ring)
            if self._was_led
            else Journal(self.folder.path, ring)
        )
        # Several within the limit, so that "drop_oldest" drops a part.
        self._journal.segment_bytes = min(
            self._journal.segment_bytes, options.journal_limit_bytes // 4
        )
        tell_of_network_file_system(self.folder.path)
        tell_of_unsent_runs(options.runs_dir, options.project, self.folder.run_id)
        self._start(ring)
        # ClearML's SDK keeps this frame, from its look at the call stack, and so what it refers to.
        del ring

    @property
    def _was_led(self) -> bool:
        """By another process of the job, which is dead or has left."""
        return self._member is not None and "sinks" in self.folder.manifest

    def _open_backend(self, name: str) -> Backend:
        """For a new run, or one that another process has led: nothing may be lost of what the other
        ranks log, whatever becomes of a backend."""
        folder, manifest = self.folder, self.folder.manifest
        if not self._was_led:
            info = RunInfo(self.options, folder.run_id, folder.path, handle=self.handle)
            return open_backend(name, info)
        reopen = dict(manifest.get("reopen", {})).get(name, {})
        try:
            info = RunInfo(self.options, folder.run_id, folder.path, reopen, handle=self.handle)
            return open_backend(name, info)
        except Exception as error:
            _log.warning("tracelet: the backend %r can't be opened again: %s", name, error)
            sinks = [each["name"] for each in manifest["sinks"] if each["backend"] == name]
            return AbsentBackend(name, sinks, manifest, str(error))

    def _make_ring(self) -> _core.Ring:
        options = self.options
        return _core.Ring.create(
            self.folder.ring_path,
            options.ring_slots,
            options.full_ring_timeout_s,
            options.payload_bytes,
        )

    def _start(self, ring: _core.Ring) -> None:
        backends = list(self.backends)
        event_files = next((each for each in backends if each.name == EVENT_FILES), None)
        # First among the lanes: it takes points straight from the ring. In a run whose user did not
        # name it, it has the SummaryWriters' files, and no verb is given to it.
        event_files = event_files or self._open_backend(EVENT_FILES)
        backends = [event_files, *(each for each in backends if each is not event_files)]
        for backend in backends:
            backend.open_sinks(ring)
        sinks = [sink for backend in backends for sink in backend.sinks]
        progress = self._open_progress([sink.name for sink in sinks])
        job = find_job()
        self._ranks = self._series_of_ranks(ring)
        lanes = [
            Lane(
                sink, ring, self.options.aggregate, progress[n],
                partial(progress.__setitem__, n), self._ranks,
            )
            for n, sink in enumerate(sinks)
        ]  # fmt: skip
        # Before the first point, so that another process knows what to do with all of them.
        place = {} if job is None else {"job": asdict(job)}
        leader = {} if self._member is None else process_identity()
        self.folder.update(
            state="running", ring_id=ring.id, **place, **leader, **manifest_of(backends)
        )
        histogram.forget_told()
        self._start_threads(ring, backends, lanes, progress)

    def _start_threads(
        self, ring: _core.Ring, backends: list[Backend], lanes: list[Lane], progress: Progress
    ) -> None:
        """Last of all; the system may have no thread for one of them, and then has none of them.
        At any moment either this or `_close_unused` stops them: Ctrl-C may come between."""
        with contextlib.ExitStack() as undo:
            undo.callback(setattr, self, "_live", None)
            closer = LateWorker("tracelet-close")
            undo.callback(closer.dismiss, SYNC_TIMEOUT_S)
            closer.start()  # Thread.start waits, and may be interrupted
            interval_s = self.options.journal_sync_interval_s
            small_files = SmallFiles(self.folder.path)
            disk_sync = DiskSync(self._journal, small_files, lanes, progress, interval_s)
            undo.callback(disk_sync.stop, SYNC_TIMEOUT_S)
            if interval_s > 0:
                disk_sync.start()
            drainer = Drainer(
                ring, lanes, self._journal, self.options, device.complete,
                lambda: disk_sync.releasable, self._ranks,
            )  # fmt: skip
            undo.callback(_stop_drainer, drainer)
            drainer.start()
            self._live = Live(ring, backends, lanes, drainer, disk_sync, closer, progress)
            undo.pop_all()

    def _open_progress(self, names: Sequence[str]) -> Progress:
        """How far each sink is. Raises TraceletError for other sinks than the run had before."""
        if not self._was_led:
            return Progress.create(self.folder.path, [0] * len(names))
        before = [sink["name"] for sink in self.folder.manifest["sinks"]]
        if before != names:
            raise TraceletError(f"the run has the sinks {before}, and here they are {names}")
        return Progress.open(self.folder.path)

    def _series_of_ranks(self, ring: _core.Ring) -> RankSeries | None:
        if self._member is None:
            return None
        options = self.options
        return RankSeries(
            options.ranks, self._member.leading_rank, options.rank_window_s, ring, self.folder.path
        )

    def begin_monitors(self) -> None:
        """Begins what the run finds out by itself, as its options say; last at the start. Never
        raises."""
        options = self.options
        if options.environment or options.system_metrics or options.console:
            from tracelet.pipeline.monitors import Monitors  # what it imports is for those alone

            self._monitors = Monitors()
            self._monitors.begin(self)

    def begin_lines(self) -> None:
        """Says where the run goes; last of all at the start."""
        self.lines.begin(self.backends)

    @property
    def run_id(self) -> str:
        """Tracelet's own."""
        return self.folder.run_id

    @property
    def ids(self) -> dict[str, str]:
        """The run's ids by backend, of those that have one."""
        return {each.name: each.id for each in self.backends if each.id is not None}

    @property
    def urls(self) -> dict[str, str]:
        """Where the run is to be seen, by backend. They are shown and written down: no secrets."""
        return {each.name: without_user(each.url) for each in self.backends if each.url}

    @property
    def is_away(self) -> bool:
        """Whether a backend's server was away at the start."""
        return any(each.url is None for each in self.backends)

    @property
    def ring(self) -> _core.Ring:
        """The ring. Raises TraceletError when the run has ended."""
        if self._live is None:
            raise TraceletError("this run has ended")
        return self._live.ring

    def _close_unused(self) -> None:
        """Ends what was opened before the start failed."""
        live, self._live = self._live, None
        if live is not None:
            _stop_drainer(live.drainer)
            live.disk_sync.stop(SYNC_TIMEOUT_S)
            live.closer.dismiss(SYNC_TIMEOUT_S)
        for backend in self.backends if live is None else live.backends:
            with contextlib.suppress(Exception):  # the error of the start is the one to be told
                backend.give_back()
                for sink in backend.sinks:
                    sink.close(process_is_ending=False)
                backend.close(process_is_ending=False)

    def push_event(self, event: Any, writer: str | None = None) -> None:
        """An event that no SummaryWriter logs; `writer` is the handle's `writer_key` where it is
        not to be settled. Raises TraceletError when the run has ended."""
        writer = self.handle.settle() if writer is None else writer
        self.event_capture.push_into(self.ring, writer, event)

    def make_event_file(self, log_dir: str, suffix: str) -> str:
        """Makes the event file of a new writer; "" where the run writes none. Raises OSError."""
        live = self._live
        for lane in live.lanes if live is not None else ():
            if isinstance(lane.sink, TensorBoardSink):
                return lane.sink.paths.make(log_dir, suffix)
        return check_folder(log_dir, suffix)

    def event_files(self) -> list[str]:
        """The run's event files, also when it has ended."""
        return self.notes.event_files()

    def renew_event_files(self) -> None:
        """Has what comes now written to new files: another run has written to the same folders, and
        TensorBoard follows the last file of one, by name."""
        live = self._live
        for lane in live.lanes if live is not None else ():
            if isinstance(lane.sink, TensorBoardSink):
                lane.sink.paths.renew()

    def stats(self) -> Stats:
        live = self._live
        if live is None:
            assert self._final_stats is not None
            stats = self._final_stats
        elif self.is_forked:
            stats = stats_from_outside(live.ring, live.progress)
        else:
            stats = self._stats_of(live)
        # Counted until there is nobody left whose call had begun before the end.
        late = self._late_points.count
        if late:
            ended = stats.dropped.get(_RUN_ENDED, 0) + late
            stats = replace(stats, dropped={**stats.dropped, _RUN_ENDED: ended})
        return stats

    def summary(self) -> dict[str, SeriesSummary]:
        """Of the points that the drainer has taken. Empty in a forked child, where none drains."""
        live = self._live
        if live is None:
            return dict(self._final_summary)
        if self.is_forked:
            return {}
        return named(live.drainer.summaries.read(), live.ring.text)

    def _stats_of(self, live: Live) -> Stats:
        system_points = self._monitors.system_points if self._monitors is not None else 0
        return stats_of(live, self.verbs, system_points)

    @property
    def drainer_cpu_with_gil_ns(self) -> int:
        """CPU time the drainer spent holding the GIL, for the benchmarks; 0 after the end."""
        live = self._live
        return live.drainer.cpu_with_gil_ns if live else 0

    def flush(self, timeout_s: float) -> bool:
        """Waits until the points logged before this call are delivered.

        False when that took longer than `timeout_s`, or the drainer is gone.
        """
        live = self._live
        if live is None:
            return self.stats().pending == 0
        if self.is_forked:
            return flush_from_outside(live.ring, live.progress, timeout_s)
        deadline_s = time.monotonic() + timeout_s
        if not live.wait_for(live.lanes, deadline_s):
            return False
        while not self.verbs.calls.is_idle:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def flush_event_files(self, timeout_s: float) -> bool:
        """The same for the event files alone, as a training step calls it by a writer's `flush`:
        False also when they can't be written now. Nothing is waited for in a forked child."""
        live = self._live
        if live is None:
            return self.stats().pending == 0
        if self.is_forked:
            return True
        files = [lane for lane in live.lanes if lane.sink.name == EVENT_FILES]
        return live.wait_for(files, time.monotonic() + timeout_s, or_failure=True)

    def stop(self, timeout_s: float, process_is_ending: bool) -> None:
        """Delivers what is left and ends the run, within the time-out.

        Whatever one step runs into, the others are done. When it is interrupted (Ctrl-C) it may be
        called again, and goes on. Points that could not be delivered stay on disk, with a line that
        says where.
        """
        live = self._live
        if live is None:
            return
        deadline_s = time.monotonic() + timeout_s
        if self._monitors is not None:
            with _told("ending the monitors"):
                self._monitors.end(deadline_s)
        if process_is_ending:
            self.notes.note_end_of_process()
        with _told("ending the watch of models"):
            self.watches.end(None)
        delivery_deadline_s = deadline_s - min(_CLOSE_S, timeout_s / 4)
        is_last = self._is_last(delivery_deadline_s)
        for backend in live.backends:
            with _told("giving back what a backend took"):
                backend.give_back()
        with _told("ending the uploads"):
            self.verbs.stop()
        if is_last:
            live.drainer.stop()
        else:
            live.drainer.leave()
        live.drainer.join(_left_s(delivery_deadline_s))
        if self._ranks is not None:
            self._ranks.decide_all()
        shippers = list(live.drainer.shippers.values())
        for shipper in shippers:
            shipper.stop()
        started = [shipper for shipper in shippers if shipper.ident is not None]
        for shipper in started:
            shipper.join(_left_s(delivery_deadline_s))
        with _told("finishing the uploads"):
            self.verbs.finish(delivery_deadline_s)
        places = self.lines.places_of(live.backends)
        with _told("closing the backends"):
            close_backends(live, _left_s(deadline_s), process_is_ending, is_last)
        is_delivered = len(started) == len(shippers)
        is_delivered &= not any(worker.is_alive() for worker in [live.drainer, *started])
        with _told("keeping the summary"):
            self._final_summary = self.summary()
            keep_summary(self.folder.path, self._final_summary)
        with _told("putting the run's folder in order"):
            if is_last:
                finish_folder(
                    live, self.folder, self._journal, self.stats, is_delivered, self.notes.write
                )
            else:
                leave_folder(live, self.folder, self._journal)
        if self._member is not None:
            self._member.end()
            self._member = None
        if is_delivered:
            # Unmaps the ring now, though the user may hold on to the experiment for its stats.
            self._final_stats = self._stats_of(live)
            self.backends = []
            self.verbs.let_go()
            self._live = None
        self.lines.end(places, self.stats())

    def _is_last(self, deadline_s: float) -> bool:
        """Whether the run ends here. The other ranks of a job end with this one, or nearly: they
        are waited for a while; then the run is left to them."""
        member = self._member
        if member is None:
            return True
        until_s = min(deadline_s, time.monotonic() + _LONGEST_WAIT_FOR_RANKS_S)
        while member.others() and time.monotonic() < until_s:
            time.sleep(_POLL_RANKS_S)
        return not member.leave()

    def note_failure(self, failure: BaseException) -> None:
        """Tells the backends that the run does not end well."""
        self.notes.note_failure(failure)
        self.verbs.note_failure(failure)

    def after_fork_in_child(self) -> None:
        self.is_forked = True
        if self._live is not None:
            self._live.ring.after_fork_in_child()


@contextlib.contextmanager
def _spare_descriptors() -> Iterator[Callable[[], None]]:
    """Descriptors that nobody else gets: a start that fails for want of one needs some to remove
    what it has made. Gives the function that lets go of them. Raises OSError where there are none.
    """
    with contextlib.ExitStack() as spare:
        for _ in range(_SPARE_DESCRIPTORS):
            spare.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield spare.close


def _left_s(deadline_s: float) -> float:
    return max(0.0, deadline_s - time.monotonic())


def _stop_drainer(drainer: Drainer) -> None:
    """Of a run that could not be started, with the shippers of its lanes."""
    drainer.stop()
    if drainer.ident is not None:
        drainer.join(SYNC_TIMEOUT_S)
    for shipper in drainer.shippers.values():
        shipper.stop()
        if shipper.ident is not None:
            shipper.join(SYNC_TIMEOUT_S)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """A step of the end: it may fail, and the others are done."""
    try:
        yield
    except Exception as error:
        _log.warning("tracelet: %s failed: %r", what, error)
