"""What every backend keeps to, a user's own included. `trackers.py` says how each is read back.

TRACELET_CONTRACT_POINTS and TRACELET_CONTRACT_OUTAGE_S set the sizes; `make soak-contract`:
100,000 and 30.
"""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import sys
import textwrap
import time

import pytest
import tracelet
from given_again import give_again
from tracelet.cli import main
from tracelet.errors import BackendError, ConfigurationError
from tracelet.runs.stored_run import find_runs
from trackers import (
    EXAMPLES,
    Aim,
    ClearMLOffline,
    JsonLines,
    MLflow,
    MLflowServer,
    TensorBoard,
    Trackio,
    Wandb,
)

STEPS = int(float(os.environ.get("TRACELET_CONTRACT_POINTS", "2_500")))
"""More than two requests of MLflow's."""
OUTAGE_S = float(os.environ.get("TRACELET_CONTRACT_OUTAGE_S", "0.5"))
TIMEOUT_S = 60 + STEPS / 500
PARAMS = {
    "lr": 0.1,
    "depth": 3,
    "wide": True,
    "name": "a b",
    "nested": {"list": [1, 2], "none": None},
}
SHOWN = {
    "lr": "0.1", "depth": "3", "wide": "True", "name": "a b", "nested/list": "[1, 2]",
}  # fmt: skip


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    pytest.importorskip("mlflow")
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mlflow_folder(tmp_path_factory):
    """One database for all: MLflow takes some seconds to make it."""
    return tmp_path_factory.mktemp("mlflow-database")


@pytest.fixture(scope="module")
def aim_folder(tmp_path_factory):
    """One repository for all: Aim takes some seconds to make it, too."""
    return tmp_path_factory.mktemp("aim")


