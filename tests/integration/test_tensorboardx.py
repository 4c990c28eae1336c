"""tensorboardX' SummaryWriter: the events it writes without tracelet, and those in the sinks."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tracelet
from readers import (
    event_file_scalars,
    event_files,
    events,
    histograms,
    session_plots,
    session_scalars,
)

torch = pytest.importorskip("torch")
tensorboardX = pytest.importorskip("tensorboardX")  # noqa: N816
from tensorboardX import SummaryWriter  # noqa: E402

WALL_TIME = 1000.0  # given times lie below 1e6; what a writer takes from the clock, above


def log_scalars(writer):
    writer.add_scalar("loss", 0.5, 1, walltime=WALL_TIME)
    writer.add_scalar("/loss of ünï (a)", torch.tensor(0.1), 2, WALL_TIME)  # tags are cleaned
    writer.add_scalar("loss", np.float32(1 / 3), np.int64(2**40), WALL_TIME)
    writer.add_scalar("named", 1.0, 3, WALL_TIME, display_name="A name", summary_description="b")
    writer.add_scalar("odd", float("inf"), 4, WALL_TIME)
    writer.add_scalar("odd", float("nan"), -4, WALL_TIME)
    writer.add_scalar("without step or time", 1)
    writer.add_scalars("group/of two", {"a": 1.0, "b": torch.tensor(2.0)}, 4, walltime=WALL_TIME)
    writer.add_scalars("group/of two", {"a": 3.0}, 5)
    with writer.use_metadata(global_step=10, walltime=WALL_TIME):
        writer.add_scalar("loss", 6.0)
        writer.add_text("text", "within", 11)
    with writer.use_metadata(global_step=12):
        writer.add_scalar("loss", 7.0)


def log_histograms(writer):
    values = np.random.default_rng(0).normal(size=1000)
    writer.add_histogram("weights", values, 1, walltime=WALL_TIME)
    writer.add_histogram("weights", torch.tensor(values), 2, bins="auto", walltime=WALL_TIME)
    writer.add_histogram("weights", values, 3, bins=[-1.0, 0.0, 1.0], max_bins=2)
    writer.add_histogram_raw(
        "raw", 0.0, 3.0, 3, 4.5, 9.0, [1.0, 2.0, 3.0], [1, 0, 2], 4, walltime=WALL_TIME
    )


def log_images(writer):
    pixels = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(1))
    writer.add_image("image", pixels, 1, walltime=WALL_TIME)
    writer.add_image("image", pixels.permute(1, 2, 0).numpy(), 2, WALL_TIME, dataformats="HWC")
    writer.add_images("images", pixels.expand(5, 3, 16, 24), 5, WALL_TIME)
    writer.add_images("images", [pixels, pixels], 6, WALL_TIME, dataformats="CHW")
    boxes = torch.tensor([[2.0, 2.0, 9.0, 9.0], [1.0, 4.0, 12.0, 14.0]])
    writer.add_image_with_boxes("boxes", pixels, boxes, 7, WALL_TIME, labels=["cat", "dog"])
    large = np.random.default_rng(2).integers(0, 255, (3, 128, 128), dtype=np.uint8)
    writer.add_image("large", large, 8, WALL_TIME)


def log_figure(writer):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(1, 1))
    axes.plot([2, 1, 3])
    writer.add_figure("figure", figure, 1, walltime=WALL_TIME)


def log_others(writer):
    labels, predictions = np.array([0, 1, 1, 0, 1]), np.array([0.1, 0.9, 0.8, 0.3, 0.4])
    writer.add_pr_curve("pr", labels, torch.tensor(predictions), 1, 10, walltime=WALL_TIME)
    writer.add_pr_curve_raw(
        "pr raw", [3, 2], [2, 1], [0, 1], [0, 1], [0.6, 0.7], [1.0, 0.5], 2, 2, walltime=WALL_TIME
    )
    writer.add_custom_scalars({"charts": {"both": ["Multiline", ["loss", "other"]]}})
    writer.add_custom_scalars_multilinechart(["loss", "other"], "category", "title")
    writer.add_custom_scalars_marginchart(["loss", "low", "high"], "category", "title")
    writer.add_text("text", "**bold** ünï 😀", 3, walltime=WALL_TIME)
    vertices = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    faces = torch.tensor([[[0, 1, 2], [0, 2, 3]]])
    writer.add_mesh("mesh", vertices, faces=faces, global_step=1, walltime=WALL_TIME)
    writer.add_embedding(torch.arange(12.0).reshape(4, 3), ["a", "b", "c", "d"], None, 1)


def log_graphs(writer):
    torch.manual_seed(0)
    writer.add_graph(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()), torch.ones(1, 2))
    net = Path("net.xml")
    net.write_text(
        "<net><layers><layer id='0' name='in'/><layer id='1' name='out'/></layers>"
        "<edges><edge from-layer='0' to-layer='1'/></edges></net>"
    )
    writer.add_openvino_graph(str(net))


def log_hparams(writer):
    chosen = {"lr": 0.1, "layers": 3, "name": "adam", "nesterov": True}
    writer.add_hparams(chosen, {"accuracy": 0.5, "loss": 1.5}, name="first", global_step=7)


def log_audio(writer):
    sound = torch.sin(torch.arange(400) / 5)
    with pytest.MonkeyPatch.context() as patch:
        # It wants the package soundfile for the bytes, which are nothing to us.
        encoder = SimpleNamespace(write=lambda file, *args, **kwargs: file.write(b"RIFF"))
        patch.setitem(sys.modules, "soundfile", encoder)
        writer.add_audio("audio", sound, 2, 8000, walltime=WALL_TIME)


SESSIONS = [
    log_scalars, log_histograms, log_images, log_figure, log_others, log_graphs, log_hparams,
    log_audio,
]  # fmt: skip


def start(backend="tensorboard", **config):
    return tracelet.start_logging("tensorboardX", "tests", backend=backend, config=config)


def record(session, folder, **arguments):
    """A session in tensorboardX' own files, then in ours; the run's stats."""
    with SummaryWriter(str(folder / "theirs"), **arguments) as writer:
        session(writer)
    run = start(payload_bytes=1 << 17)  # so that the large image travels by a file
    with SummaryWriter(str(folder / "ours"), **arguments) as writer:
        session(writer)
    tracelet.stop_logging()
    assert all(event_file.match("*.tracelet*") for event_file in files(folder / "ours"))
    return run.stats


def files(root):
    return sorted(Path(root).rglob("*tfevents*"))


def events_by_folder(root):
    """Events of all files below `root`, without the version headers, in order by file name."""
    found = {}
    for path in files(root):
        header, *rest = events(path)
        assert header.file_version == "brain.Event:2"
        found.setdefault(str(path.parent.relative_to(root)), []).extend(rest)
    return {folder: rest for folder, rest in found.items() if rest}


def assert_same_events(ours, theirs):
    """That two folders hold the same events, in the same order. Returns their number."""
    found, expected = events_by_folder(ours), events_by_folder(theirs)
    assert list(found) == list(expected)
    for folder in expected:
        for mine, wanted in zip(found[folder], expected[folder]):
            if wanted.wall_time > 1e6:
                assert abs(mine.wall_time - wanted.wall_time) < 60
                mine.wall_time = wanted.wall_time
            assert mine.SerializeToString(deterministic=True) == wanted.SerializeToString(
                deterministic=True
            ), f"{folder}: {str(mine)[:300]} is not {str(wanted)[:300]}"
        assert len(found[folder]) == len(expected[folder])
    return sum(len(each) for each in found.values())


def own_files(folder):
    return [path for path in files(folder) if ".tracelet" not in path.name]


def tags(folder):
    return [value.tag for path in files(folder) for e in events(path) for value in e.summary.value]


@pytest.mark.parametrize("session", SESSIONS, ids=lambda each: each.__name__)
def test_every_method_writes_the_events_that_tensorboardx_writes(session, tmp_path):
    stats = record(session, tmp_path)
    written = assert_same_events(tmp_path / "ours", tmp_path / "theirs")
    assert stats.delivered["tensorboard"] == stats.accepted == written > 0
    assert not stats.dropped
    assert os.listdir(os.environ["TRACELET_DIR"]) == []


def test_all_in_one_file_in_order_with_purge_step_and_suffix(tmp_path):
    def session(writer):
        log_scalars(writer)
        log_histograms(writer)
        writer.close()
        if writer.logdir.endswith("theirs"):
            time.sleep(1.1)  # in the same second it would write its file anew, over the first
        writer.add_text("text", "a closed writer opens again", 20, walltime=WALL_TIME)
        writer.add_scalar("loss", 8.0, 21, walltime=WALL_TIME)

    record(session, tmp_path, purge_step=3, filename_suffix=".suffix", max_queue=1, flush_secs=1)
    assert_same_events(tmp_path / "ours", tmp_path / "theirs")
    (name,) = [path.name for path in (tmp_path / "ours").glob("*tfevents*")]
    assert name.endswith(".suffix")


def test_flush_and_close_leave_the_points_readable(tmp_path):
    start(drain_interval_s=30.0)
    writer = SummaryWriter(str(tmp_path))
    other = tensorboardX.FileWriter(str(tmp_path / "other"))
    for number, end in enumerate([writer.flush, writer.close, writer.flush, other.close]):
        writer.add_scalar("a", 1.0, number)
        end()
        # After close() a flush() has nothing open to flush, as ever: `a` of the third is not there.
        assert len(event_file_scalars(tmp_path)["a"]) == [1, 2, 3, 4][number]


def test_scalars_and_histograms_are_in_clearml_as_well(tmp_path):
    pytest.importorskip("clearml")
    values = np.random.default_rng(3).normal(size=(200, 3)).astype(np.float32)
    run = start("clearml")
    with SummaryWriter(str(tmp_path / "log")) as writer:
        for step, row in enumerate(values):
            for name, value in zip("abc", row):
                writer.add_scalar(f"group/{name}", value, step)
        writer.add_histogram("weights", values[:, 0], 7)
        writer.add_scalars("main", {"x": 1.0, "y": 2.0}, 1)
        writer.add_scalar("named", 3.0, 2, display_name="A name")
    session = run.url
    tracelet.stop_logging()
    by_tag, by_series = event_file_scalars(tmp_path / "log"), session_scalars(session)
    for number, name in enumerate("abc"):
        expected = list(enumerate(values[:, number].tolist()))
        assert [point[:2] for point in by_tag[f"group/{name}"]] == expected
        assert [point[:2] for point in by_series["group", name]] == expected
    ((step, histo),) = histograms(tmp_path / "log")["weights"]
    assert (step, sum(histo.bucket)) == (7, 200)
    (plot,) = [each for each in session_plots(session) if each["iter"] == 7]
    bars = json.loads(plot["plot_str"])["data"][0]["y"]
    assert sum(bars) == 200
    assert by_series["named", "named"][0][:2] == (2, 3.0)
    # The names that ClearML's own binding gives them: it does not know tensorboardX' folders.
    assert by_series["main", "main"][0][:2] == (1, 1.0)
    assert by_series["main", "y: main"][0][:2] == (1, 2.0)


def test_a_writer_made_before_the_run_carries_on_in_a_new_file_and_back(tmp_path):
    writer = SummaryWriter(str(tmp_path), filename_suffix=".mine")
    writer.add_scalar("a", 1.0, 1)
    start()
    writer.add_scalar("a", 2.0, 2)
    writer.flush()
    (path,) = event_files(tmp_path)
    assert path.name.endswith(".mine")
    tracelet.stop_logging()
    writer.add_scalar("a", 3.0, 3)
    writer.close()
    assert [point[:2] for point in event_file_scalars(tmp_path)["a"]] == [(2, 2.0)]
    (own,) = own_files(tmp_path)
    assert [event.step for event in events(own)[1:]] == [1, 3]


def test_a_writer_made_in_a_run_outlives_it(tmp_path):
    start()
    writer = SummaryWriter(str(tmp_path))
    writer.add_scalar("a", 1.0, 1)
    assert own_files(tmp_path) == []
    tracelet.stop_logging()
    writer.add_scalar("a", 2.0, 2)
    writer.close()
    assert [event.step for event in events(own_files(tmp_path)[0])[1:]] == [2]


def test_without_writing_to_disk_nothing_is_captured(tmp_path):
    run = start()
    with SummaryWriter(str(tmp_path / "log"), write_to_disk=False) as writer:
        writer.add_scalar("a", 1.0, 1)
        writer.add_scalars("b", {"c": 1.0}, 1)
        writer.add_text("t", "text", 1)
        writer.flush()
    assert run.stats.accepted == 0
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("mode", ["passthrough", "off"])
def test_the_other_modes(mode, tmp_path):
    pytest.importorskip("clearml")
    run = start("clearml", tensorboard=mode)
    with SummaryWriter(str(tmp_path / "log")) as writer:
        writer.add_scalar("a", 0.5, 1)
        writer.add_scalars("b", {"c": 1.0}, 1)
        writer.add_text("t", "text", 1)
    session = run.url
    tracelet.stop_logging()
    assert {name: points[0][:2] for name, points in session_scalars(session).items()} == {
        ("a", "a"): (1, 0.5),
        ("b", "b"): (1, 1.0),
    }
    written = ["a", "b", "t/text_summary"] if mode == "passthrough" else []
    assert sorted(tags(tmp_path / "log")) == written
    assert own_files(tmp_path / "log") == files(tmp_path / "log")


def test_restored_exactly(tmp_path):
    pytest.importorskip("clearml")
    module = tensorboardX.writer

    def state():
        methods = {f"FileWriter.{name}": it for name, it in vars(module.FileWriter).items()}
        return {**vars(module), **methods}

    before = state()
    for mode in ("native", "passthrough"):
        start("tensorboard" if mode == "native" else "clearml", tensorboard=mode)
        assert [name for name, it in state().items() if it is not before.get(name)]
        tracelet.stop_logging()
        assert [name for name, it in state().items() if it is not before.get(name)] == []
        assert len(state()) == len(before)
