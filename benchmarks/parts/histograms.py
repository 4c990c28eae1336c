"""What does a histogram cost: against numpy and others on one array, against the other writers?

The bursts of add_histogram fit the ring and its payload arena, which are emptied before the next.
"""

from __future__ import annotations

from typing import Any

import psutil

from benchmarks.harness import (
    Entrant,
    Rounds,
    Settings,
    Summary,
    Worker,
    column,
    interleave,
    ratios,
    summarise,
    worker,
    workers,
)
from benchmarks.report import Figure, Part, short
from benchmarks.workers.histogram_arrays import (
    BOOST,
    DTYPES,
    FAST,
    NO_RANGE,
    NUMPY,
    OURS,
    READERS,
    TORCH,
    TWO_THREADS,
)
from benchmarks.workers.histogram_contenders import Load

_WRITERS = {
    OURS: "benchmarks.workers.histogram_contenders:TraceletHistograms",
    "torch SummaryWriter": "benchmarks.workers.histogram_contenders:TorchHistograms",
    "tensorboardX": "benchmarks.workers.histogram_contenders:TensorboardXHistograms",
}
_TORCH_WRITER, _TENSORBOARDX = list(_WRITERS)[1:]
_ROOM = 2  # so many times the memory of the array must be free


def run(settings: Settings) -> Part:
    sizes = settings.pick(1_000_000, 50_000), settings.pick(16_000_000, 500_000)
    with worker(
        settings,
        "benchmarks.workers.histogram_arrays:Arrays",
        values=sizes[0],
        many_values=sizes[1],
    ) as arrays:
        rivals = arrays.call("rivals")
        contests = _measure_contests(settings, arrays)
    loads = {
        "one": Load(1, sizes[0]),
        "several": Load(64, settings.pick(16_000, 1_000)),
        "small": Load(1, 100),
    }
    logged, notes = _measure_writers(settings, loads)
    part = Part(
        name="histograms",
        figures=[
            *_array_figures(contests, *sizes),
            *_writer_figures(logged, loads),
        ],
        table=_table(logged, loads),
        notes=[*rivals["missing"], *_array_notes(rivals["versions"]), *notes],
        rounds={"arrays": contests, "writers": logged},
    )
    _add_memory(settings, part)
    return part


def _measure_contests(settings: Settings, arrays: Worker) -> dict[str, Rounds]:
    rounds = settings.pick(15, 1)

    def entrant(contest: str, rounds: int, turns: int, turn_ms: int) -> Entrant:
        def measure() -> dict[str, Any]:
            measured: dict[str, Any] = arrays.call(
                "compete",
                contest=contest,
                turns=settings.pick(turns, 2),
                turn_s=settings.pick(turn_ms, 5) / 1e3,
            )
            return measured

        return Entrant(contest, measure, rounds)

    entrants = [
        entrant("default bins", rounds, turns=6, turn_ms=25),
        entrant("torch.histogram", 5, turns=2, turn_ms=100),
        entrant("dtypes", rounds, turns=6, turn_ms=20),
        entrant("uniform bins", rounds, turns=6, turn_ms=20),
        entrant("many values", rounds, turns=4, turn_ms=60),
    ]
    return interleave(entrants, rounds, settings.rng("histogram arrays"))


