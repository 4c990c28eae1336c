"""Offline sessions of tracelet's runs: which there are, and their import once the server is there.

Each has a note of ours in its folder: the run it is of, the process that writes it, the task to go
on with, and what became of its import. A session is imported into one task however often that is
tried: the task is noted before anything is sent to it.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracelet import environment
from tracelet.backends.base import RunInfo
from tracelet.backends.clearml.create_once import CreateOnce
from tracelet.backends.clearml.sdk import load_task_class, startup_error
from tracelet.backends.clearml.session import METRICS, TASK, SessionUsers, mend_lines
from tracelet.backends.clearml.session_task import SessionGoal
from tracelet.backends.clearml.start import (
    OfflineStandIn,
    ServerAwayError,
    StartDeadline,
    api_host,
    go_online,
)
from tracelet.errors import BackendError, TraceletError
from tracelet.runs.process_identity import is_alive, process_identity
from tracelet.runs.run_lock import RunLock
from tracelet.runs.whole_file import write_whole

_log = logging.getLogger("tracelet")

_NOTE = "tracelet.json"
_LOCK = "tracelet.lock"  # while it is imported
_SILENCE_S = 60.0
"""How long the server may leave the import without an answer."""


def note_session(task: Any, info: RunInfo, goal: OfflineStandIn | SessionGoal | None) -> None:
    """Leaves the note in the folder of a session that begins, and that this run writes to it: of
    several processes the first one's note is kept, or that of one that knows the task. Failure
    costs no point."""
    note = {
        "run": info.run_id,
        "project": info.options.project,
        "exp_name": info.options.exp_name,
        "continue": info.options.continue_last_task,
        "task": goal.made_task_id if goal else None,
        "token": goal.token if goal else None,
        "parent": goal.parent_id if isinstance(goal, SessionGoal) else None,
        **process_identity(),
    }
    folder = Path(task.get_offline_mode_folder())
    try:
        SessionUsers(folder).add(info.run_id)
        if goal is not None or not (folder / _NOTE).exists():
            _write(folder, note)
    except OSError as error:
        _log.warning("tracelet: `tracelet sync` will not find this session: %s", error)


class OfflineSession:
    """One session on disk, with its note."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError, ValueError, TypeError for a folder without such a note."""
        self.folder = folder
        self.note = _read(folder)
        self.run_id = str(self.note["run"])
        users = SessionUsers(folder)
        self.run_ids = list(dict.fromkeys([self.run_id, *(each["run"] for each in users.all())]))
        self._is_used = users.others_live("")

    @property
    def is_whole(self) -> bool:
        """Whether nothing is written to it any more: it is zipped, or its process is gone, and none
        of the other processes that share it is at it."""
        is_zipped = Path(f"{self.folder}.zip").exists()
        return not self._is_used and (is_zipped or is_alive(self.note) is False)

    @property
    def is_imported(self) -> bool:
        """Whether all that is there now is: `tracelet sync` may have put a run's rest into a
        session that was imported before."""
        return bool(self.note.get("url")) and self.note.get("state") in (None, self._state())

    def _state(self) -> list[int]:
        """What changes when something is added to it."""
        metrics, task = self.folder / METRICS, self.folder / TASK
        return [
            metrics.stat().st_size if metrics.exists() else 0,
            zlib.crc32(task.read_bytes()) if task.exists() else 0,
        ]

    def send(self) -> str:
        """Imports it, unless another process just has; returns the task's page. Raises
        TraceletError when that can't be done now, or not all of it was taken; the same task gets
        all of it the next time."""
        if environment.clearml_offline():
            raise BackendError("ClearML is set to offline here (CLEARML_OFFLINE_MODE)")
        lock = RunLock(str(self.folder / _LOCK))
        try:
            if not lock.acquire():
                raise BackendError("another process imports it at the moment")
            # As it is now: by an older one a second task would be made.
            self.note = self._note_now()
            return str(self.note["url"]) if self.is_imported else self._import()
        except OSError as error:
            raise BackendError(f"its folder can't be used: {error}") from error
        finally:
            lock.release()

    def _note_now(self) -> dict[str, Any]:
        try:
            return _read(self.folder)
        except ValueError as error:
            raise BackendError(f"{_NOTE} is damaged: {error}") from error

    def _import(self) -> str:
        task_class = load_task_class()
        creation = CreateOnce(self.note.get("token"))
        deadline = StartDeadline(_SILENCE_S, is_renewed=True, creation=creation)
        try:
            # A line that a death has torn ends the SDK's import, or has it send another twice.
            mend_lines(self.folder / METRICS, is_settled=True)
            state = self._state()
            with deadline:
                go_online(task_class)
                url = self._send(task_class, creation.token)
        except ServerAwayError as error:
            raise BackendError(f"ClearML's server {api_host()} is away ({error})") from None
        except TraceletError:
            raise
        except Exception as error:
            raise startup_error(error) from error
        if deadline.refused:
            raise BackendError(
                f"ClearML did not take {len(deadline.refused)} requests: {deadline.refused[0]}"
            )
        self._update(url=url, state=state)
        return url

    def _send(self, task_class: Any, token: str) -> str:
        content = json.loads((self.folder / TASK).read_text("utf-8"))
        if not self.note.get("task"):
            self._update(token=token)  # first: the task may be made, and this process may die
            self._update(task=_target(task_class, self.note, content))
        target_id = str(self.note["task"])
        if self.note.get("parent"):
            task_class.get_task(task_id=target_id).set_parent(str(self.note["parent"]))

        class Import(task_class):  # type: ignore[misc]
            """The SDK makes a new task for each import, also for one into another task."""

            @classmethod
            def import_task(cls, data: Any, *_: Any, **__: Any) -> Any:
                # One that is completed, by its own run or by a try before, takes no edits.
                task_class.get_task(task_id=target_id).mark_started(force=True)
                return task_class.import_task(data, target_task=target_id, update=True)

        Import.import_offline_session(str(self.folder))
        return str(task_class.get_task(task_id=target_id).get_output_log_web_page())

    def _update(self, **changes: Any) -> None:
        self.note.update(changes)
        _write(self.folder, self.note)


