"""What stays of a run that has ended: a small record, one file each, for `tracelet runs`.

The folder has a budget, and the oldest records go first. What lies there is not believed before it
was checked: see `_checked`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tracelet.errors import TraceletError
from tracelet.runs.manifest import FORMAT, decoded, encoded
from tracelet.runs.ownership import read_own
from tracelet.runs.whole_file import write_whole

MOST_BYTES = 16 << 20
"""What all records of a folder may take together."""
MOST_RECORD_BYTES = 256 << 10
EVERY_RECORD = 1 << 30
"""As `most_runs` of `write_record`: nothing goes for the one that is written."""
_MOST_ENTRIES = 500  # of a table; not of series: what is shown of a run is computed from all
_LONGEST_TEXT = 500
_LONGEST_PATH = 4096
_LONGEST_COMMAND = 2_000
_LONGEST_PACKAGES = 32 << 10
_LONGEST_DIFF = 66 << 10
_LATEST_S = 1e11  # in the year 5138: what prints dates can print it
# What a damaged record can raise where it is read.
DAMAGE = (
    OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError, TraceletError,
)  # fmt: skip
_SUFFIX = ".json"
IMPORTED = "import-"
"""Begins the id of a run that `tracelet import` has made."""
_NAME = re.compile(r"(\d{8}-\d{6}-[0-9a-f]{8}|import-[0-9a-f]{24})\.json")
STATES = ("finished", "failed", "stopped", "killed", "unsent")

Summary = Mapping[str, Mapping[str, Any]]
"""By tag: last, least and greatest (floats), points and last_step (ints)."""
_NUMBERS, _COUNTS = ("last", "least", "greatest"), ("points", "last_step")
_ORIGIN = ("tag", "folder")  # where several series have the tag


@dataclass(frozen=True)
class RunRecord:
    """One run that has ended. Holds no secret: see `redact`."""

    run_id: str
    exp_name: str = ""
    project: str = ""
    backends: tuple[str, ...] = ()
    state: str = "finished"
    """One of STATES. "killed": its process died, and `tracelet sync` has sent the rest. "unsent":
    it had points that some backend lacked, and its folder is there, or somebody removed it."""
    started_s: float = 0.0
    """Seconds since the epoch, as `ended_s`."""
    ended_s: float = 0.0
    points: int | None = None
    """How many were accepted; None where that is not known."""
    host: str = ""
    ids: Mapping[str, str] = field(default_factory=dict)
    """By backend, as `urls`."""
    urls: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    """Its event files."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    summary: Summary | None = None
    """None: not counted yet; the event files tell."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """What it ran in: see `monitor.environment` and `monitor.git`."""


def write_record(folder: str, record: RunRecord, most_runs: int) -> None:
    """Writes a run's record in the place of the one it has, and deletes the oldest ones beyond the
    budget. Raises OSError."""
    if most_runs <= 0:
        return
    os.makedirs(folder, mode=0o700, exist_ok=True)
    content = asdict(_bounded(record))
    data = encoded({"format": FORMAT, **content})
    # Too large to be read again: what can be found elsewhere goes first.
    for left_out in ("environment", "summary", "params", "files", "tags", "dropped", "urls", "ids"):
        if len(data) > MOST_RECORD_BYTES:
            content.pop(left_out)
            data = encoded({"format": FORMAT, **content})
    write_whole(os.path.join(folder, record.run_id + _SUFFIX), data)
    _prune(folder, most_runs)


def read_records(folder: str, most: int | None = None) -> tuple[list[RunRecord], int]:
    """The records of a folder, oldest first, the newest `most` of them; and how many can't be read.

    One that is damaged, another user's or a link costs itself.
    """
    records, unreadable = [], 0
    paths = [path for path, _ in _entries(folder)]
    for path in paths[-most if most else None :]:
        try:
            records.append(_read(path))
        except FileNotFoundError:
            continue  # beyond the budget of a run that ended just now
        except DAMAGE:
            unreadable += 1
    records.sort(key=lambda record: record.ended_s)
    return records, unreadable


def read_record(folder: str, run_id: str) -> RunRecord | None:
    """A run's record; None where there is none that can be read."""
    try:
        return _read(os.path.join(folder, run_id + _SUFFIX))
    except DAMAGE:
        return None