def _measure_writers(
    settings: Settings, loads: dict[str, Load]
) -> tuple[dict[str, dict[str, Rounds]], list[str]]:
    """By load and contender, and notes."""
    rounds = settings.pick(15, 1)
    steps = {
        "one": (settings.pick(20, 3), settings.pick(3, 1)),
        "several": (settings.pick(5, 2), 1),
        "small": (settings.pick(2_000, 100), settings.pick(50, 5)),
    }

    def entrant(load: str, name: str, made: Worker) -> Entrant:
        ours, theirs = steps[load]

        def measure() -> dict[str, Any]:
            measured: dict[str, Any] = made.call(
                "log_histograms", load=loads[load], steps=ours if name == OURS else theirs
            )
            made.settle()
            return measured

        return Entrant(f"{load} {name}", measure, rounds)

    made = {name: Worker(settings, target) for name, target in _WRITERS.items()}
    with workers(made, required=OURS) as (ready, missing):
        entrants = [entrant(load, name, ready[name]) for load in loads for name in ready]
        results = interleave(entrants, rounds, settings.rng("histogram writers"))
        account = ready[OURS].call("account_for_all")
        logged = {load: {name: results[f"{load} {name}"] for name in ready} for load in loads}
    return logged, [*missing, _account_note(account)]


def _account_note(account: dict[str, Any]) -> str:
    sent, delivered = account["sent"], account["delivered"]
    if account["dropped"] or set(delivered.values()) != {sent}:
        return f"HISTOGRAMS ARE MISSING: {account}"
    sinks = " and ".join(sorted(delivered))
    return f"All of the {sent:,} histograms sent to {sinks} were delivered, by the run's account."


def _array_figures(contests: dict[str, Rounds], values: int, many_values: int) -> list[Figure]:
    what, many = f"{values:,} float32", f"{many_values:,} float32"
    edges, against_torch = contests["default bins"], contests["torch.histogram"]
    figures = [
        Figure(
            f"{what}, default bins, one thread: numpy.histogram by Tracelet",
            "x",
            _ratio(edges, NUMPY, OURS),
            at_least=25,
            aim=60,
            higher_is_better=True,
        ),
        Figure(
            f"{what}, default bins, one thread: torch.histogram by Tracelet",
            "x",
            _ratio(against_torch, TORCH, OURS),
        ),
        *_many_figures(contests["many values"], many, many_values),
    ]
    dtypes = contests["dtypes"]
    for dtype in DTYPES:
        ns = summarise(seconds / values * 1e9 for seconds in column(dtypes, dtype).values())
        figures.append(Figure(f"{values:,} {dtype}, one thread: per element", "ns", ns))
    for dtype in DTYPES[1:]:
        label = f"{values:,} {dtype}, one thread: per element by float32"
        figures.append(Figure(label, "x", _ratio(dtypes, dtype, DTYPES[0]), at_least=2, aim=1.2))
    return [*figures, *_uniform_figures(contests["uniform bins"], what)]


def _many_figures(rounds: Rounds, what: str, values: int) -> list[Figure]:
    read_s = {n: min(measured[each] for each in READERS) for n, measured in rounds.items()}
    figures = [
        Figure(
            f"{what}, one thread: Tracelet's bytes per second by the read bandwidth",
            "x",
            ratios(read_s, column(rounds, OURS)),
            at_least=0.2,
            aim=0.5,
            higher_is_better=True,
        ),
        Figure(
            f"the read bandwidth, the best of {', '.join(READERS)}, one thread",
            "GB/s",
            summarise(4 * values / seconds / 1e9 for seconds in read_s.values()),
        ),
    ]
    if all(TWO_THREADS in measured for measured in rounds.values()):
        label = f"{what}: two threads over one"
        ratio = _ratio(rounds, OURS, TWO_THREADS)
        figures.append(Figure(label, "x", ratio, 1.6, 1.9, higher_is_better=True))
    return figures


def _uniform_figures(rounds: Rounds, what: str) -> list[Figure]:
    targets = {FAST: (1.2, 3.0), BOOST: (2.0, 5.0), NUMPY: (None, None)}
    there = next(iter(rounds.values()))
    prefix = f"{what}, 64 uniform bins over (-5, 5), one thread"
    figures = [
        Figure(
            f"{prefix}: {name} by Tracelet",
            "x",
            _ratio(rounds, name, OURS),
            *target,
            higher_is_better=True,
        )
        for name, target in targets.items()
        if name in there
    ]
    label = f"{what}, 64 uniform bins, one thread: Tracelet with range=None by with a range"
    return [*figures, Figure(label, "x", _ratio(rounds, NO_RANGE, OURS))]


