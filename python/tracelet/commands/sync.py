"""tracelet sync: sends what a run left behind that was killed, or that its backend kept waiting."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from tracelet.commands.progress_bar import ProgressBar
from tracelet.commands.selection import add_runs_dir, find_run, runs_dir_of
from tracelet.errors import ConfigurationError, TraceletError
from tracelet.recovery.resend import Result, resend
from tracelet.runs.stored_run import StoredRun, find_runs

HELP = "send what a run has left: to the same task, and to new event files of the same folders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    parser.add_argument("run", metavar="RUN", nargs="?", help="its id, as `tracelet runs` lists it")
    parser.add_argument("--all", action="store_true", help="every unsent run, oldest first")
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="a module that registers a sink of your own (tracelet.register_sink) when imported",
    )


def run(arguments: argparse.Namespace) -> int:
    """0: all is sent. 1: something is not; the same command tries again."""
    if bool(arguments.run) == arguments.all:
        print("tracelet sync: name a run, or --all. `tracelet runs` lists them", file=sys.stderr)
        return 2
    sys.path.insert(0, os.getcwd())
    for module in arguments.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigurationError(f"--import {module}: {error}") from error
    runs_dir = runs_dir_of(arguments)
    if not arguments.all:
        return _sync(find_run(runs_dir, arguments.run))
    runs = [run for run in find_runs(runs_dir) if run.state == "unsent"]
    if not runs:
        print(f"nothing to send in {runs_dir}")
    return max([_sync(each) for each in runs], default=0)


def _sync(run: StoredRun) -> int:
    if run.manifest.get("state") == "finished":
        print(f"{run.run_id}: all is sent; {run.path} keeps what a server refused")
        return 0
    bar = ProgressBar()
    try:
        result = resend(run, bar)
    except TraceletError as error:
        print(f"tracelet: {error}", file=sys.stderr)
        return 1
    finally:
        bar.close()
    _report(run, result)
    return 1 if result.failures else 0


def _report(run: StoredRun, result: Result) -> None:
    for note in result.notes:
        print(f"{run.run_id}: {note}")
    if result.lost:
        print(f"{run.run_id}: {result.lost} records are lost to damage")
    sent = ", ".join(f"{count:,} to {name}" for name, count in result.delivered.items())
    print(f"{run.run_id}: {sent or 'nothing was left'}")
    for name, reason in result.failures.items():
        print(
            f"{run.run_id}: {name} does not have all of it: {reason}\n"
            f"    what is left is kept; try again: tracelet sync {run.run_id}",
            file=sys.stderr,
        )
