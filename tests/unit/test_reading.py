"""`tracelet.read`: event files of torch and of ours, growing ones, damaged ones."""

from __future__ import annotations

import os
import random
import struct

import numpy as np
import pytest
import tracelet
from event_bytes import event, framed, message, scalar, tensor, varint, write


def test_scalars_come_in_the_order_logged_with_steps_values_and_wall_times(tmp_path):
    steps = [5, 0, -7, 2**62, 5]
    write(tmp_path, b"".join(event(step, scalar("loss", step / 3)) for step in steps))

    scalars = tracelet.read(tmp_path).scalars("loss")

    assert scalars.steps.dtype == np.int64
    assert scalars.values.dtype == np.float64
    assert scalars.wall_times.dtype == np.float64
    assert scalars.steps.tolist() == steps
    assert scalars.values.tolist() == [float(np.float32(step / 3)) for step in steps]
    assert scalars.wall_times.tolist() == [1e9 + step for step in steps]


def test_latest_has_each_step_once_as_it_was_logged_last(tmp_path):
    logged = [(0, 1.0), (1, 2.0), (2, 3.0), (1, 20.0), (2, 30.0), (3, 40.0)]
    write(tmp_path, b"".join(event(step, scalar("loss", value)) for step, value in logged))

    latest = tracelet.read(tmp_path).scalars("loss").latest()

    assert latest.steps.tolist() == [0, 1, 2, 3]
    assert latest.values.tolist() == [1.0, 20.0, 30.0, 40.0]


@pytest.mark.parametrize(
    ("proto", "value"),
    [
        (b"\x08\x01" + message(5, struct.pack("<f", 0.5)), 0.5),  # float_val, packed
        (b"\x08\x01\x2d" + struct.pack("<f", 0.5), 0.5),  # float_val, alone
        (b"\x08\x02" + message(6, struct.pack("<d", 0.1)), 0.1),
        (b"\x08\x02" + message(4, struct.pack("<d", 0.1)), 0.1),  # tensor_content
        (b"\x08\x03" + message(7, varint(-3)), -3.0),
        (b"\x08\x09\x50" + varint(2**40), float(2**40)),
        (b"\x08\x0a\x58\x01", 1.0),  # bool_val
        (b"\x08\x13" + message(13, varint(0x3C00)), 1.0),  # float16
        (b"\x08\x13" + message(4, struct.pack("<H", 0xC000)), -2.0),
        (b"\x08\x0e" + message(13, varint(0x3F80)), 1.0),  # bfloat16
    ],
)
def test_scalars_of_tensorflow_2_are_tensors_of_any_type(tmp_path, proto, value):
    # TensorFlow names the plugin at the first event of a tag alone.
    data = event(1, tensor("loss", "scalars", proto)) + event(2, tensor("loss", None, proto))
    write(tmp_path, data)
    scalars = tracelet.read(tmp_path).scalars("loss")
    assert scalars.steps.tolist() == [1, 2]
    assert scalars.values.tolist() == [value, value]


def test_histograms_of_tensorflow_2_are_rows_of_left_right_and_count(tmp_path):
    rows = struct.pack("<6d", 0.0, 1.0, 3.0, 1.0, 2.0, 4.0)
    write(tmp_path, event(1, tensor("h", "histograms", b"\x08\x02" + message(4, rows))))
    histogram = tracelet.read(tmp_path).histograms("h")[0]
    assert histogram.bin_edges.tolist() == [0.0, 1.0, 2.0]
    assert histogram.counts.tolist() == [3, 4]
    assert histogram.num == 7


def test_files_of_torch_are_read_as_tensorboard_reads_them(tmp_path):
    pytest.importorskip("torch")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(100):
            writer.add_scalar("a/loss", step / 7, step)
            writer.add_scalar("new", step / 9, step, new_style=True)
            writer.add_scalar("double", step / 9, step, new_style=True, double_precision=True)
        writer.add_histogram("h", np.random.default_rng(0).standard_normal(1000), 3)
        writer.add_text("note", "héllo", 4)
        writer.add_image("picture", np.zeros((3, 4, 4), np.float32), 5)

    logs = tracelet.read(tmp_path)
    theirs = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    for tag in theirs.Tags()["scalars"]:
        expected = theirs.Scalars(tag)
        scalars = logs.scalars(tag)
        assert scalars.steps.tolist() == [each.step for each in expected]
        assert scalars.values.tolist() == [each.value for each in expected]
        assert scalars.wall_times.tolist() == [each.wall_time for each in expected]
    assert logs.scalars("double").values.tolist() == [step / 9 for step in range(100)]
    (expected_histogram,) = theirs.Histograms("h")
    histogram = logs.histograms("h")[0]
    assert histogram.bin_edges[1:].tolist() == expected_histogram.histogram_value.bucket_limit
    assert histogram.counts.tolist() == expected_histogram.histogram_value.bucket
    assert histogram.num == 1000
    assert logs.texts("note").values == ["héllo"]
    assert logs.tags["others"] == ["picture"]


def test_files_of_a_run_are_read_exactly_also_while_it_runs(tmp_path):
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    experiment = tracelet.start_logging(exp_name="read", project="tests", backend="tensorboard")
    writer = SummaryWriter(str(tmp_path / "logs"))
    for step in range(1000):
        writer.add_scalar("loss", step / 3, step)
    assert experiment.flush()
    logs = tracelet.read(tmp_path / "logs")
    assert logs.scalars("loss").steps.tolist() == list(range(1000))
    for step in range(1000, 1500):
        writer.add_scalar("loss", step / 3, step)
    assert experiment.flush()
    assert logs.refresh().scalars("loss").values.tolist() == [
        float(np.float32(step / 3)) for step in range(1500)
    ]


