"""The seam: every verb goes to every backend, and what one can't take costs the others nothing."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import tracelet
from readers import event_file_scalars
from recording_sink import RecordingSink
from tracelet.backends import open_backend
from tracelet.backends.base import Backend, RunInfo
from tracelet.errors import BackendError
from tracelet.options import Options
from tracelet.safe_names import relative_path

PARAMS = {"lr": 0.1, "model": {"depth": 3, "wide": True}, "name": "a|b"}


class Recording(Backend):
    """Takes all verbs, or fails at them."""

    def __init__(self, name, error=None):
        self.name = name
        self.id = f"{name}-id"
        self.url = f"http://{name}.invalid"
        self.calls = []
        self.error = error

    def log_params(self, params, given, later):
        self._note("params", params)

    def prepare_artifact(self, artifact):
        self._note("artifact", artifact.name)
        return Copied(artifact, self.calls)

    def prepare_model(self, model):
        self._note("model", model.entry)
        return Copied(model.file, self.calls)

    def note_failure(self, failure):
        self._note("failure", str(failure))

    def close(self, process_is_ending):
        self._note("close", process_is_ending)

    def _note(self, what, value):
        self.calls.append((what, value))
        if self.error is not None:
            raise self.error


class Copied:
    def __init__(self, artifact, calls):
        self.name = artifact.name
        self.size_bytes = 0
        self._artifact = artifact
        self._calls = calls

    def upload(self):
        with open(self._artifact.make_file(), "rb") as file:
            self._calls.append(("file", file.read()))

    def is_refused(self, error):
        return True

    def keep(self, folder):
        return ""

    def discard(self):
        self._artifact.discard()


def start(*backends, names=(), **config):
    for backend in backends:
        tracelet.register_sink(backend.name, lambda info, backend=backend: backend)
    names = [*(backend.name for backend in backends), *names]
    return tracelet.start_logging("verbs", "tests", backend=names, config=config)


def test_every_verb_goes_to_every_backend_and_files_are_those_of_the_call(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"weights")
    one, two = Recording("one"), Recording("two")
    experiment = start(one, two)
    experiment.log_params(PARAMS)
    experiment.log_artifact(b"data", artifact_path="data.bin")
    path = tmp_path / "notes.txt"
    path.write_text("before")
    experiment.log_artifact(path)
    path.write_text("after")
    experiment.log_model(str(tmp_path / "weights.pth"), name="net")
    tracelet.stop_logging()
    flat = {"lr": 0.1, "model/depth": 3, "model/wide": True, "name": "a|b"}
    for backend in (one, two):
        assert backend.calls[0] == ("params", flat)
        assert ("artifact", "data.bin") in backend.calls
        assert ("model", "net") in backend.calls
        files = [content for what, content in backend.calls if what == "file"]
        assert files == [b"data", b"before", b"weights"]
        assert backend.calls[-1] == ("close", False)
    assert experiment.ids == {"one": "one-id", "two": "two-id"}
    assert (experiment.id, experiment.url) == ("one-id", "http://one.invalid")
    assert experiment.urls == {"one": "http://one.invalid", "two": "http://two.invalid"}
    assert experiment.stats.artifacts == {"uploaded": 6}
    assert not os.path.exists(experiment._run.folder.artifacts_path)


def test_a_backend_that_fails_at_a_verb_is_counted_told_once_and_costs_the_others_nothing(caplog):
    bad, good = Recording("bad", RuntimeError("no")), Recording("good")
    experiment = start(bad, good)
    for _ in range(3):
        experiment.log_params({"a": 1})
    experiment.log_artifact(b"data", artifact_path="data.bin")
    tracelet.stop_logging()
    assert experiment.stats.not_taken == {"bad: RuntimeError": 4}
    assert caplog.text.count("the backend 'bad' can't take it") == 1
    assert [what for what, _ in good.calls].count("params") == 3
    assert ("file", b"data") in good.calls
    assert not os.path.exists(experiment._run.folder.artifacts_path)  # its copy is not kept


def test_a_sink_of_the_users_own_takes_points_and_counts_what_has_no_form():
    sink = RecordingSink().register()
    experiment = tracelet.start_logging("plain", "tests", backend="recording")
    experiment.log_params({"a": 1})
    experiment.log_artifact({"a": 1}, artifact_path="a.json")
    experiment.log_metric("loss", 0.5, 1)
    tracelet.stop_logging()
    assert sink.summary() == [(tracelet.SCALAR, "loss", 1)]
    assert experiment.stats.not_taken == {
        "recording: no form for parameters": 1,
        "recording: no form for artifacts": 1,
    }


def test_what_the_caller_gave_wrong_is_the_callers_error_once_before_any_backend():
    backend = Recording("checked")
    experiment = start(backend)
    with pytest.raises(TypeError, match="log_params: params must be"):
        experiment.log_params(5)
    with pytest.raises(FileNotFoundError):
        experiment.log_artifact("absent.bin")
    with pytest.raises(ValueError, match="needs a name"):
        experiment.log_artifact({"a": 1})
    with pytest.raises(TypeError, match="neither a path"):
        experiment.log_model(object(), name="x")
    tracelet.stop_logging()
    assert backend.calls == [("close", False)]


def test_a_failure_in_the_block_reaches_every_backend_before_the_close():
    one, two = Recording("one"), Recording("two", RuntimeError("no"))
    for backend in (one, two):
        tracelet.register_sink(backend.name, lambda info, backend=backend: backend)
    with pytest.raises(KeyError), tracelet.logging(["two", "one"], "fails", "tests"):
        raise KeyError("boom")
    assert one.calls == [("failure", "'boom'"), ("close", False)]
    assert [what for what, _ in two.calls] == ["failure", "close"]


def test_tensorboard_alone_takes_params_artifacts_and_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch = pytest.importorskip("torch")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a")
    experiment = tracelet.start_logging("alone", "tests", backend="tensorboard")
    experiment.log_params(PARAMS)
    experiment.log_metric("loss", 0.5, 1)
    experiment.log_artifact({"a": 1}, artifact_path="deep/results.json")
    experiment.log_artifact(np.arange(3), artifact_path="../../escaped")
    experiment.log_artifact("data")
    experiment.log_model(torch.nn.Linear(2, 1), name="net", metadata={"acc": 0.5})
    experiment.log_params({"later": 1})
    tracelet.stop_logging()
    stats = experiment.stats
    assert (stats.not_taken, stats.dropped, stats.artifacts) == ({}, {}, {"uploaded": 4})
    folder = tmp_path / "runs" / "alone"
    assert json.loads((folder / "artifacts/deep/results.json").read_text()) == {"a": 1}
    assert np.load(folder / "artifacts/escaped.npz")["../../escaped"].tolist() == [0, 1, 2]
    assert sorted(torch.load(folder / "models/net.pth")) == ["bias", "weight"]
    index = [json.loads(line) for line in (folder / "artifacts/index.jsonl").open()]
    assert [line["path"] for line in index] == ["deep/results.json", "escaped.npz", "data.zip"]
    assert all((folder / "artifacts" / line["path"]).exists() for line in index)
    (model,) = [json.loads(line) for line in (folder / "models/index.jsonl").open()]
    assert model["model"]["metadata"] == {"acc": "0.5"}
    assert [point[:2] for point in event_file_scalars(folder)["loss"]] == [(1, 0.5)]
    assert shown_params(folder) == {
        "lr": 0.1, "model/depth": 3.0, "model/wide": True, "name": "a|b", "later": 1.0,
    }  # fmt: skip


def shown_params(folder):
    """As TensorBoard's hyperparameters page reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    text = events.Tensors("params/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| later | 1 |" in text
    assert r"| name | a\|b |" in text
    data = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    found = parse_session_start_info_plugin_data(data).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


