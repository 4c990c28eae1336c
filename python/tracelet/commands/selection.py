"""How commands name runs: the runs' folder, one run or all of them."""

from __future__ import annotations

import argparse
import os

from tracelet import environment
from tracelet.options import Options


def add_runs_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs-dir",
        metavar="FOLDER",
        help="where the runs are (default: TRACELET_DIR, or ~/.tracelet/runs)",
    )


def runs_dir_of(arguments: argparse.Namespace) -> str:
    """Raises ConfigurationError for an environment variable that can't be used."""
    found = arguments.runs_dir or environment.read_option("runs_dir", "str") or Options.runs_dir
    return os.path.expanduser(str(found))
