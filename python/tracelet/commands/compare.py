"""tracelet compare: two runs side by side."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

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
from tracelet.summary import common_folder

HELP = "compare two runs, or folders of event files: their series, the parameters that differ"

_ABSENT = "-"
_Origin = tuple[str, Optional[str], bool]


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
        "series_in_both": [{"a": in_a, "b": in_b} for _, in_a, in_b in _pairs(a, b)],
        "params_that_differ": {name: list(pair) for name, pair in _differing(a, b).items()},
    }


def _differing(a: _Side, b: _Side) -> dict[str, tuple[Any, Any]]:
    """By name; None stands for one that is not there. Empty where a side has none by its nature."""
    if a.params is None or b.params is None:
        return {}
    found = {}
    for name in dict.fromkeys((*a.params, *b.params)):
        one, other = a.params.get(name), b.params.get(name)
        if (name in a.params) != (name in b.params) or not _is_same(one, other):
            found[name] = one, other
    return found


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


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


def _pairs(a: _Side, b: _Side) -> list[tuple[str, str, str]]:
    """The series that are in both: what they are called here, and in the summary of each.

    Not by those names: of several writers' series of one tag the first has the bare tag, and which
    one that is can differ, as train in one run and val in the other. But by tag and folder, within
    what all of a run's writers share. Where one side alone has several of a tag, nobody can tell
    which of them it is.
    """
    in_a, in_b = _by_origin(a.summary), _by_origin(b.summary)
    pairs = []
    for tag, folder, beside in in_a.keys() & in_b.keys():
        title = tag if folder in (None, "", os.curdir) else f"{folder}: {tag}"
        origin = tag, folder, beside
        pairs.append((title, in_a[origin], in_b[origin]))
    return sorted(pairs)


def _by_origin(summary: Summary) -> dict[_Origin, str]:
    """Each series' name by its tag and folder; without those that differ in neither, as of writers
    that differ in their files' suffix alone. The folder of a tag that is there once is None; those
    beside a handle's, whose folder is not told, are compared with such alone."""
    folders = {str(each["folder"]) for each in summary.values() if each.get("folder")}
    shared = common_folder(folders)
    beside = any("tag" in each and not each.get("folder") for each in summary.values())
    found: dict[_Origin, list[str]] = {}
    for name, each in summary.items():
        folder = str(each.get("folder", "")) if "tag" in each else None
        if folder and shared:
            folder = os.path.relpath(folder, shared)
        origin = str(each.get("tag", name)), folder, beside and folder is not None
        found.setdefault(origin, []).append(name)
    return {origin: names[0] for origin, names in found.items() if len(names) == 1}


def _print_series(sides: Mapping[str, _Side]) -> None:
    pairs = _pairs(*sides.values())
    names = dict(zip(sides, ([in_a for _, in_a, _ in pairs], [in_b for *_, in_b in pairs])))
    values = {
        letter: values_of_series(side.files, {name: side.summary[name] for name in names[letter]})
        for letter, side in sides.items()
    }
    rows = [["series", "", *terminal.SERIES_HEAD, ""]]
    none = np.zeros(0)
    for title, *of_sides in pairs:
        each = dict(zip(sides, of_sides))
        plots = plots_on_one_scale([values[letter].get(each[letter], none) for letter in sides])
        for n, ((letter, side), plot) in enumerate(zip(sides.items(), plots)):
            cells = terminal.series_cells(side.summary[each[letter]])
            rows.append(["" if n else printable(title), letter, *cells, plot])
    if pairs:
        print()
        terminal.print_series(rows, numbers=(2, 3, 4, 5, 6))
    else:
        print("\nno series is in both")
    for letter, side in sides.items():
        if alone := sorted(set(side.summary) - set(names[letter])):
            print(cut(f"in {letter} alone: {printable(', '.join(alone))}", terminal.width()))