def remove_record(folder: str, run_id: str) -> None:
    """Deletes a run's record, if it has one. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, run_id + _SUFFIX))


def record_paths(folder: str) -> list[str]:
    """The files of all records, the oldest first."""
    return [path for path, _ in _entries(folder)]


def _prune(folder: str, most_runs: int) -> None:
    """Deletes the oldest beyond the budget: files whose names are those of records, nothing else.

    What was imported stays: without its record it would be imported once more.
    """
    entries = [
        each for each in _entries(folder) if not os.path.basename(each[0]).startswith(IMPORTED)
    ]
    size_bytes = sum(size for _, size in entries)
    while entries and (len(entries) > most_runs or size_bytes > MOST_BYTES):
        path, size = entries.pop(0)
        size_bytes -= size
        with contextlib.suppress(OSError):  # another process was first
            os.unlink(path)


def _entries(folder: str) -> list[tuple[str, int]]:
    """Path and size of each record, the oldest first: a run's id begins with its second."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if _NAME.fullmatch(entry.name):
                        found.append((entry.path, status.st_size))
    except OSError:
        return []
    return sorted(found)


def _read(path: str) -> RunRecord:
    content = decoded(read_own(path, MOST_RECORD_BYTES))
    if content["format"] > FORMAT:
        raise ValueError("of a later version")
    return _checked(content, os.path.basename(path)[: -len(_SUFFIX)])


def _bounded(record: RunRecord) -> RunRecord:
    """The record within what `_checked` takes."""
    values = {each.name: getattr(record, each.name) for each in fields(record)}
    for name, value in values.items():
        if isinstance(value, str):
            values[name] = value[:_LONGEST_TEXT]
        elif isinstance(value, tuple):
            longest = _LONGEST_PATH if name == "files" else _LONGEST_TEXT
            values[name] = tuple(str(each)[:longest] for each in value[:_MOST_ENTRIES])
        elif isinstance(value, Mapping) and name != "summary":
            values[name] = dict(list(value.items())[:_MOST_ENTRIES])
    values["environment"] = bounded_environment(values["environment"])
    values["params"] = {str(k)[:_LONGEST_TEXT]: _short(v) for k, v in values["params"].items()}
    return RunRecord(**values)


def bounded_environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    """With texts as long as a record may have them: a whole command, all packages, a diff."""
    longest = {"packages": _LONGEST_PACKAGES, "git_diff": _LONGEST_DIFF}
    return {
        name: value[: longest.get(name, _LONGEST_COMMAND)] if isinstance(value, str) else value
        for name, value in environment.items()
    }


def _short(value: Any) -> Any:
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and abs(value) < 1 << 63:
        return value
    try:
        return str(value)[:_LONGEST_TEXT]
    except ValueError:  # an int of more digits than Python writes
        return f"({type(value).__name__} without a text)"


def _checked(content: Mapping[str, Any], run_id: str) -> RunRecord:
    """A record with each of its parts in the type it must have. Raises ValueError, TypeError,
    KeyError."""
    if content["run_id"] != run_id or content["state"] not in STATES:
        raise ValueError("it is another run's record, or none")
    points = content.get("points")
    summary = content.get("summary")
    return RunRecord(
        run_id=run_id,
        exp_name=_text(content["exp_name"]),
        project=_text(content["project"]),
        backends=_texts(content["backends"]),
        state=content["state"],
        started_s=_seconds(content["started_s"]),
        ended_s=_seconds(content["ended_s"]),
        points=None if points is None else _count(points),
        host=_text(content["host"]),
        ids={_text(k): _text(v) for k, v in _table(content.get("ids", {})).items()},
        urls={_text(k): _text(v) for k, v in _table(content.get("urls", {})).items()},
        tags=checked_tags(content.get("tags", ())),
        params=checked_params(content.get("params", {})),
        environment=checked_params(content.get("environment", {})),
        files=_texts(content.get("files", ())),
        dropped={_text(k): _count(v) for k, v in _table(content.get("dropped", {})).items()},
        summary=None if summary is None else checked_summary(summary),
    )


def checked_params(params: Any) -> Mapping[str, Any]:
    """Parameters as they must be. Raises TypeError."""
    return {_text(name): _plain(value) for name, value in _table(params).items()}


def checked_tags(tags: Any) -> tuple[str, ...]:
    """Raises TypeError."""
    return _texts(tags)


def checked_summary(summary: Any) -> Summary:
    """A summary as it must be. Raises ValueError, TypeError, KeyError."""
    found: dict[str, Mapping[str, Any]] = {}
    for tag, entry in _table(summary).items():
        entry = _table(entry)
        found[_text(tag)] = {
            **{name: _number(entry[name]) for name in _NUMBERS},
            **{name: _count(entry[name], least=-(1 << 63)) for name in _COUNTS},
            **{name: _text(entry[name]) for name in _ORIGIN if name in entry},
        }
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise TypeError("no list")
    return tuple(_text(each) for each in value)


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("no table")
    return value


def _count(value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 63:
        raise ValueError("no count")
    return value


def _number(value: Any) -> float | None:
    """None: there is none, as of a series of NaN alone."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("no number")
    return float(value)


def _seconds(value: Any) -> float:
    number = _number(value)
    if number is None or not 0 <= number <= _LATEST_S:
        raise ValueError("no time")
    return number


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError("no plain value")