def _writer_figures(logged: dict[str, dict[str, Rounds]], loads: dict[str, Load]) -> list[Figure]:
    def by_ours(load: str, name: str) -> Summary:
        rounds = logged[load]
        return ratios(column(rounds[name], "step"), column(rounds[OURS], "step"))

    def label(load: str, name: str) -> str:
        return f"add_histogram of {_in_words(loads[load])}, both sinks: {name} by Tracelet"

    figures = []
    if _TORCH_WRITER in logged["one"]:
        for load in ("one", "several"):
            text = label(load, f"unpatched {_TORCH_WRITER}")
            ratio = by_ours(load, _TORCH_WRITER)
            figures.append(Figure(text, "x", ratio, 50, 150, higher_is_better=True))
    if _TENSORBOARDX in logged["one"]:
        text = label("one", _TENSORBOARDX)
        figures.append(Figure(text, "x", by_ours("one", _TENSORBOARDX)))
    us = summarise(ns / 1e3 for ns in column(logged["small"][OURS], "step").values())
    text = f"add_histogram of {_in_words(loads['small'])}, both sinks: per call"
    return [*figures, Figure(text, "us", us, at_least=5, aim=1.5)]


def _table(logged: dict[str, dict[str, Rounds]], loads: dict[str, Load]) -> list[dict[str, str]]:
    rows = []
    for name in logged["one"]:
        row = {"add_histogram": name}
        for load, shape in loads.items():
            cost = summarise(column(logged[load][name], "step").values())
            row[f"{_in_words(shape)}, ms"] = short(cost.median / 1e6)
        rows.append(row)
    return rows


def _in_words(load: Load) -> str:
    return f"{load.tensors} x {load.values:,} float32"


def _array_notes(versions: dict[str, str]) -> list[str]:
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        f"Histograms: standard normal values (int32: 1,000 times those); {named}. numpy sorts to "
        "count on such edges, and from 2.0 on it sorts with AVX2, where 1.26 wants AVX-512: "
        "against an older numpy the first figure is another. torch.histogram has the edges in "
        "float32. boost-histogram is the fill of a Histogram with a Regular axis and a storage of "
        "integers, which is faster than its numpy.histogram.",
    ]


def _add_memory(settings: Settings, part: Part) -> None:
    values = settings.pick(250_000_000, 10_000_000)
    size, free = 4 * values, psutil.virtual_memory().available
    if free < _ROOM * size:
        part.notes.append(f"Memory of histograms: not measured, {free >> 20:,} MB are free")
        return
    measured = {}
    for number in range(settings.pick(5, 1)):
        with worker(settings, "benchmarks.workers.histogram_arrays:Memory", values=values) as made:
            measured[number] = {"first": made.call("added"), "later": made.call("added")}
    part.rounds["memory"] = measured

    def added_kb(call: str) -> Summary:
        return summarise(each[call]["bytes"] / 1e3 for each in measured.values())

    label = f"memory added while a float32 input of {size / 1e6:,.0f} MB is counted"
    part.figures += [
        Figure(label, "kB", added_kb("later"), at_least=1_000, aim=64),
        Figure(f"{label}, a process' first call", "kB", added_kb("first")),
    ]
    most = max(each["later"]["faults"] for each in measured.values())
    part.notes.append(
        "Memory of histograms: the peak of resident memory during a call above that before it, by "
        f"{measured[0]['later']['how']}, with default threads. The first call brings the code into "
        "memory and takes what the later one finds there. Of what is given back within the call "
        f"some 150 kB may be missed; the later calls had {most} page faults at most."
    )


def _ratio(rounds: Rounds, above: str, below: str) -> Summary:
    return ratios(column(rounds, above), column(rounds, below))
