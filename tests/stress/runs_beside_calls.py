"""`python runs_beside_calls.py SECONDS`: 16 threads log on 24 writers while runs start and stop.

Scalars, histograms, texts, images and metrics of the handle, each with a step and a value that no
other has. In the end each call that returned is in one event file once, ours or torch's own
(between two runs), with its value and in the folder of its writer, or it is counted as dropped; and
each run's accounts add up, with what is in that run's files, too. Prints the sums as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from core import use_core_of_environment

use_core_of_environment()

import numpy as np
import torch
import tracelet
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter
from tracelet import _core

THREADS = 16
WRITERS = 24
KINDS = ("scalar", "histogram", "tensor", "large", "text", "image", "metric")
WEIGHTS = (60, 12, 12, 1, 6, 3, 6)
LARGE = np.arange(300_000, dtype=np.float32) % 1000  # counted without the GIL
LARGE_SUM = float(LARGE.sum(dtype=np.float64))
TENSOR = torch.arange(96, dtype=torch.float32)
IMAGES = [np.zeros((3, 2 + i, 2), np.uint8) for i in range(8)]
HANDLE = "handle"  # the folder of what no writer logs


def writer_of(thread: int, step: int) -> int:
    return (7 * thread + step * step) % WRITERS


def value_of(thread: int, step: int) -> float:
    """Exact in float32."""
    return (step % 65_536) / 4 + thread


class Logger(threading.Thread):
    def __init__(self, number: int, writers: list, scene: Scene) -> None:
        super().__init__(name=f"logger-{number}")
        self.number, self.writers, self.scene = number, writers, scene
        self.kinds: list[int] = []  # by step; -1: the run had ended before the call
        self.error: BaseException | None = None

    def run(self) -> None:
        rng = random.Random(self.number)
        try:
            while not self.scene.is_over:
                for kind in rng.choices(range(len(KINDS)), WEIGHTS, k=rng.randrange(1, 100)):
                    self.kinds.append(kind if self.log(KINDS[kind], len(self.kinds)) else -1)
                if rng.random() < 0.01:
                    rng.choice(self.writers).flush()
                time.sleep(rng.uniform(0, 0.02))  # 16 of them share one GIL with who stops runs
        except BaseException as error:
            self.error = error
            raise

    def log(self, kind: str, step: int) -> bool:
        writer = self.writers[writer_of(self.number, step)]
        tag, value = f"{kind}/{self.number}", value_of(self.number, step)
        if kind == "scalar":
            writer.add_scalar(tag, value, step)
        elif kind == "histogram":
            writer.add_histogram(tag, np.full(50, value), step)
        elif kind == "tensor":
            writer.add_histogram(tag, TENSOR[: 1 + step % 96], global_step=step)
        elif kind == "large":
            writer.add_histogram(tag, LARGE, step, bins=64)
        elif kind == "text":
            writer.add_text(tag, f"{value}", step)
        elif kind == "image":
            writer.add_image(tag, IMAGES[step % len(IMAGES)], step)
        else:
            try:
                self.scene.experiment.log_metric(tag, value, step)
            except tracelet.TraceletError:
                return False
        return True


class Scene:
    """The runs, one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_over = False
        self.experiment: tracelet.Experiment
        # Runs of which each stopped the one before, with the files that they made.
        self.groups: list[tuple[list[tracelet.Experiment], set[Path]]] = []
        self._group: list[tracelet.Experiment] = []
        self._files: set[Path] = set()

    def start(self, rng: random.Random) -> None:
        self.experiment = tracelet.start_logging(
            "stress", "tests", backend="tensorboard",
            config={
                "log_dir": str(self.folder / HANDLE),
                "ring_slots": rng.choice([1 << 8, 1 << 12, 1 << 16]),
                "payload_bytes": rng.choice([1 << 18, 1 << 24]),
                "drain_interval_s": rng.choice([0.002, 0.05]),
                "full_ring_timeout_s": 60.0,
                "stop_timeout_s": 120.0,
            },
        )  # fmt: skip
        self._group.append(self.experiment)

    def stop(self) -> None:
        tracelet.stop_logging()
        files = set(self.folder.glob("*/*.tracelet*"))
        self.groups.append((self._group, files - self._files))
        self._group, self._files = [], files

    def play(self, duration_s: float) -> None:
        rng = random.Random(0)
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            if rng.random() < 0.8:
                self.stop()
                time.sleep(rng.choice([0, 0, 0.001, 0.05]))
            self.start(rng)  # stops the one before
            time.sleep(rng.choice([0, 0.001, 0.01, 0.1, 0.3]))


