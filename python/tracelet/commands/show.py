"""tracelet show: all that is known of one run."""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tracelet.checks import in_bytes
from tracelet.commands import terminal
from tracelet.commands.run_views import RunView, counted
from tracelet.commands.selection import (
    add_run,
    add_runs_dir,
    find_view,
    history_dir_of,
    runs_dir_of,
)
from tracelet.commands.terminal import cut, printable
from tracelet.reading import RunLogs, read_files

HELP = "show one run: its parameters, its series with a small plot each, where everything is"

_MOST_PLOTTED_BYTES = 1 << 30
_PLOT_WIDTH = 16
_BARS = "▁▂▃▄▅▆▇█"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    add_run(parser, "what is shown")
    parser.add_argument("--json", action="store_true", help="for programs: one object")


def run(arguments: argparse.Namespace) -> int:
    history_dir = history_dir_of(arguments)
    view = find_view(runs_dir_of(arguments), history_dir, arguments.run)
    view = counted(view, history_dir, most_bytes=None)
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


def _as_json(view: RunView) -> dict[str, Any]:
    record = view.record
    return {
        **view.as_json(),
        "params": dict(record.params),
        "tags": list(record.tags),
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
    plots = _plots(view)
    rows = [
        [printable(tag), terminal.value(each["last"]), terminal.value(each["least"]),
         terminal.value(each["greatest"]), terminal.count(each["points"]),
         terminal.count(each["last_step"]), plots.get(tag, "")]
        for tag, each in sorted(view.summary.items())
    ]  # fmt: skip
    head = ["series", "LAST", "LEAST", "GREATEST", "POINTS", "STEP", ""]
    rows = [head, *rows]
    others = sum(max(terminal.columns_of(row[n]) for row in rows) + 2 for n in range(1, len(head)))
    for row in rows:
        row[0] = cut(row[0], max(12, terminal.width() - others), from_left=True)
    lines = terminal.table(rows, numbers=(1, 2, 3, 4, 5))
    print(f"\n{terminal.coloured(lines[0], 'bold')}")
    print("\n".join(lines[1:]))


def _plots(view: RunView) -> dict[str, str]:
    """A small plot of each series whose points are found, by the series' name. None where it can't
    be told which they are: writers that differ in their files' suffix alone; an older record."""
    files = [path for path in view.record.files if os.path.isfile(path)]
    if sum(map(os.path.getsize, files)) > _MOST_PLOTTED_BYTES:
        return {}
    by_tag: dict[str, dict[str, RunLogs]] = {}  # and folder
    for folder, logs in read_files(view.run_id, lambda: files, are_absolute=True).runs.items():
        for tag in logs.tags["scalars"]:
            by_tag.setdefault(tag, {})[folder] = logs
    summary = view.summary or {}
    origins = {name: _origin(each) for name, each in summary.items() if "tag" in each}
    counts = Counter(origins.values())
    found: dict[str, str] = {}
    for name in summary:
        tag, folder = origins.get(name, (name, ""))
        folders = by_tag.get(tag, {})
        if name not in origins and len(folders) == 1:
            (folder,) = folders
        if folder in folders and counts[tag, folder] <= 1:
            found[name] = plot(folders[folder].scalars(tag).values)
    return found


def _origin(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Tag and log folder of a series whose tag several have."""
    return str(entry["tag"]), str(entry.get("folder", ""))


def plot(values: np.ndarray, width: int = _PLOT_WIDTH) -> str:
    """A line of bars: the mean of each part of the series, from its least to its greatest mean."""
    if not len(values):
        return ""
    parts = [part[np.isfinite(part)] for part in np.array_split(values, min(width, len(values)))]
    means = [float(part.mean()) if len(part) else None for part in parts]
    known = [mean for mean in means if mean is not None]
    if not known:
        return ""
    least, span = min(known), max(known) - min(known)
    top = len(_BARS) - 1
    return "".join(
        " " if mean is None else _BARS[round((mean - least) / span * top) if span > 0 else 0]
        for mean in means
    )
