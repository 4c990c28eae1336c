"""One experiment is one run in TensorBoard's list, read by TensorBoard's own readers."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest
import tracelet
from recording_sink import RecordingSink
from tracelet.cli import main

pytest.importorskip("torch")
pytest.importorskip("tensorboard")
from torch.utils.tensorboard import SummaryWriter


def shown(folder="."):
    """{run: {tag: [(step, value), ...]}}, as TensorBoard's list has the runs."""
    found = defaultdict(dict)
    multiplexer = loaded(folder)
    for run, tags in multiplexer.Runs().items():
        for tag in tags["tensors"]:
            if multiplexer.SummaryMetadata(run, tag).plugin_data.plugin_name == "scalars":
                points = multiplexer.Tensors(run, tag)
                found[run][tag] = [(p.step, p.tensor_proto.float_val[0]) for p in points]
    return {run: found[run] for run in multiplexer.Runs()}


def loaded(folder):
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

    multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 0})
    return multiplexer.AddRunsFromDirectory(str(folder)).Reload()


def hyperparameters(folder="."):
    """{session: {name: value}} of TensorBoard's hyperparameters page."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, list_session_groups
    from tensorboard.plugins.hparams.backend_context import Context

    multiplexer = loaded(folder)
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context = Context(TBContext(logdir=str(folder), data_provider=provider))
    ask = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=100, allowed_statuses=[0, 1, 2, 3]
    )
    handler = list_session_groups.Handler(RequestContext(), context, "", ask)
    return {
        session.name: {
            name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()
        }
        for group in handler.run().session_groups
        for session in group.sessions
    }


def start(**config):
    return tracelet.start_logging("mine", "tests", "tensorboard", config)


def log_by(logger, tag, count=3):
    log = logger.log_metric if hasattr(logger, "log_metric") else logger.add_scalar
    for step in range(count):
        log(tag, step * 0.5, step)


THREE = [(0, 0.0), (1, 0.5), (2, 1.0)]


@pytest.mark.parametrize("log_dir", [None, "own/folder"])
def test_the_handle_goes_with_the_first_writer(log_dir):
    experiment = start()
    writer = SummaryWriter(log_dir)
    log_by(writer, "by/writer")
    log_by(experiment, "by/handle")
    experiment.log_params({"lr": 0.5})
    experiment.log_artifact(b"data", artifact_path="data.bin")
    tracelet.stop_logging()
    folder = os.path.relpath(writer.log_dir)
    assert shown() == {folder: {"by/writer": THREE, "by/handle": THREE}}
    assert hyperparameters() == {folder: {"lr": 0.5}}
    assert (Path(folder) / "artifacts" / "data.bin").read_bytes() == b"data"


@pytest.mark.parametrize("first", ["metric", "params", "artifact"])
def test_a_writer_without_a_folder_goes_where_the_handle_has_logged(first):
    experiment = start()
    if first == "metric":
        log_by(experiment, "by/handle")
    elif first == "params":
        experiment.log_params({"lr": 0.5})
    else:
        experiment.log_artifact(b"data", artifact_path="data.bin")
    log_by(SummaryWriter(), "by/writer")
    log_by(experiment, "after")
    tracelet.stop_logging()
    (run,) = shown().values()
    assert set(shown()) == {"runs/mine"}
    assert run["by/writer"] == run["after"] == THREE


def test_a_writer_that_names_its_folder_keeps_it_and_no_series_is_divided():
    experiment = start()
    experiment.log_metric("a", 0.0, 0)
    log_by(SummaryWriter("theirs"), "by/writer")
    experiment.log_metric("a", 0.5, 1)
    tracelet.stop_logging()
    assert shown() == {"runs/mine": {"a": [(0, 0.0), (1, 0.5)]}, "theirs": {"by/writer": THREE}}


def test_parameters_from_before_the_first_writer_are_where_it_is():
    experiment = start()
    experiment.log_params({"lr": 0.5})
    experiment.log_params({"depth": 3})
    log_by(SummaryWriter("theirs"), "by/writer")
    log_by(experiment, "by/handle")
    experiment.log_params({"later": True})
    tracelet.stop_logging()
    assert shown()["theirs"] == {"by/writer": THREE, "by/handle": THREE}
    assert hyperparameters()["theirs"] == {"lr": 0.5, "depth": 3.0, "later": True}


def test_a_comment_names_the_writers_own_run():
    experiment = start()
    experiment.log_params({"lr": 0.5})
    writer = SummaryWriter(comment="-mine")
    log_by(experiment, "a")
    tracelet.stop_logging()
    assert writer.log_dir.endswith("-mine")
    assert shown()[os.path.relpath(writer.log_dir)] == {"a": THREE}


def test_of_two_writers_the_first_has_what_the_handle_logs():
    experiment = start()
    with SummaryWriter("first") as first, SummaryWriter("second") as second:
        log_by(second, "a")
        log_by(first, "b")
        log_by(experiment, "c")
    tracelet.stop_logging()
    assert shown() == {"first": {"b": THREE, "c": THREE}, "second": {"a": THREE}}


def test_a_writer_from_before_the_run_is_its_first_but_not_that_of_a_run_within():
    writer = SummaryWriter("older")
    experiment = start()
    log_by(writer, "a")
    log_by(experiment, "b")
    with tracelet.logging("tensorboard", "within", "tests") as within:
        log_by(writer, "c")
        log_by(within, "d")
    tracelet.stop_logging()
    assert shown() == {"older": {"a": THREE, "b": THREE, "c": THREE}, "runs/within": {"d": THREE}}


def test_the_option_log_dir_is_the_handles_whatever_writers_there_are():
    experiment = start(log_dir="chosen")
    log_by(SummaryWriter(), "a")
    log_by(SummaryWriter("theirs"), "b")
    log_by(experiment, "c")
    tracelet.stop_logging()
    assert shown() == {"chosen": {"a": THREE, "c": THREE}, "theirs": {"b": THREE}}


def test_with_another_backend_alone_writers_go_where_they_went():
    RecordingSink().register()
    experiment = tracelet.start_logging("mine", "tests", "recording", {"log_dir": "chosen"})
    log_by(experiment, "c")
    writer = SummaryWriter()
    log_by(writer, "a")
    tracelet.stop_logging()
    assert shown() == {"chosen": {"c": THREE}, os.path.relpath(writer.log_dir): {"a": THREE}}


def test_a_tensorboardx_writer_is_one_as_well():
    tensorboardx = pytest.importorskip("tensorboardX")
    experiment = start()
    experiment.log_params({"lr": 0.5})
    with tensorboardx.SummaryWriter() as writer:
        log_by(writer, "a")
        log_by(experiment, "b")
        tracelet.stop_logging()
    assert shown() == {"runs/mine": {"a": THREE, "b": THREE}}


@pytest.mark.slow
def test_a_forked_child_logs_to_its_parents_run(run_script, tmp_path):
    run_script(
        """
        import os, tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging("mine", "tests", "tensorboard")
        writer = SummaryWriter()
        pid = os.fork()
        if pid == 0:
            for step in range(3):
                experiment.log_metric("child", step * 0.5, step)
                writer.add_scalar("child/writer", step * 0.5, step)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        experiment.log_metric("parent", 0.0, 0)
        tracelet.stop_logging()
        """
    )
    (run,) = shown(tmp_path / "runs").values()
    assert run == {"child": THREE, "child/writer": THREE, "parent": [(0, 0.0)]}


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "SummaryWriter('theirs'); "])
def test_what_a_killed_run_left_is_one_run_after_sync(before, run_script, tmp_path, monkeypatch):
    done = run_script(
        f"""
        import os, signal, tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging(
            "mine", "tests", "tensorboard", {{"drain_interval_s": 60.0}})
        {before}experiment.log_params({{"lr": 0.5}})
        writer = SummaryWriter()
        for step in range(3):
            experiment.log_metric("by/handle", step * 0.5, step)
        experiment.log_params({{"depth": 3}})
        experiment.log_artifact(b"data", artifact_path="data.bin")
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["sync", "--all"]) == 0
    folder = "theirs" if before else "runs/mine"
    assert shown(tmp_path)[folder] == {"by/handle": THREE}
    assert hyperparameters(tmp_path) == {folder: {"lr": 0.5, "depth": 3.0}}
    assert (tmp_path / folder / "artifacts" / "data.bin").read_bytes() == b"data"
    assert list(Path().iterdir()) == []


