"""How commands name runs: the runs' folder, one run or all of them."""

from __future__ import annotations

import argparse
import os

from tracelet.errors import ConfigurationError
from tracelet.options import from_environment
from tracelet.places import default_runs_dir
from tracelet.runs.stored_run import StoredRun, UnreadableRunError, scan_runs


def add_runs_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs-dir",
        metavar="FOLDER",
        help="where the runs are (default: TRACELET_DIR, or ~/.tracelet/runs)",
    )


def runs_dir_of(arguments: argparse.Namespace) -> str:
    """Raises ConfigurationError for an environment variable that can't be used."""
    found = arguments.runs_dir or from_environment("runs_dir") or default_runs_dir()
    return os.path.expanduser(str(found))


def find_run(runs_dir: str, name: str) -> StoredRun:
    """The run of an id, or of the beginning of one, or of a folder. Raises ConfigurationError, and
    UnreadableRunError for one that is kept as it is."""
    if os.sep in name:
        return StoredRun(name)
    readable, unreadable = scan_runs(runs_dir)
    for each in unreadable:
        if each.run_id == name:
            raise UnreadableRunError(each.problem)
    found = [run for run in readable if run.run_id.startswith(name)]
    exact = [run for run in found if run.run_id == name]
    if len(exact or found) != 1:
        what = "no run" if not found else f"more than one run ({len(found)})"
        raise ConfigurationError(
            f"there is {what} {name!r} in {runs_dir}; `tracelet runs` lists them"
        )
    return (exact or found)[0]
