"""How long does reading event files back take? `tracelet.read` and TensorBoard's EventAccumulator.

The same file, in one process, in turns. Memory is what a process has more once the file is read.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.harness import Settings, Summary, summarise, worker
from benchmarks.report import Figure, Part

_OURS, _THEIRS = "tracelet.read", "EventAccumulator"


def run(settings: Settings) -> Part:
    scalars = settings.pick(1_000_000, 5_000)
    histograms = settings.pick(10_000, 50)
    rounds = settings.pick(3, 1)
    times: dict[str, dict[str, list[float]]] = {}
    with worker(
        settings, "benchmarks.parts.reading:Reading", scalars=scalars, histograms=histograms
    ) as made:
        for kind in ("scalars", "histograms"):
            times[kind] = {_OURS: [], _THEIRS: []}
            for _ in range(rounds):
                for name in (_OURS, _THEIRS):
                    times[kind][name].append(made.call("read_s", kind=kind, name=name))
        is_equal = made.call("is_equal")
    memory_mb = {}
    for name in (_OURS, _THEIRS):
        with worker(
            settings, "benchmarks.parts.reading:Reading", scalars=scalars, histograms=0
        ) as made:
            memory_mb[name] = made.call("added_mb", name=name)
    ours_ns = [each / scalars * 1e9 for each in times["scalars"][_OURS]]
    return Part(
        name="reading",
        figures=[
            Figure(
                f"{scalars:,} scalars: EventAccumulator by tracelet.read", "x",
                _ratios(times["scalars"]),
                at_least=100, aim=500, higher_is_better=True,
            ),
            Figure(
                f"{histograms:,} histograms: EventAccumulator by tracelet.read", "x",
                _ratios(times["histograms"]),
            ),
            Figure("tracelet.read, per scalar", "ns", summarise(ours_ns)),
            Figure(
                f"memory added by {scalars:,} scalars: tracelet.read by EventAccumulator", "x",
                summarise([memory_mb[_OURS] / memory_mb[_THEIRS]]),
            ),
        ],
        notes=[f"Values, steps and wall times of both are {'' if is_equal else 'NOT '}equal."],
        rounds={"s": times, "memory_mb": memory_mb},
    )  # fmt: skip


def _ratios(times_s: dict[str, list[float]]) -> Summary:
    return summarise(theirs / ours for theirs, ours in zip(times_s[_THEIRS], times_s[_OURS]))


class Reading:
    """Files of torch's own writer, and both readers of them."""

    def __init__(self, folder: str, scalars: int, histograms: int) -> None:
        import numpy as np
        from torch.utils.tensorboard import SummaryWriter

        self._folders = {"scalars": f"{folder}/scalars", "histograms": f"{folder}/histograms"}
        with SummaryWriter(self._folders["scalars"]) as writer:
            for step in range(scalars // 20):
                for tag in range(20):
                    writer.add_scalar(f"train/loss_{tag}", step / (tag + 1), step)
        values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
        with SummaryWriter(self._folders["histograms"]) as writer:
            for step in range(histograms):
                writer.add_histogram("weights", values + step * 1e-6, step)

    def read_s(self, kind: str, name: str) -> float:
        start_s = time.perf_counter()
        self._read(self._folders[kind], name)
        return time.perf_counter() - start_s

    def is_equal(self) -> bool:
        ours = self._read(self._folders["scalars"], _OURS)
        theirs = self._read(self._folders["scalars"], _THEIRS)
        for tag in theirs.Tags()["scalars"]:
            expected = theirs.Scalars(tag)
            found = ours.scalars(tag)
            if found.values.tolist() != [each.value for each in expected]:
                return False
            if found.steps.tolist() != [each.step for each in expected]:
                return False
            if found.wall_times.tolist() != [each.wall_time for each in expected]:
                return False
        ours = self._read(self._folders["histograms"], _OURS).histograms("weights")
        theirs = self._read(self._folders["histograms"], _THEIRS).Histograms("weights")
        return len(ours) == len(theirs) and all(
            histogram.counts.tolist() == each.histogram_value.bucket
            and histogram.bin_edges[1:].tolist() == each.histogram_value.bucket_limit
            for histogram, each in zip(ours, theirs)
        )

    def added_mb(self, name: str) -> float:
        import psutil

        process = psutil.Process()
        self._read(self._folders["scalars"] + "/none", _OURS, missing_ok=True)
        before = process.memory_info().rss
        self._kept = self._read(self._folders["scalars"], name)
        return (process.memory_info().rss - before) / 1e6

    def _read(self, folder: str, name: str, missing_ok: bool = False) -> Any:
        if name == _OURS:
            import tracelet

            try:
                return tracelet.read(folder)
            except FileNotFoundError:
                if missing_ok:
                    return None
                raise
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        guidance = {"scalars": 0, "histograms": 0, "tensors": 0, "compressedHistograms": 1}
        return EventAccumulator(folder, size_guidance=guidance).Reload()