def test_a_record_that_is_half_written_is_read_when_it_is_whole(tmp_path):
    data = event(1, scalar("a", 1.0)) + event(2, scalar("a", 2.0))
    for cut in range(len(data)):
        path = write(tmp_path / str(cut), data[:cut])
        logs = tracelet.read(path)
        path.write_bytes(data)
        assert logs.refresh().scalars("a").steps.tolist() == [1, 2]
        assert logs.runs["."].damaged_records == 0


def test_damage_costs_its_record_alone_and_is_told(tmp_path, caplog):
    records = [event(step, scalar("a", step)) for step in range(5)]
    whole = b"".join(records)
    start = len(records[0]) + len(records[1])
    for place in range(start, start + len(records[2])):
        data = bytearray(whole)
        data[place] ^= 0x10
        caplog.clear()
        logs = tracelet.read(write(tmp_path / str(place), bytes(data)))
        assert logs.scalars("a").steps.tolist() == [0, 1, 3, 4]
        assert logs.runs["."].damaged_records == 1
        assert "1 damaged records" in caplog.text


def test_random_bytes_neither_crash_nor_allocate_without_bound(tmp_path):
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    good = b"".join(event(step, scalar("a", step)) for step in range(50))
    for round_ in range(200):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        inner = bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
        path = write(tmp_path / str(round_), bytes(data) + framed(inner) + good)
        scalars = tracelet.read(path).scalars("a")
        assert scalars.steps.tolist()[-50:] == list(range(50)), f"seed {seed}"


def test_a_folder_of_runs_names_each_by_its_folder(tmp_path):
    write(tmp_path / "one", event(1, scalar("a", 1.0)))
    write(tmp_path / "two" / "deep", event(1, scalar("b", 2.0)))
    logs = tracelet.read(tmp_path)
    assert sorted(logs.runs) == ["one", os.path.join("two", "deep")]
    assert logs.runs["one"].scalars("a").values.tolist() == [1.0]
    with pytest.raises(tracelet.TraceletError, match=r"2 runs; choose one by .runs\[name\]"):
        logs.scalars("a")


def test_a_restarted_run_is_one_series_over_its_files(tmp_path):
    write(tmp_path, event(1, scalar("a", 1.0)), "events.out.tfevents.100.host")
    write(tmp_path, event(2, scalar("a", 2.0)), "events.out.tfevents.200.host")
    assert tracelet.read(tmp_path).scalars("a").steps.tolist() == [1, 2]


def test_what_is_not_there_is_an_error_that_names_the_nearest(tmp_path):
    with pytest.raises(FileNotFoundError, match="no event files"):
        tracelet.read(tmp_path)
    with pytest.raises(TypeError, match="path must be a folder or an event file, not int"):
        tracelet.read(5)
    write(tmp_path, event(1, scalar("train/loss", 1.0)))
    with pytest.raises(KeyError, match="did you mean 'train/loss'"):
        tracelet.read(tmp_path).scalars("train/los")


def test_scalars_become_a_data_frame(tmp_path):
    pytest.importorskip("pandas")
    write(tmp_path / "one", event(1, scalar("a", 1.0)) + event(2, scalar("b", 2.0)))
    write(tmp_path / "two", event(3, scalar("a", 3.0)))
    frame = tracelet.read(tmp_path).to_pandas()
    assert list(frame.columns) == ["run", "tag", "step", "value", "wall_time"]
    rows = frame[["run", "tag", "step", "value"]].to_numpy().tolist()
    assert rows == [["one", "a", 1, 1.0], ["one", "b", 2, 2.0], ["two", "a", 3, 3.0]]


def test_the_folders_that_keras_writes_are_two_runs(tmp_path):
    """As its TensorBoard callback writes them: tensors, a model's graph, pictures as strings."""

    def number(value):
        return b"\x08\x01" + message(5, struct.pack("<f", value))

    rows = np.array([[0, 1, 2.0], [1, 2, 3.0]]).tobytes()
    histogram = b"\x08\x02" + message(2, message(2, b"\x08\x02") * 2) + message(4, rows)
    strings = [b"2", b"1", b"\x89PNG"]
    picture = b"\x08\x07" + b"".join(message(8, each) for each in strings)
    model = b"\x08\x07" + message(8, b'{"class_name": "Sequential"}')
    write(
        tmp_path / "train",
        event(0, tensor("keras", "graph_keras_model", model))
        + b"".join(event(step, tensor("epoch_loss", "scalars", number(step))) for step in range(3))
        + event(0, tensor("dense/kernel/histogram", "histograms", histogram))
        + event(0, tensor("dense/kernel/image", "images", picture)),
    )
    write(tmp_path / "validation", event(0, tensor("epoch_loss", "scalars", number(0.5))))
    logs = tracelet.read(tmp_path)
    assert list(logs.runs) == ["train", "validation"]
    train = logs.runs["train"]
    assert train.scalars("epoch_loss").values.tolist() == [0, 1, 2]
    assert train.histograms("dense/kernel/histogram")[0].counts.tolist() == [2, 3]
    assert train.tags["others"] == ["keras", "dense/kernel/image"]
    assert logs.runs["validation"].scalars("epoch_loss").values.tolist() == [0.5]
    assert train.damaged_records == 0
