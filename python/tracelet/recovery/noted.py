"""What the history says of a run whose process died, once all it left is sent."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import replace

from tracelet.options import Options, from_environment
from tracelet.places import default_history_dir
from tracelet.runs.dead_record import record_of
from tracelet.runs.history import EVERY_RECORD, IMPORTED, read_record, write_record
from tracelet.runs.ledgers import EVENT_FILES, noted_paths
from tracelet.runs.stored_run import StoredRun
from tracelet.runs.summaries import kept_summary

_log = logging.getLogger("tracelet")


def note_sent(run: StoredRun, points: int | None) -> str:
    """Writes the run's record anew, while its folder is there; returns why the folder must stay, or
    "". Of an import the record alone tells that it is done: without one it would be sent once more.
    That of any other run is no reason to keep what is sent.
    """
    is_import = run.run_id.startswith(IMPORTED)
    try:
        runs_dir = os.path.dirname(run.path)
        folder = str(from_environment("history_dir") or default_history_dir(runs_dir))
        most = from_environment("history_runs")
        before = read_record(folder, run.run_id)
        record = before or record_of(run)
        if record.state == "unsent" or is_import:
            record = replace(record, state="finished")
        with contextlib.suppress(OSError):
            # The event files that were made to send the rest are among them.
            record = replace(
                record,
                points=points if points is not None else record.points,
                files=tuple(noted_paths(os.path.join(run.path, EVENT_FILES))) or record.files,
                summary=kept_summary(run.path) or record.summary,
            )
        most = Options.history_runs if most is None else int(most)
        write_record(folder, record, EVERY_RECORD if is_import else most)
    except Exception as error:
        if is_import:
            return f"that it is imported can't be noted in the history: {error}"
        _log.warning("tracelet: %s is not noted in the history: %s", run.run_id, error)
    return ""
