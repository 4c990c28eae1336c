"""tracelet top: the runs of this machine as they go on, from their rings; it writes nothing."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import time
from dataclasses import dataclass

from tracelet.commands import terminal
from tracelet.commands.ranks_view import (
    RankView,
    lines_of,
    of_one_job,
    print_ranks,
    ranks_of,
    unless_gone,
)
from tracelet.commands.selection import add_runs_dir, runs_dir_of
from tracelet.runs.run_folder import MANIFEST
from tracelet.runs.stored_run import StoredRun, scan_runs

HELP = "how far each run and each rank of this machine is, and which of them is behind or stuck"

_sleep = time.sleep
_LOOK_S = 1.0
_ASKED_EACH = 20  # looks


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
    views = _Looks(runs_dir, arguments.all).look()
    if arguments.json:
        print(terminal.json_text([view.as_json() for view in views]))
        return 0
    if not views and arguments.once:
        print(f"no run of {runs_dir} goes on: tracelet runs lists those that have ended")
        return 0
    if arguments.once or not terminal.is_terminal() or not _has_rich():
        print_ranks(views, arguments.tag)
        return 0
    _follow(runs_dir, arguments)
    return 0


@dataclass
class _Ended:
    """A run that does not go on, as it was found."""

    run: StoredRun
    manifest: tuple[int, int]
    state: str
    view: RankView | None = None


class _Looks:
    """Looks at a folder's runs, one after another. Thousands that ended may lie there: of those
    nothing is read again until their manifest is another, which sync writes; but whether one goes
    on after all, as by a forked child, is asked of each once in some looks."""

    def __init__(self, runs_dir: str, with_ended: bool, most_ended: int | None = None) -> None:
        """`most_ended`: how many of those that died are shown, the newest, beside the ranks of the
        jobs that go on."""
        self._runs_dir = os.path.abspath(runs_dir)
        self._with_ended = with_ended
        self._most_ended = most_ended
        self._ended: dict[str, _Ended] = {}  # by path
        self._manifests: dict[str, tuple[int, int]] = {}  # of the last look, by path
        self._count = 0
        self.not_shown = 0

    def look(self) -> list[RankView]:
        """The runs that go on; and of their jobs the ranks that died."""
        self._manifests.clear()
        found, _ = scan_runs(self._runs_dir, known=self._known)
        self._ended = {path: each for path, each in self._ended.items() if path in self._manifests}
        ended, wanted = [], {}
        for place, run in enumerate(found):
            with unless_gone(run):
                state = self._state_of(run, is_asked=(place + self._count) % _ASKED_EACH == 0)
                if state == "running":
                    wanted.update({each.run_id: each for each in of_one_job(run, found)})
                elif self._with_ended and state != "finished":
                    ended.append(run)
        self._count += 1
        ended = [run for run in ended if run.run_id not in wanted]
        shown = (
            ended if self._most_ended is None else ended[max(0, len(ended) - self._most_ended) :]
        )
        self.not_shown = len(ended) - len(shown)
        wanted.update({run.run_id: run for run in shown})
        by_id = {each.run.run_id: each for each in self._ended.values()}
        known = {run_id: each.view for run_id, each in by_id.items() if each.view is not None}
        views = ranks_of(sorted(wanted.values(), key=lambda run: run.run_id), known=known)
        for view in views:
            if view.run_id in by_id:
                by_id[view.run_id].view = view
        return views

    def _known(self, path: str) -> StoredRun | None:
        try:
            status = os.stat(os.path.join(path, MANIFEST))
        except OSError:
            return None
        self._manifests[path] = manifest = status.st_mtime_ns, status.st_ino
        ended = self._ended.get(path)
        return ended.run if ended is not None and ended.manifest == manifest else None

    def _state_of(self, run: StoredRun, is_asked: bool) -> str:
        ended = self._ended.get(run.path)
        is_known = ended is not None and ended.run is run
        if ended is not None and is_known and not is_asked:
            return ended.state
        state = run.state
        if state == "running":
            self._ended.pop(run.path, None)
        elif not is_known and run.path in self._manifests:
            self._ended[run.path] = _Ended(run, self._manifests[run.path], state)
        return state


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

    looks = _Looks(runs_dir, arguments.all, shutil.get_terminal_size().lines)

    def screen() -> Text:
        views = looks.look()
        lines = lines_of(views, arguments.tag) if views else [f"no run of {runs_dir} goes on"]
        if looks.not_shown:
            lines.insert(0, f"{looks.not_shown:,} older ones ended: tracelet runs lists them")
        return Text.from_ansi("\n".join(lines), no_wrap=True)

    try:
        with Live(screen(), screen=True, auto_refresh=False) as live:
            while True:
                _sleep(_LOOK_S)
                live.update(screen(), refresh=True)
    except KeyboardInterrupt:
        return
