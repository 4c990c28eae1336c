"""Event files against those of torch's own writer: the same events, the same errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tracelet
from readers import event_files

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
from event_session import (  # noqa: E402
    SESSIONS,
    assert_same_events,
    bytes_of_other_files,
    events_by_folder,
)
from torch.utils.tensorboard import SummaryWriter  # noqa: E402


def start(**config):
    return tracelet.start_logging("events", "tests", backend="tensorboard", config=config)


def record(session, folder, **arguments):
    """A session in torch's own file, then in ours; the run's stats."""
    with SummaryWriter(folder / "theirs", **arguments) as writer:
        session(writer)
    run = start()
    with SummaryWriter(folder / "ours", **arguments) as writer:
        session(writer)
    tracelet.stop_logging()
    return run.stats


@pytest.mark.parametrize("name", SESSIONS)
def test_every_method_writes_the_events_that_torch_writes(name, tmp_path):
    if name == "figures":
        pytest.importorskip("matplotlib")
    stats = record(SESSIONS[name], tmp_path)
    assert_same_events(tmp_path / "ours", tmp_path / "theirs")
    assert not stats.dropped
    written = sum(len(each) for each in events_by_folder(tmp_path / "ours").values())
    assert stats.delivered["tensorboard"] == stats.accepted == written
    assert bytes_of_other_files(tmp_path / "ours") == bytes_of_other_files(tmp_path / "theirs")
    assert not os.listdir(os.environ["TRACELET_DIR"])


def test_all_methods_in_one_file_keep_their_order(tmp_path):
    def session(writer):
        for each in SESSIONS.values():
            each(writer)

    record(session, tmp_path, purge_step=3, filename_suffix=".suffix", max_queue=1, flush_secs=1)
    assert_same_events(tmp_path / "ours", tmp_path / "theirs")
    names = [path.name for path in (tmp_path / "ours").glob("*tfevents*")]
    assert len(names) == 1
    assert names[0].endswith(".suffix")


def test_onnx_graphs(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    model = helper.make_model(helper.make_graph([node], "graph", [value], [result]))
    onnx.save(model, str(tmp_path / "model.onnx"))
    record(lambda writer: writer.add_onnx_graph(str(tmp_path / "model.onnx")), tmp_path)
    assert_same_events(tmp_path / "ours", tmp_path / "theirs")
    assert events_by_folder(tmp_path / "ours")["."][0].graph_def


def test_a_method_of_add_hparams_without_a_run_name_makes_a_folder_of_the_time(tmp_path):
    start()
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_hparams({"lr": 0.1}, {"loss": 1.0})
    tracelet.stop_logging()
    (folder,) = (name for name in events_by_folder(tmp_path / "log") if name != ".")
    assert abs(float(folder) - os.stat(tmp_path / "log").st_mtime) < 60


@pytest.mark.parametrize("purge_step", [0, 5])
def test_purge_step_is_told_first(purge_step, tmp_path):
    def session(writer):
        writer.add_scalar("a", 1.0, 6, walltime=1.0)

    record(session, tmp_path, purge_step=purge_step)
    assert_same_events(tmp_path / "ours", tmp_path / "theirs")
    first, second, point = events_by_folder(tmp_path / "ours")["."]
    assert (first.step, first.file_version) == (purge_step, "brain.Event:2")
    assert second.session_log.status == 1
    assert point.step == 6


def test_purge_step_hides_the_later_points_of_the_run_before(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps, purge_step in ((range(10), None), (range(5, 8), 5)):
        start()
        with SummaryWriter(tmp_path / "log", purge_step=purge_step) as writer:
            for step in steps:
                writer.add_scalar("a", step + 0.5 * bool(purge_step), step)
        tracelet.stop_logging()
    accumulator = EventAccumulator(str(tmp_path / "log")).Reload()
    found = [(event.step, event.value) for event in accumulator.Scalars("a")]
    assert found == [*((step, step) for step in range(5)), (5, 5.5), (6, 6.5), (7, 7.5)]


def test_without_log_dir_the_folder_is_torchs(tmp_path):
    start()
    with SummaryWriter(comment="-mine") as writer:
        writer.add_image("image", np.zeros((1, 2, 2)), 1)
    tracelet.stop_logging()
    (folder,) = Path("runs").iterdir()
    assert folder.name.endswith("-mine")
    assert len(event_files(folder)) == 1


def test_a_folder_that_was_relative_is_that_of_the_call(tmp_path, monkeypatch):
    start()
    with SummaryWriter("here") as writer:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        writer.add_scalar("a", 1.0, 1)
        writer.add_text("t", "text", 2)
    tracelet.stop_logging()
    assert [len(each) for each in events_by_folder(tmp_path / "here").values()] == [2]
    assert not (tmp_path / "elsewhere" / "here").exists()


WRONG_CALLS = {
    "image of a wrong shape": lambda w: w.add_image("i", np.zeros((2, 2)), 1),
    "image that is a str": lambda w: w.add_image("i", "no image", 1),
    "image whose format is none": lambda w: w.add_image("i", np.zeros((3, 2, 2)), 1, None, "XYZ"),
    "figure that is none": lambda w: w.add_figure("f", 3),
    "audio that is none": lambda w: w.add_audio("a", object()),
    "text that is none": lambda w: w.add_text("t", 3),
    "tag that is none": lambda w: w.add_image(None, np.zeros((3, 2, 2))),
    "step that is none": lambda w: w.add_image("i", np.zeros((3, 2, 2)), "x"),
    "step beyond 64 bits": lambda w: w.add_image("i", np.zeros((3, 2, 2)), 2**63),
    "wall time that is none": lambda w: w.add_text("t", "text", 1, walltime="never"),
    "labels too few": lambda w: w.add_embedding(torch.ones(3, 2), ["a"]),
    "hparams of a wrong type": lambda w: w.add_hparams({"a": [1]}, {"loss": 1.0}),
    "hparams that is no dict": lambda w: w.add_hparams(3, {"loss": 1.0}),
    "event that is none": lambda w: w.file_writer.add_event("event"),
    "event of another type": lambda w: w.file_writer.event_writer.add_event(object()),
    "summary that is none": lambda w: w.file_writer.add_summary("summary"),
    "tensor that is none": lambda w: w.add_tensor("t", 3),
    "mesh that is none": lambda w: w.add_mesh("m", torch.ones(3)),
    "predictions too few": lambda w: w.add_pr_curve("p", np.ones(3), np.ones(2)),
    "an argument too many": lambda w: w.add_text("t", "text", 1, 2, 3, 4),
    "a name with a slash": lambda w: SummaryWriter(w.log_dir, filename_suffix="/a/b"),
    "a name too long": lambda w: SummaryWriter(w.log_dir, filename_suffix="x" * 300),
    "a folder that is a file": lambda w: SummaryWriter(__file__),
    "a folder in a file": lambda w: SummaryWriter(os.path.join(__file__, "folder")),
}


def outcome(call, writer):
    try:
        call(writer)
    except Exception as error:
        return type(error)
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRONG_CALLS)
def test_errors_are_torchs_and_nothing_accepted_is_lost(name, tmp_path):
    outcomes = []

    def session(writer):
        writer.add_text("t", "before", 1, walltime=1.0)
        outcomes.append(outcome(WRONG_CALLS[name], writer))
        writer.add_scalar("s", 1.0, 2, walltime=1.0)
        writer.add_text("t", "after", 3, walltime=1.0)

    record(session, tmp_path)
    assert outcomes[0] == outcomes[1]
    assert_same_events(tmp_path / "ours", tmp_path / "theirs")