def _target(task_class: Any, note: Any, content: Any) -> str:
    """The task that the session goes into: the one to go on with, else a new one."""
    wanted = note.get("continue")
    project, name = content.get("project_name") or note["project"], content.get("name")
    if isinstance(wanted, str):
        return wanted
    if wanted is not False and wanted is not None:
        found = task_class.get_tasks(
            project_name=project, task_name=name, task_filter={"order_by": ["-last_update"]}
        )
        if found:
            return str(found[0].id)
    return str(task_class.create(project_name=project, task_name=name).id)


def find_sessions() -> Iterator[OfflineSession]:
    """Those of the SDK's cache that are not imported yet, oldest first."""
    load_task_class()
    from clearml.config import get_offline_dir

    root = Path(get_offline_dir())
    found = [root / name for name in _names_in(root)]
    notes = [folder for folder in found if (folder / _NOTE).is_file()]
    for folder in sorted(notes, key=lambda each: (each / _NOTE).stat().st_mtime):
        try:
            session = OfflineSession(folder)
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("tracelet: %s can't be read: %r", folder / _NOTE, error)
            continue
        if not session.is_imported:
            yield session


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read(folder: Path) -> dict[str, Any]:
    """Raises OSError, and ValueError for one that is damaged."""
    return dict(json.loads((folder / _NOTE).read_text("utf-8")))


def _write(folder: Path, note: Any) -> None:
    """Processes of one session may write it at once."""
    path = str(folder / _NOTE)
    write_whole(path, json.dumps(note).encode(), new_path=f"{path}.{os.getpid()}.new")
