"""What does a ClearML server's outage cost, over HTTP? Calls meanwhile, and the backlog afterwards.

The server is the tests' own, on loopback, in a process of its own: what it takes a second is what
bounds the backlog's speed, so that speed is told by the one without an outage.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT
from benchmarks.harness import Settings, Worker, summarise, worker
from benchmarks.report import Figure, Part

_LIVE_POINTS_PER_S = 1_000
_WAYS = ("refused", "503", "slow")


def run(settings: Settings) -> Part:
    backlog = settings.pick(500_000, 20_000)
    with worker(settings, "benchmarks.parts.server_outage:Server") as server:
        environment = server.call("environment")
        with worker(
            settings, "benchmarks.parts.server_outage:Training", variables=environment
        ) as training:
            ratios = {way: _calls(server, training, way, settings.pick(31, 2)) for way in _WAYS}
            rounds = [_backlog(server, training, backlog) for _ in range(settings.pick(3, 1))]
            arrived = training.call("end")
        stored = server.call("stored")
    return Part(
        name="server_outage",
        figures=_figures(ratios, rounds, backlog),
        notes=[
            "Server outage: the tests' ClearML server on loopback; it refuses connections, answers "
            "503, or answers each request after 2 s, by turns with being there; 5,000 calls a "
            "round. Backlog: its speed from the first of its points that arrives to the last; "
            f"meanwhile {_LIVE_POINTS_PER_S:,} live points a second, which ClearML gets in order, "
            f"after it. {arrived['accepted']:,} points accepted, {stored:,} on the server."
        ],
        rounds={"ratios": ratios, "backlogs": rounds, **arrived, "stored": stored},
    )


def _calls(server: Worker, training: Worker, way: str, rounds: int) -> list[float]:
    """ns per call of each round of an outage by the median of those before."""
    before_ns, during_ns = [], []
    training.call("round")
    for _ in range(rounds):
        server.call("come_back")
        before_ns.append(training.call("round"))
        server.call("go_away", way=way)
        during_ns.append(training.call("round"))
    server.call("come_back")
    training.call("catch_up")
    before = statistics.median(before_ns)
    return [each / before for each in during_ns]


def _backlog(server: Worker, training: Worker, points: int) -> dict[str, float]:
    usual: dict[str, float] = training.call("ship", points=points, is_live=False)
    server.call("go_away", way="refused")
    training.call("log", points=points)
    server.call("come_back")
    after: dict[str, float] = training.call("ship", points=0, is_live=True)
    return {
        "usual_points_per_s": usual["points_per_s"],
        "backlog_points_per_s": after["points_per_s"],
        "first_s": after["first_s"],
        "event_file_lag_s": after["event_file_lag_s"],
        "settled_lag_s": after["settled_lag_s"],
    }


def _figures(
    ratios: Mapping[str, list[float]], rounds: list[dict[str, float]], points: int
) -> list[Figure]:
    said = {"refused": "refuses connections", "503": "answers 503", "slow": "answers after 2 s"}
    speed = [each["backlog_points_per_s"] / each["usual_points_per_s"] for each in rounds]

    def of(key: str) -> Any:
        return summarise(each[key] for each in rounds)

    return [
        *(
            Figure(
                f"log_metric while the ClearML server {said[way]}, by the same before",
                "x",
                summarise(each),
                at_least=1.2,
                aim=1.0,
            )
            for way, each in ratios.items()
        ),
        Figure(
            f"backlog of {points:,} points once the server is back: points per second",
            "",
            of("backlog_points_per_s"),
        ),
        Figure("the same by points per second without an outage", "x", summarise(speed)),
        Figure("from the server's return to the first of them", "s", of("first_s")),
        Figure(
            "meanwhile: from a live point's call to its event file, the longest",
            "s",
            of("event_file_lag_s"),
        ),
        Figure(
            "after it: from a live point's call to the server, the longest",
            "s",
            of("settled_lag_s"),
        ),
    ]


class Server:
    """The worker with the server."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(ROOT / "tests"))
        from clearml_server import ClearMLServer

        self._server = ClearMLServer().start()

    def environment(self) -> dict[str, str]:
        return self._server.environment()

    def go_away(self, way: str) -> None:
        if way == "refused":
            self._server.stop()
        elif way == "503":
            self._server.faults.add("503")
        else:
            self._server.faults.add("slow", delay=2.0)

    def come_back(self) -> None:
        self._server.faults.clear()
        self._server.start()  # does nothing when it runs

    def stored(self) -> int:
        """Scalars that training logged."""
        (task,) = self._server.tasks
        series = self._server.scalars(task)
        return sum(len(points) for name, points in series.items() if name[0] == "loss")


