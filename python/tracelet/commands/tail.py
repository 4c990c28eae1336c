"""tracelet tail: follows a run that goes on, by its event files; it writes nothing."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tracelet import _core
from tracelet.commands import terminal
from tracelet.commands.run_views import RunView
from tracelet.commands.selection import (
    add_run,
    add_runs_dir,
    find_view,
    history_dir_of,
    runs_dir_of,
)
from tracelet.errors import TraceletError
from tracelet.runs.ledgers import EVENT_FILES, noted_paths
from tracelet.runs.stored_run import StoredRun

HELP = "follow a run that goes on: its values as they come, until it ends"

_sleep = time.sleep
_POLL_S = 0.2
_LOOK_S = 1.0  # whether it goes on
_MOST_LINES = 200  # of one look: a terminal can't show what a loop can log


class _Point(NamedTuple):
    wall_time_s: float
    step: int
    tag: str
    value: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    add_run(parser, "what is followed")
    parser.add_argument(
        "-n", "--lines", type=int, default=10, help="of what is there already (default: 10)"
    )
    parser.add_argument(
        "--tag", metavar="PATTERN", default="*", help='such tags alone, like "train/*"'
    )


def run(arguments: argparse.Namespace) -> int:
    """0: the run has ended, or Ctrl-C was pressed."""
    view = find_view(runs_dir_of(arguments), history_dir_of(arguments), arguments.run)
    follower = _Follower(view, arguments.tag)
    try:
        _print(follower.new_points(), max(0, arguments.lines))
        while is_alive(view):
            deadline_s = time.monotonic() + _LOOK_S
            while time.monotonic() < deadline_s:
                _sleep(_POLL_S)
                _print(follower.new_points(), _MOST_LINES)
        with contextlib.suppress(TraceletError):  # no history is kept
            view = find_view(runs_dir_of(arguments), history_dir_of(arguments), view.run_id)
        follower.view = view
        _print(follower.new_points(), _MOST_LINES)  # what came before the end
    except KeyboardInterrupt:
        print()
        return 0
    state = "ended" if view.state == "running" else view.state
    where = f"; to send it: tracelet sync {view.run_id}" if state == "unsent" else ""
    if not follower.has_files:
        print(
            f"tracelet: {view.run_id} has no event files, so its values are not to be seen here "
            "(option log_dir gives it one)", file=sys.stderr,
        )  # fmt: skip
    print(f"{view.run_id}: {state}{where}")
    return 0


def is_alive(view: RunView) -> bool:
    if view.stored is None:
        return False
    try:
        return StoredRun(view.stored.path).state == "running"
    except (OSError, TraceletError):
        return False  # its folder is gone: it has ended


class _Follower:
    """What a run's event files have that was not shown yet."""

    def __init__(self, view: RunView, pattern: str) -> None:
        self.view = view
        self._pattern = pattern
        self._positions: dict[str, int] = {}

    @property
    def has_files(self) -> bool:
        return bool(self._positions)

    def new_points(self) -> list[_Point]:
        """In the order of their time."""
        found = [point for path in self._files() for point in self._new_of(path)]
        return sorted(found, key=lambda point: point.wall_time_s)

    def _files(self) -> Sequence[str]:
        view = self.view
        noted = []
        if view.stored is not None:
            noted = noted_paths(os.path.join(view.stored.path, EVENT_FILES))
        # Once its folder is gone there are no others any more than it had.
        known = list(dict.fromkeys([*view.record.files, *self._positions, *noted]))
        return [path for path in known if os.path.isfile(path)]

    def _new_of(self, path: str) -> Iterator[_Point]:
        reader = _core.EventReader()
        try:
            before = self._positions.get(path, 0)
            self._positions[path] = reader.read_file(os.fsencode(path), before)
        except OSError:
            return
        for place, (name, count, *_) in enumerate(reader.tags()):
            tag = name.decode("utf-8", "replace")
            if count and fnmatch.fnmatchcase(tag, self._pattern):
                steps, wall_times, values = reader.scalars(place)
                for step, wall_time_s, value in zip(
                    steps.tolist(), wall_times.tolist(), values.tolist()
                ):
                    yield _Point(wall_time_s, step, tag, value)


def _print(points: Sequence[_Point], most: int) -> None:
    left_out = max(0, len(points) - most)
    if left_out:
        print(terminal.coloured(f"... {left_out:,} more points before these", "dim"))
    for point in points[left_out:]:
        clock = time.strftime("%H:%M:%S", time.localtime(point.wall_time_s))
        tag = terminal.printable(point.tag)
        print(f"{terminal.coloured(clock, 'dim')}  {point.step:>9,}  {tag}  {point.value:.6g}")
    if points:
        sys.stdout.flush()
