"""Files that belong to no run any more: rings in shared memory, folders without a manifest."""

from __future__ import annotations

import os
import time

from tracelet import _core
from tracelet.runs.process_identity import processes_that_map
from tracelet.runs.run_folder import MANIFEST, RUN_LOCK, SHARED_MEMORY
from tracelet.runs.run_lock import RunLock

_YOUNG_S = 60.0  # being made, or removed, by another process
_PREFIX, _SUFFIX = "tracelet-", ".ring"


def find_orphans(runs_dir: str) -> list[str]:
    """This user's rings without a run that holds no points any more, and run folders without a
    manifest, both older than a minute and used by no process."""
    return [*_rings(runs_dir), *_folders(runs_dir)]


def _rings(runs_dir: str) -> list[str]:
    found = []
    for name in _names_in(SHARED_MEMORY):
        path = os.path.join(SHARED_MEMORY, name)
        run_id = name[len(_PREFIX) : -len(_SUFFIX)]
        if (
            name.startswith(_PREFIX)
            and name.endswith(_SUFFIX)
            and _is_old_and_ours(path)
            and not os.path.exists(os.path.join(runs_dir, run_id))
            and _holds_nothing(path)
            and not processes_that_map(path)
        ):
            found.append(path)
    return found


def _holds_nothing(path: str) -> bool:
    """With points in it, it may be of a run in another runs' folder."""
    try:
        ring = _core.Ring.open(path)
    except (OSError, RuntimeError):
        return False
    return bool(ring.head == ring.tail)


def _folders(runs_dir: str) -> list[str]:
    found = []
    for name in _names_in(runs_dir):
        path = os.path.join(runs_dir, name)
        if (
            os.path.isdir(path)
            and os.path.exists(os.path.join(path, RUN_LOCK))
            and not os.path.exists(os.path.join(path, MANIFEST))
            and _is_old_and_ours(path)
            and RunLock.is_held(os.path.join(path, RUN_LOCK)) is False
        ):
            found.append(path)
    return found


def _is_old_and_ours(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    is_ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return is_ours and time.time() - status.st_mtime > _YOUNG_S


def _names_in(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
