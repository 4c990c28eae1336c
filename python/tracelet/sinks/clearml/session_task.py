"""An offline session's task.json, of which the run's folder has a copy.

The SDK writes that file anew at each change of the task, and truncates it first. A process that is
killed meanwhile leaves a session that `Task.import_offline_session` refuses, with all its points.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time

from tracelet.private_file import private

_log = logging.getLogger("tracelet")

TASK = "task.json"
_COPY = "clearml_task.json"
_PATIENCE_S = 0.5
_PAUSE_S = 0.01


class SessionTask:
    """That file and its copy. One thread."""

    def __init__(self, folder: str | os.PathLike[str], run_dir: str) -> None:
        self._path = os.path.join(folder, TASK)
        self._copy = os.path.join(run_dir, _COPY)
        self._kept: tuple[int, int] | None = None  # of the file that was copied: its time and size

    def keep_first(self) -> None:
        """Copies it, waiting a moment for the SDK to have written it."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while not self.keep() and time.monotonic() < deadline_s:
            time.sleep(_PAUSE_S)

    def keep(self) -> bool:
        """Copies it when it has changed. False when it can't be read now, or not be copied: the
        copy there is stays."""
        try:
            status = os.stat(self._path)
            if (status.st_mtime_ns, status.st_size) == self._kept:
                return True
            content = _whole(self._path)
            new = self._copy + ".new"
            with open(new, "wb", opener=private) as file:
                file.write(content)
            os.replace(new, self._copy)
        except (OSError, ValueError):
            return False
        self._kept = (status.st_mtime_ns, status.st_size)
        return True

    def restore(self) -> None:
        """Puts the copy in its place where a death has cut it off. Raises OSError."""
        with contextlib.suppress(OSError, ValueError):
            _whole(self._path)
            return
        try:
            content = _whole(self._copy)
        except (OSError, ValueError) as error:
            _log.warning("tracelet: %s is cut off, and so is its copy: %s", self._path, error)
            return
        new = self._path + ".new"
        with open(new, "wb") as file:
            file.write(content)
        os.replace(new, self._path)


def _whole(path: str) -> bytes:
    """The bytes of a file of JSON. Raises OSError, ValueError."""
    with open(path, "rb") as file:
        content = file.read()
    json.loads(content)
    return content
