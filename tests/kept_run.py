"""A killed run all of whose points are in its event file, in a ClearML offline session, and, as a
third sink was away, in its journal: to be damaged, put back as it was, and damaged otherwise."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import tracelet
from readers import event_file_scalars, session_scalars
from tracelet.backends.base import Delivery
from tracelet.runs.stored_run import StoredRun
from warm_python import run_warm

POINTS = 300

_CODE = f"""
import os, signal, sys, time
import tracelet

sys.path.insert(0, {os.path.dirname(__file__)!r})
from away_sink import away_sink
away_sink()
experiment = tracelet.start_logging("kept", "tests", backend=["tensorboard", "clearml", "away"],
    config={{"log_dir": "logs", "drain_interval_s": 0.005, "journal_sync_interval_s": 0.02,
            "ring_slots": 1024, "payload_bytes": 65536, "auto_connect_frameworks": False,
            "auto_connect_arg_parser": False, "auto_resource_monitoring": False,
            "auto_connect_streams": False}})
def wait_until(is_so):
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)
for step in range({POINTS}):
    experiment.log_metric("a", step * 0.5, step)
    if step % 20 == 0:
        time.sleep(0.01)
lanes = experiment._run._live.lanes
files = [lane for lane in lanes if lane.sink.name in ("tensorboard", "clearml")]
wait_until(lambda: all(lane.durable_position >= {POINTS} for lane in files))
wait_until(lambda: experiment._run._journal.end >= {POINTS})
print(experiment.url)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


class Recording:
    """The sink that was away."""

    name = "away"
    is_remote = True
    takes_every_point = True

    def __init__(self) -> None:
        self.steps: Counter[int] = Counter()

    def write(self, batch):
        self.steps.update(batch.records["step"].tolist())
        return Delivery(len(batch))

    def close(self, process_is_ending):
        pass


class KeptRun:
    """Made once; `restore` puts all of it back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {
            **os.environ, "TRACELET_DIR": str(folder / "runs"),
            "TRACELET_RING_DIR": str(folder / "shm"), "CLEARML_OFFLINE_MODE": "1",
            "CLEARML_CACHE_DIR": str(folder / "cache"),
        }  # fmt: skip
        done = run_warm(_CODE, environment, folder, 240)
        assert done.returncode == -9, done.stderr
        (path,) = (folder / "runs").iterdir()
        self.path = path
        self.session = Path(StoredRun(str(path)).manifest["reopen"]["clearml"]["offline_folder"])
        self.logs = folder / "logs"
        self._all = [folder / "runs", folder / "shm", self.logs, self.session]
        for number, each in enumerate(self._all):
            shutil.copytree(each, folder / "copy" / str(number))

    def restore(self) -> StoredRun:
        for number, each in enumerate(self._all):
            shutil.rmtree(each, ignore_errors=True)
            shutil.copytree(self.folder / "copy" / str(number), each)
        self.sink = Recording()
        tracelet.register_sink("away", lambda info: self.sink)
        return StoredRun(str(self.path))

    @property
    def event_file(self) -> Path:
        """The one that the run wrote: the first, by name."""
        return min(self.logs.glob("*tfevents*"))

    @property
    def metrics(self) -> Path:
        return self.session / "metrics.jsonl"

    def steps(self) -> dict[str, Counter[int]]:
        """What each sink has now, and how often."""
        in_files = event_file_scalars(self.logs).get("a", [])
        in_session = [each for points in session_scalars(self.session).values() for each in points]
        return {
            "tensorboard": Counter(step for step, _, _ in in_files),
            "clearml": Counter(step for step, _, _ in in_session),
            "away": self.sink.steps,
        }
