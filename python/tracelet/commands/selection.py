"""How commands name runs: the runs' folder, the history, one run or all of them."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import Callable, TypeVar

from tracelet.commands.run_views import RunView, all_views
from tracelet.commands.terminal import in_time, printable
from tracelet.errors import ConfigurationError, TraceletError
from tracelet.options import from_environment
from tracelet.places import default_history_dir, default_runs_dir
from tracelet.runs.run_folder import MANIFEST
from tracelet.runs.stored_run import StoredRun, UnreadableRunError, scan_runs

_MOST_NAMED = 5
_Each = TypeVar("_Each")


def add_runs_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs-dir",
        metavar="FOLDER",
        help="the folder of the runs (default: TRACELET_DIR, or ~/.tracelet/runs)",
    )


def add_run(parser: argparse.ArgumentParser, about: str, is_needed: bool = True) -> None:
    parser.add_argument(
        "run", metavar="RUN", nargs=None if is_needed else "?",
        help=f"{about}: its id or name, as `tracelet runs` lists them, or the first letters of one",
    )  # fmt: skip


def runs_dir_of(arguments: argparse.Namespace) -> str:
    """Raises ConfigurationError for an environment variable that can't be used."""
    found = arguments.runs_dir or from_environment("runs_dir") or default_runs_dir()
    return os.path.expanduser(str(found))


def history_dir_of(arguments: argparse.Namespace) -> str:
    """Where the records are of runs that have ended. Raises as `runs_dir_of`."""
    chosen = from_environment("history_dir")
    return str(chosen or default_history_dir(runs_dir_of(arguments)))


def find_run(runs_dir: str, name: str) -> StoredRun:
    """The run in the runs' folder of an id or a name, of how one begins, or of a path. Raises
    ConfigurationError, and UnreadableRunError for one that is kept as it is."""
    if os.sep in name and os.path.exists(os.path.join(name, MANIFEST)):
        return StoredRun(name)  # else it is the name of a run: "team/net"
    readable, unreadable = scan_runs(runs_dir)
    for each in unreadable:
        if each.run_id == name:
            raise UnreadableRunError(each.problem)
    return _one(
        readable, name, runs_dir, lambda run: (run.run_id, run.exp_name), lambda run: run.state
    )


def find_view(runs_dir: str, history_dir: str, name: str) -> RunView:
    """The run of such a name, also one that is in the history alone. Raises as `find_run`."""
    views, unreadable, _ = all_views(runs_dir, history_dir)
    for each in unreadable:
        if each.run_id == name:
            raise UnreadableRunError(each.problem)
    path = os.path.abspath(name)
    for view in views:
        if os.sep in name and view.stored is not None and view.stored.path == path:
            return view
    return _one(
        views, name, runs_dir, lambda view: (view.run_id, view.record.exp_name),
        lambda view: f"{view.state}, {in_time(view.age_s)}",
    )  # fmt: skip


def view_or_path(arguments: argparse.Namespace, what: str) -> RunView | None:
    """The run that a user has named; None for a path. A run of just that name, where something of
    that name lies in the working folder, too, is meant: "train" is the run, "./train" the folder.
    Raises as `find_run`."""
    runs_dir, history_dir = runs_dir_of(arguments), history_dir_of(arguments)
    if not os.path.exists(what):
        return find_view(runs_dir, history_dir, what)
    if os.path.basename(what) != what:
        return None
    try:
        view = find_view(runs_dir, history_dir, what)
    except TraceletError:
        return None  # none, or several
    if not is_named(view, what):
        return None
    print(f"tracelet: {what!r} is taken for the run; ./{what} is the folder", file=sys.stderr)
    return view


def is_named(view: RunView, name: str) -> bool:
    """Whether that is its id or its name, and not how one begins."""
    return name in (view.run_id, view.record.exp_name)


def _one(
    runs: Sequence[_Each],
    name: str,
    runs_dir: str,
    names_of: Callable[[_Each], tuple[str, str]],
    about: Callable[[_Each], str],
) -> _Each:
    """The one of an id; else of a name; else of how an id, or a name, begins."""
    ways: list[Callable[[str, str], bool]] = [
        lambda run_id, _: run_id == name,
        lambda _, exp_name: exp_name == name,
        lambda run_id, _: run_id.startswith(name),
        lambda _, exp_name: exp_name.startswith(name),
    ]
    for fits in ways:
        found = [run for run in runs if name and fits(*names_of(run))]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigurationError(
                f"there is more than one run {name!r} ({len(found)}); say which, by its id: "
                f"{_named(found[::-1], names_of, about)}"
            )
    known = {text: run for run in runs for text in names_of(run) if text}
    nearest = difflib.get_close_matches(name, list(known), n=_MOST_NAMED, cutoff=0.5)
    close = list({names_of(known[text])[0]: known[text] for text in nearest}.values())
    hint = f"; the nearest: {_named(close, names_of, about)}" if close else ""
    raise ConfigurationError(
        f"there is no run {name!r} in {runs_dir}{hint}; `tracelet runs` lists them"
    )


def _named(
    runs: Sequence[_Each],
    names_of: Callable[[_Each], tuple[str, str]],
    about: Callable[[_Each], str],
) -> str:
    shown = [
        f"{run_id} ({printable(exp_name)!r}, {about(run)})"
        for run in runs[:_MOST_NAMED]
        for run_id, exp_name in [names_of(run)]
    ]
    more = f" and {len(runs) - _MOST_NAMED} more" if len(runs) > _MOST_NAMED else ""
    return ", ".join(shown) + more
