"""Event files that others wrote, made a run in a tracker.

The way is that of a run which died: all points go into a journal first, and from there to the
backend, by `resend`. So an import that was killed is gone on with from what is acknowledged, by the
same command or by `tracelet sync`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracelet import _core
from tracelet._version import __version__
from tracelet.backends import Backend, RunInfo, check_backends, open_backend
from tracelet.backends.handle_folder import HandleFolder
from tracelet.errors import ConfigurationError, TraceletError
from tracelet.journal.journal import Journal
from tracelet.options import Options, resolve_options
from tracelet.reading.records import PointStream
from tracelet.recovery.payload_files import PAYLOADS
from tracelet.recovery.resend import resend
from tracelet.recovery.result import Result
from tracelet.runs.history import EVERY_RECORD, IMPORTED, RunRecord, read_record, write_record
from tracelet.runs.private_file import private
from tracelet.runs.progress import Progress
from tracelet.runs.run_folder import (
    MANIFEST,
    RUN_LOCK,
    first_manifest,
    manifest_of,
    ring_name,
    write_manifest,
)
from tracelet.runs.run_lock import RunLock
from tracelet.runs.stored_run import StoredRun
from tracelet.writer_key import writer_key

_NAMES_RING = "names.ring"
_LEAST_SLOTS = 16

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """One run among event files, and where it is to go."""

    folder: str
    """Absolute."""
    files: tuple[str, ...]
    name: str
    project: str
    backend: str
    mark: str = ""
    """Makes it a run of its own, though the same was imported before."""

    @property
    def run_id(self) -> str:
        """Always the same, so that what was begun is found again."""
        parts = [self.folder, self.name, self.project, self.backend, self.mark]
        return IMPORTED + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@dataclass
class Imported:
    """What became of one run."""

    run_id: str
    points: int
    url: str = ""
    was_there: bool = False
    """It was imported before, and nothing was sent now."""
    new_points: int = 0
    """How many its files have by now that were not there then."""
    result: Result | None = None
    notes: list[str] = field(default_factory=list)


def import_run(
    source: Source, runs_dir: str, history_dir: str, on_progress: OnProgress = lambda *_: None
) -> Imported:
    """Imports one run, or goes on with one whose import was interrupted.

    Raises TraceletError when it can't be done now, and OSError; what was begun is kept then.
    """
    run_id = source.run_id
    folder = os.path.join(runs_dir, run_id)
    was_there = _done_before(source, history_dir)
    if was_there is not None and not os.path.isdir(folder):
        return was_there
    options = _options_of(source, runs_dir)
    check_backends(options)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = RunLock(os.path.join(folder, RUN_LOCK))
    if not lock.acquire():
        raise TraceletError(f"{source.folder} is being imported by another process")
    backend: Backend | None = None
    notes: list[str] = []
    try:
        if not _is_prepared(folder):
            # Only now is it certain: another process may have done all of it since, and whoever
            # prepares, notes or ends an import has the lock.
            was_there = _done_before(source, history_dir)
            if was_there is not None:
                shutil.rmtree(folder, ignore_errors=True)
                return was_there
            backend = _Preparing(source, options, folder, history_dir, notes, on_progress).run()
    except BaseException:
        if not _is_prepared(folder):  # it is all in the event files, and no tracker has any of it
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        lock.release()
    try:
        run = StoredRun(folder)
        points = int(run.manifest["end"])
        url = next(iter(dict(run.manifest.get("urls", {})).values()), "")
        result = resend(run, on_progress, backend)
    except BaseException:
        _leave(backend)
        raise
    if result.kept:
        _leave(backend)
    return Imported(run_id, points, str(url), result=result, notes=[*notes, *result.notes])


def _done_before(source: Source, history_dir: str) -> Imported | None:
    """What the history has of an import that was done; None where there is none."""
    record = read_record(history_dir, source.run_id)
    if record is None or record.state == "unsent":
        return None
    points = record.points or 0
    new_points = max(0, PointStream(source.files).count - points)
    url = next(iter(record.urls.values()), "")
    return Imported(source.run_id, points, url, was_there=True, new_points=new_points)


def _is_prepared(folder: str) -> bool:
    """Whether all points are in its journal, and its run in the tracker is known."""
    if not os.path.exists(os.path.join(folder, MANIFEST)):
        return False
    return "sinks" in StoredRun(folder).manifest


def _leave(backend: Backend | None) -> None:
    """The run stays open in the tracker, for the next attempt."""
    if backend is not None:
        with contextlib.suppress(Exception):  # the error before it is the one to be told
            backend.give_back()
            backend.leave(process_is_ending=False)


class _Preparing:
    """Fills a run's folder: everything into the journal, then the tracker's run."""

    def __init__(
        self,
        source: Source,
        options: Options,
        folder: str,
        history_dir: str,
        notes: list[str],
        on_progress: OnProgress,
    ) -> None:
        self._source = source
        self._options = options
        self._folder = folder
        self._history_dir = history_dir
        self._notes = notes
        self._on_progress = on_progress

    def run(self) -> Backend:
        source, options, folder = self._source, self._options, self._folder
        _empty(folder)  # of what an attempt before this one had not finished
        # Its ring is not there, and none is needed: see "ring_is_drained" below.
        ring_path = os.path.join(folder, ring_name(source.run_id))
        manifest = first_manifest(source.run_id, options, ring_path)
        manifest["imported_from"] = source.folder
        write_manifest(folder, manifest)
        stream = PointStream(source.files)
        if stream.damaged:
            self._notes.append(f"{stream.damaged:,} damaged records were passed over")
        if stream.graphs:
            self._notes.append(f"{stream.graphs:,} graphs and profiles are no points: left out")
        if not stream.count:
            raise ConfigurationError(f"{source.folder} has event files without a point")
        self._fill_journal(stream)
        # Last of all: what is killed before leaves nothing in the tracker.
        info = RunInfo(options, source.run_id, folder, handle=HandleFolder(options, folder))
        backend = open_backend(source.backend, info)
        try:
            Progress.create(folder, [0] * len(backend.sinks)).close()
            end = {"state": "unsent", "end": stream.count, "ring_is_drained": True}
            manifest.update(end, **manifest_of([backend]))
            write_manifest(folder, manifest)
            self._note(manifest, stream.count)
        except BaseException:
            _leave(backend)
            raise
        return backend

    def _fill_journal(self, stream: PointStream) -> None:
        path = os.path.join(self._folder, _NAMES_RING)
        names = _core.Ring.create(path, _LEAST_SLOTS, 0.0)
        os.unlink(path)  # it stays mapped for as long as it is used
        journal = Journal(self._folder, names)
        writer_id = names.intern(writer_key(self._source.folder))
        done = 0
        what = f"reading {self._source.name}"
        for records, payloads in stream.chunks(writer_id, names.intern, self._keep):
            journal.append(records, payloads)
            done += len(records)
            self._on_progress(what, done, stream.count)
        journal.sync()
        journal.close()

    def _keep(self, position: int, payload: bytes) -> bytes:
        folder = os.path.join(self._folder, PAYLOADS)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, mode=0o700)
        path = os.path.join(folder, f"event-{position}.pb")
        with open(path, "xb", opener=private) as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        return os.fsencode(path)

    def _note(self, manifest: Mapping[str, Any], points: int) -> None:
        """Before a point is sent: an import whose folder is gone is known by it. `resend` notes
        that it is done, before it removes the folder."""
        source = self._source
        record = RunRecord(
            run_id=str(manifest["run"]),
            exp_name=source.name,
            project=source.project,
            backends=(source.backend,),
            state="unsent",
            started_s=float(manifest["started_s"]),
            ended_s=time.time(),
            points=points,
            host=str(manifest.get("host", "")),
            ids=dict(manifest["ids"]),
            urls=dict(manifest["urls"]),
            tags=("imported",),
            files=source.files,
        )
        write_record(self._history_dir, record, EVERY_RECORD)


def _options_of(source: Source, runs_dir: str) -> Options:
    config: dict[str, Any] = {
        "tags": ["imported"],
        "comment": f"imported from {source.folder} by tracelet {__version__}",
        "runs_dir": runs_dir,
        "quiet": True,
        # It is no run of this process: nothing of that belongs to it.
        "auto_connect_frameworks": False,
        "auto_connect_arg_parser": False,
        "auto_resource_monitoring": False,
        "auto_connect_streams": False,
        "continue_last_task": False,
        "reuse_last_task_id": False,
        "on_unreachable": "raise",
        "aggregate": {},
    }
    return resolve_options(source.name, source.project, source.backend, config)


def _empty(folder: str) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name == RUN_LOCK:
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