@pytest.mark.parametrize(
    ("name", "filename", "path"),
    [
        ("results", "results.csv.gz", "results.gz"),
        ("a/../../b.txt", "b.txt", os.path.join("a", "b.txt")),
        ("/etc/passwd", "passwd", os.path.join("etc", "passwd")),
        ("..", "x", "artifact"),
        ("index.jsonl", "index.jsonl", "artifact-index.jsonl"),
        ("a\\..\\b", "b", os.path.join("a", "b")),
    ],
)
def test_an_artifacts_copy_lies_below_the_folder(name, filename, path):
    assert relative_path(name, filename, "index.jsonl") == path


def test_an_options_name_is_no_sinks_name():
    with pytest.raises(ValueError, match="taken"):
        tracelet.register_sink("log_dir", lambda info: None)


@pytest.mark.parametrize("name", ["clearml", "mlflow", "trackio", "wandb", "aim"])
def test_a_tracker_that_is_not_installed_is_told_with_a_command_for_any_shell(
    name, monkeypatch, tmp_path
):
    """MLflow's had no quotes: zsh takes the brackets for a pattern."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendError, match=rf"pip install 'tracelet\[{name}\]'$"):
        open_backend(name, RunInfo(Options(backend=(name,)), "a-run", str(tmp_path)))
