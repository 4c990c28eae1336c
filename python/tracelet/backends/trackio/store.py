"""trackio's database of one project: a file of SQLite in its own folder.

A row is known by its id: one that is there is not written again (INSERT OR IGNORE on a unique
index, trackio 0.43, `SQLiteStorage.bulk_log`). So ids follow from the points.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tracelet.errors import SinkUnavailableError
from tracelet.fork import renew_at_fork
from tracelet.runs.whole_file import write_whole

_FIRST_TIME_S, _END_TIME_S = -62_135_596_800.0, 253_402_300_800.0
_COLUMNS = {
    "id", "run_id", "timestamp", "run_name", "step", "metrics", "log_id", "space_id",
}  # fmt: skip
_INSERT = (
    "INSERT OR IGNORE INTO metrics (timestamp, run_id, run_name, step, metrics, log_id) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_ROWS = 1_000
"""In one transaction: other processes of the project wait for no more."""


class Row(NamedTuple):
    id: str
    """Within tracelet's run."""
    step: int
    wall_time_s: float
    values: Mapping[str, Any]


class Store:
    """One run. Any thread."""

    def __init__(self, project: str, run_name: str, run_id: str, ids: str) -> None:
        """`ids`: what the ids of its rows begin with, of tracelet's own run: another one that goes
        on with this run of trackio's counts its points anew."""
        self.project = project
        self.run_name = run_name
        self.run_id = run_id
        self._ids = ids
        self.renew_in_child()
        renew_at_fork(self)

    def renew_in_child(self) -> None:
        self._merging = threading.Lock()  # two threads that read, add and write the config

    def log(self, rows: Sequence[Row], are_finite_numbers: bool = False) -> None:
        """Raises SinkUnavailableError; what is there already is no second row.

        `are_finite_numbers`: all values of these rows are.
        """
        for start in range(0, len(rows), _ROWS):
            piece = rows[start : start + _ROWS]
            if are_finite_numbers and self._insert(piece):
                continue
            self._log(
                [row.values for row in piece],
                steps=[row.step for row in piece],
                timestamps=[_iso_time(row.wall_time_s) for row in piece],
                log_ids=[f"{self._ids}-{row.id}" for row in piece],
            )

    def _insert(self, rows: Sequence[Row]) -> bool:
        """Writes rows of finite numbers as `bulk_log` does, which spends four fifths of its time on
        looking at each value for what else it may be. False, and nothing written, where trackio's
        inside is another one than that of 0.43."""
        try:
            import orjson
            from trackio.sqlite_storage import SQLiteStorage

            path = SQLiteStorage.init_db(self.project)
            lock = SQLiteStorage._get_process_lock(self.project)
            with lock, SQLiteStorage._get_connection(path) as connection:
                if SQLiteStorage._table_columns(connection, "metrics") != _COLUMNS:
                    return False
                connection.executemany(
                    _INSERT,
                    [
                        (
                            _iso_time(row.wall_time_s), self.run_id, self.run_name, row.step,
                            orjson.dumps(row.values), f"{self._ids}-{row.id}",
                        )
                        for row in rows
                    ],
                )  # fmt: skip
                connection.commit()
        except (ImportError, AttributeError):
            return False
        except Exception as error:  # locked, full, not writable
            raise SinkUnavailableError(f"trackio's database: {error!s:.300}") from error
        return True

    def last_id(self, prefix: str) -> str | None:
        """Of the rows whose ids begin so, the last one that was written. Raises
        SinkUnavailableError."""
        from trackio.sqlite_storage import SQLiteStorage

        whole = f"{self._ids}-{prefix}"
        try:
            SQLiteStorage.init_db(self.project)
            path = SQLiteStorage.get_project_db_path(self.project)
            with SQLiteStorage._get_connection(path) as connection:
                found = connection.execute(
                    "SELECT log_id FROM metrics WHERE substr(log_id, 1, ?) = ? "
                    "ORDER BY id DESC LIMIT 1", (len(whole), whole),
                ).fetchone()  # fmt: skip
        except Exception as error:
            raise SinkUnavailableError(f"trackio's database: {error!s:.300}") from error
        return None if found is None else str(found[0])[len(self._ids) + 1 :]

    def merge_config(self, config: Mapping[str, Any]) -> None:
        """Adds to the run's configuration, which trackio replaces as a whole."""
        from trackio.sqlite_storage import SQLiteStorage

        config = {name: _within_64_bits(value) for name, value in config.items()}
        with self._merging:
            try:
                whole = SQLiteStorage.get_run_config(self.project, self.run_name, self.run_id) or {}
            except Exception as error:
                raise SinkUnavailableError(f"trackio's database: {error!s:.300}") from error
            # It takes a configuration only with rows: one that is empty, and there once.
            self._log(
                [{}], steps=[0], timestamps=None, config={**whole, **config},
                log_ids=[f"{self._ids}-config"],
            )  # fmt: skip

    def _log(self, rows: list[Mapping[str, Any]], **arguments: Any) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        try:
            SQLiteStorage.bulk_log(
                self.project, self.run_name, rows, run_id=self.run_id, **arguments
            )
        except Exception as error:  # locked, full, not writable
            raise SinkUnavailableError(f"trackio's database: {error!s:.300}") from error

    def put_media(self, data: bytes, step: int, name: str) -> str:
        """Writes a file among the run's media; one of that name is overwritten. Returns its path as
        trackio's rows have it. Raises SinkUnavailableError."""
        from trackio.media.utils import get_project_media_path
        from trackio.utils import MEDIA_DIR

        try:
            path = (
                get_project_media_path(project=self.project, run=self.run_id, step=step)
                / f"{self._ids}-{name}"
            )
            # On the disk before the row that names it, which may be there after a loss of power.
            write_whole(str(path), data, mode=0o666)
        except OSError as error:
            raise SinkUnavailableError(f"trackio's media: {error!s:.300}") from error
        return str(path.relative_to(MEDIA_DIR))

    def put_artifact(
        self, path: str, name: str, kind: str, file_name: str, metadata: Mapping[str, Any] | None
    ) -> None:
        """A version of an artifact that is this run's; the same content again is no new one."""
        from trackio.artifact import Artifact
        from trackio.sqlite_storage import SQLiteStorage

        made = Artifact(name=name, type=kind, metadata=dict(metadata) if metadata else None)
        made.add_file(path, name=file_name)
        SQLiteStorage.init_db(self.project)
        SQLiteStorage.commit_artifact_version(
            project=self.project, name=made.name, type=made.type, description=None,
            manifest=made._build_manifest(self.project), metadata=made.metadata, aliases=None,
            run_name=self.run_name, run_id=self.run_id,
        )  # fmt: skip


def _within_64_bits(value: Any) -> Any:
    """A larger integer as text: trackio's JSON has none."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_within_64_bits(each) for each in value]
    return value


def _iso_time(wall_time_s: float) -> str:
    """Of the year 1970 for what is none of the years 1 to 9999: the point itself is good."""
    from datetime import datetime, timezone

    if not _FIRST_TIME_S <= wall_time_s < _END_TIME_S:
        wall_time_s = 0.0
    return datetime.fromtimestamp(wall_time_s, timezone.utc).isoformat()
