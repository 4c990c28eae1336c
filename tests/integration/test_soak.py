"""Simulated training for TRACELET_SOAK_S seconds (`make soak`: an hour) at 20,000 points a second,
with a backend that is away a quarter of the time: memory flat, files bounded, in = out."""

from __future__ import annotations

import contextlib
import os
import time

import psutil
import tracelet
from tracelet.backends.base import Delivery

DURATION_S = float(os.environ.get("TRACELET_SOAK_S", "4"))
RATE_PER_S = 20_000
OUTAGE_EVERY_S = min(20.0, DURATION_S / 2)
OUTAGE_S = OUTAGE_EVERY_S / 4
SAMPLE_EVERY_S = min(1.0, DURATION_S / 100)


class Counting:
    """A remote sink that knows what it has been given without keeping it."""

    name = "counting"
    is_remote = True
    takes_every_point = True

    def __init__(self) -> None:
        self.start_s = time.monotonic()
        self.is_over = False
        self.count = 0
        self.sum = 0.0
        self.last_sequence = 0

    def write(self, batch):
        if not self.is_over and (time.monotonic() - self.start_s) % OUTAGE_EVERY_S < OUTAGE_S:
            raise ConnectionError("away")
        sequences = batch.records["sequence"]
        assert int(sequences[0]) == self.last_sequence + 1
        self.last_sequence = int(sequences[-1])
        self.count += len(batch)
        self.sum += float(batch.records["value"].sum())
        return Delivery(len(batch))

    def close(self, process_is_ending):
        pass


def folder_bytes(folder: str) -> int:
    size_bytes = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            size_bytes += entry.stat().st_size
    return size_bytes


def test_training_at_a_steady_rate():
    sink = Counting()
    tracelet.register_sink("counting", lambda info: sink)
    experiment = tracelet.start_logging("soak", backend="counting")
    folder, process = experiment._run.folder.path, psutil.Process()
    log = experiment.log_metric
    samples: list[tuple[float, int, int]] = []
    start_s = time.monotonic()
    step = 0
    total = 0.0
    while (elapsed_s := time.monotonic() - start_s) < DURATION_S:
        due = int(elapsed_s * RATE_PER_S)
        while step < due:
            log("train/loss", step % 1000, step)
            total += step % 1000
            step += 1
        if not samples or elapsed_s - samples[-1][0] >= SAMPLE_EVERY_S:  # they take memory, too
            samples.append((elapsed_s, process.memory_info().rss, folder_bytes(folder)))
        time.sleep(0.02)
    sink.is_over = True
    tracelet.stop_logging(timeout_s=60)
    stats = experiment.stats
    settled = [sample for sample in samples if sample[0] > DURATION_S / 4]
    growth_mb = (max(s[1] for s in settled) - settled[0][1]) / 1e6
    files_mb = max(s[2] for s in samples) / 1e6
    print(
        f"\n{step:,} points, {DURATION_S:.0f} s: memory {growth_mb:+.1f}, files {files_mb:.0f} MB"
    )
    assert stats.pending == 0
    assert stats.dropped == {}
    assert stats.accepted == stats.delivered["counting"] == sink.count == step
    assert sink.sum == total
    assert growth_mb < 32
    # The ring, what an outage leaves (with the longest pause after it), two segments.
    assert files_mb < 40 + (OUTAGE_S + 30) * RATE_PER_S * 64 / 1e6
