"""tracelet import: old event files become runs in a tracker."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tracelet.commands.progress_bar import ProgressBar
from tracelet.commands.selection import add_runs_dir, history_dir_of, runs_dir_of
from tracelet.commands.terminal import printable
from tracelet.errors import ConfigurationError, TraceletError
from tracelet.reading.logs import event_files
from tracelet.reading.records import PointStream
from tracelet.recovery.importing import Imported, Source, import_run
from tracelet.recovery.result import table_of
from tracelet.runs.history import read_record

HELP = "send event files that you have to a tracker: torch's, TensorFlow's, Keras', tensorboardX'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    parser.add_argument(
        "logdir", metavar="LOGDIR", help="the folder of a run, or a folder with several of them"
    )
    parser.add_argument(
        "--backend", required=True, help="the tracker: clearml, mlflow, wandb, aim, trackio ..."
    )
    parser.add_argument("--project", help="the project's name (default: that of LOGDIR)")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be imported, and send nothing"
    )
    parser.add_argument(
        "--again", action="store_true", help="make new runs also of what was imported before"
    )


def run(arguments: argparse.Namespace) -> int:
    """0: all is imported, now or before. 1: something is not; the same command goes on with it."""
    if arguments.backend == "tensorboard":
        raise ConfigurationError(
            "--backend tensorboard: event files are what is imported; name a tracker, like clearml"
        )
    sources = _sources(arguments)
    if arguments.dry_run:
        for source in sources:
            _look_at(source, history_dir_of(arguments))
        return 0
    return max([_import(source, arguments) for source in sources])


def _sources(arguments: argparse.Namespace) -> list[Source]:
    top = os.path.abspath(arguments.logdir)
    found = event_files(top) if os.path.exists(top) else {}
    if not found:
        raise ConfigurationError(f"there are no event files (*tfevents*) in {top}")
    if os.path.isfile(top):
        top = os.path.dirname(top)
    own_name = os.path.basename(top) or "imported"
    project = arguments.project or own_name
    return [
        Source(
            folder=os.path.abspath(os.path.join(top, name)),
            files=tuple(map(os.path.abspath, files)),
            name=own_name if name == "." else name,
            project=project,
            backend=arguments.backend,
            mark=str(time.time_ns()) if arguments.again else "",
        )
        for name, files in sorted(found.items())
    ]


def _look_at(source: Source, history_dir: str) -> None:
    record = read_record(history_dir, source.run_id)
    is_done = record is not None and record.state != "unsent"
    count = PointStream(source.files).count
    what = "was imported before" if is_done else f"would be imported to {source.backend}"
    print(f"{printable(source.name)}: {count:,} points in {len(source.files)} files; {what}")


def _import(source: Source, arguments: argparse.Namespace) -> int:
    bar = ProgressBar()
    name = printable(source.name)
    try:
        done = import_run(source, runs_dir_of(arguments), history_dir_of(arguments), bar)
    except (TraceletError, OSError) as error:
        bar.close()
        print(f"tracelet: {name} is not imported: {error}", file=sys.stderr)
        return 1
    finally:
        bar.close()
    return _report(name, done)


def _report(name: str, done: Imported) -> int:
    where = f": {printable(done.url)}" if done.url else ""
    if done.was_there:
        print(f"{name}: was imported before, {done.points:,} points{where}")
        if done.new_points:
            print(f"    its files have {done.new_points:,} more by now: --again makes a new run")
        return 0
    for note in done.notes:
        print(f"{name}: {printable(note)}")
    assert done.result is not None
    if done.result.kept:
        reasons = dict.fromkeys([*done.result.failures.values(), *done.result.kept])
        for reason in reasons:
            print(f"{name}: not all of it is imported: {printable(reason)}", file=sys.stderr)
        print("    the same command goes on where it stopped", file=sys.stderr)
        return 1
    print(f"{name}: {done.points:,} points are imported{where}")
    for line in table_of(done.result):
        print(line)
    return 0
