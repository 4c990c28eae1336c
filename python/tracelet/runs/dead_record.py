"""The record of a run that has left none: it goes on, or its process was killed."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from tracelet import _core
from tracelet.redact import without_user
from tracelet.runs.history import RunRecord
from tracelet.runs.ledgers import EVENT_FILES, noted_paths
from tracelet.runs.living_notes import kept_environment, kept_notes
from tracelet.runs.stored_run import StoredRun


def record_of(run: StoredRun) -> RunRecord:
    """What a run's folder tells of it."""
    manifest = run.manifest
    options = manifest.get("options", {})
    points = manifest.get("end")
    with contextlib.suppress(OSError, RuntimeError):
        points = _core.StoredRing.open(run.ring_path).head
    started_s = manifest.get("started_s")
    params, tags = kept_notes(run.path)
    return RunRecord(
        run_id=run.run_id,
        exp_name=str(options.get("task_name") or run.exp_name),
        project=run.project,
        backends=_texts(options.get("backend")),
        state="killed",
        started_s=_seconds(started_s, run),
        ended_s=time.time() - run.age_s(),
        points=points if type(points) is int and points >= 0 else None,
        host=str(manifest.get("host", "")),
        ids=_table(manifest.get("ids")),
        urls={name: without_user(url) for name, url in _table(manifest.get("urls")).items()},
        params=params,
        tags=tags,
        environment=kept_environment(run.path),
        files=tuple(noted_paths(os.path.join(run.path, EVENT_FILES))),
    )


def _seconds(value: Any, run: StoredRun) -> float:
    if isinstance(value, (int, float)) and 0 <= value < 1e12:
        return float(value)
    with contextlib.suppress(ValueError, OverflowError):  # of an older version
        return time.mktime(time.strptime(run.run_id[:15], "%Y%m%d-%H%M%S"))
    return time.time() - run.age_s()


def _table(value: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else ()