def test_the_hyperparameters_of_all_calls_are_shown_the_last_value_winning():
    for lr in (0.25, 0.5):  # the second run goes on in the folder of the first
        experiment = start(log_dir="chosen")
        experiment.log_params({"lr": 0.125})
        experiment.log_params({"depth": 3, "wide": True})
        experiment.log_params({"lr": lr, "name": "a"})
        log_by(experiment, "a", 1)
        tracelet.stop_logging()
        assert experiment.stats.unsent_calls == 0
        assert hyperparameters() == {"chosen": {"lr": lr, "depth": 3.0, "wide": True, "name": "a"}}
        assert set(shown()) == {"chosen"}


def test_a_folder_that_takes_no_file_of_hyperparameters_costs_those_alone(monkeypatch):
    experiment = start()
    monkeypatch.setattr(
        "tracelet.backends.tensorboard.backend.write_whole",
        lambda *_: (_ for _ in ()).throw(PermissionError(13, "not yours")),
    )
    experiment.log_params({"lr": 0.125})
    experiment.log_params({"depth": 3})
    log_by(experiment, "a")
    assert experiment.flush(30)
    tracelet.stop_logging()
    assert hyperparameters() == {"runs/mine": {"lr": 0.125}}
    (reason,) = experiment.stats.not_taken
    assert "not yours" in reason
