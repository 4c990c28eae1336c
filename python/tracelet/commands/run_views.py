"""A run as commands show it, whether it goes on, was left behind, or is in the history alone."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field, replace
from typing import Any

from tracelet.runs.dead_record import record_of
from tracelet.runs.history import EVERY_RECORD, RunRecord, Summary, read_records, write_record
from tracelet.runs.stored_run import StoredRun, UnreadableRun, scan_runs
from tracelet.runs.summaries import kept_summary, summary_of_files

_MOST_READ_BYTES = 64 << 20  # of event files, for a line of `tracelet runs`


@dataclass(frozen=True)
class RunView:
    """One run. What is not known is None or empty."""

    run_id: str
    state: str
    record: RunRecord
    """Of a run that is not in the history: what its folder tells."""
    stored: StoredRun | None = None
    """Its folder; None for one in the history alone."""
    pending: int | None = 0
    size_bytes: int | None = None
    summary: Summary | None = field(default=None)

    @property
    def age_s(self) -> float:
        """Since its end, or since the start of one that goes on."""
        if self.stored is not None:
            with contextlib.suppress(OSError):
                return self.stored.age_s()
        return max(0.0, time.time() - self.record.ended_s)

    @property
    def name(self) -> str:
        return f"{self.record.project} / {self.record.exp_name}"

    @property
    def url(self) -> str:
        return next(iter(self.record.urls.values()), "")

    @property
    def steps(self) -> int | None:
        summary = self.summary or {}
        return max((each["last_step"] for each in summary.values()), default=None)

    @property
    def last(self) -> tuple[str, float] | None:
        """The last loss, or the last value of the series that went furthest."""
        summary = {
            tag: each for tag, each in (self.summary or {}).items() if each["last"] is not None
        }
        if not summary:
            return None
        losses = [tag for tag in summary if "loss" in tag.lower()]
        tag = min(losses, key=lambda tag: (len(tag), tag), default="")
        tag = tag or max(summary, key=lambda tag: summary[tag]["last_step"])
        return tag, summary[tag]["last"]

    def as_json(self) -> dict[str, Any]:
        record, last = self.record, self.last
        return {
            "run": self.run_id,
            "name": record.exp_name,
            "project": record.project,
            "backends": list(record.backends),
            "state": self.state,
            "started_s": record.started_s,
            "ended_s": record.ended_s or None,
            "steps": self.steps,
            "points": record.points,
            "pending": self.pending,
            "size_bytes": self.size_bytes,
            "last_tag": last[0] if last else None,
            "last_value": last[1] if last else None,
            "urls": dict(record.urls),
            "path": None if self.stored is None else self.stored.path,
        }


def all_views(
    runs_dir: str, history_dir: str, most_records: int | None = None
) -> tuple[list[RunView], list[UnreadableRun], int]:
    """Every run, oldest first; folders that can't be read, and how many records can't be."""
    found, unreadable = scan_runs(runs_dir)
    records, damaged = read_records(history_dir, most_records)
    by_id = {record.run_id: record for record in records}
    there = {run.run_id for run in found} | {run.run_id for run in unreadable}
    views = []
    for run in found:
        try:
            views.append(view_of(run, by_id.get(run.run_id)))
        except OSError:
            if os.path.isdir(run.path):
                raise
            there.discard(run.run_id)  # it has just ended, and is in the history
    views += [_of_record(record) for record in records if record.run_id not in there]
    views.sort(key=lambda view: view.record.started_s)
    return views, unreadable, damaged


def view_of(run: StoredRun, record: RunRecord | None) -> RunView:
    record = record or record_of(run)
    summary = kept_summary(run.path) or record.summary
    view = RunView(
        run.run_id, run.shown_state, record, run, run.pending(), run.size_bytes(), summary
    )
    return replace(view, record=replace(record, ended_s=0.0)) if view.state == "running" else view


def _of_record(record: RunRecord) -> RunView:
    # Its folder is gone without a sync: somebody has removed it, with what it had.
    state = "removed" if record.state == "unsent" else record.state
    return RunView(record.run_id, state, record, summary=record.summary)


def counted(view: RunView, history_dir: str, most_bytes: int | None = _MOST_READ_BYTES) -> RunView:
    """The view with a summary, from its event files where the run has counted none. That of a run
    that has ended is noted in its record: they are not read a second time."""
    if view.summary is not None:
        return view
    files = view.record.files
    summary = summary_of_files(files, most_bytes)
    if summary is None:
        return view
    if view.stored is None:
        with contextlib.suppress(OSError):
            noted = replace(view.record, summary=summary)
            write_record(history_dir, noted, EVERY_RECORD)
    return replace(view, summary=summary)
