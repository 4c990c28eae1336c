"""Files that belong to no run any more: rings in shared memory, folders without a manifest."""

from __future__ import annotations

import os
import time

from tracelet import _core
from tracelet.places import SHARED_MEMORY, temporary_folder
from tracelet.runs.deletion import REMOVED_PREFIX
from tracelet.runs.ownership import is_own_file
from tracelet.runs.process_identity import processes_that_map
from tracelet.runs.run_folder import MANIFEST, RUN_LOCK
from tracelet.runs.run_lock import RunLock

_YOUNG_S = 60.0  # being made, or removed, by another process
_PREFIX, _SUFFIX = "tracelet-", ".ring"


def find_orphans(runs_dir: str) -> list[str]:
    """This user's rings without a run that hold no points any more, run folders in which nothing
    was logged, and what is left of runs whose removal was cut short; older than a minute and used
    by no process."""
    return [*_rings(runs_dir), *_folders(runs_dir)]


def _rings(runs_dir: str) -> list[str]:
    found = []
    for folder in (SHARED_MEMORY, temporary_folder()):
        for name in _names_in(folder):
            path = os.path.join(folder, name)
            run_id = name[len(_PREFIX) : -len(_SUFFIX)]
            if (
                name.startswith(_PREFIX)
                and name.endswith(_SUFFIX)
                and _is_old_and_ours(path)
                and is_own_file(path)
                and not os.path.exists(os.path.join(runs_dir, run_id))
                and _may_go(path, runs_dir, run_id)
                and not _is_in_use(path)
                and not processes_that_map(path)
            ):
                found.append(path)
    return found


def _may_go(path: str, runs_dir: str, run_id: str) -> bool:
    """With points in it, or once it had some, it may be of a run in another runs' folder: what was
    taken from it is in a journal there, and what it dropped is counted here alone. Without an id it
    is of a version that did not hold its ring: who uses it can't be told across pid namespaces."""
    try:
        ring = _core.StoredRing.open(path)
    except (OSError, RuntimeError):
        return False
    was_removed = os.path.exists(os.path.join(runs_dir, f"{REMOVED_PREFIX}{run_id}"))
    return bool(ring.id) and (was_removed or (ring.head == 0 and not any(ring.dropped.values())))


def _is_in_use(path: str) -> bool:
    """Whether a process holds it (RunFolder.hold_ring), also one that /proc does not show here."""
    try:
        import fcntl

        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except (ImportError, OSError):
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _folders(runs_dir: str) -> list[str]:
    found = []
    for name in _names_in(runs_dir):
        path = os.path.join(runs_dir, name)
        was_removed = name.startswith(REMOVED_PREFIX)
        if not os.path.isdir(path) or not _is_old_and_ours(path):
            continue
        if was_removed or _is_empty_start(path):
            found.append(path)
    return found


def _is_empty_start(path: str) -> bool:
    """A run's folder in which there is nothing but what a start makes before its manifest. With
    anything else in it, it may have points though its manifest is lost: `tracelet runs` names it.
    """
    of_claims = f"{RUN_LOCK}.claim."  # which were taken away when the machine stopped
    names = {name for name in _names_in(path) if not name.startswith(of_claims)}
    if not {RUN_LOCK} <= names <= {RUN_LOCK, f"{RUN_LOCK}.claim", f"{MANIFEST}.new", "sync.lock"}:
        return False
    return RunLock.is_held(os.path.join(path, RUN_LOCK)) is False


def _is_old_and_ours(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    is_ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return is_ours and time.time() - status.st_mtime > _YOUNG_S


def _names_in(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
