"""How does the cost of a call grow with points, tags and threads?

10,000 to 100,000,000 points of one tag; 1 to 100,000 tags; 1 to 16 threads. "Files" is an offline
ClearML session and an event file, up to 10,000,000 points (2 GB); "counted" is a sink that counts
and writes nothing, which leaves the call, the ring and the drainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Entrant, Rounds, Settings, Worker, interleave, summarise
from benchmarks.report import Figure, Part, short

PLOT = ROOT / "docs" / "bench-scale.png"

_FILES, _COUNTED = "files", "counted"
_TARGETS = {
    _FILES: "benchmarks.workers.scale_workers:ScaleWriter",
    _COUNTED: "benchmarks.workers.scale_workers:CountingWriter",
}
_POINTS = {
    _FILES: (10_000, 100_000, 1_000_000, 10_000_000),
    _COUNTED: (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000),
}
_TAGS = (1, 10, 100, 1_000, 10_000, 100_000)
_THREADS = (1, 2, 4, 8, 16)
_FITTING = 112_000  # calls that the ring has room for
_LARGE = 10_000_000  # points from which on there is one round


def run(settings: Settings) -> Part:
    with ExitStack() as stack:
        workers = {}
        for name, target in _TARGETS.items():
            workers[name] = Worker(settings, target)
            stack.callback(workers[name].close)
        results = {
            "points": _measure_points(settings, workers),
            "tags": _measure(settings, workers, "tags", _TAGS, settings.pick(_FITTING, 1_000)),
            "threads": _measure(
                settings, workers, "threads", _THREADS, settings.pick(_FITTING, 1_600)
            ),
        }
        check = [_check(name, worker) for name, worker in workers.items()]
    return Part(
        name="scale",
        figures=_figures(results),
        table=_table(results),
        plots=[PLOT.name],
        notes=[
            'Scale: "files" are an offline ClearML session and an event file, "counted" a sink '
            f"that counts and writes nothing. {_LARGE:,} points and more were logged once, the "
            "rest in several rounds. Beyond 131,072 points at once the ring is full and a loop "
            "that does nothing but log goes at the pace of the drainer. Threads: wall time of all "
            "calls by their number; with the GIL they take turns.",
            *check,
        ],
        rounds=results,
    )


def _measure_points(settings: Settings, workers: Mapping[str, Worker]) -> dict[str, Rounds]:
    entrants = []
    for name, worker in workers.items():
        for points in _POINTS[name]:
            if settings.quick and points > 100_000:
                continue

            def measure(worker: Worker = worker, points: int = points) -> dict[str, Any]:
                measured: dict[str, Any] = worker.call("points", points=points)
                worker.settle()
                return measured

            rounds = 1 if points >= _LARGE else settings.pick(7, 1)
            entrants.append(Entrant(f"{name} {points}", measure, rounds))
    rounds = settings.pick(7, 1)
    # The large ones have no warm-up: the small ones of the first round are theirs.
    return interleave(entrants, rounds, settings.rng("scale"), warm_up=False)


def _measure(
    settings: Settings, workers: Mapping[str, Worker], method: str, sizes: Any, calls: int
) -> dict[str, Rounds]:
    entrants = []
    for name, worker in workers.items():
        for size in sizes:
            if settings.quick and size > 1_000:
                continue

            def measure(worker: Worker = worker, size: int = size) -> dict[str, Any]:
                measured: dict[str, Any] = worker.call(method, **{method: size, "calls": calls})
                worker.settle()
                return measured

            entrants.append(Entrant(f"{name} {size}", measure, settings.pick(5, 1)))
    rng = settings.rng(f"scale {method}")
    return interleave(entrants, settings.pick(5, 1), rng, warm_up=not settings.quick)


def _medians(results: Mapping[str, Any], what: str, sink: str, key: str) -> dict[int, Any]:
    """A summary by size."""
    found = {}
    for name, rounds in results[what].items():
        its_sink, size = name.split()
        if its_sink == sink and rounds:
            found[int(size)] = summarise(each[key] for each in rounds.values())
    return found


def _figures(results: Mapping[str, Any]) -> list[Figure]:
    figures = []
    for what, unit in (("points", "points"), ("tags", "tags"), ("threads", "threads")):
        costs = _medians(results, what, _COUNTED, "call")
        least, most = min(costs), max(costs)
        growth = costs[most].median / costs[least].median
        label = f"add_scalar, counted, {most:,} {unit} by {least:,}: growth of the cost of a call"
        figures.append(Figure(label, "x", summarise([growth])))
    return figures


def _table(results: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for what in ("points", "tags", "threads"):
        for size in _medians(results, what, _COUNTED, "call"):
            row = {"Scale, ns per call": f"{size:,} {what if size > 1 else what[:-1]}"}
            for sink in (_COUNTED, _FILES):
                cost = _medians(results, what, sink, "call").get(size)
                row[f"{sink}: call"] = _with_spread(cost)
                first = {"points": "delivered", "tags": "first"}.get(what)
                row[f"{sink}: with delivery, or a tag's first"] = _with_spread(
                    _medians(results, what, sink, first).get(size) if first else None
                )
            rows.append(row)
    return rows


def _with_spread(cost: Any) -> str:
    if cost is None:
        return ""
    return f"{short(cost.median)} ({short(cost.low)} to {short(cost.high)})"


def _check(name: str, worker: Worker) -> str:
    sent = worker.call("sent_so_far")
    worker.call("close")
    arrived = worker.call("arrived")
    if any(count != sent for count in arrived.values()):
        return f"POINTS ARE MISSING ({name}): {sent:,} sent, arrived: {arrived}."
    return f"Scale: all of the {sent:,} points sent arrived ({', '.join(arrived)})."


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Three panels: ns per call by points, tags and threads, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.8), sharey=True)
    for axes, what in zip(panels, ("points", "tags", "threads")):
        for sink, key, label, style in (
            (_COUNTED, "call", "call, counted", "#1f77b4"),
            (_FILES, "call", "call, ClearML and event files", "#ff7f0e"),
            (_COUNTED, "first", "a tag's first call, counted", "#9ecae1"),
        ):
            if key == "first" and what != "tags":
                continue
            costs = _medians(results, what, sink, key)
            medians = [each.median for each in costs.values()]
            below = [each.median - each.low for each in costs.values()]
            above = [each.high - each.median for each in costs.values()]
            axes.errorbar(
                list(costs), medians, yerr=[below, above], label=label, color=style, marker="o",
                markersize=4, capsize=3,
            )  # fmt: skip
        axes.set_xscale("log", base=2 if what == "threads" else 10)
        axes.set_yscale("log")
        axes.set_xlabel(what)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ns per call (median, min to max)")
    panels[1].legend(fontsize=8)
    figure.suptitle("What one add_scalar costs as things grow")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
