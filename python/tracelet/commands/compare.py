"""tracelet compare: two runs side by side."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracelet.commands import terminal
from tracelet.commands.run_views import counted
from tracelet.commands.selection import add_runs_dir, history_dir_of, view_or_path
from tracelet.commands.series_plots import plots_on_one_scale, values_of_series
from tracelet.commands.terminal import cut, printable
from tracelet.errors import ConfigurationError
from tracelet.reading.logs import event_files
from tracelet.runs.history import Summary
from tracelet.runs.summaries import summary_of_files

HELP = "compare two runs, or folders of event files: their series, the parameters that differ"

_ABSENT = "-"


@dataclass(frozen=True)
class _Side:
    """One of the two."""

    title: str
    facts: Mapping[str, Any]
    """As `tracelet runs --json` has them; of a folder its path."""
    files: tuple[str, ...]
    summary: Summary
    params: Mapping[str, Any] | None
    """None for a folder of event files."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    for name in ("a", "b"):
        parser.add_argument(
            name, metavar="RUN|LOGDIR",
            help="a run's id or name, or the first letters of one; or a folder of event files",
        )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    sides = {"A": _side(arguments, arguments.a), "B": _side(arguments, arguments.b)}
    a, b = sides.values()
    if arguments.json:
        print(terminal.json_text(_as_json(a, b)))
        return 0
    for letter, side in sides.items():
        print(cut(f"{letter}  {side.title}", terminal.width()))
    _print_params(a, b)
    _print_series(sides)
    return 0


def _side(arguments: argparse.Namespace, what: str) -> _Side:
    view = view_or_path(arguments, what)
    if view is None:
        files = tuple(path for paths in event_files(what).values() for path in paths)
        if not files:
            raise ConfigurationError(f"there are no event files in {what}")
        return _Side(printable(what), {"path": what}, files, summary_of_files(files) or {}, None)
    view = counted(view, history_dir_of(arguments), most_bytes=None)
    record = view.record
    title = printable(f"{record.exp_name} ({record.project})  {view.state}  {view.run_id}")
    return _Side(title, view.as_json(), record.files, view.summary or {}, record.params)


def _as_json(a: _Side, b: _Side) -> dict[str, Any]:
    return {
        "a": {**a.facts, "params": a.params, "summary": a.summary},
        "b": {**b.facts, "params": b.params, "summary": b.summary},
        "params_that_differ": {name: list(pair) for name, pair in _differing(a, b).items()},
    }


def _differing(a: _Side, b: _Side) -> dict[str, tuple[Any, Any]]:
    """By name; None stands for one that is not there. Empty where a side has none by its nature."""
    if a.params is None or b.params is None:
        return {}
    names = dict.fromkeys((*a.params, *b.params))
    pairs = {name: (a.params.get(name), b.params.get(name)) for name in names}
    return {
        name: (one, other)
        for name, (one, other) in pairs.items()
        if one != other or isinstance(one, bool) != isinstance(other, bool)
    }


def _print_params(a: _Side, b: _Side) -> None:
    if a.params is None or b.params is None or not (a.params or b.params):
        return
    differing = _differing(a, b)
    same = len({*a.params, *b.params}) - len(differing)
    if not differing:
        print(f"\nparameters: all {same:,} are the same")
        return
    print(terminal.coloured(f"\nparameters that differ (the same: {same:,})", "bold"))
    width = (terminal.width() - 6) // 3
    rows = [["", "A", "B"]]
    for name, (one, other) in sorted(differing.items()):
        cells = (_shown(a.params, name, one), _shown(b.params, name, other))
        rows.append([cut(printable(name), width), *(cut(cell, width) for cell in cells)])
    print("\n".join(f"  {line}" for line in terminal.table(rows)))


def _shown(params: Mapping[str, Any], name: str, value: Any) -> str:
    return printable(str(value)) if name in params else _ABSENT


def _print_series(sides: Mapping[str, _Side]) -> None:
    a, b = sides.values()
    in_both = sorted(set(a.summary) & set(b.summary))
    values = {
        letter: values_of_series(side.files, {name: side.summary[name] for name in in_both})
        for letter, side in sides.items()
    }
    rows = [["series", "", *terminal.SERIES_HEAD, ""]]
    none = np.zeros(0)
    for name in in_both:
        plots = plots_on_one_scale([values[letter].get(name, none) for letter in sides])
        for n, ((letter, side), plot) in enumerate(zip(sides.items(), plots)):
            shown_name = "" if n else printable(name)
            rows.append([shown_name, letter, *terminal.series_cells(side.summary[name]), plot])
    if in_both:
        print()
        terminal.print_series(rows, numbers=(2, 3, 4, 5, 6))
    else:
        print("\nno series is in both")
    for letter, side in sides.items():
        if alone := sorted(set(side.summary) - set(in_both)):
            print(cut(f"in {letter} alone: {printable(', '.join(alone))}", terminal.width()))
