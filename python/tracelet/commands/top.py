"""tracelet top: the runs of this machine as they go on, from their rings; it writes nothing."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time

from tracelet.commands import terminal
from tracelet.commands.ranks_view import (
    RankView,
    lines_of,
    of_one_job,
    print_ranks,
    ranks_of,
)
from tracelet.commands.selection import add_runs_dir, runs_dir_of
from tracelet.runs.stored_run import StoredRun, scan_runs

HELP = "how far each run and each rank of this machine is, and which of them is behind or stuck"

_sleep = time.sleep
_LOOK_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    parser.add_argument("--once", action="store_true", help="one look, not one each second")
    parser.add_argument("--json", action="store_true", help="for programs: one look, as a list")
    parser.add_argument(
        "--all", action="store_true", help="also what died or has points that are not sent"
    )
    parser.add_argument(
        "--tag", metavar="PATTERN", action="append", default=[],
        help='whose last values are shown, like "train/*" (default: a loss); may be repeated',
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """0, also when no run goes on."""
    runs_dir = runs_dir_of(arguments)
    if arguments.json:
        print(terminal.json_text([view.as_json() for view in _look(runs_dir, arguments.all)]))
        return 0
    views = _look(runs_dir, arguments.all)
    if not views and arguments.once:
        print(f"no run of {runs_dir} goes on: tracelet runs lists those that have ended")
        return 0
    if arguments.once or not terminal.is_terminal() or not _has_rich():
        print_ranks(views, arguments.tag)
        return 0
    _follow(runs_dir, arguments)
    return 0


def _look(runs_dir: str, with_dead: bool) -> list[RankView]:
    """The runs that go on; and of their jobs the ranks that died."""
    found, _ = scan_runs(runs_dir)
    wanted: dict[str, StoredRun] = {}
    for run in found:
        state = run.state
        if state == "running" or (with_dead and state != "finished"):
            wanted[run.run_id] = run
            wanted.update({each.run_id: each for each in of_one_job(run, found)})
    return ranks_of(list(wanted.values()))


def _has_rich() -> bool:
    if importlib.util.find_spec("rich") is not None:
        return True
    print(
        "tracelet: one look; for a screen that follows: pip install 'tracelet[top]'",
        file=sys.stderr,
    )
    return False


def _follow(runs_dir: str, arguments: argparse.Namespace) -> None:
    """Until Ctrl-C."""
    from rich.live import Live
    from rich.text import Text

    def screen() -> Text:
        views = _look(runs_dir, arguments.all)
        lines = lines_of(views, arguments.tag) if views else [f"no run of {runs_dir} goes on"]
        return Text.from_ansi("\n".join(lines), no_wrap=True)

    try:
        with Live(screen(), screen=True, auto_refresh=False) as live:
            while True:
                _sleep(_LOOK_S)
                live.update(screen(), refresh=True)
    except KeyboardInterrupt:
        return
