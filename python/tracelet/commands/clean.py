"""tracelet clean: removes what runs have left behind and nobody needs."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys

from tracelet.commands.runs import in_bytes, tell_of_unreadable
from tracelet.commands.selection import add_runs_dir, find_run, runs_dir_of
from tracelet.recovery.orphans import find_orphans
from tracelet.runs.deletion import UsersWish
from tracelet.runs.stored_run import UnreadableRun, scan_runs

HELP = "remove finished runs and files that belong to no run; asks first"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    parser.add_argument(
        "run", metavar="RUN", nargs="?", help="this run alone, also with points that are not sent"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    """0: done, or nothing to do. 1: not confirmed, the run goes on, or one can't be removed now."""
    runs_dir = runs_dir_of(arguments)
    if arguments.run:
        runs, orphans = [find_run(runs_dir, arguments.run)], []
        unreadable: list[UnreadableRun] = []
        if runs[0].is_alive:
            print(f"tracelet: {runs[0].run_id} goes on: its process is alive", file=sys.stderr)
            return 1
    else:
        found, unreadable = scan_runs(runs_dir)
        runs = [run for run in found if run.state == "finished"]
        orphans = find_orphans(runs_dir)
    tell_of_unreadable(unreadable)
    if not runs and not orphans:
        print(f"nothing to remove in {runs_dir}")
        return 0
    for each in runs:
        pending = each.pending()
        unsent = (
            f", {'some' if pending is None else pending} points NOT SENT" if pending != 0 else ""
        )
        print(f"{each.run_id}  {in_bytes(each.size_bytes())}{unsent}")
    for path in orphans:
        print(f"{path}  (of no run)")
    if not arguments.yes and not _confirmed():
        print("nothing was removed")
        return 1
    code = 0
    for each in runs:
        try:
            each.remove(UsersWish())
        except OSError as error:  # the others are removed
            print(f"tracelet: {each.run_id} can't be removed: {error}", file=sys.stderr)
            code = 1
    for path in orphans:
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)
    return code


def _confirmed() -> bool:
    try:
        return input("remove all of these? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