@pytest.fixture(
    params=[
        "tensorboard", "json_lines", "clearml", "mlflow", "trackio", "wandb", "aim",
        pytest.param("mlflow server", marks=pytest.mark.slow),
    ]
)  # fmt: skip
def tracker(request, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    if request.param == "tensorboard":
        return TensorBoard(tmp_path)
    if request.param == "json_lines":
        sys.modules.pop("json_lines_backend", None)
        import json_lines_backend  # noqa: F401 - it registers itself

        return JsonLines(tmp_path)
    if request.param == "clearml":
        pytest.importorskip("clearml")
        return ClearMLOffline(tmp_path)
    if request.param == "trackio":
        pytest.importorskip("trackio")
        return Trackio(tmp_path)
    if request.param == "wandb":
        pytest.importorskip("wandb")
        return Wandb(tmp_path)
    if request.param == "aim":
        pytest.importorskip("aim")
        return Aim(request.getfixturevalue("aim_folder"))
    pytest.importorskip("mlflow")
    if request.param == "mlflow":
        return MLflow(request.getfixturevalue("mlflow_folder"))
    return MLflow(tmp_path, request.getfixturevalue("mlflow_server").uri)


def start(tracker, **config):
    return tracelet.start_logging(
        "contract", "tests", tracker.backend, {**tracker.config, **config}
    )


def expected(count=STEPS):
    return [(step, step * 0.5) for step in range(count)]


def test_every_point_arrives_by_value_and_step(tracker):
    experiment = start(tracker)
    for step in range(STEPS):
        experiment.log_metric("train/loss", step * 0.5, step)
    experiment.log_metric("once", -1e-3, -5)
    assert experiment.flush(TIMEOUT_S)
    tracelet.stop_logging()
    found = tracker.scalars(experiment.id)
    assert found[tracker.tag("train/loss")] == expected()
    ((step, value),) = found[tracker.tag("once")]
    assert (step, pytest.approx(value)) == (-5, -1e-3)
    assert experiment.stats.delivered[tracker.backend] == STEPS + 1
    assert (experiment.stats.pending, experiment.stats.dropped) == (0, {})


def test_what_is_not_finite_is_kept_or_counted_and_the_rest_arrives(tracker):
    experiment = start(tracker)
    for step, value in enumerate([1.0, math.nan, math.inf, -math.inf, 2.0]):
        experiment.log_metric("odd", value, step)
    tracelet.stop_logging()
    points = tracker.scalars(experiment.id)[tracker.tag("odd")]
    if tracker.kept_not_finite:
        assert [step for step, _ in points] == [0, 1, 2, 3, 4]
        assert math.isnan(points[1][1])
    else:
        assert points == [(0, 1.0), (4, 2.0)]
        assert experiment.stats.not_finite == 3


def test_names_that_a_tracker_refuses_arrive_in_another_form(tracker):
    names = ["a?b", "a*b", "é/ü", "../up", "/root", "x" * 400, "x" * 399 + "y", "a//b", ".", "a:b"]
    experiment = start(tracker)
    for name in names:
        experiment.log_metric(name, 1.0, 1)
    assert experiment.flush(60)
    tracelet.stop_logging()
    found = tracker.scalars(experiment.id)
    assert len(found) == len(names)  # none is mixed with another
    assert all(points == [(1, 1.0)] for points in found.values())


def test_parameters_of_each_type_are_shown(tracker):
    experiment = start(tracker)
    experiment.log_params(PARAMS)
    experiment.log_metric("a", 1.0, 1)
    tracelet.stop_logging()
    assert tracker.params(experiment.id) == {**SHOWN, "nested/none": tracker.none}
    assert experiment.stats.not_taken == {}


def test_tags_and_notes_are_shown_as_they_were_set_last(tracker):
    experiment = start(tracker, tags=["first", "second"])
    experiment.set_tags(["baseline", "first"])
    experiment.set_notes("old words")
    experiment.set_tags(["second", "a b"])
    experiment.set_notes("what it **is**")
    run_id = experiment.id
    assert experiment.flush(TIMEOUT_S)
    assert (experiment.stats.unsent_calls, experiment.stats.not_taken) == (0, {})
    tracelet.stop_logging()
    tags, notes = tracker.described(run_id)
    assert sorted(tags) == ["a b", "second"]
    assert notes == "what it **is**"


def test_artifacts_are_read_back(tracker, tmp_path):
    (tmp_path / "notes.txt").write_text("as it was")
    experiment = start(tracker)
    experiment.log_artifact(tmp_path / "notes.txt")
    (tmp_path / "notes.txt").write_text("changed")
    experiment.log_artifact(b"\0\1\2", artifact_path="deep/data.bin")
    experiment.log_metric("a", 1.0, 1)
    tracelet.stop_logging()
    assert experiment.stats.artifacts == {"uploaded": 2}
    assert tracker.artifact(experiment.id, "notes.txt") == b"as it was"
    assert tracker.artifact(experiment.id, "deep/data.bin") == b"\0\1\2"


def test_the_end_is_told_as_it_was(tracker):
    if not tracker.has_status:
        pytest.skip("this tracker has no status")
    start(tracker).log_metric("a", 1.0, 1)
    experiment = tracelet.get_active_experiment()
    tracelet.stop_logging()
    assert tracker.status(experiment.id) == "finished"
    with (
        pytest.raises(KeyError),
        tracelet.logging(tracker.backend, "fails", "tests", tracker.config) as experiment,
    ):
        raise KeyError("boom")
    assert tracker.status(experiment.id) == "failed"


def test_a_batch_that_is_given_again_doubles_nothing(tracker):
    """Each batch is delivered, said to have failed, and given again."""
    experiment = start(tracker, batch_max_points=max(500, STEPS // 20))
    calls = give_again(scalars_sink(experiment, tracker))
    for step in range(STEPS):
        experiment.log_metric("train/loss", step * 0.5, step)
    assert experiment.flush(2 * TIMEOUT_S)
    tracelet.stop_logging(60)
    assert len(calls) >= 2
    assert tracker.scalars(experiment.id)[tracker.tag("train/loss")] == expected()


def scalars_sink(experiment, tracker):
    sinks = [sink for backend in experiment._run._live.backends for sink in backend.sinks]
    (sink,) = [sink for sink in sinks if sink.name == tracker.backend]
    return sink


def test_an_outage_holds_back_no_call_and_loses_nothing(tracker, monkeypatch):
    """The way there fails, as when a network or a disk is gone, and then it is back."""
    experiment = start(tracker, batch_max_age_s=0.1)
    sink = scalars_sink(experiment, tracker)
    write, end_s = sink.write, time.monotonic() + OUTAGE_S

    def away(batch):
        if time.monotonic() < end_s:
            raise ConnectionError("away")
        return write(batch)

    monkeypatch.setattr(sink, "write", away)
    begin_s = time.monotonic()
    for step in range(STEPS):
        experiment.log_metric("train/loss", step * 0.5, step)
    experiment.log_params({"lr": 0.1})
    assert time.monotonic() - begin_s < 10 + STEPS / 10_000
    assert experiment.flush(OUTAGE_S + 2 * TIMEOUT_S)
    tracelet.stop_logging(60)
    assert tracker.scalars(experiment.id)[tracker.tag("train/loss")] == expected()
    assert tracker.params(experiment.id)["lr"] == "0.1"
    assert experiment.stats.retried > 0
    assert experiment.stats.dropped == {}


@pytest.mark.slow
def test_what_a_killed_process_left_is_sent_by_sync_once(
    tracker, run_script, tmp_path, monkeypatch
):
    code = f"""
        import os, signal, tracelet
        {tracker.imports}
        experiment = tracelet.start_logging(
            "killed", "tests", {tracker.backend!r}, {tracker.config!r})
        print(experiment.id, flush=True)
        experiment.log_params({{"lr": 0.1}})
        for step in range({STEPS}):
            experiment.log_metric("train/loss", step * 0.5, step)
            if step == {STEPS} // 2:
                experiment.flush(60)  # some of it is there, and maybe more than we know
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_script(textwrap.dedent(code), check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_id = done.stdout.split()[-1]
    (left,) = find_runs(os.environ["TRACELET_DIR"])
    if server := tracker.has_to_be_configured:
        assert main(["sync", left.run_id]) == 1  # a run's file alone says not where points are sent
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert main(["sync", left.run_id]) == 0
    assert tracker.scalars(run_id)[tracker.tag("train/loss")] == expected()
    assert tracker.params(run_id)["lr"] == "0.1"
    if tracker.has_status:
        assert tracker.status(run_id) == "killed"
    assert find_runs(os.environ["TRACELET_DIR"]) == []


@pytest.mark.slow
def test_mlflow_away_holds_back_no_call_and_nothing_is_lost(tmp_path):
    pytest.importorskip("mlflow")
    others = ["tensorboard"]
    others += [each for each in ("clearml", "trackio") if importlib.util.find_spec(each)]
    server = MLflowServer(tmp_path)
    server.start()
    try:
        tracker = MLflow(tmp_path, server.uri)
        config = {**tracker.config, "batch_max_age_s": 0.1}
        experiment = tracelet.start_logging("contract", "tests", ["mlflow", *others], config)
        assert experiment.id == experiment.ids["mlflow"]
        experiment.log_metric("a", 0.0, 0)
        assert experiment.flush(60)
        server.stop()
        for step in range(1, 1_000):
            experiment.log_metric("a", step * 0.5, step)
        experiment.log_params({"lr": 0.1})
        assert not experiment.flush(1)
        deadline_s = time.monotonic() + 60
        while any(experiment.stats.delivered[each] < 1_000 for each in others):
            assert time.monotonic() < deadline_s, experiment.stats
            time.sleep(0.01)
        assert experiment.stats.delivered["mlflow"] < 1_000
        server.start()
        assert experiment.flush(120)
        tracelet.stop_logging(60)
        assert tracker.scalars(experiment.id)["a"] == expected(1_000)
        assert tracker.params(experiment.id) == {"lr": "0.1"}
        assert experiment.stats.retried > 0
    finally:
        server.stop()


def test_an_active_mlflow_run_is_logged_to_and_left_as_it_was(mlflow_folder):
    mlflow = pytest.importorskip("mlflow")
    tracker = MLflow(mlflow_folder)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracker.uri)
    try:
        with mlflow.start_run() as active:
            experiment = tracelet.start_logging("adopts", "tests", "mlflow")
            assert experiment.id == active.info.run_id
            experiment.log_metric("a", 0.5, 1)
            tracelet.stop_logging(60)
            assert tracker.status(experiment.id) == "running"
            mlflow.log_metric("theirs", 2.0, 3)
        assert tracker.scalars(experiment.id) == {"a": [(1, 0.5)], "theirs": [(3, 2.0)]}
        assert tracker.status(experiment.id) == "finished"
    finally:
        mlflow.set_tracking_uri(before)


def test_mlflow_run_id_names_the_run_that_goes_on(mlflow_folder, monkeypatch):
    pytest.importorskip("mlflow")
    tracker = MLflow(mlflow_folder)
    first = start(tracker)
    first.log_metric("a", 0.5, 1)
    tracelet.stop_logging(60)
    monkeypatch.setenv("MLFLOW_RUN_ID", first.id)
    second = start(tracker)
    assert second.id == first.id
    assert tracker.status(first.id) == "running"
    second.log_metric("a", 1.0, 2)
    tracelet.stop_logging(60)
    assert tracker.scalars(first.id) == {"a": [(1, 0.5), (2, 1.0)]}
    assert tracker.status(first.id) == "finished"
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(BackendError, match="0" * 32):
        start(tracker)
    assert tracelet.get_active_experiment() is None


@pytest.mark.parametrize("form", ["file://{}/mlruns", "{}/mlruns", "./mlruns"])
def test_mlflow_in_a_folder_of_files_is_refused(form, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    uri = form.format(tmp_path)
    with pytest.raises(ConfigurationError, match="Use a database: unset MLFLOW_TRACKING_URI"):
        tracelet.start_logging("files", "tests", "mlflow", {"mlflow": {"tracking_uri": uri}})
    assert tracelet.get_active_experiment() is None
    assert not (tmp_path / "mlruns").exists()
