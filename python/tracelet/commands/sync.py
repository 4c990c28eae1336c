"""tracelet sync: sends what a run left behind that was killed, or that its backend kept waiting."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from tracelet.commands.offline_sessions import (
    find_session,
    look_at_session,
    send_session,
    waiting_sessions,
)
from tracelet.commands.progress_bar import ProgressBar
from tracelet.commands.runs import tell_of_unreadable
from tracelet.commands.selection import add_run, add_runs_dir, find_run, runs_dir_of
from tracelet.errors import ConfigurationError, TraceletError
from tracelet.recovery.resend import RunGoneError, resend
from tracelet.recovery.result import Result, table_of
from tracelet.runs.stored_run import StoredRun, scan_runs

HELP = "send the points that a run could not send, to the same task and the same folders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    add_run(parser, "the run to send", is_needed=False)
    parser.add_argument(
        "--all", action="store_true", help="send every unsent run, the oldest first"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be sent, and send nothing"
    )
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="a module that registers a sink of your own (tracelet.register_sink) when imported; "
        "it may lie in the working folder",
    )


def run(arguments: argparse.Namespace) -> int:
    """0: all is sent. 1: something is not; the same command tries again."""
    if bool(arguments.run) == arguments.all:
        print("tracelet sync: name a run, or --all. `tracelet runs` lists them", file=sys.stderr)
        return 2
    _import(arguments.modules)
    runs_dir = runs_dir_of(arguments)
    send = _look_at if arguments.dry_run else _sync
    send_the_session = look_at_session if arguments.dry_run else send_session
    sessions = waiting_sessions()
    if not arguments.all:
        if session := find_session(sessions, runs_dir, arguments.run):
            return send_the_session(session, runs_dir)
        run = find_run(runs_dir, arguments.run)
        own = [each for each in sessions if run.run_id in each.run_ids]
        return max([send(run), *(send_the_session(each, runs_dir) for each in own)])
    found, unreadable = scan_runs(runs_dir)
    runs = [run for run in found if run.state == "unsent"]
    doubts = [f"{each.run_id}: {doubt}" for each in found if (doubt := each.doubt)]
    if not (runs or unreadable or sessions or doubts):
        print(f"nothing to send in {runs_dir}")
    codes = [send(each) for each in runs]
    codes += [send_the_session(each, runs_dir) for each in sessions]
    tell_of_unreadable(unreadable)
    for doubt in doubts:  # it may be dead, and nobody would ever send it
        print(f"tracelet: {doubt}", file=sys.stderr)
    return max([*codes, 1 if unreadable or doubts else 0], default=0)


def _import(modules: Sequence[str]) -> None:
    """Only here, and only for these, is the working folder looked into, and last of all: what lies
    there must not run in the place of a library that a sink imports."""
    for module in modules:
        before = list(sys.path)
        sys.path.append(os.getcwd())
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigurationError(f"--import {module}: {error}") from error
        finally:
            sys.path[:] = before


def _look_at(run: StoredRun) -> int:
    """0: it would be sent. 1: something would be in the way."""
    pending = run.pending()
    points = "an unknown number of" if pending is None else f"{pending:,}"
    sinks = ", ".join(sink["name"] for sink in run.manifest.get("sinks", ()))
    print(f"{run.run_id}: {run.state}; would send {points} points, of which {sinks} may lack some")
    problem = run.doubt or run.ring_problem()
    if problem:
        print(f"tracelet: {run.run_id}: {problem}", file=sys.stderr)
    return 1 if problem or run.state == "running" else 0


def _sync(run: StoredRun) -> int:
    if run.is_finished:
        print(f"{run.run_id}: all is sent; {run.path} keeps what a server refused")
        return 0
    bar = ProgressBar()
    try:
        result = resend(run, bar)
    except RunGoneError as error:
        print(f"tracelet: {error}")
        return 0
    except TraceletError as error:
        print(f"tracelet: {error}\n    {_kept(run)}", file=sys.stderr)
        return 1
    except Exception as error:  # one bad run must not keep the others from being sent
        print(f"tracelet: {run.run_id}: {error!r}\n    {_kept(run)}", file=sys.stderr)
        return 1
    finally:
        bar.close()
    _report(run, result)
    return 1 if result.kept else 0


def _kept(run: StoredRun) -> str:
    return f"{run.path} is kept; try again: tracelet sync {run.run_id}"


def _report(run: StoredRun, result: Result) -> None:
    for note in result.notes:
        print(f"{run.run_id}: {note}")
    if result.lost:
        print(f"{run.run_id}: {result.lost} records are lost to damage")
    sent = ", ".join(f"{count:,} to {name}" for name, count in result.delivered.items())
    print(f"{run.run_id}: {sent or 'nothing was left'}")
    for line in table_of(result):
        print(line)
    if not result.kept:
        return
    for reason in dict.fromkeys([*result.failures.values(), *result.kept]):
        print(f"{run.run_id}: not all of it is sent: {reason}", file=sys.stderr)
    print(
        f"    what is left is kept; try again: tracelet sync {run.run_id}\n"
        f"    or remove it, with what can't be sent: tracelet clean {run.run_id}",
        file=sys.stderr,
    )
