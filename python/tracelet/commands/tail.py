"""tracelet tail: follows a run that goes on, by its event files; it writes nothing."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

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
from tracelet.reading.following import EventFileFollower, Point, RingFollower
from tracelet.runs.ledgers import EVENT_FILES, noted_paths
from tracelet.runs.stored_run import StoredRun

HELP = "follow a running run: print its values as they come, until it ends"

_sleep = time.sleep
_POLL_S = 0.2
_LOOK_S = 1.0  # whether it goes on
_MOST_SEEN = 1 << 20  # of a run that has no event file for long: some may be shown twice then
_MOST_LINES = 200  # of one look: a terminal can't show what a loop can log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    add_run(parser, "the run to follow")
    parser.add_argument(
        "-n", "--lines", type=int, default=10, help="begin so many values back (default: 10)"
    )
    parser.add_argument(
        "--tag", metavar="PATTERN", default="*", help='only tags like this, as in "train/*"'
    )


def run(arguments: argparse.Namespace) -> int:
    """0: the run has ended, or Ctrl-C was pressed."""
    view = find_view(runs_dir_of(arguments), history_dir_of(arguments), arguments.run)
    follower = _Follower(view, arguments.tag)
    try:
        _print(follower.new_points(), max(0, arguments.lines))
        if view.state == "running" and not follower.has_files:
            print(
                f"tracelet: {view.run_id} has no event files: these values are from its buffer, "
                "and some may be missing", file=sys.stderr,
            )  # fmt: skip
        while is_alive(view):
            deadline_s = time.monotonic() + _LOOK_S
            while time.monotonic() < deadline_s:
                _sleep(_POLL_S)
                _print(follower.new_points(), _MOST_LINES)
        with contextlib.suppress(TraceletError):  # no history is kept
            view = find_view(runs_dir_of(arguments), history_dir_of(arguments), view.run_id)
        follower.see(view)
        _print(follower.new_points(), _MOST_LINES)  # what came before the end
    except KeyboardInterrupt:
        print()
        return 0
    state = "ended" if view.state == "running" else view.state
    where = f"; to send it: tracelet sync {view.run_id}" if state == "unsent" else ""
    if not follower.has_files:
        print(
            f"tracelet: {view.run_id} has no event files, so its values can't be shown once it has "
            "ended (option log_dir gives it one)", file=sys.stderr,
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
    """A run by its event files; by its ring as long as it has none."""

    def __init__(self, view: RunView, pattern: str) -> None:
        self._pattern = pattern
        self._files = EventFileFollower()
        self._ring = None if view.stored is None else RingFollower(view.stored.ring_path)
        self._path = "" if view.stored is None else view.stored.path
        self._seen: Counter[tuple[str, int, float]] = Counter()  # of the ring: tag, step, wall time
        self.see(view)

    @property
    def has_files(self) -> bool:
        return self._files.has_files

    def see(self, view: RunView) -> None:
        self._files.see(view.record.files)

    def new_points(self) -> list[Point]:
        if self._path:
            self._files.see(noted_paths(os.path.join(self._path, EVENT_FILES)))
        found = self._files.new_points()
        if not self.has_files and self._ring is not None:
            found = self._ring.new_points()
            if len(self._seen) < _MOST_SEEN:
                self._seen.update(map(_identity, found))
        elif self._seen:  # the file begins with what the ring had
            found = [point for point in found if not self._was_seen(point)]
        return [point for point in found if fnmatch.fnmatchcase(point.tag, self._pattern)]

    def _was_seen(self, point: Point) -> bool:
        identity = _identity(point)
        if not self._seen[identity]:
            return False
        self._seen[identity] -= 1
        return True


def _identity(point: Point) -> tuple[str, int, float]:
    return point.tag, point.step, point.wall_time_s


def _print(points: Sequence[Point], most: int) -> None:
    left_out = max(0, len(points) - most)
    if left_out:
        print(terminal.coloured(f"... {left_out:,} more points before these", "dim"))
    for point in points[left_out:]:
        clock = terminal.clock(point.wall_time_s)
        tag = terminal.printable(point.tag)
        print(f"{terminal.coloured(clock, 'dim')}  {point.step:>9,}  {tag}  {point.value:.6g}")
    if points:
        sys.stdout.flush()
