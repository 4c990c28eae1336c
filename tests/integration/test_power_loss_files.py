"""Loss of power at any call of a run with event files, an offline session of ClearML and the ring
in a folder on disk: images of what may be left, and `tracelet sync` of each.

Every point that was synced arrives in each of them exactly once, whatever of the notes about it
reached the disk; nothing is there with another value, and nothing hangs."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
import tracelet
from readers import _masked_crc
from test_power_loss import FAULTS, Sink, steps_in
from tracelet.cli import main
from tracelet.recovery import resend
from tracelet.runs import stored_run

sys.path.insert(0, str(FAULTS))
from crash_images import Disk, read_log
from shim import built_shim

IMAGES = int(os.environ.get("TRACELET_SOAK_IMAGES", "300")) // 6
SEED = int(os.environ.get("TRACELET_IMAGE_SEED", random.randrange(1 << 30)))
POINTS = 600

VICTIM = f"""
import os, sys, time
sys.path[:0] = {[str(FAULTS), str(FAULTS.parent)]!r}
import tracelet
import clearml
from away_sink import away_sink
from shim import Shim

away_sink()
root = os.environ["ROOT"]
os.makedirs(root)
shim = Shim()
shim.record(root, root + ".log")
for name in ("ring", "cache"):
    os.mkdir(os.path.join(root, name))
experiment = tracelet.start_logging("power", backend=os.environ["BACKENDS"].split(","), config={{
    "log_dir": os.path.join(root, "logs"), "drain_interval_s": 0.01,
    "journal_sync_interval_s": 0.05, "ring_slots": 256, "payload_bytes": 65536,
    "auto_connect_frameworks": False, "auto_connect_arg_parser": False,
    "auto_resource_monitoring": False, "auto_connect_streams": False}})
for step in range({POINTS}):
    experiment.log_metric(f"tag{{step % 7}}", step * 0.5, step)
    if step % 5 == 0:
        time.sleep(0.005)
shim.end_record()
os.kill(os.getpid(), 9)
"""


def in_event_files(folder: Path) -> Counter[int]:
    """Whole events up to the first that is damaged, as TensorBoard reads them."""
    from tensorboard.compat.proto.event_pb2 import Event

    found: Counter[int] = Counter()
    for path in folder.glob("*tfevents*") if folder.exists() else ():
        data = path.read_bytes()
        at = 0
        while at + 12 <= len(data):
            size_bytes, size_crc = struct.unpack_from("<QI", data, at)
            body = data[at + 12 : at + 12 + size_bytes]
            if size_crc != _masked_crc(data[at : at + 8]) or at + 16 + size_bytes > len(data):
                break
            if struct.unpack_from("<I", data, at + 12 + size_bytes) != (_masked_crc(body),):
                break
            event = Event.FromString(body)
            for value in event.summary.value:
                assert value.tag == f"tag{event.step % 7}"
                assert value.simple_value == event.step * 0.5
                found[event.step] += 1
            at += 16 + size_bytes
    return found


def in_session(cache: Path) -> Counter[int]:
    """The events of whole lines."""
    found: Counter[int] = Counter()
    for path in cache.glob("offline/*/metrics.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                events = json.loads(line) if line.endswith(b"\n") else []
            except ValueError:
                continue
            for event in events:
                assert event["value"] == event["iter"] * 0.5
                assert f"tag{event['iter'] % 7}" in (event["metric"], event["variant"])
                found[event["iter"]] += 1
    return found


def record(root: Path, shim: str, backends: str) -> Disk:
    environment = {
        **os.environ, "LD_PRELOAD": shim, "ROOT": str(root), "TRACELET_DIR": str(root / "runs"),
        "TRACELET_RING_DIR": str(root / "ring"), "CLEARML_CACHE_DIR": str(root / "cache"),
        "CLEARML_OFFLINE_MODE": "1", "BACKENDS": backends,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(VICTIM)],
        env=environment, cwd=root.parent, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    return Disk(str(root), read_log(Path(f"{root}.log")))


def give_tasks(recorded: Path, root: Path) -> None:
    """What the SDK writes, and when, is not ours."""
    for path in recorded.glob("cache/offline/*/task.json"):
        target = root / path.relative_to(recorded)
        if target.parent.is_dir():
            shutil.copy(path, target)


# Without a sink that is away there is no journal: what is not in the files is in the ring.
@pytest.mark.slow
@pytest.mark.parametrize("backends", ["tensorboard,clearml,away", "tensorboard,clearml"])
def test_what_was_synced_is_in_each_file_once_after_a_loss_of_power_at_any_call(
    tmp_path, monkeypatch, capsys, backends
):
    if not (shim := built_shim()):
        pytest.skip("the fault library needs Linux and a C++ compiler")
    print(f"seed {SEED}: TRACELET_IMAGE_SEED={SEED} repeats it")
    root, recorded, least = tmp_path / "disk", tmp_path / "recorded", tmp_path / "least"
    disk = record(root, shim, backends)
    root.rename(recorded)
    monkeypatch.setattr(resend, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(stored_run, "boot_id", lambda: "another")
    monkeypatch.setenv("TRACELET_RING_DIR", str(root / "ring"))
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(root / "cache"))
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    sink = Sink()
    tracelet.register_sink("away", lambda info: sink)
    rng = random.Random(SEED)
    reached: Counter[str] = Counter()
    for number in range(IMAGES):
        until = disk.count if number == 0 else rng.randrange(1, disk.count + 1)
        disk.image(until, None, least)
        journal = Counter(steps_in(least / "runs"))
        certain = {
            "tensorboard": set(in_event_files(least / "logs") | journal),
            "clearml": set(in_session(least / "cache") | journal),
        }
        if number == 0:
            assert all(len(steps) > POINTS // 2 for steps in certain.values()), certain
        disk.image(until, rng, root)
        give_tasks(recorded, root)
        sink.points.clear()
        for folder in sorted((root / "runs").iterdir()) if (root / "runs").exists() else ():
            code = main(["sync", "--runs-dir", str(root / "runs"), folder.name])
            told = capsys.readouterr()
            what = f"seed {SEED}, image {number}, until {until}: {told}"
            there = {
                "tensorboard": in_event_files(root / "logs"),
                "clearml": in_session(root / "cache"),
            }
            for name, steps in there.items():
                if not folder.exists() or f"to {name}," in told.out:
                    assert set(steps) >= certain[name], f"{name}: {what}"
                    assert not [s for s, n in steps.items() if n > 1], f"{name}: {what}"
                    reached[name] += 1
            assert code in (0, 1), what
        shutil.rmtree(least)
        shutil.rmtree(root)
    print(dict(reached))
    assert min(reached["tensorboard"], reached["clearml"]) > IMAGES // 4
