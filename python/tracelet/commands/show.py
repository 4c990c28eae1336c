"""tracelet show: all that is known of one run."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tracelet.checks import in_bytes
from tracelet.commands import terminal
from tracelet.commands.ranks_view import of_one_job, print_ranks, ranks_of
from tracelet.commands.run_views import RunView, counted
from tracelet.commands.selection import (
    add_run,
    add_runs_dir,
    find_view,
    history_dir_of,
    runs_dir_of,
)
from tracelet.commands.series_plots import plot, values_of_series
from tracelet.commands.terminal import cut, printable
from tracelet.runs.stored_run import scan_runs

HELP = "show one run: its parameters, a small plot of each series, and where its files are"

_FACT_INDENT = 14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    add_run(parser, "the run to show")
    parser.add_argument(
        "--diff", action="store_true",
        help="print the diff alone that the option git_diff has kept: for git apply",
    )  # fmt: skip
    parser.add_argument(
        "--ranks", action="store_true",
        help="all ranks of its job: how far each came, and which stopped first",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    history_dir = history_dir_of(arguments)
    view = find_view(runs_dir_of(arguments), history_dir, arguments.run)
    if arguments.ranks:
        return _print_ranks(view, runs_dir_of(arguments), arguments.json)
    view = counted(view, history_dir, most_bytes=None)
    if arguments.diff:
        return _print_diff(view)
    if arguments.json:
        print(terminal.json_text(_as_json(view)))
        return 0
    title = printable(f"{view.record.exp_name} ({view.record.project})")
    room = terminal.width() - len(view.state) - 2
    print(f"{terminal.coloured(cut(title, room), 'bold')}  {terminal.state_coloured(view.state)}")
    for name, text in _facts(view):
        for n, line in enumerate(text.splitlines() or [""]):
            print(f"  {terminal.padded('' if n else name, 12)}{line}")
    _print_params(view.record.params)
    _print_series(view)
    return 0


def _print_ranks(view: RunView, runs_dir: str, is_json: bool) -> int:
    """1 where nothing of it is left but its record."""
    found, _ = scan_runs(runs_dir)
    ranks = ranks_of([] if view.stored is None else of_one_job(view.stored, found))
    if is_json:
        print(terminal.json_text([each.as_json() for each in ranks]))
    elif ranks:
        print_ranks(ranks, [])
    else:
        print(f"tracelet: {view.run_id} has ended, and its ring is gone", file=sys.stderr)
    return 0 if ranks else 1


def _as_json(view: RunView) -> dict[str, Any]:
    record = view.record
    return {
        **view.as_json(),
        "params": dict(record.params),
        "tags": list(record.tags),
        "environment": dict(record.environment),
        "ids": dict(record.ids),
        "host": record.host,
        "dropped": dict(record.dropped),
        "event_files": list(record.files),
        "summary": view.summary,
    }


def _facts(view: RunView) -> Iterator[tuple[str, str]]:
    record = view.record
    yield "run", view.run_id
    if record.started_s:
        end_s = record.ended_s or time.time()
        took = terminal.in_time(end_s - record.started_s)
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started_s))
        on = f" on {printable(record.host)}" if record.host else ""
        yield "started", f"{started}{on}, {'since' if view.state == 'running' else 'took'} {took}"
    points = terminal.count(record.points)
    if view.state in ("unsent", "running") and view.pending != 0:
        points += f", {'?' if view.pending is None else f'{view.pending:,}'} of them not sent yet"
    yield "points", points
    for reason, number in record.dropped.items():
        yield "", f"{number:,} dropped: {printable(reason)}"
    for backend in record.backends:
        place = record.urls.get(backend) or record.ids.get(backend) or ""
        yield "backend", printable(f"{backend} {place}".rstrip())
    if record.tags:
        yield "tags", printable(", ".join(record.tags))
    yield from _environment_facts(record.environment)
    folders: dict[str, int] = {}
    for path in record.files:
        if os.path.exists(path):
            folders[os.path.dirname(path)] = folders.get(os.path.dirname(path), 0) + 1
    for folder, number in folders.items():
        yield "event files", printable(folder) + (f" ({number} files)" if number > 1 else "")
    if record.files and not folders:
        yield "event files", printable(f"gone: {os.path.dirname(record.files[0])}")
    if view.stored is not None:
        yield "run folder", printable(view.stored.path)
        yield "takes", in_bytes(view.size_bytes or 0)
        if view.state in ("unsent", "killed"):
            yield "to send it", f"tracelet sync {view.run_id}"


def _environment_facts(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What it ran in, in short: `--json` has all of it."""
    about = {name: printable(str(value)) for name, value in environment.items()}
    room = terminal.width() - _FACT_INDENT
    for name in ("command", "python", "os"):
        if name in about:
            yield name, cut(about[name], room)
    if "cpus" in about:
        gpus = f", {about['gpus']}" if "gpus" in about else ""
        yield "machine", cut(f"{about['cpus']} CPUs{gpus}", room)
    if "git_branch" in about:
        changed = ", with changes" if environment.get("git_is_changed") is True else ""
        commit = about["git_commit"][:12] if "git_commit" in about else "no commit yet"
        yield "git", cut(f"{commit} on {about['git_branch']}{changed}", room)
    elif "git" in about:
        yield "git", cut(about["git"], room)
    if about.get("packages"):
        yield "packages", f"{about['packages'].count(', ') + 1} (--json names them)"


def _print_diff(view: RunView) -> int:
    diff = view.record.environment.get("git_diff")
    if not diff:
        print(f"tracelet: no diff was kept of {view.run_id} (option git_diff)", file=sys.stderr)
        return 1
    print(diff, end="")
    return 0


def _print_params(params: Mapping[str, Any]) -> None:
    if not params:
        return
    print(terminal.coloured("\nparameters", "bold"))
    names = [cut(printable(name), terminal.width() // 2) for name in params]
    wide = max(map(terminal.columns_of, names))
    for name, value in zip(names, params.values()):
        text = cut(printable(str(value)), terminal.width() - wide - 4)
        print(f"  {terminal.padded(name, wide)}  {text}")


def _print_series(view: RunView) -> None:
    if not view.summary:
        if not view.record.files:
            print(
                "\nno series: tracelet has written no event file for this run (with "
                "tensorboard='passthrough'\nthey are torch's own: tracelet export FOLDER)"
            )
        return
    values = values_of_series(view.record.files, view.summary)
    plots = {name: plot(each) for name, each in values.items()}
    rows = [
        [printable(name), *terminal.series_cells(each), plots.get(name, "")]
        for name, each in sorted(view.summary.items())
    ]
    print()
    terminal.print_series([["series", *terminal.SERIES_HEAD, ""], *rows], numbers=(1, 2, 3, 4, 5))
