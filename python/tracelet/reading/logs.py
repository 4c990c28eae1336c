"""A log folder's runs. A run is a folder with event files, as in TensorBoard."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Callable

from tracelet import _core
from tracelet.errors import TraceletError
from tracelet.fork import renew_at_fork
from tracelet.reading.series import Histograms, Scalars, Texts

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger("tracelet")

_MARK = "tfevents"  # in the name of each event file, whoever wrote it


class RunLogs:
    """What one run logged: the event files of one folder, read as one.

    May be used by several threads.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        """The run's folder, relative to the folder that was read; "." for that one itself."""
        self._reader = _core.EventReader()
        self._positions: dict[str, int] = {}  # path to the bytes that were read, file by file
        self._places: dict[str, int] = {}  # tag to its place in the reader
        self._counts: list[tuple[bytes, int, int, int, int]] = []
        self._damaged = 0
        self.renew_in_child()
        renew_at_fork(self)

    def renew_in_child(self) -> None:
        self._lock = threading.Lock()

    def _read(self, paths: list[str]) -> None:
        with self._lock:
            for path in paths:
                position = self._positions.get(path, 0)
                try:
                    self._positions[path] = self._reader.read_file(os.fsencode(path), position)
                except OSError as error:
                    _log.warning("tracelet: %s can't be read: %s", path, error)
            self._counts = self._reader.tags()
            self._places = {
                counts[0].decode("utf-8", "replace"): place
                for place, counts in enumerate(self._counts)
            }
            damaged = self._reader.damaged_records
            if damaged > self._damaged:
                _log.warning(
                    "tracelet: run %r has %d damaged records, which are left out; the rest is read",
                    self.name, damaged - self._damaged,
                )  # fmt: skip
            self._damaged = damaged

    @property
    def damaged_records(self) -> int:
        """How many records were passed over because they are damaged."""
        return self._damaged

    @property
    def tags(self) -> dict[str, list[str]]:
        """The tags of each kind: "scalars", "histograms", "texts", "others" (images, audio ...)."""
        kinds = ("scalars", "histograms", "texts", "others")
        places = dict(self._places)
        return {
            kind: [tag for tag, place in places.items() if self._counts[place][column]]
            for column, kind in enumerate(kinds, start=1)
        }

    def scalars(self, tag: str) -> Scalars:
        """The scalars of a tag. Raises KeyError, with the nearest tag, when there are none."""
        with self._lock:
            steps, wall_times, values = self._reader.scalars(self._place(tag, "scalars"))
        return Scalars(steps, values, wall_times)

    def histograms(self, tag: str) -> Histograms:
        """The histograms of a tag. Raises KeyError, with the nearest tag, when there are none."""
        with self._lock:
            steps, wall_times, rows = self._reader.histograms(self._place(tag, "histograms"))
        return Histograms(steps, wall_times, rows)

    def texts(self, tag: str) -> Texts:
        """The texts of a tag. Raises KeyError, with the nearest tag, when there are none."""
        with self._lock:
            # torch's add_text writes under "tag/text_summary".
            known = tag if tag in self._places else f"{tag}/text_summary"
            steps, wall_times, rows = self._reader.texts(self._place(known, "texts"))
        return Texts(steps, wall_times, [row.decode("utf-8", "replace") for row in rows])

    def to_pandas(self) -> pd.DataFrame:
        """All scalars as one DataFrame: tag, step, value, wall_time. Needs pandas."""
        import pandas as pd

        frames = [
            self.scalars(tag).to_pandas().assign(tag=tag)[["tag", "step", "value", "wall_time"]]
            for tag in self.tags["scalars"]
        ]
        columns = ["tag", "step", "value", "wall_time"]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def _place(self, tag: str, kind: str) -> int:
        known = self.tags[kind]
        if tag in known:
            return self._places[tag]
        import difflib

        nearest = difflib.get_close_matches(tag, known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; it has: {_some(known)}"
        raise KeyError(f"run {self.name!r} has no {kind} with the tag {tag!r}{hint}")

    def __repr__(self) -> str:
        numbers = ", ".join(f"{len(tags)} {kind}" for kind, tags in self.tags.items() if tags)
        return f"<tracelet run {self.name!r}: {numbers or 'empty'}>"


class Logs:
    """The runs below a folder. One with a single run has that run's methods itself."""

    def __init__(self, path: str, find: Callable[[], dict[str, list[str]]] | None = None) -> None:
        self.path = path
        self._find = find or (lambda: event_files(path))
        self._runs: dict[str, RunLogs] = {}
        self.refresh()

    def refresh(self) -> Logs:
        """Reads what has been written since: new points, files and runs. Returns itself."""
        for name, paths in sorted(self._find().items()):
            if name not in self._runs:
                self._runs[name] = RunLogs(name)
            self._runs[name]._read(paths)
        return self

    @property
    def runs(self) -> Mapping[str, RunLogs]:
        """The runs by their folder's name, relative to `path`."""
        return self._runs

    @property
    def tags(self) -> dict[str, list[str]]:
        """See `RunLogs.tags`."""
        return self._only_run().tags

    def scalars(self, tag: str) -> Scalars:
        """See `RunLogs.scalars`."""
        return self._only_run().scalars(tag)

    def histograms(self, tag: str) -> Histograms:
        """See `RunLogs.histograms`."""
        return self._only_run().histograms(tag)

    def texts(self, tag: str) -> Texts:
        """See `RunLogs.texts`."""
        return self._only_run().texts(tag)

    def to_pandas(self) -> pd.DataFrame:
        """All scalars as one DataFrame: run, tag, step, value, wall_time. Needs pandas."""
        import pandas as pd

        columns = ["run", "tag", "step", "value", "wall_time"]
        frames = [run.to_pandas().assign(run=name)[columns] for name, run in self._runs.items()]
        frames = [frame for frame in frames if len(frame)]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def _only_run(self) -> RunLogs:
        if len(self._runs) == 1:
            return next(iter(self._runs.values()))
        raise TraceletError(
            f"{self.path} has {len(self._runs)} runs; choose one by .runs[name]: "
            f"{_some(list(self._runs))}"
        )

    def __repr__(self) -> str:
        return f"<tracelet logs {self.path!r}: {_some(list(self._runs))}>"


def read(path: str | os.PathLike[str]) -> Logs:
    """Reads TensorBoard event files: ours, torch's, TensorFlow's, Keras', tensorboardX'.

    `path` is a log folder, a folder of runs, or one event file. All of it is read at once;
    `Logs.refresh` goes on with files that have grown. What is damaged is passed over with a
    warning. Raises FileNotFoundError when there is no event file.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"read: path must be a folder or an event file, not {type(path).__name__}")
    logs = Logs(os.fspath(path))
    if not logs.runs:
        raise FileNotFoundError(f"no event files (*{_MARK}*) in {os.path.abspath(logs.path)}")
    return logs


def read_files(path: str, find: Callable[[], Sequence[str]], are_absolute: bool = False) -> Logs:
    """What certain event files hold: one run for each of their folders, named relative to the one
    around all, or absolutely, which stays as it is when there are more. `find` names the files, at
    each refresh anew; `path` is what errors name. Files that are not there are left out."""

    def found() -> dict[str, list[str]]:
        return by_folder([each for each in find() if os.path.isfile(each)], are_absolute)

    return Logs(path, found)


def by_folder(files: Sequence[str], are_absolute: bool = False) -> dict[str, list[str]]:
    """Files by their folders."""
    folders: dict[str, list[str]] = {}
    for path in files:
        folders.setdefault(os.path.dirname(os.path.abspath(path)), []).append(path)
    if are_absolute or not folders:
        return folders
    top = os.path.commonpath(list(folders))
    return {os.path.relpath(folder, top): paths for folder, paths in folders.items()}


def event_files(path: str) -> dict[str, list[str]]:
    """A run's name to its event files, in the order in which they were begun."""
    if os.path.isfile(path):
        return {".": [path]}
    found = {}
    for folder, _, names in os.walk(path):
        # The name has the second of its beginning, so that is their order too.
        paths = [os.path.join(folder, name) for name in sorted(names) if _MARK in name]
        if paths:
            found[os.path.relpath(folder, path)] = paths
    return found


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown or "nothing"
