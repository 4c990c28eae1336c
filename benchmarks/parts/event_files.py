"""What do event files and the calls that are not hot cost?

The calls of both writers run in processes of their own; a burst of them is dealt with before the
next one.
"""

from __future__ import annotations

from typing import Any

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
from benchmarks.report import Figure, Part
from benchmarks.workers.event_file_workers import ACCUMULATOR, DATA_SERVER, TORCH, TRACELET
from benchmarks.workers.media_contenders import KINDS

_READERS = (DATA_SERVER, ACCUMULATOR)
_WRITERS = {
    TRACELET: "benchmarks.workers.media_contenders:TraceletMedia",
    TORCH: "benchmarks.workers.media_contenders:TorchMedia",
}


def run(settings: Settings) -> Part:
    encoding = _measure_encoding(settings)
    points = {
        DATA_SERVER: settings.pick(1_000_000, 20_000),
        ACCUMULATOR: settings.pick(100_000, 5_000),  # 34 us a point
    }
    loaded = {reader: _measure_loading(settings, reader, count) for reader, count in points.items()}
    calls = _measure_calls(settings)
    return Part(
        name="event_files",
        figures=[
            *_encoding_figures(encoding),
            *_loading_figures({reader: times for reader, (times, _) in loaded.items()}, points),
            *_call_figures(calls),
        ],
        notes=[
            f"Event files of {points[DATA_SERVER]:,} scalars, in bytes: "
            + ", ".join(f"{name} {size:,}" for name, size in loaded[DATA_SERVER][1].items())
            + ". The data server's time is by its own account."
        ],
        rounds={
            "encoding": encoding,
            "loading": {reader: times for reader, (times, _) in loaded.items()},
            "calls": calls,
        },
    )


def _measure_encoding(settings: Settings) -> Rounds:
    rounds = settings.pick(15, 1)
    points = settings.pick(1_000_000, 20_000)
    with worker(settings, "benchmarks.workers.event_file_workers:Encoding", points=points) as made:
        entrant = Entrant("encoding", lambda: _call(made, "write"), rounds)
        return interleave([entrant], rounds, settings.rng("encoding"))["encoding"]


def _measure_loading(
    settings: Settings, reader: str, points: int
) -> tuple[dict[str, Rounds], dict[str, int]]:
    """The reader's times by writer, and the files' sizes."""
    rounds = settings.pick(7, 1)
    with worker(settings, "benchmarks.workers.event_file_workers:Loading", points=points) as made:

        def entrant(name: str) -> Entrant:
            return Entrant(name, lambda: _call(made, "load", reader=reader, name=name), rounds)

        times = interleave(
            [entrant(name) for name in (TRACELET, TORCH)],
            rounds,
            settings.rng(f"loading by {reader}"),
            warm_up=False,
        )
        return times, made.call("size_bytes")


def _measure_calls(settings: Settings) -> dict[str, Rounds]:
    rounds = settings.pick(15, 1)
    made = {name: Worker(settings, target) for name, target in _WRITERS.items()}

    def entrant(kind: str, name: str) -> Entrant:
        def measure() -> dict[str, Any]:
            measured = _call(made[name], "log_media", kind=kind, calls=settings.pick(20, 2))
            made[name].settle()
            return measured

        return Entrant(f"{kind} {name}", measure, rounds)

    with workers(made, required=TRACELET):
        entrants = [entrant(kind, name) for kind in KINDS for name in made]
        return interleave(entrants, rounds, settings.rng("media calls"))


def _call(made: Worker, method: str, **arguments: Any) -> dict[str, Any]:
    measured: dict[str, Any] = made.call(method, **arguments)
    return measured


def _encoding_figures(encoding: Rounds) -> list[Figure]:
    points = summarise(value / 1e6 for value in column(encoding, "points_per_s").values())
    sizes = summarise(value / 1e6 for value in column(encoding, "bytes_per_s").values())
    return [
        Figure(
            "scalars encoded and written to an event file, one thread",
            "M/s",
            points,
            at_least=2,
            aim=10,
            higher_is_better=True,
        ),
        Figure("the same in bytes", "MB/s", sizes),
    ]


def _loading_figures(loading: dict[str, dict[str, Rounds]], points: dict[str, int]) -> list[Figure]:
    figures = []
    for reader in _READERS:
        ours, theirs = (column(loading[reader][name], "seconds") for name in (TRACELET, TORCH))
        figures.append(
            Figure(
                f"{reader}: load time of {points[reader]:,} points, Tracelet's file by torch's",
                "x",
                ratios(ours, theirs),
                at_least=1.05,
                aim=1.0,
            )
        )
        figures.append(Figure(f"{reader}: load time of torch's file", "s", _median(theirs)))
    return figures


def _call_figures(calls: dict[str, Rounds]) -> list[Figure]:
    figures = []
    for kind, what in KINDS.items():
        ours, theirs = (column(calls[f"{kind} {name}"], "call") for name in (TRACELET, TORCH))
        figures.append(
            Figure(
                f"time in {what}: Tracelet by the unpatched writer",
                "x",
                ratios(ours, theirs),
                at_least=1.0,
                aim=0.7,
            )
        )
        us = {number: value / 1e3 for number, value in ours.items()}
        figures.append(Figure(f"time in {what}", "us", _median(us)))
    return figures


def _median(values: dict[int, float]) -> Summary:
    return summarise(values.values())
