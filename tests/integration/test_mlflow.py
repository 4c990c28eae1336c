"""Runs in MLflow's database, beside what tests/contract asks of every backend."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import tracelet

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """One database for all: MLflow takes some seconds to make it. Artifacts go to the folder that
    the program was in when it was made."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
        made.search_experiments()  # it makes them at the first request
    return made


def start(client, **options):
    config = {"mlflow": {"tracking_uri": client.tracking_uri, **options}}
    return tracelet.start_logging("mlflow", "tests", "mlflow", config)


def files(client, run_id, folder):
    found = client.list_artifacts(run_id, folder)
    return [Path(client.download_artifacts(run_id, each.path)).read_bytes() for each in found]


def test_two_runs_that_go_on_with_one_keep_their_own_pictures(client):
    """A picture's path was its step and its place in tracelet's run, and each run begins at 1."""
    run_id = None
    for shade in (0, 255):
        experiment = start(client, run_id=run_id)
        run_id = experiment.id
        experiment.log_image("image", np.full((4, 4, 3), shade, np.uint8), 0)
        tracelet.stop_logging(60)
    contents = files(client, run_id, "images/image")
    assert len(contents) == len(set(contents)) == 2
    assert all(each.startswith(b"\x89PNG") for each in contents)


def test_a_scalar_of_a_summary_with_several_is_not_mixed_with_another_writers(client, tmp_path):
    """Each of the two lanes gave names of its own, and so the same name to two series."""
    pytest.importorskip("torch")
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

    experiment = start(client)
    SummaryWriter(str(tmp_path / "one")).add_scalar("a", 0.5, 1)
    assert experiment.flush(60)
    values = [Summary.Value(tag=tag, simple_value=2.0) for tag in ("a", "b")]
    other = SummaryWriter(str(tmp_path / "two"))
    other.file_writer.add_summary(Summary(value=values), 2)
    tracelet.stop_logging(60)
    history = {
        name: [(each.step, each.value) for each in client.get_metric_history(experiment.id, name)]
        for name in client.get_run(experiment.id).data.metrics
    }
    assert history == {"a": [(1, 0.5)], "two/a": [(2, 2.0)], "b": [(2, 2.0)]}


def test_a_parameter_that_was_changed_is_counted_and_flush_waits_for_parameters(client):
    experiment = start(client)
    experiment.log_params({"lr": 0.1, "depth": 3})
    assert experiment.flush(60)
    assert client.get_run(experiment.id).data.params == {"lr": "0.1", "depth": "3"}
    experiment.log_params({"lr": 0.2, "later": True})
    assert experiment.flush(60)
    assert client.get_run(experiment.id).data.params == {"lr": "0.1", "depth": "3", "later": "True"}
    tracelet.stop_logging(60)
    (reason,) = experiment.stats.not_taken
    assert reason.startswith("mlflow: refused parameter")
    assert experiment.stats.unsent_calls == 0


def test_what_a_run_runs_in_is_tags_under_mlflow_s_own_names(client, tmp_path, monkeypatch):
    monkeypatch.delenv("TRACELET_ENVIRONMENT")
    monkeypatch.setenv("TRACELET_GIT_DIFF", "1")
    git = ("git", "-c", "user.name=x", "-c", "user.email=x@example.org")
    for words in (("init", "-q", "-b", "work"), ("commit", "-q", "--allow-empty", "-m", "a")):
        subprocess.run((*git, *words), check=True, cwd=tmp_path)
    experiment = start(client)
    tracelet.stop_logging(60)
    tags = client.get_run(experiment.id).data.tags
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert tags["mlflow.source.git.branch"] == "work"
    assert tags["mlflow.source.git.dirty"] == "False"
    assert tags["tracelet.host"]
    assert experiment.stats.not_taken == {}


def test_what_is_printed_is_an_artifact(client):
    config = {"mlflow": {"tracking_uri": client.tracking_uri}, "console": True}
    with tracelet.start_logging("printed", "tests", "mlflow", config) as experiment:
        print("to be kept")
    (path,) = [each.path for each in client.list_artifacts(experiment.id)]
    assert path == "console.log"
    local = client.download_artifacts(experiment.id, path)
    assert Path(local).read_text() == "to be kept\n"
