"""The journal's write, and `tracelet sync` of an offline run: points per second."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from benchmarks.harness import Entrant, Settings, interleave, summarise
from benchmarks.report import Figure, Part

_LEASE_POINTS = 65_536
_VICTIM = """
import os, signal, sys, tracelet
tracelet.start_logging("bench", "bench", config={
    "ring_slots": 1 << 21, "drain_interval_s": 1000.0, "tensorboard": "off",
    "auto_connect_frameworks": False, "auto_resource_monitoring": False,
    "auto_connect_streams": False})
log = tracelet.get_active_experiment().log_metric
for step in range(int(sys.argv[1])):
    log("train/loss", step * 0.5, step)
os.kill(os.getpid(), signal.SIGKILL)
"""


def run(settings: Settings) -> Part:
    points = settings.pick(10_000_000, 100_000)
    left = settings.pick(1_000_000, 20_000)
    rounds = settings.pick(5, 1)
    entrants = [
        Entrant("write", lambda: _write(settings, points), rounds),
        Entrant("sync", lambda: _sync(settings, left), rounds),
    ]
    made = interleave(entrants, rounds, settings.rng("journal"), warm_up=False)
    return Part(
        name="journal",
        figures=[
            Figure(
                "journal write",
                "M/s",
                summarise(made["write"].values()),
                at_least=3,
                aim=10,
                higher_is_better=True,
            ),
            Figure(
                "tracelet sync, offline",
                "M/s",
                summarise(made["sync"].values()),
                at_least=0.3,
                aim=1,
                higher_is_better=True,
            ),
        ],
        notes=[
            f"Write: {points:,} scalars in leases of {_LEASE_POINTS:,}, CRC and names included, "
            "without a sync. Sync: a killed process' ring of "
            f"{left:,} points to the session's metrics file, from the ring to the journal and from "
            "there to the sink; without the start of Python and the session's zip.",
        ],
        rounds={"rates": made},
    )  # fmt: skip


def _write(settings: Settings, points: int) -> float:
    from tracelet.journal.journal import Journal
    from tracelet.records import RECORD_DTYPE

    folder = mkdtemp(dir=settings.temp_root)
    records = np.zeros(_LEASE_POINTS, RECORD_DTYPE)
    records["kind"] = 1
    journal = Journal(folder)
    spent_s = 0.0
    for first in range(0, points, _LEASE_POINTS):
        records["sequence"] = np.arange(first + 1, first + _LEASE_POINTS + 1)
        start_s = time.perf_counter()
        journal.append(records)
        journal.release(first)  # a sink that keeps up
        spent_s += time.perf_counter() - start_s
    journal.close()
    return points / spent_s / 1e6


def _sync(settings: Settings, points: int) -> float:
    from tracelet.backends.clearml import reopen
    from tracelet.recovery import resend
    from tracelet.runs.stored_run import find_runs

    folder = Path(mkdtemp(dir=settings.temp_root))
    os.environ["CLEARML_OFFLINE_MODE"] = "1"
    environment = {
        **os.environ, "TRACELET_DIR": str(folder / "runs"), "TRACELET_RING_DIR": str(folder),
        "CLEARML_CACHE_DIR": str(folder / "clearml"), "CLEARML_LOG_LEVEL": "CRITICAL",
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", _VICTIM, str(points)], env=environment, check=False,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    (left,) = find_runs(str(folder / "runs"))
    reopen._zip = lambda folder: None
    start_s = time.perf_counter()
    result = resend.resend(left)
    spent_s = time.perf_counter() - start_s
    sent = result.delivered["clearml"]
    assert not result.failures, result.failures
    return sent / spent_s / 1e6
