"""Loss of power at any call that a run makes: images of what the disk may then hold, as POSIX
allows it, and `tracelet sync` of each. The ring, in shared memory, is lost in all of them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tracelet
from tracelet.backends.base import Delivery
from tracelet.cli import main
from tracelet.journal.journal import Journal
from tracelet.recovery import resend

FAULTS = Path(__file__).parents[1] / "faults"
sys.path.insert(0, str(FAULTS))
from crash_images import Disk, read_log  # noqa: E402
from shim import built_shim  # noqa: E402

IMAGES = int(os.environ.get("TRACELET_SOAK_IMAGES", "300"))
SEED = int(os.environ.get("TRACELET_IMAGE_SEED", random.randrange(1 << 30)))

VICTIM = f"""
import os, sys, time
sys.path[:0] = {[str(FAULTS), str(FAULTS.parent)]!r}
import tracelet
from away_sink import away_sink
from shim import Shim

away_sink()
folder = os.environ["TRACELET_DIR"]
os.makedirs(folder)
shim = Shim()
shim.record(folder, folder + ".log")
experiment = tracelet.start_logging("power", backend="away", config={{
    "drain_interval_s": 0.005, "journal_sync_interval_s": 0.03, "ring_slots": 4096,
    "payload_bytes": 1 << 16, "journal_limit_bytes": 1 << 20}})
for step in range(4_000):
    experiment.log_metric(f"tag{{step % 7}}", step * 0.5, step)
    if step % 20 == 0:
        time.sleep(0.003)
shim.end_record()
os.kill(os.getpid(), 9)
"""


class Sink:
    name = "away"
    is_remote = True
    takes_every_point = True

    def __init__(self):
        self.points = {}

    def write(self, batch):
        for record in batch.records:
            step = int(record["step"])
            assert batch.tag(record["tag_id"]) == f"tag{step % 7}"
            assert float(record["value"]) == step * 0.5
            self.points[step] = True
        return Delivery(len(batch))

    def close(self, process_is_ending):
        pass


def steps_in(runs):
    """The steps in the journals of a runs' folder."""
    found = set()
    for folder in runs.iterdir() if runs.exists() else ():
        journal = Journal.recover(str(folder))
        position = 0
        while (position := journal.next_position(position)) is not None:
            records, _ = journal.read(position, 100_000, 1 << 30)
            found.update(records["step"].tolist())
            position += len(records)
        journal.close()
    return found


@pytest.mark.slow
def test_what_was_synced_is_sent_after_a_loss_of_power_at_any_call(tmp_path, monkeypatch, capsys):
    if not (shim := built_shim()):
        pytest.skip("the fault library needs Linux and a C++ compiler")
    print(f"seed {SEED}: TRACELET_IMAGE_SEED={SEED} repeats it")
    runs = tmp_path / "recorded"
    environment = {**os.environ, "LD_PRELOAD": shim, "TRACELET_DIR": str(runs)}
    environment["TRACELET_RING_DIR"] = str(tmp_path / "shm")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(VICTIM)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    calls = read_log(Path(f"{runs}.log"))
    disk = Disk(str(runs), calls)
    monkeypatch.setattr(resend, "_FIRST_PAUSE_S", 0.001)
    rng = random.Random(SEED)
    sink = Sink()
    tracelet.register_sink("away", lambda info: sink)
    certain = set()
    for number in range(IMAGES):
        until = disk.count if number == 0 else rng.randrange(1, disk.count + 1)
        least, image = tmp_path / "least", tmp_path / "image"
        disk.image(until, None, least)
        certain = steps_in(least)
        if number == 0:
            assert len(certain) > 2_000, "the journal is not synced, or its folder's name is not"
        disk.image(until, rng, image)
        there = steps_in(image)
        assert certain <= there
        sink.points.clear()
        for folder in image.iterdir():
            code = main(["sync", "--runs-dir", str(image), folder.name])
            told = capsys.readouterr()
            what = f"seed {SEED}, image {number}, until {until}: {told}"
            assert set(sink.points) >= certain, what
            # What is deleted held no point that the sink lacks.
            assert folder.exists() or set(sink.points) >= there, what
            assert code == 1 or not there or set(sink.points) >= there, what
        shutil.rmtree(least)
        shutil.rmtree(image)
