"""What `tracelet sync` does for a run of several ranks: it decides whose a tag is as they would
have, and begins in the trackers the run of a job whose leading rank never came."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracelet import _core
from tracelet.backends import EVENT_FILES, RunInfo, open_backend
from tracelet.backends.handle_folder import HandleFolder
from tracelet.errors import JournalError
from tracelet.journal.journal import Journal
from tracelet.ranks.series import RankSeries
from tracelet.records import RECORD_DTYPE
from tracelet.runs.progress import Progress
from tracelet.runs.run_folder import manifest_of
from tracelet.runs.stored_run import StoredRun

_READ_POINTS = 65_536
_READ_BYTES = 16 << 20


def series_of_ranks(
    run: StoredRun, journal: Journal, stored: _core.StoredNames, names: _core.Ring
) -> RankSeries | None:
    """None for a run of one process. `names` is what the sinks are given in the place of a ring;
    `stored` has the same strings."""
    if not run.manifest.get("is_of_ranks"):
        return None
    place = run.manifest.get("job")
    job = place if isinstance(place, dict) else {}
    leading_rank = int(job.get("rank", 0)) - int(job.get("local_rank", 0))
    series = RankSeries(run.options.ranks or {}, leading_rank, math.inf, names, run.path)
    position = journal.next_position(0)
    while position is not None:
        try:
            records, payloads = journal.read(position, _READ_POINTS, _READ_BYTES)
        except (JournalError, OSError):  # told when it is to be sent
            break
        checked = _core.check_records(records, payloads, stored)
        sound: Any = records if checked is None else np.frombuffer(checked[0], RECORD_DTYPE)
        series.observe(sound)
        position = journal.next_position(position + len(records))
    series.decide_all()
    return series


def begin_unled(run: StoredRun, names: _core.Ring) -> None:
    """Makes the run in its trackers, of which no process had; it is sent as one that has died."""
    options = run.options
    handle = HandleFolder(options, run.path)
    wanted = dict.fromkeys((EVENT_FILES, *options.backend))
    backends = []
    try:
        for name in wanted:
            info = RunInfo(options, run.run_id, run.path, handle=handle)
            backends.append(open_backend(name, info))
        for backend in backends:
            backend.open_sinks(names)
        Progress.create(run.path, [0 for each in backends for _ in each.sinks]).close()
        run.update(**manifest_of(backends))
    finally:
        for backend in backends:
            for sink in backend.sinks:
                sink.close(process_is_ending=False)
            backend.leave(process_is_ending=False)
