"""tracelet export: the scalars of a run, or of a folder of event files, for other programs."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

from tracelet.commands.selection import add_runs_dir, view_or_path
from tracelet.errors import ConfigurationError
from tracelet.reading import Logs, read, read_files
from tracelet.reading.export import FORMS, Selection, write_csv, write_json, write_parquet

WROTE_NONE = (
    "tracelet wrote none for it (with tensorboard='passthrough' the files are torch's own: name "
    "their folder)"
)
HELP = "write the scalars of a run, or of a folder of event files, as CSV, JSON or Parquet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    parser.add_argument(
        "what",
        metavar="RUN|LOGDIR",
        help="a run's id or name, or the first letters of one; or event files: a folder or one",
    )
    parser.add_argument(
        "--to", choices=FORMS, default="csv", help="the file's format (default: csv)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write (default: stdout)")
    parser.add_argument(
        "--tag", metavar="PATTERN", default="*", help='only tags like this, as in "train/*"'
    )
    parser.add_argument(
        "--latest", action="store_true", help="keep each step once: the value that was logged last"
    )


def run(arguments: argparse.Namespace) -> int:
    is_binary = arguments.to == "parquet"
    if is_binary and not arguments.output:
        print("tracelet export: --to parquet needs a file: -o FILE", file=sys.stderr)
        return 2
    name, logs = logs_of(arguments)
    selection = Selection(logs, name, arguments.tag, arguments.latest)
    write: Any = {"csv": write_csv, "json": write_json, "parquet": write_parquet}[arguments.to]
    try:
        with _output(arguments.output, is_binary) as file:
            count = write(selection, file)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    where = arguments.output or "stdout"
    print(f"{count:,} points of {_counted(selection)} to {where}", file=sys.stderr)
    if left_out := selection.left_out():
        names = ", ".join(f"{number:,} {kind}" for kind, number in left_out.items())
        print(f"not exported, as they are no scalars: {names} (tags)", file=sys.stderr)
    return 0


def logs_of(arguments: argparse.Namespace) -> tuple[str, Logs]:
    """A name and the event files that a user named. Raises TraceletError."""
    what = arguments.what
    view = view_or_path(arguments, what)
    if view is None:
        try:
            folder = os.path.abspath(what if os.path.isdir(what) else os.path.dirname(what))
            return os.path.basename(folder), read(what)
        except FileNotFoundError as error:
            raise ConfigurationError(str(error)) from error
    files = view.record.files
    logs = read_files(view.run_id, lambda: files)
    if not logs.runs:
        why = f"they are gone: {files[0]}" if files else WROTE_NONE
        raise ConfigurationError(f"{view.run_id} has no event files to be read: {why}")
    return view.record.exp_name or view.run_id, logs


def _counted(selection: Selection) -> str:
    series = sum(1 for _ in selection.series())
    runs = len(selection.logs.runs)
    return f"{series:,} series of {runs:,} run{'s'[: runs != 1]}"


@contextlib.contextmanager
def _output(path: str | None, is_binary: bool) -> Iterator[IO[Any]]:
    """The file that is written, in the place of one of that name once it is whole. What is no file
    (a device, a pipe with a name) is written to, never replaced, and a link stays one."""
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            with contextlib.suppress(OSError):
                sys.stdout.reconfigure(encoding="utf-8")  # as a file: no tag loses a letter
        yield sys.stdout
        sys.stdout.flush()
        return
    real_path = os.path.realpath(path)
    is_replaced = os.path.isfile(real_path) or not os.path.exists(real_path)
    new_path = f"{real_path}.{os.getpid()}.new"
    try:
        if is_replaced:
            with _opened(new_path, "x", is_binary) as file:
                yield file
            os.replace(new_path, real_path)
        else:
            with _opened(real_path, "w", is_binary) as file:
                yield file
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error}") from error
    finally:
        if is_replaced:
            with contextlib.suppress(OSError):
                os.unlink(new_path)


def _opened(path: str, mode: str, is_binary: bool) -> IO[Any]:
    if is_binary:
        return open(path, f"{mode}b")
    return open(path, mode, encoding="utf-8", newline="")
