"""tracelet runs: what lies in the runs' folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tracelet.commands.selection import add_runs_dir, runs_dir_of
from tracelet.runs.stored_run import StoredRun, UnreadableRun, scan_runs

HELP = "list runs that go on, and those that left something on disk"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    runs_dir = runs_dir_of(arguments)
    found, unreadable = scan_runs(runs_dir)
    rows = [_row(run) for run in found]
    if not rows and not unreadable:
        print(f"no runs in {runs_dir}: everything was delivered")
        return 0
    header = ("RUN", "STATE", "PENDING", "SIZE", "AGE", "PROJECT / EXPERIMENT")
    rows += [(run.run_id, "unreadable", "?", "?", "?", "") for run in unreadable]
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    for row in (header, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
    if any(row[1] == "unsent" for row in rows):
        print("\nsend the unsent ones: tracelet sync RUN, or tracelet sync --all")
    tell_of_unreadable(unreadable)
    return 1 if unreadable else 0


def tell_of_unreadable(unreadable: Sequence[UnreadableRun]) -> None:
    """A line on stderr for each."""
    for run in unreadable:
        print(f"tracelet: {run.problem}\n    it is kept: {run.path}", file=sys.stderr)


def _row(run: StoredRun) -> tuple[str, ...]:
    name = f"{run.project} / {run.exp_name}"
    pending = run.pending()
    points = "?" if pending is None else f"{pending:,}"
    return run.run_id, run.state, points, in_bytes(run.size_bytes()), _age(run.age_s()), name


def in_bytes(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def _age(age_s: float) -> str:
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
        if age_s >= seconds:
            return f"{age_s / seconds:.0f} {unit}"
    return f"{age_s:.0f} s"
