"""Events that are larger than the payload arena has room for, and many of them quickly."""

from __future__ import annotations

import json

import pytest
from readers import event_files, quick_events

pytest.importorskip("torch")

# What the process holds at most beyond what it held before, in bytes.
_PEAK = """
    import os, sys, threading
    import numpy as np
    import torch, tracelet
    from torch.utils.tensorboard import SummaryWriter
    from tensorboard.compat.proto.summary_pb2 import Summary

    def status(field):
        with open("/proc/self/status") as file:
            (line,) = (line for line in file if line.startswith(field + ":"))
        return int(line.split()[1]) << 10

    def reset_peak():
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return status("VmRSS")
"""


def peak_and_stats(done):
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_an_image_of_20_mb_and_a_text_of_100_mb(run_script, tmp_path):
    done = run_script(
        _PEAK
        + """
    import time
    run = tracelet.start_logging("large", "tests", backend="tensorboard")
    writer = SummaryWriter("log")
    noise = np.random.default_rng(0).integers(0, 255, (3, 2600, 2600), dtype=np.uint8)
    text = "0123456789" * 10_000_000
    writer.add_scalar("s", 1.0, 1)
    writer.add_image("i", noise, 2)
    writer.add_text("t", text, 3)
    writer.add_scalar("s", 4.0, 4)
    writer.flush()
    assert run.flush(60)
    text = text[:40_000_000]
    for number in range(2):  # more writers of such: no one keeps room for what it wrote once
        other = SummaryWriter(f"log{number}")
        other.add_text("t", text, 1)
        other.flush()
    assert run.flush(60)
    del noise, text
    tracelet.get_active_experiment().log_metric("m", 1.0)
    run.flush()
    left = status("VmRSS")
    payloads = os.path.join(run._run.folder.path, "payloads")
    deadline_s = time.monotonic() + 60  # they go once the event files have reached the disk
    while os.listdir(payloads):
        assert time.monotonic() < deadline_s, os.listdir(payloads)
        time.sleep(0.05)
    tracelet.stop_logging()
    print("[%d, %d]" % (left - status("VmRSS"), run.stats.delivered["tensorboard"]))
    assert not run.stats.dropped, run.stats
    assert not os.listdir(os.environ["TRACELET_DIR"])
    """
    )
    held_by_run, delivered = peak_and_stats(done)
    assert delivered == 7
    assert held_by_run < 60e6
    (path,) = event_files(tmp_path / "log")
    first, image, text, last, _ = list(quick_events(path))[1:]  # the last one by the handle
    assert (first.step, image.step, text.step, last.step) == (1, 2, 3, 4)
    assert len(image.summary.value[0].image.encoded_image_string) > 20e6
    assert text.summary.value[0].tensor.string_val[0] == b"0123456789" * 10_000_000


@pytest.mark.slow
@pytest.mark.parametrize("is_remote", [False, True], ids=["event file alone", "and a slow sink"])
def test_200_images_of_1_mb_quickly(is_remote, run_script, tmp_path):
    """payload_bytes of memory, whatever is logged; a sink that lags has the rest on disk."""
    done = run_script(
        _PEAK
        + f"""
    import time
    import tracelet

    class Slow:
        name, is_remote, takes_every_point = "slow", True, False
        record_kinds = (tracelet.SCALAR, tracelet.HISTOGRAM, tracelet.EVENT)
        count = 0

        def write(self, batch):
            time.sleep(0.1)
            for record in batch.records:
                self.count += len(batch.event(record)) > 1_000_000
            return tracelet.Delivery(len(batch))

        def close(self, process_is_ending):
            pass

    slow = Slow()
    tracelet.register_sink("slow", lambda info: slow)
    run = tracelet.start_logging("many", "tests", backend="slow" if {is_remote} else "tensorboard")
    writer = SummaryWriter("log")
    noise = os.urandom(2_000_000)
    before = reset_peak()
    for step in range(200):
        encoded = noise[step : step + 1_000_000]
        image = Summary.Image(height=1, width=1, encoded_image_string=encoded)
        value = Summary.Value(tag="i", image=image)
        writer.file_writer.add_summary(Summary(value=[value]), step)
    tracelet.stop_logging(60)
    assert run.stats.accepted == 200 and not run.stats.dropped, run.stats
    assert set(run.stats.delivered.values()) == {{200}}, run.stats
    assert slow.count == (200 if {is_remote} else 0)
    assert not os.listdir(os.environ["TRACELET_DIR"])
    print("[%d, 0]" % (status("VmHWM") - before))
    """
    )
    # The arena of 16 MiB, a buffer of the event file's, a batch of 8 MiB for the slow sink.
    assert peak_and_stats(done)[0] < (150e6 if is_remote else 80e6)
    (path,) = event_files(tmp_path / "log")
    images = [event.summary.value[0].image for event in list(quick_events(path))[1:]]
    assert len(images) == 200
    assert len({image.encoded_image_string for image in images}) == 200
    assert all(len(image.encoded_image_string) == 1_000_000 for image in images)
