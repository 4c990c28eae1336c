"""Runs of processes that were killed, made quickly: torch is imported once for all."""

from __future__ import annotations

import os
from pathlib import Path

from tracelet.runs.stored_run import StoredRun
from warm_python import run_warm

POINTS = 200

_CODE = """
import contextlib, os, signal
import tracelet
with contextlib.suppress(ImportError):  # once, not at the start of each
    import torch.utils.tensorboard
for name in %r:
    if os.fork() == 0:
        experiment = tracelet.start_logging(
            name, "tests", backend="tensorboard",
            config={"log_dir": os.path.join("logs", name), "drain_interval_s": 100.0,
                    "ring_slots": 1024, "payload_bytes": 65536},
        )
        for step in range(%d):
            experiment.log_metric("a", step * 0.5, step)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
"""


def make_dead_runs(folder: Path, names: list[str], **environment: str) -> dict[str, StoredRun]:
    """Each has logged POINTS points, of which all are in its ring, and has died. By name."""
    runs_dir = folder / "tracelet-runs"
    environment = {
        **os.environ, "TRACELET_DIR": str(runs_dir), "TRACELET_RING_DIR": str(folder / "shm"),
        **environment,
    }  # fmt: skip
    done = run_warm(_CODE % (names, POINTS), environment, folder, 120)
    assert done.returncode == 0, done.stderr
    runs = [StoredRun(str(path)) for path in runs_dir.iterdir()]
    found = {run.exp_name: run for run in runs if run.exp_name in names}
    assert set(found) == set(names), done.stderr
    return found
