"""How much memory do 10,000,000 points add to the process?"""

from __future__ import annotations

import shutil

from benchmarks.harness import Settings, summarise, worker
from benchmarks.report import Figure, Part

_BYTES_PER_POINT = 250  # on disk: a ClearML event of 170 bytes, an event record of 50, room


def run(settings: Settings) -> Part:
    points = settings.pick(10_000_000, 300_000)
    warm_up = settings.pick(200_000, 50_000)
    part = Part("memory")
    needed, free = points * _BYTES_PER_POINT * 2, shutil.disk_usage(settings.temp_root).free
    if free < needed:
        part.notes.append(f"Memory: not measured, {settings.temp_root} has {free >> 20:,} MB free")
        return part
    with worker(settings, "benchmarks.tracelet_writer:TraceletWriter") as made:
        made.call("run_loop", shape="positional", calls=warm_up)
        made.settle()
        before = made.rss_bytes()
        samples = [before]

        def sample() -> None:
            samples.append(made.rss_bytes())

        made.call("run_loop", sample, shape="positional", calls=points)
        made.call("settle", sample)
        sample()
        delivered = made.call("delivered")
    part.rounds = {"before": before, "highest": max(samples), "last": samples[-1], **delivered}
    added_mb = (max(samples) - before) / 1e6
    label = f"resident memory added by {points:,} points"
    part.figures.append(Figure(label, "MB", summarise([added_mb]), at_least=64, aim=24))
    part.notes.append(
        f"Memory: {warm_up:,} points went before; {len(samples):,} samples, the last "
        f"{(samples[-1] - before) / 1e6:.1f} MB above the first; by the run's own account: "
        f"{', '.join(f'{name} {count:,}' for name, count in delivered.items())}."
    )
    return part
