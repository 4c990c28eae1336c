"""Offline sessions among what `tracelet sync` sends: which they are, and the import of one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracelet import environment
from tracelet.errors import TraceletError
from tracelet.runs.run_folder import MANIFEST
from tracelet.runs.stored_run import StoredRun

if TYPE_CHECKING:
    from tracelet.backends.clearml.import_session import OfflineSession


def waiting_sessions() -> list[OfflineSession]:
    """Those that nobody writes to any more and that are not imported. None where ClearML is set to
    offline: they were meant to stay here."""
    from tracelet.backends.clearml.set_up import is_installed

    if environment.clearml_offline() or not is_installed():
        return []
    from tracelet.backends.clearml.import_session import find_sessions

    return [session for session in find_sessions() if session.is_whole]


def find_session(
    sessions: Sequence[OfflineSession], runs_dir: str, name: str
) -> OfflineSession | None:
    """The session of a run that has no folder any more; None where there is no such one."""
    if os.path.exists(os.path.join(runs_dir, name, MANIFEST)):
        return None
    return next((each for each in sessions if name in (*each.run_ids, str(each.folder))), None)


def look_at_session(session: OfflineSession, runs_dir: str) -> int:
    """What a dry run says of it."""
    print(f"{session.run_id}: would import its offline session {session.folder}")
    return 0


def send_session(session: OfflineSession, runs_dir: str) -> int:
    """The command's exit code."""
    for run_id in session.run_ids:
        folder = os.path.join(runs_dir, run_id)
        if os.path.exists(os.path.join(folder, MANIFEST)) and StoredRun(folder).state != "finished":
            print(f"{run_id}: its offline session waits until the run itself is sent")
            return 1
    try:
        url = session.send()
    except TraceletError as error:
        print(
            f"{session.run_id}: its offline session {session.folder} is not imported: {error}\n"
            f"    it is kept; try again: tracelet sync {session.run_id}",
            file=sys.stderr,
        )
        return 1
    print(f"{session.run_id}: its offline session is imported: {url}")
    return 0
