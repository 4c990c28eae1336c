"""tracelet runs: those that go on, those that left something on disk, those that have ended."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from tracelet.checks import in_bytes
from tracelet.commands import terminal
from tracelet.commands.run_views import RunView, all_views, counted
from tracelet.commands.selection import add_runs_dir, history_dir_of, runs_dir_of
from tracelet.commands.terminal import cut, printable
from tracelet.runs.stored_run import UnreadableRun

HELP = "list runs: running ones, those with something left to send, and ended ones"

_MOST_ENDED = 20
_HEADER = ("RUN", "STATE", "PENDING", "SIZE", "AGE", "STEPS", "POINTS", "LAST", "BACKEND", "URL",
           "PROJECT / EXPERIMENT")  # fmt: skip
_NARROW = ("RUN", "STATE", "STEPS", "POINTS", "LAST", "AGE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    parser.add_argument(
        "--all", action="store_true", help=f"list all ended runs, not only the last {_MOST_ENDED}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """0: listed. 1: some of it can't be read."""
    runs_dir, history_dir = runs_dir_of(arguments), history_dir_of(arguments)
    views, unreadable, damaged = all_views(runs_dir, history_dir)
    ended = [view for view in views if view.stored is None]
    left_out = set() if arguments.all else {view.run_id for view in ended[:-_MOST_ENDED]}
    views = [counted(view, history_dir) for view in views if view.run_id not in left_out]
    if arguments.json:
        print(
            terminal.json_text([*(v.as_json() for v in views), *map(_unreadable_json, unreadable)])
        )
    elif not views and not unreadable:
        print(f"no runs in {runs_dir}, and none that has ended is noted in {history_dir}")
    elif terminal.is_terminal():
        _print_narrow(views, unreadable)
    else:
        rows = [_HEADER, *map(_row, views), *map(_unreadable_row, unreadable)]
        print("\n".join(terminal.table(rows)))
    if not arguments.json:
        _print_hints(views, len(left_out))
    tell_of_unreadable(unreadable)
    if damaged:
        print(f"tracelet: {damaged} records in {history_dir} can't be read", file=sys.stderr)
    return 1 if unreadable else 0


def tell_of_unreadable(unreadable: Sequence[UnreadableRun]) -> None:
    """A line on stderr for each."""
    for run in unreadable:
        print(f"tracelet: {printable(run.problem)}\n    it is kept: {run.path}", file=sys.stderr)


def _print_hints(views: Sequence[RunView], left_out: int) -> None:
    if left_out:
        print(f"\n{left_out} older ones have ended: tracelet runs --all lists them")
    if any(view.state == "unsent" for view in views):
        print("\nsend the unsent ones: tracelet sync RUN, or tracelet sync --all")
    elif any(view.state == "killed" and view.stored for view in views):
        print("\nthe killed ones have nothing to send; this ends them: tracelet sync --all")


def _print_narrow(views: Sequence[RunView], unreadable: Sequence[UnreadableRun]) -> None:
    """Two lines a run, in the width of the terminal."""
    width = terminal.width()
    rows = [
        [view.run_id, view.state, terminal.count(view.steps), terminal.count(view.record.points),
         _last(view), terminal.in_time(view.age_s)]
        for view in views
    ]  # fmt: skip
    rows += [[run.run_id, "unreadable", "", "", "", ""] for run in unreadable]
    table = [list(_NARROW), *rows]
    others = sum(
        max(terminal.columns_of(row[n]) for row in table) + 2 for n in range(len(_NARROW)) if n != 4
    )
    for row in table:
        row[4] = cut(row[4], max(8, width - others), from_left=True)
    lines = terminal.table(table, numbers=(2, 3, 5))
    print(terminal.coloured(lines[0], "bold"))
    for line, row, view in zip(lines[1:], rows, [*views, *([None] * len(unreadable))]):
        print(line.replace(f"  {row[1]}", f"  {terminal.state_coloured(row[1])}", 1))
        if view is not None:
            print(terminal.coloured(f"  {cut(_about(view), width - 2)}", "dim"))


def _about(view: RunView) -> str:
    """The second line: what it is, what is left of it, where it is to be seen."""
    parts = [printable(view.name), printable(", ".join(view.record.backends))]
    if view.state == "unsent":
        pending = "an unknown number of" if view.pending is None else f"{view.pending:,}"
        parts.append(f"{pending} points pending, {in_bytes(view.size_bytes or 0)}")
    return " · ".join(filter(None, [*parts, printable(view.url)]))


def _row(view: RunView) -> tuple[str, ...]:
    """One line for a file or a pipe, with all there is."""
    pending = "?" if view.pending is None else f"{view.pending:,}"
    size = "-" if view.size_bytes is None else in_bytes(view.size_bytes)
    return (
        view.run_id, view.state, pending, size, terminal.in_time(view.age_s),
        terminal.count(view.steps), terminal.count(view.record.points), _last(view) or "-",
        printable(",".join(view.record.backends)) or "-", printable(view.url) or "-",
        printable(view.name),
    )  # fmt: skip


def _last(view: RunView) -> str:
    last = view.last
    return "" if last is None else f"{printable(last[0])} {terminal.value(last[1])}"


def _unreadable_row(run: UnreadableRun) -> tuple[str, ...]:
    return (run.run_id, "unreadable", *(["?"] * (len(_HEADER) - 3)), "")


def _unreadable_json(run: UnreadableRun) -> dict[str, Any]:
    return {"run": run.run_id, "state": "unreadable", "path": run.path, "problem": run.problem}
