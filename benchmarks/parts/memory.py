"""How much memory do 10,000,000 points add to the process, and when?"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Settings, summarise, worker
from benchmarks.report import Figure, Part

PLOT = ROOT / "docs" / "bench-memory.png"

_SAMPLES = 200  # that are kept
_BYTES_PER_POINT = 250  # on disk: a ClearML event of 170 bytes, an event record of 50, room


def run(settings: Settings) -> Part:
    points = settings.pick(10_000_000, 300_000)
    warm_up = settings.pick(200_000, 50_000)
    part = Part("memory")
    needed, free = points * _BYTES_PER_POINT * 2, shutil.disk_usage(settings.temp_root).free
    if free < needed:
        part.notes.append(f"Memory: not measured, {settings.temp_root} has {free >> 20:,} MB free")
        return part
    with worker(settings, "benchmarks.workers.tracelet_writer:TraceletWriter") as made:
        made.call("run_loop", shape="positional", calls=warm_up)
        made.settle()
        before = made.rss_bytes()
        start_s = time.monotonic()
        samples, times_s = [before], [0.0]

        def sample() -> None:
            samples.append(made.rss_bytes())
            times_s.append(time.monotonic() - start_s)

        made.call("run_loop", sample, shape="positional", calls=points)
        made.call("settle", sample)
        sample()
        delivered = made.call("delivered")
    every = max(1, len(samples) // _SAMPLES)
    part.plots = [PLOT.name]
    part.rounds = {
        "before": before,
        "highest": max(samples),
        "last": samples[-1],
        "points": points,
        # Of each few samples the highest: a peak stays.
        "added_mb": [
            (max(samples[n : n + every]) - before) / 1e6 for n in range(0, len(samples), every)
        ],
        "time_s": times_s[::every],
        **delivered,
    }
    added_mb = (max(samples) - before) / 1e6
    label = f"resident memory added by {points:,} points"
    part.figures.append(Figure(label, "MB", summarise([added_mb]), at_least=64, aim=24))
    part.notes.append(
        f"Memory: {warm_up:,} points went before; {len(samples):,} samples, the last "
        f"{(samples[-1] - before) / 1e6:.1f} MB above the first; by the run's own account: "
        f"{', '.join(f'{name} {count:,}' for name, count in delivered.items())}."
    )
    return part


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Added memory over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3))
    axes.plot(results["time_s"], results["added_mb"], color="#1f77b4")
    axes.set_ylim(bottom=0, top=max(8.0, 1.2 * max(results["added_mb"])))
    axes.set_xlabel("s")
    axes.set_ylabel("MB above the start")
    axes.set_title(f"Resident memory while {results['points']:,} points are logged and delivered")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
