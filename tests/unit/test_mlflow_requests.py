"""What is sent to MLflow, to a server that is played: requests, refusals, names, files."""

from __future__ import annotations

import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
from tracelet.backends.artifact import Artifacts
from tracelet.backends.base import Batch
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.kept import KeptLines
from tracelet.backends.mlflow import media as media_module
from tracelet.backends.mlflow import sink as sink_module
from tracelet.backends.mlflow import uploads
from tracelet.backends.mlflow.media import MLflowMediaSink
from tracelet.backends.mlflow.names import clean_name
from tracelet.backends.mlflow.sink import MLflowSink
from tracelet.backends.mlflow.store import (
    HttpStore,
    RefusedError,
    RunState,
    _error_code,
    open_store,
    without_secret,
)
from tracelet.backends.mlflow.uploads import (
    NOTES,
    ArtifactUpload,
    send_description,
    send_params,
    texts_of,
)
from tracelet.backends.parts import Configuration, NoForm, Parameters, Plot, Sample, Scalar
from tracelet.errors import ConfigurationError, SinkUnavailableError
from tracelet.histograms import Histogram
from tracelet.records import EVENT, HISTOGRAM, RECORD_DTYPE, SCALAR


class Server:
    """`answers`: (status, content, headers) for each request, or an exception; the last stays."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def __call__(self, creds, endpoint, method, **arguments):
        self.requests.append((method, endpoint.rpartition("mlflow/")[2], arguments))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, content, *headers = answer
        return SimpleNamespace(
            status_code=status, text=json.dumps(content), json=lambda: content,
            headers=headers[0] if headers else {},
        )  # fmt: skip


def store_at(*answers):
    store = HttpStore.__new__(HttpStore)
    store._request, store._creds = Server(*answers), "creds"
    return store, store._request


MISSING = (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})
REFUSED = (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "no"})
INFO = {"run": {"info": {"run_id": 1, "experiment_id": 2, "artifact_uri": "s3://x", "status": "R"}}}


def test_an_experiment_is_found_or_made_also_when_another_process_makes_it_first():
    store, server = store_at((200, {"experiment": {"experiment_id": 7}}))
    assert store.experiment_id("e") == "7"
    assert server.requests[0][:2] == ("GET", "experiments/get-by-name")
    assert server.requests[0][2]["params"] == {"experiment_name": "e"}
    store, server = store_at(MISSING, (200, {"experiment_id": 8}))
    assert store.experiment_id("e") == "8"
    assert server.requests[1][0] == "POST"
    assert server.requests[1][2]["json"] == {"name": "e"}
    exists = (400, {"error_code": "RESOURCE_ALREADY_EXISTS"})
    store, server = store_at(MISSING, exists, (200, {"experiment": {"experiment_id": 9}}))
    assert store.experiment_id("e") == "9"
    store, server = store_at(MISSING, exists, MISSING, exists)
    with pytest.raises(RefusedError):
        store.experiment_id("e")
    assert len(server.requests) == 4


def test_a_run_is_made_and_read_with_what_is_said_of_it():
    store, server = store_at((200, INFO))
    state = RunState("1", "2", "s3://x", "R")
    assert store.create_run("2", "name", {"k": "v"}) == state
    body = server.requests[0][2]["json"]
    assert (body["experiment_id"], body["run_name"]) == ("2", "name")
    assert body["tags"] == [{"key": "k", "value": "v"}]
    assert body["start_time"] > 1.6e12
    assert store.run("1") == state
    assert server.requests[1][2]["params"] == {"run_id": "1"}
    store, _ = store_at((200, {"run": {"info": {"run_id": "1", "experiment_id": "2"}}}))
    assert store.run("1") == RunState("1", "2", "", "")
    store, _ = store_at(MISSING)
    with pytest.raises(RefusedError, match="has no run '1'"):
        store.run("1")


def test_each_request_is_one_attempt_with_what_it_is_of():
    store, server = store_at((200, {}))
    store.log_metrics('r"', b'{"a":1},{"b":2}')
    store.log_params("r", {"k": "v"})
    store.set_tag("r", "n", "t")
    store.delete_tag("r", "n")
    store.update_run("r", "FINISHED", None)
    store.update_run("r", "FINISHED", 5)
    _, endpoint, arguments = server.requests[0]
    assert endpoint == "runs/log-batch"
    assert json.loads(arguments["data"]) == {"run_id": 'r"', "metrics": [{"a": 1}, {"b": 2}]}
    assert arguments["extra_headers"] == {"Content-Type": "application/json"}
    assert [each[2].get("json") for each in server.requests[1:]] == [
        {"run_id": "r", "params": [{"key": "k", "value": "v"}]},
        {"run_id": "r", "key": "n", "value": "t"}, {"run_id": "r", "key": "n"},
        {"run_id": "r", "status": "FINISHED"},
        {"run_id": "r", "status": "FINISHED", "end_time": 5},
    ]  # fmt: skip
    for method, _, arguments in server.requests:
        assert method == "POST"
        assert (arguments["max_retries"], arguments["raise_on_status"]) == (0, False)
        assert arguments["timeout"] > 1
    assert server.requests[1][2]["extra_headers"] is None


def test_what_is_refused_for_good_is_told_from_what_may_pass():
    for code in ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"):
        store, _ = store_at((400, {"error_code": code}))
        with pytest.raises(RefusedError, match="MLflow refused runs/set-tag: 400"):
            store.set_tag("r", "n", "t")
    for answer, after_s in (
        ((500, {}, {"Retry-After": "7"}), 7.0), ((429, {}, {"Retry-After": "Wed, 21"}), 0.0),
        ((503, {}), 0.0), ((403, {"error_code": "PERMISSION_DENIED"}), 0.0), (MISSING, 0.0),
    ):  # fmt: skip
        store, _ = store_at(answer)
        with pytest.raises(SinkUnavailableError) as raised:
            store.set_tag("r", "n", "t")
        assert raised.value.retry_after_s == after_s
    store, _ = store_at(MISSING)
    with pytest.raises(RefusedError):
        store.delete_tag("r", "n")  # it is gone already
    store, _ = store_at(ConnectionError("no route"))
    with pytest.raises(SinkUnavailableError, match="can't be reached: no route"):
        store.set_tag("r", "n", "t")
    assert [_error_code(text) for text in ("", "[1]", '{"error_code": "A"}', "{}")] == [
        "", "", "A", "",
    ]  # fmt: skip


def test_a_folder_of_files_is_refused_and_no_password_is_shown():
    for uri in ("./mlruns", "file:///tmp/x"):
        with pytest.raises(ConfigurationError, match="is a folder of files"):
            open_store(uri)
    assert without_secret("https://u:p@host:1/x?a=b") == "https://host:1/x?a=b"
    assert without_secret("https://host/x@y") == "https://host/x@y"
    assert without_secret("sqlite:///a@b.db") == "sqlite:///a@b.db"


# ---- Parameters and descriptions.


class Store:
    """`refuses(request, name)` says what is refused."""

    def __init__(self):
        self.calls = []
        self.metrics = []
        self.refuses = lambda what, names: False
        self.away = []

    def _call(self, what, names):
        self.calls.append((what, *names))
        if self.refuses(what, names):
            raise RefusedError(f"no {what}")

    def log_params(self, run_id, params):
        self._call("params", list(params))

    def set_tag(self, run_id, name, text):
        self._call("set", [name, text])

    def delete_tag(self, run_id, name):
        self._call("delete", [name])

    def log_metrics(self, run_id, metrics):
        if self.away and self.away.pop(0):
            raise SinkUnavailableError("away")
        self.metrics.append(json.loads(b"[" + metrics + b"]"))


def test_parameters_go_by_hundreds_and_of_those_that_are_refused_the_rest(monkeypatch):
    monkeypatch.setattr(uploads, "_REQUEST_PARAMS", 2)
    store = Store()
    assert send_params(store, "r", {"a": "1", "b": "2", "c": "3"}) == {}
    assert store.calls == [("params", "a", "b"), ("params", "c")]
    store.calls.clear()
    store.refuses = lambda what, names: "b" in names
    assert send_params(store, "r", {"a": "1", "b": "2", "c": "3"}) == {"b": "no params"}
    assert store.calls == [
        ("params", "a", "b"), ("params", "a"), ("params", "b"), ("params", "c"),
    ]  # fmt: skip


def test_values_are_texts_of_a_bounded_length_and_the_first_of_a_name_has_it():
    longest = uploads._LONGEST_VALUE
    texts = texts_of({"a!": 1, "a?": 2, "b": "x" * longest, "c": "x" * (longest + 1)})
    assert texts["a_"] == "1"
    assert texts["b"] == "x" * longest
    assert texts["c"] == "x" * (longest - 1) + "…"


def test_tags_and_notes_are_set_and_those_that_are_gone_are_deleted():
    store = Store()
    about = {"tags": ["a", "b!"], "notes": "text", "gone": ["b!", "c"]}
    assert send_description(store, "r", about) == {}
    assert store.calls == [("set", "a", ""), ("set", "b_", ""), ("set", NOTES, "text"),
                           ("delete", "c")]  # fmt: skip
    store.refuses = lambda what, names: True
    assert send_description(store, "r", about) == {
        "a": "no set", "b_": "no set", NOTES: "no set",
    }  # fmt: skip
    assert send_description(Store(), "r", {}) == {}


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("loss", "loss"), ("a/b.c-d e:f_1", "a/b.c-d e:f_1"), ("a!b", "a_b"), ("/a", "a"),
        ("a//b", "a/b"), ("../a", "a"), (".", "_"), ("", "_"), ("a/./b", "a/b"), ("a/", "a"),
        ("..", "_"), ("x" * 250, "x" * 250),
    ],
)  # fmt: skip
def test_names_have_a_form_that_is_taken(name, clean):
    assert clean_name(name) == clean


def test_long_names_stay_apart():
    first, second = clean_name("x" * 251), clean_name("x" * 252)
    assert first != second
    assert len(first) == len(second) == 250
    assert clean_name("x" * 232 + "/" + "y" * 50)[:233] == "x" * 232 + "-"


# ---- Artifacts.


class Repository:
    def __init__(self):
        self.files = {}

    def log_artifact(self, path, folder):
        with open(path, "rb") as file:
            name = "/".join(filter(None, (folder, os.path.basename(path))))
            self.files[name] = file.read()
        assert folder != ""


def test_artifacts_and_models_are_files_under_their_names(tmp_path, monkeypatch):
    made = Artifacts(str(tmp_path / "kept"))
    repository = Repository()
    (artifact,) = made.prepare({"a": 1}, "in/x:1", 1)
    upload = ArtifactUpload(artifact, lambda: repository)
    upload.upload()
    assert list(repository.files) == ["in/x_1.json"]
    assert upload.size_bytes == len(repository.files["in/x_1.json"])
    assert upload.name == "artifact 'in/x:1'"

    def refuse(source, target):
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "net.pth").write_bytes(b"w")
    (model,) = made.prepare_model(str(tmp_path / "net.pth"), "best", {"acc": 1}, ["t"], None, 1)
    upload = ArtifactUpload(model.file, lambda: repository, model)
    upload.upload()
    assert repository.files["models/best.pth"] == b"w"
    about = json.loads(repository.files["models/best.pth.about.json"])
    assert about == {"framework": "PyTorch", "tags": ["t"], "metadata": {"acc": "1"}}
    assert upload.name == "model 'best'"
    (plain,) = made.prepare(b"x", "x.bin", 1)
    ArtifactUpload(plain, lambda: repository).upload()
    assert repository.files["x.bin"] == b"x"
    assert os.listdir(plain.place) == ["x.bin"]


def test_a_put_is_a_file_in_its_folder():
    repository = Repository()
    put = media_module.put_into(lambda: repository)
    put(b"1", "a/b/c.txt")
    put(b"2", "d.txt")
    assert repository.files == {"a/b/c.txt": b"1", "d.txt": b"2"}


# ---- Points.


class Names:
    def text(self, id):
        return {0: "", 1: "/logs/one\0", 2: "loss", 3: "a:b"}[id]


def batch_of(count, kind=SCALAR, first=1, **fields):
    records = np.zeros(count, RECORD_DTYPE)
    records["kind"], records["tag_id"], records["writer_id"] = kind, 2, 1
    records["sequence"] = np.arange(first, first + count)
    records["step"] = records["value"] = np.arange(first, first + count)
    records["wall_time"] = 1.7e9
    for name, value in fields.items():
        records[name] = value
    records.flags.writeable = False
    return Batch(records, Names(), b"")


@pytest.fixture
def names(tmp_path):
    return FlatNames(KeptLines(str(tmp_path), "names.jsonl"), clean_name)


def test_scalars_go_by_requests_of_a_bounded_size_and_on_where_one_failed(names, monkeypatch):
    monkeypatch.setattr(sink_module, "_REQUEST_METRICS", 3)
    store = Store()
    sink = MLflowSink(store, "r", names)
    batch = batch_of(8, value=[1, 2, math.nan, 4, 5, 6, 7, math.inf])
    store.away = [False, True]
    with pytest.raises(SinkUnavailableError):
        sink.write(batch)
    delivery = sink.write(batch)
    assert (delivery.delivered, delivery.not_finite, delivery.total) == (6, 2, 8)
    sent = [each for request in store.metrics for each in request]
    assert [each["value"] for each in sent] == [1, 2, 4, 5, 6, 7]
    assert max(map(len, store.metrics)) <= 3
    assert sent[0] == {"key": "loss", "value": 1.0, "step": 1, "timestamp": 1_700_000_000_000}
    assert sink.write(batch_of(1, first=9)).delivered == 1
    store.away = [False, True]
    with pytest.raises(SinkUnavailableError):
        sink.write(batch_of(8, first=20))
    assert sink.write(batch_of(8, first=30)).delivered == 8  # another batch: from its beginning


@pytest.fixture
def media(names, monkeypatch):
    store, puts, params = Store(), {}, []
    sink = MLflowMediaSink(
        store, "r", "day-time-7", names, lambda data, path: puts.update({path: data}), params.append
    )
    found = []
    monkeypatch.setattr(media_module.parts, "parts_of", lambda event: found.pop(0))
    return SimpleNamespace(sink=sink, store=store, puts=puts, params=params, found=found)


def test_each_part_of_an_event_has_its_place(media):
    media.found.append([
        Sample("img", "Images", ".png", b"PNG"), Plot("p", '{"a":1}'), Scalar("s", 0.5),
        Parameters({"lr": 1}), Configuration("c", "text"),
    ])  # fmt: skip
    assert media.sink.write(batch_of(1, EVENT, first=4)).delivered == 1
    assert media.puts == {
        "images/img/00000004-7-4-0.png": b"PNG", "plots/p/00000004-7-4-1.json": b'{"a":1}',
        "configurations/c/00000004-7-4-4.txt": b"text",
    }  # fmt: skip
    assert media.params == [{"lr": 1}]
    assert media.store.metrics == [
        [{"key": "s", "value": 0.5, "timestamp": 1_700_000_000_000, "step": 4}]
    ]


def test_what_is_not_taken_is_counted_by_its_reason_and_the_rest_goes_on(media):
    media.found += [
        [NoForm("graph")], [Scalar("s", math.nan), Sample("t:1", "Text", ".txt", b"x")], [],
    ]  # fmt: skip
    delivery = media.sink.write(batch_of(3, EVENT))
    assert delivery.set_aside == {"no form on mlflow: graph": 1, "not finite": 1}
    assert delivery.delivered == 1
    assert list(media.puts) == ["text/t_1/00000002-7-2-1.txt"]


def test_a_batch_that_failed_goes_on_where_it_was_and_another_begins_anew(media):
    media.found += [[Scalar("a", 1.0)], [Scalar("b", 2.0)], [Scalar("b", 2.0)], [NoForm("x")]]
    media.store.away = [False, True]
    batch = batch_of(3, EVENT)
    with pytest.raises(SinkUnavailableError):
        media.sink.write(batch)
    delivery = media.sink.write(batch)
    assert (delivery.delivered, delivery.total) == (2, 3)
    assert [request[0]["key"] for request in media.store.metrics] == ["a", "b"]
    media.found += [[], [Scalar("c", 1.0)], [], []]
    media.store.away = [True]
    with pytest.raises(SinkUnavailableError):
        media.sink.write(batch_of(2, EVENT, first=10))
    media.found[:] = [[], []]
    assert media.sink.write(batch_of(2, EVENT, first=20)).total == 2


def histogram(counts, edges, **figures):
    return Histogram(**{
        "counts": np.array(counts), "bin_edges": np.array(edges, float), "num": sum(counts),
        "nan_count": 0, "inf_count": 0, **figures,
    })  # fmt: skip


def test_a_histogram_is_a_file_and_its_figures_are_metrics(media, monkeypatch):
    found = histogram([1, 3], [0, 1, 2], min=0.0, max=2.0, sum=8.0, sum_squares=20.0)
    monkeypatch.setattr(Batch, "histogram", lambda self, record: found)
    assert media.sink.write(batch_of(1, HISTOGRAM)).delivered == 1
    ((path, data),) = media.puts.items()
    assert path == "histograms/loss/00000001-7-1-0.json"
    assert json.loads(data) == {
        "counts": [1, 3], "bin_edges": [0.0, 1.0, 2.0], "min": 0.0, "max": 2.0, "sum": 8.0,
        "sum_squares": 20.0, "num": 4,
    }  # fmt: skip
    (metrics,) = media.store.metrics
    assert {each["key"]: each["value"] for each in metrics} == {
        "loss/min": 0.0, "loss/max": 2.0, "loss/mean": 2.0, "loss/std": 1.0, "loss/num": 4.0,
    }  # fmt: skip
    nothing = histogram([0], [0, math.inf], min=math.inf, max=-math.inf, sum=0.0, sum_squares=0.0)
    monkeypatch.setattr(Batch, "histogram", lambda self, record: nothing)
    media.sink.write(batch_of(1, HISTOGRAM, first=2))
    values = {each["key"]: each["value"] for each in media.store.metrics[-1]}
    assert values == {"loss/num": 0.0, "loss/std": 0.0}
    content = json.loads(media.puts["histograms/loss/00000002-7-2-0.json"])
    assert (content["min"], content["bin_edges"]) == ("inf", [0.0, "inf"])

    def unreadable(self, record):
        raise ValueError

    monkeypatch.setattr(Batch, "histogram", unreadable)
    assert media.sink.write(batch_of(1, HISTOGRAM, first=3)).set_aside == {
        media_module.UNREADABLE: 1
    }


def test_times_beyond_the_calendar_are_none():
    for time_s, wanted in (
        (1.5, 1500), (0.0, 0), (-1.0, 0), (253402300799.9, 253402300799900), (253402300799.999, 0),
        (math.nan, 0),
    ):  # fmt: skip
        assert media_module._milliseconds({"wall_time": time_s}) == wanted
