"""tracelet clean: removes what runs have left behind and nobody needs."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys

from tracelet.checks import in_bytes
from tracelet.commands.runs import tell_of_unreadable
from tracelet.commands.selection import (
    add_run,
    add_runs_dir,
    find_run,
    find_view,
    history_dir_of,
    runs_dir_of,
)
from tracelet.recovery.orphans import find_orphans
from tracelet.runs.deletion import UsersWish
from tracelet.runs.history import IMPORTED, record_paths
from tracelet.runs.stored_run import UnreadableRun, scan_runs

HELP = "remove files that finished runs have left, or that belong to no run; asks first"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    add_run(parser, "this run alone, also with points that are not sent", is_needed=False)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be removed, and remove nothing"
    )
    parser.add_argument(
        "--history",
        action="store_true",
        help="remove only the records of ended runs: all, or that of RUN",
    )


def run(arguments: argparse.Namespace) -> int:
    """0: done, or nothing to do. 1: not confirmed, the run goes on, or one can't be removed now."""
    runs_dir = runs_dir_of(arguments)
    if arguments.history:
        return _clean_history(arguments)
    if arguments.run:
        runs, orphans = [find_run(runs_dir, arguments.run)], []
        unreadable: list[UnreadableRun] = []
        if runs[0].is_alive:
            why = runs[0].doubt or "its process is alive"
            print(f"tracelet: {runs[0].run_id} goes on: {why}", file=sys.stderr)
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
        unsent = ""
        if pending != 0:
            unsent = f", {'some' if pending is None else pending} points NOT SENT"
        elif each.may_lack and not each.is_finished:
            unsent = ", what its server may lack is NOT SENT"
        print(f"{each.run_id}  {in_bytes(each.size_bytes())}{unsent}")
    for path in orphans:
        print(f"{path}  (belongs to no run)")
    if not _may_go_on(arguments):
        return 0 if arguments.dry_run else 1
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


def _clean_history(arguments: argparse.Namespace) -> int:
    """Removes records; the runs' folders and event files stay."""
    folder = history_dir_of(arguments)
    paths = record_paths(folder)
    if arguments.run:
        view = find_view(runs_dir_of(arguments), folder, arguments.run)
        paths = [path for path in paths if os.path.basename(path) == f"{view.run_id}.json"]
    if not paths:
        print(f"nothing to remove in {folder}")
        return 0
    imported = sum(os.path.basename(path).startswith(IMPORTED) for path in paths)
    also = f"; {imported} of them say what was imported already" if imported else ""
    print(f"{len(paths)} record{'s'[: len(paths) != 1]} in {folder}{also}")
    if not _may_go_on(arguments):
        return 0 if arguments.dry_run else 1
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return 0


def _may_go_on(arguments: argparse.Namespace) -> bool:
    if arguments.dry_run:
        print("a dry run: nothing was removed")
        return False
    if arguments.yes or _confirmed():
        return True
    print("nothing was removed")
    return False


def _confirmed() -> bool:
    try:
        return input("remove all of these? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
