"""W&B's own file of a run (`run-ID.wandb`), read beside the process that writes it.

It is a log as LevelDB has it: a header of 7 bytes, then blocks of 32 KiB; a record is one chunk, or
several where a block ends within it: CRC-32, length, type, bytes. Each is a `Record` of wandb's
protobuf classes. wandb has no reader of it in Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Callable

from tracelet.errors import SinkUnavailableError
from tracelet.fork import renew_at_fork

ROW = "tracelet_row"
"""Begins the name of the column with a row's number, where W&B's own step is not ours to set."""

_HEADER = b":W&B"
_HEADER_BYTES = 7
_BLOCK_BYTES = 32_768
_CHUNK = struct.Struct("<IHB")
_FULL, _FIRST, _LAST = 1, 2, 4
_READ_BYTES = 1 << 20
_POLL_S = 0.02
_NO_PROGRESS_S = 60.0
"""An adopted run's file is written every 15 s."""
_LEFT_S = 10.0
_MOMENT_S = 3.0


class LogFile:
    """One file, from its beginning on. One thread at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._offset = 0
        self._begun = b""  # of a record that goes on in the next chunk
        self._whole = 0  # where the last record ends
        self.is_damaged = False
        """Whether what follows is not as it was written."""

    def new_records(self) -> Iterator[bytes]:
        """The records that have come since, each once; ends before one that is not whole yet, or is
        damaged. Raises OSError."""
        try:
            file = open(self.path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return
        with file:
            while True:
                file.seek(self._offset)
                data = file.read(_READ_BYTES)
                before = self._offset
                yield from self._records_in(data)
                if self._offset == before or len(data) < _READ_BYTES:
                    return

    def cut_torn_end(self) -> None:
        """Of a file that nobody writes, all read: cuts off a record that ends behind the file's
        end. No reader can have it, and `wandb sync` would send nothing of the run's next file.
        Raises OSError."""
        if self._whole and not self.is_damaged and os.path.getsize(self.path) > self._whole:
            os.truncate(self.path, self._whole)
            self._offset, self._begun = self._whole, b""

    def _records_in(self, data: bytes) -> Iterator[bytes]:
        start = self._offset  # where `data` begins
        if not start:
            if len(data) < _HEADER_BYTES or not data.startswith(_HEADER):
                return
            self._offset = _HEADER_BYTES
        while True:
            position = self._offset - start
            left_in_block = _BLOCK_BYTES - self._offset % _BLOCK_BYTES
            if left_in_block < _CHUNK.size:
                if position + left_in_block > len(data):
                    return
                self._offset += left_in_block
                continue
            body = position + _CHUNK.size
            if body > len(data):
                return
            checksum, size, kind = _CHUNK.unpack_from(data, position)
            chunk = data[body : body + size]
            if len(chunk) < size:
                return
            self.is_damaged = zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum
            if self.is_damaged:
                return
            self._offset += _CHUNK.size + size
            self._begun = chunk if kind in (_FULL, _FIRST) else self._begun + chunk
            if kind in (_FULL, _LAST):
                self._whole = self._offset
                yield self._begun


class RunLog:
    """What W&B has on disk of one run: rows, config, artifacts, its end. Any thread."""

    def __init__(self, paths: list[str], column: str, has_column: bool) -> None:
        """`paths`: of this run's files; it may have been gone on with. `column`: of a row's number.
        `has_column`: only what has it is a row of ours."""
        self.column = column
        self._has_column = has_column
        self._files = [LogFile(path) for path in paths]
        self.rows_end = 0
        """One more than the highest row of ours that is there; they are written in order."""
        self.project = self.entity = ""
        """As the run was begun: `wandb sync` takes files for one run's when these are the same."""
        self.last_step = -1
        """W&B's own, of the rows of anybody."""
        self.exit_code: int | None = None
        self.runs = 0
        """How often what the run is was written: at its start, and with each change of it."""
        self.configs: Counter[str] = Counter()
        """How often each name of the config was written."""
        self.artifacts: Counter[str] = Counter()
        self.renew_in_child()
        renew_at_fork(self)

    def renew_in_child(self) -> None:
        self._lock = threading.Lock()

    @property
    def paths(self) -> list[str]:
        return [file.path for file in self._files]

    def add_file(self, path: str) -> None:
        with self._lock:
            self._files.append(LogFile(path))

    def refresh(self) -> None:
        """Reads what has come since. Raises OSError."""
        from wandb.proto.wandb_internal_pb2 import Record

        with self._lock:
            for file in self._files:
                for data in file.new_records():
                    self._note(Record.FromString(data))

    def cut_torn_ends(self) -> None:
        """See LogFile. To be called when all is read and nobody writes. Raises OSError."""
        with self._lock:
            for file in self._files:
                file.cut_torn_end()

    def wait_for(self, is_there: Callable[[], bool], what: str) -> None:
        """Waits until `is_there`. Raises SinkUnavailableError when the file has not grown for long,
        or can't be read."""
        size, grown_s = -1, time.monotonic()
        while True:
            try:
                self.refresh()
                now = sum(os.path.getsize(file.path) for file in self._files)
            except OSError as error:
                raise SinkUnavailableError(f"W&B's file can't be read: {error}") from error
            if is_there():
                return
            if now != size:
                size, grown_s = now, time.monotonic()
            elif time.monotonic() - grown_s > _NO_PROGRESS_S:
                raise SinkUnavailableError(f"W&B's service process does not write {what}")
            time.sleep(_POLL_S)

    def _note(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "history":
            self.last_step = max(self.last_step, int(record.history.step.num))
            number = _row_number(record.history, self.column, self._has_column)
            if number is not None:
                self.rows_end = max(self.rows_end, number + 1)
        elif kind == "config":
            self.configs.update(_key(item) for item in record.config.update)
        elif kind == "run":
            self.runs += 1
            self.project, self.entity = record.run.project, record.run.entity
            self.configs.update(_key(item) for item in record.run.config.update)
        elif kind == "exit":
            self.exit_code = int(record.exit.exit_code)
        elif kind == "artifact":
            self.artifacts[record.artifact.name] += 1


def wait_until_left(paths: list[str]) -> None:
    """Waits until no process has one of these files open: a dead run's wandb-core outlives it by a
    moment. Raises SinkUnavailableError. Without /proc that moment is waited for."""
    deadline_s = time.monotonic() + _LEFT_S
    if not os.path.isdir("/proc/self/fd"):
        time.sleep(_MOMENT_S)
        return
    wanted = {os.path.realpath(path) for path in paths}
    while wanted & _open_files():
        if time.monotonic() > deadline_s:
            raise SinkUnavailableError(
                "wandb-core still writes this run: a process that has it goes on "
                f"({', '.join(sorted(wanted))})"
            )
        time.sleep(_POLL_S)


def _open_files() -> set[str]:
    """Of all processes that can be looked into."""
    found: set[str] = set()
    for pid in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            folder = f"/proc/{int(pid) if pid.isdigit() else 'self'}/fd"
            for descriptor in os.listdir(folder):
                with contextlib.suppress(OSError):
                    found.add(os.readlink(f"{folder}/{descriptor}"))
    return found


def row_column(run_id: str) -> str:
    """One for each run of tracelet's: several may log to one run of W&B's, and the rows of another
    one are not to be taken for its own, which would be counted as delivered."""
    return f"{ROW}/{run_id}"


def _row_number(history: Any, column: str, has_column: bool) -> int | None:
    """The number that our row was given; W&B's own step where there is no column for it."""
    for item in history.item:
        if _key(item) == column:
            value = json.loads(item.value_json)
            return value if isinstance(value, int) else None
    return None if has_column else int(history.step.num)


def names_of(item: Any) -> list[str]:
    """Where a value is, from the outside to the inside."""
    return list(item.nested_key) or [str(item.key)]


def _key(item: Any) -> str:
    return names_of(item)[0]