class Training:
    """The worker that trains: a run with event files and ClearML, online."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        del os.environ["CLEARML_OFFLINE_MODE"]
        os.environ.update(variables)
        import tracelet

        config = {"auto_resource_monitoring": False, "auto_connect_streams": False}
        self._tracelet = tracelet
        self._experiment = tracelet.start_logging(
            "outage", "bench", backend="clearml", config={**config, "log_dir": str(folder / "log")}
        )
        self._ring = self._experiment._run.ring
        live = self._experiment._run._live
        assert live is not None
        self._lanes = {lane.sink.name: lane for lane in live.lanes}
        self._step = 0

    def round(self) -> float:
        """ns per call of 5,000 calls, with a pause after them, as training has them."""
        log, first = self._experiment.log_metric, self._step
        start_ns = time.perf_counter_ns()
        for step in range(first, first + 5_000):
            log("loss", 0.5, step)
        elapsed_ns = time.perf_counter_ns() - start_ns
        self._step += 5_000
        time.sleep(0.02)
        return elapsed_ns / 5_000

    def log(self, points: int) -> None:
        """Logs them, and returns when all are out of the ring and the sink has failed."""
        log = self._experiment.log_metric
        for step in range(self._step, self._step + points):
            log("loss", 0.5, step)
        self._step += points
        while self._ring.tail < self._ring.head or not self._lanes["clearml"].is_failing:
            time.sleep(0.01)

    def catch_up(self) -> None:
        self._wait(lambda: self._lanes["clearml"].position >= self._ring.head)

    def ship(self, points: int, is_live: bool) -> dict[str, float]:
        """Logs `points` and waits until they, and those before, are on the server. With `is_live`
        it trains on meanwhile, and for a while afterwards."""
        lane = self._lanes["clearml"]
        start_s, first = time.monotonic(), lane.position
        if points:
            log = self._experiment.log_metric
            for step in range(self._step, self._step + points):
                log("loss", 0.5, step)
            self._step += points
        end = self._ring.head
        samples: list[tuple[float, int, int, int]] = []
        first_s = done_s = 0.0
        begun = first

        def look() -> bool:
            nonlocal first_s, done_s, begun
            now_s, position = time.monotonic(), lane.position
            if is_live:
                self._log_live(now_s - start_s, samples)
            if not first_s and position > first:
                first_s, begun = now_s, position
            if not done_s and position >= end:
                done_s = now_s
            return bool(done_s) and (not is_live or now_s > done_s + 8.0)

        self._wait(look)
        if done_s == first_s:  # one batch
            begun, first_s = first, start_s
        return {
            "points_per_s": (end - begun) / (done_s - first_s),
            "first_s": first_s - start_s,
            "event_file_lag_s": _longest_lag_s(samples, 2, start_s),
            "settled_lag_s": _longest_lag_s(samples, 3, done_s + 3.0),
        }

    def _log_live(self, elapsed_s: float, samples: list[tuple[float, int, int, int]]) -> None:
        due = int(elapsed_s * _LIVE_POINTS_PER_S)
        logged = samples[-1][1] - samples[0][1] if samples else 0
        for step in range(self._step, self._step + due - logged):
            self._experiment.log_metric("loss", 0.5, step)
        self._step += due - logged
        positions = [self._lanes[name].position for name in ("tensorboard", "clearml")]
        samples.append((time.monotonic(), self._ring.head, positions[0], positions[1]))

    def end(self) -> dict[str, int]:
        self._tracelet.stop_logging(timeout_s=60)
        stats = self._experiment.stats
        return {"accepted": stats.accepted, "pending": stats.pending}

    def settle(self) -> None:
        pass

    def _wait(self, is_over: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 300
        while not is_over():
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"not delivered: {self._experiment.stats}")
            time.sleep(0.005)


def _longest_lag_s(samples: list[tuple[float, int, int, int]], column: int, from_s: float) -> float:
    """The longest time from a sample to the one whose position has passed its head."""
    longest_s, later = 0.0, 0
    for time_s, head, *_ in samples:
        while later < len(samples) and samples[later][column] < head:
            later += 1
        if later == len(samples):
            break
        if time_s >= from_s:
            longest_s = max(longest_s, samples[later][0] - time_s)
    return longest_s