def events_of(path: Path):
    """By protobuf, after the check sums."""
    data = path.read_bytes()
    position = 0
    while position < len(data):
        size_bytes = int.from_bytes(data[position : position + 8], "little")
        body = data[position + 12 : position + 12 + size_bytes]
        for piece, at in ((data[position : position + 8], 8), (body, 12 + size_bytes)):
            crc = _core.crc32c(piece)
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            stored = int.from_bytes(data[position + at : position + at + 4], "little")
            assert stored == masked, (path, position)
        yield Event.FromString(body)
        position += size_bytes + 16


def check_value(kind: str, thread: int, step: int, value) -> None:
    expected = value_of(thread, step)
    if kind in ("scalar", "metric"):
        assert value.simple_value == expected
    elif kind == "histogram":
        assert (value.histo.num, value.histo.sum) == (50, 50 * expected)
    elif kind == "tensor":
        count = 1 + step % 96
        assert (value.histo.num, value.histo.sum) == (count, count * (count - 1) / 2)
    elif kind == "large":
        assert (value.histo.num, value.histo.sum) == (len(LARGE), LARGE_SUM)
        assert sum(value.histo.bucket) == len(LARGE)
    elif kind == "text":
        assert value.tensor.string_val[0].decode() == f"{expected}"
    else:
        assert value.image.height == 2 + step % len(IMAGES)


class Found:
    """What lies in the event files."""

    def __init__(self, loggers: list[Logger]) -> None:
        self._loggers = loggers
        self._counts = [bytearray(len(logger.kinds)) for logger in loggers]

    def read(self, path: Path) -> int:
        count = 0
        for event in events_of(path):
            for value in event.summary.value:
                self._take(path, event.step, value)
                count += 1
        return count

    def _take(self, path: Path, step: int, value) -> None:
        kind, thread = value.tag.split("/")[0], int(value.tag.split("/")[1])
        folder = HANDLE if kind == "metric" else str(writer_of(thread, step))
        assert path.parent.name == folder, (path, value.tag, step)
        assert KINDS[self._loggers[thread].kinds[step]] == kind, (value.tag, step)
        check_value(kind, thread, step, value)
        assert self._counts[thread][step] == 0, (path, value.tag, step, "twice")
        self._counts[thread][step] = 1

    @property
    def missing(self) -> Counter[str]:
        return Counter(
            KINDS[kind]
            for logger, counts in zip(self._loggers, self._counts)
            for kind, count in zip(logger.kinds, counts)
            if kind >= 0 and not count
        )


def check_accounts(stats: tracelet.Stats) -> None:
    dropped = dict(stats.dropped)
    assert set(dropped) <= {"run ended"}, stats  # these were not accepted
    assert stats.pending == 0, stats
    assert stats.accepted == stats.delivered.get("tensorboard", 0), stats
    for lane in stats.lanes.values():
        counted = lane.not_finite + lane.not_meant + sum(lane.set_aside.values())
        assert lane.delivered + counted + lane.folded + lane.held == lane.passed, stats
        assert lane.passed == stats.accepted, stats


def main(duration_s: float) -> None:
    torch.set_num_threads(1)
    folder = Path("log").absolute()
    scene = Scene(folder)
    half = WRITERS // 2
    writers = [SummaryWriter(str(folder / str(n))) for n in range(half)]  # older than the run
    scene.start(random.Random(1))
    writers += [SummaryWriter(str(folder / str(n))) for n in range(half, WRITERS)]
    loggers = [Logger(n, writers, scene) for n in range(THREADS)]
    for logger in loggers:
        logger.start()
    try:
        scene.play(duration_s)
    finally:
        scene.is_over = True
        for logger in loggers:
            logger.join()
    scene.stop()
    for writer in writers:
        writer.close()
    assert not any(logger.error for logger in loggers)

    found = Found(loggers)
    accepted = ended = 0
    wrong = []
    for experiments, files in scene.groups:
        all_stats = [experiment.stats for experiment in experiments]
        for stats in all_stats:
            check_accounts(stats)
            ended += stats.dropped.get("run ended", 0)
        accepted_here = sum(stats.accepted for stats in all_stats)
        in_files = sum(map(found.read, files))
        if in_files != accepted_here:
            wrong.append((in_files, accepted_here, [stats.accepted for stats in all_stats]))
        accepted += accepted_here
    ours = set().union(*(files for _, files in scene.groups))
    between = sum(found.read(path) for path in set(folder.glob("*/*tfevents*")) - ours)
    calls = sum(kind >= 0 for logger in loggers for kind in logger.kinds)
    missing = found.missing
    print(
        json.dumps(
            {"runs": sum(len(each) for each, _ in scene.groups), "calls": calls,
             "accepted": accepted, "between": between, "run ended": ended, "missing": missing}
        )
    )  # fmt: skip
    assert not wrong, wrong
    assert missing.total() == ended, (missing, ended)
    assert calls == accepted + between + ended


if __name__ == "__main__":
    main(float(sys.argv[1]))
