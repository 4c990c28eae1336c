"""An offline session that is made without the SDK: in a process where the SDK is online.

The SDK's offline mode is one for the whole process. Where a task is there already whose own threads
report (a child's parent), or where an agent gave the task, a run whose server is away at its start
has a session of the same form, which `tracelet sync` imports as it does any other.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tracelet.backends.artifact import Artifact, FileUpload, Model
from tracelet.backends.base import Upload
from tracelet.backends.clearml.own_binding import OwnBinding
from tracelet.backends.clearml.reopen import ReopenedTask
from tracelet.backends.clearml.session import TASK
from tracelet.backends.clearml.task_edits import Item, params_items
from tracelet.backends.clearml.task_names import task_name_of
from tracelet.errors import NotTakenError
from tracelet.options import Options
from tracelet.runs.private_file import private

_log = logging.getLogger("tracelet")


@dataclass(frozen=True)
class SessionGoal:
    """Which task `tracelet sync` imports the session into."""

    made_task_id: str | None
    """A task that is there; None: a new one."""
    token: str | None
    """Of one that the server may have made (CreateOnce)."""
    parent_id: str | None
    """Of the new task."""


class SessionTask(ReopenedTask):
    """A run's offline session, made here. Its methods may be called as those of ClearMLTask."""

    def __init__(
        self, options: Options, run_id: str, goal: SessionGoal, own_binding: OwnBinding | None
    ) -> None:
        """Raises OSError, and what ReopenedTask raises."""
        try:
            super().__init__(_make_session(options, goal), run_id)
        except BaseException:
            if own_binding is not None:
                own_binding.put_back()
            raise
        self.own_binding = own_binding
        self._goal = goal

    @property
    def goal(self) -> SessionGoal:
        return self._goal

    @property
    def url(self) -> str | None:
        return None

    def take_params(self, flat: Mapping[str, Any], given: Any) -> Mapping[str, Any]:
        self.edit_session("hyperparams", list(params_items(flat).values()))
        return {}

    def send_params(self, items: Mapping[str, Item]) -> Mapping[str, str]:
        return {}  # all are taken

    def prepare_artifact(self, artifact: Artifact) -> Upload:
        return _KeptFile(artifact)

    def prepare_model(self, model: Model) -> Upload:
        assert model.file is not None
        return _KeptFile(model.file, is_artifact=False)

    def close(self, process_is_ending: bool) -> None:
        self.give_back()
        super().close(process_is_ending)

    def let_process_end(self) -> None:
        """There is nothing of the SDK's."""


class _KeptFile(FileUpload):
    """Stays in the run's folder: a session of ours has no form for it that the SDK would import."""

    def upload(self) -> None:
        raise NotTakenError("the run is offline because ClearML's server was away at its start")

    def is_refused(self, error: Exception) -> bool:
        return True


def _make_session(options: Options, goal: SessionGoal) -> dict[str, Any]:
    """The folder with its task.json; returns what `ReopenedTask` needs."""
    from clearml.config import config, get_offline_dir

    session_id = f"offline-{uuid.uuid4().hex}"
    folder = Path(get_offline_dir(session_id))
    (folder / "data").mkdir(parents=True)
    name = task_name_of(options)
    content: dict[str, Any] = {
        "id": session_id,
        "offline_folder": folder.as_posix(),
        "execution": {"artifacts": []},
        "hyperparams": {},
    }
    if goal.made_task_id is None or goal.parent_id is not None:  # else it has these already
        content.update(name=name, project_name=options.project, type=options.task_type)
        content.update(tags=list(options.tags or ()), comment=options.comment or "")
    with open(folder / TASK, "w", encoding="utf-8", opener=private) as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    return {
        "task": session_id,
        "is_owned": True,
        "offline_folder": str(folder),
        "files_at": str(folder / "data"),
        "files_folder": f"{quote(options.project)}/{quote(name)}.{session_id}/metrics",
        "files_history": config.get("sdk.metrics.file_history_size", 100),
    }
