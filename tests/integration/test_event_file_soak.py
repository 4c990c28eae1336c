"""Very much in one event file, each check sum verified by another's implementation.

TRACELET_SOAK_BYTES says how much; `make soak-events` asks for 1 GB.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections import Counter

import pytest
import tracelet
from readers import event_files

torch = pytest.importorskip("torch")
google_crc32c = pytest.importorskip("google_crc32c")
import numpy as np  # noqa: E402
from tensorboard.compat.proto.event_pb2 import Event  # noqa: E402
from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

SOAK_BYTES = int(float(os.environ.get("TRACELET_SOAK_BYTES", 64e6)))
SCALARS_A_ROUND = 2000


def log_a_round(writer, round_, noise):
    """About 450 kB; returns how many events."""
    first = round_ * SCALARS_A_ROUND
    for step in range(first, first + SCALARS_A_ROUND):
        writer.add_scalar("train/loss", step, step)
    for layer in range(20):
        writer.add_histogram(f"layer{layer}", noise[layer : layer + 5000], round_)
    encoded = noise[round_ % 1000 :].tobytes()[: 50_000 + round_ % 7 * 40_000]
    image = Summary.Image(height=1, width=1, encoded_image_string=encoded)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="image", image=image)]), round_)
    return SCALARS_A_ROUND + 20 + 1


def masked(crc):
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_all(path):
    """(events, bad check sums, events by tag) of a file; each tag's steps are to grow."""
    bad, by_tag, last_steps = 0, Counter(), {}
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = 0
        while position < len(data):
            size, size_crc = struct.unpack_from("<QI", data, position)
            bad += size_crc != masked(google_crc32c.value(data[position : position + 8]))
            body = data[position + 12 : position + 12 + size]
            (body_crc,) = struct.unpack_from("<I", data, position + 12 + size)
            bad += body_crc != masked(google_crc32c.value(body))
            position += size + 16
            event = Event.FromString(body)
            for value in event.summary.value:
                assert event.step == last_steps.get(value.tag, -1) + 1
                last_steps[value.tag] = event.step
                by_tag[value.tag] += 1
        assert position == len(data)
    return bad, by_tag


@pytest.mark.timeout(3600)
def test_a_large_file_has_no_bad_check_sum(tmp_path):
    noise = np.random.default_rng(0).normal(size=60_000)
    run = tracelet.start_logging("soak", "tests", backend="tensorboard")
    writer = SummaryWriter(tmp_path / "log")
    before_s = time.monotonic()
    rounds = accepted = 0
    while rounds % 50 or sum(p.stat().st_size for p in event_files(tmp_path / "log")) < SOAK_BYTES:
        accepted += log_a_round(writer, rounds, noise)
        rounds += 1
    logged_s = time.monotonic() - before_s
    writer.close()
    tracelet.stop_logging(120)
    assert run.stats.accepted == run.stats.delivered["tensorboard"] == accepted
    assert not run.stats.dropped
    (path,) = event_files(tmp_path / "log")
    bad, by_tag = read_all(path)
    size = path.stat().st_size
    print(f"{size:,} bytes, {accepted:,} events in {logged_s:.1f} s, {bad} bad check sums")
    assert bad == 0
    assert by_tag.pop("train/loss") == rounds * SCALARS_A_ROUND
    assert set(by_tag.values()) == {rounds}
    assert len(by_tag) == 21
