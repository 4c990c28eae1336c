"""What sinks keep in the run's folder, so that another process can go on as they would.

Files of JSON lines, appended before what they tell of is used; a torn last line is passed over.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

from tracelet.runs.private_file import private
from tracelet.runs.whole_file import sync_file, sync_folder

_log = logging.getLogger("tracelet")

NAMES = "clearml_names.jsonl"
SAMPLES = "clearml_samples.jsonl"
_COMPACT_ABOVE_BYTES = 4 << 20


class KeptLines:
    """One such file. Any thread: a line is one write to a file that is open for appending."""

    def __init__(self, run_dir: str, name: str) -> None:
        self._path = os.path.join(run_dir, name)
        self._file: io.FileIO | None = None  # while it is open
        self._is_unsynced = False  # set by who writes, after that; cleared by who syncs, before it

    def read(self, *types: type | tuple[type, ...]) -> Iterator[Any]:
        """What each whole line holds; with `types`, those that are lists of such values. A damaged
        one costs itself, and is told once."""
        try:
            file = open(self._path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return
        is_told = False
        with file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    values = json.loads(line)
                    if types:
                        _check(values, types)
                except (ValueError, RecursionError) as error:
                    if not is_told:
                        _log.warning("tracelet: %s is damaged: %s", self._path, error)
                    is_told = True
                    continue
                yield values

    def append(self, *values: Any) -> bool:
        """Whether it is in the file. Failure costs no point: after a crash names or places may then
        differ."""
        try:
            file = self._file
            if file is None:
                file = self._file = io.FileIO(self._path, "a+", opener=private)
                _cut_torn_line(file)
            file.write((json.dumps(values) + "\n").encode())
            self._is_unsynced = True
        except (OSError, ValueError) as error:  # ValueError: closed, by the end of the run
            _log.debug("tracelet: %s can't be written: %s", self._path, error)
            return False
        return True

    def sync(self) -> None:
        """Has what was appended before this call reach the disk. Raises OSError."""
        if self._is_unsynced:
            self._is_unsynced = False
            try:
                sync_file(self._path)
                sync_folder(os.path.dirname(self._path))
            except OSError:
                self._is_unsynced = True
                raise

    def close(self) -> None:
        """Until the next line is appended. The garbage collector would be late: the SDK's frames
        hold on to what sinks refer to."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def is_large(self) -> bool:
        return self._file is not None and self._file.tell() > _COMPACT_ABOVE_BYTES

    def replace(self, rows: list[tuple[Any, ...]]) -> None:
        """Puts these lines in the place of all, whole or not at all. Raises OSError."""
        with open(self._path + ".new", "w", encoding="utf-8", opener=private) as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._path + ".new", self._path)
        self._is_unsynced = True
        self.close()


def _check(values: Any, types: tuple[type | tuple[type, ...], ...]) -> None:
    """Raises ValueError."""
    is_list = isinstance(values, list) and len(values) == len(types)
    if not is_list or not all(map(isinstance, values, types)):
        raise ValueError(f"a line is not as it was written: {values!r:.100}")


def _cut_torn_line(file: io.FileIO) -> None:
    file.seek(0)
    file.truncate(file.readall().rfind(b"\n") + 1)
