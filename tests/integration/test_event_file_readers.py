"""Event files under the readers that people use: TensorBoard's two, and tbparse."""

from __future__ import annotations

import time

import pytest
import tracelet
from readers import event_files

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402
from tensorboard.backend.event_processing.event_file_loader import (  # noqa: E402
    LegacyEventFileLoader,
)
from tensorboard_server import ask, tensorboard, wait_for  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402


def start(**config):
    return tracelet.start_logging("readers", "tests", backend="tensorboard", config=config)


def log_step(writer, step):
    """One event of each kind that readers treat differently."""
    writer.add_scalar("scalar", step / 2, step)
    writer.add_scalar("tensor", step / 4, step, new_style=True)
    writer.add_histogram("histogram", np.arange(step + 2.0), step, bins=3)
    writer.add_image("image", np.full((1, 2, 2), step / 255), step)
    writer.add_text("text", f"number {step}", step)


def accumulator(folder):
    """One that keeps every point."""
    return EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0, "tensors": 0})


def check_accumulator(found, count):
    steps = list(range(count))
    assert [(e.step, e.value) for e in found.Scalars("scalar")] == [(n, n / 2) for n in steps]
    assert [e.step for e in found.Histograms("histogram")] == steps
    assert [e.step for e in found.Images("image")] == steps
    texts = [e.tensor_proto.string_val[0].decode() for e in found.Tensors("text/text_summary")]
    assert texts == [f"number {step}" for step in steps]
    tensors = found.Tensors("tensor")
    assert [(e.step, e.tensor_proto.float_val[0]) for e in tensors] == [(n, n / 4) for n in steps]


def test_the_event_accumulator_follows_a_run(tmp_path):
    start()
    writer = SummaryWriter(tmp_path / "log")
    reader = accumulator(tmp_path / "log")
    for step in range(20):
        log_step(writer, step)
        if step % 5 == 0:
            writer.flush()
            check_accumulator(reader.Reload(), step + 1)
    tracelet.stop_logging()
    check_accumulator(reader.Reload(), 20)
    check_accumulator(accumulator(tmp_path / "log").Reload(), 20)


def test_a_reader_sees_points_soon_without_flush(tmp_path):
    """Within drain_interval_s and what a write takes, whatever flush_secs and max_queue are."""
    start(drain_interval_s=0.1)
    writer = SummaryWriter(tmp_path / "log", flush_secs=3600, max_queue=10_000)
    log_step(writer, 0)
    writer.flush()
    reader = accumulator(tmp_path / "log").Reload()
    slowest_s = 0.0
    for step in range(1, 6):
        log_step(writer, step)
        before_s = time.monotonic()
        while reader.Reload().Tensors("text/text_summary")[-1].step < step:
            assert time.monotonic() - before_s < 10
            time.sleep(0.01)
        slowest_s = max(slowest_s, time.monotonic() - before_s)
    assert slowest_s < 2
    check_accumulator(reader, 6)


@pytest.mark.parametrize("fast", [True, False], ids=["data server", "python"])
def test_tensorboard_follows_a_run(fast, tmp_path):
    if fast:
        pytest.importorskip("tensorboard_data_server")
    start()
    writer = SummaryWriter(tmp_path / "log" / "run", filename_suffix=".x")
    log_step(writer, 0)
    writer.flush()
    with tensorboard(tmp_path / "log", fast) as url:

        def scalars():
            return ask(url, "plugin/scalars/scalars", run="run", tag="scalar")

        wait_for(scalars)
        for step in range(1, 8):
            log_step(writer, step)
        wait_for(lambda: len(scalars()) == 8)
        assert [(step, value) for _, step, value in scalars()] == [(n, n / 2) for n in range(8)]
        where = {"run": "run", "tag": "histogram"}
        assert len(wait_for(lambda: ask(url, "plugin/histograms/histograms", **where))) == 8
        images = ask(url, "plugin/images/images", run="run", tag="image", sample=0)
        assert [image["step"] for image in images][-1] == 7
        picture = ask(url, f"plugin/images/individualImage?{images[-1]['query']}")
        assert picture.startswith(b"\x89PNG")
        texts = ask(url, "plugin/text/text", run="run", tag="text/text_summary")
        assert "number 7" in texts[-1]["text"]


@pytest.mark.filterwarnings("ignore")
def test_tbparse(tmp_path):
    """Without its images, which it decodes by TensorFlow."""
    tbparse = pytest.importorskip("tbparse")
    start()
    with SummaryWriter(tmp_path / "log") as writer:
        for step in range(8):
            log_step(writer, step)
        writer.add_hparams({"lr": 0.1}, {"loss": 2.0}, run_name="hp")
    tracelet.stop_logging()
    reader = tbparse.SummaryReader(str(tmp_path / "log"))
    scalars = reader.scalars[reader.scalars["tag"] == "scalar"]
    assert list(zip(scalars["step"], scalars["value"])) == [(n, n / 2) for n in range(8)]
    assert reader.histograms["step"].tolist() == list(range(8))
    assert reader.text["value"].tolist() == [f"number {step}" for step in range(8)]
    assert reader.hparams["value"].tolist() == [0.1]


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """The bytes of a small file with events of all kinds."""
    folder = tmp_path_factory.mktemp("small")
    start()
    with SummaryWriter(folder / "log", purge_step=1) as writer:
        for step in range(3):
            log_step(writer, step)
        writer.add_tensor("t", torch.ones(2))
    tracelet.stop_logging()
    (path,) = event_files(folder / "log")
    return path.read_bytes()


def ends_of_records(data):
    ends, position = [], 0
    while position < len(data):
        position += 16 + int.from_bytes(data[position : position + 8], "little")
        ends.append(position)
    assert position == len(data)
    return ends


def test_a_file_cut_at_any_byte_is_read_up_to_its_last_whole_event(small_file, tmp_path):
    """And goes on from there once the rest is there, as while a run is writing."""
    ends = ends_of_records(small_file)
    path = tmp_path / "events.out.tfevents.cut"
    whole = None
    for size in range(len(small_file), -1, -1):
        path.write_bytes(small_file[:size])
        loader = LegacyEventFileLoader(str(path))
        loaded = list(loader.Load())
        whole = whole or loaded
        expected = sum(end <= size for end in ends)
        assert loaded == whole[:expected], size
        if size % 7 == 0:
            path.write_bytes(small_file)
            assert list(loader.Load()) == whole[expected:], size
    assert len(whole) == len(ends) == 1 + 2 + 15 + 1


@pytest.mark.filterwarnings("ignore")
def test_readers_of_whole_folders_take_a_file_cut_anywhere(small_file, tmp_path):
    tbparse = pytest.importorskip("tbparse")
    ends = ends_of_records(small_file)
    path = tmp_path / "events.out.tfevents.1.cut"
    sizes = {size for end in ends for size in (end - 1, end, end + 1, end + 12)}
    for size in sorted(each for each in sizes if ends[2] < each <= len(small_file)):
        path.write_bytes(small_file[:size])
        # Scalars stand first of each step's five events, behind three others.
        whole = sum(end <= size for end in ends) - 3
        expected = [step for step in range(3) if whole > 5 * step]
        found = EventAccumulator(str(tmp_path)).Reload()
        scalars = found.Scalars("scalar") if "scalar" in found.Tags()["scalars"] else []
        assert [event.step for event in scalars] == expected, size
        parsed = tbparse.SummaryReader(str(path)).scalars
        steps = parsed[parsed["tag"] == "scalar"]["step"].tolist() if len(parsed) else []
        assert steps == expected, size
