"""Events to ClearML, to a storage and a server that are played: once each, and none for long."""

from __future__ import annotations

import errno
import json
import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("clearml")

from tracelet.backends.artifact import Model
from tracelet.backends.base import UNREADABLE, Batch, RunInfo
from tracelet.backends.clearml import media as module
from tracelet.backends.clearml.add_batch import REFUSED, RefusedError
from tracelet.backends.clearml.media import ClearMLMediaSink
from tracelet.backends.clearml.models import ModelRegistry, model_comment, source_of, typed
from tracelet.backends.clearml.names import TaskNames
from tracelet.backends.clearml.probe import REFUSALS_BEFORE_SETTING_ASIDE, Probe
from tracelet.backends.clearml.session import read_task, write_task
from tracelet.backends.clearml.stored_models import OnlineModels, SessionModels
from tracelet.backends.parts import Configuration, NoForm, Parameters, Plot, Sample, Scalar
from tracelet.errors import BackendError, SinkUnavailableError
from tracelet.options import Options
from tracelet.records import EVENT, RECORD_DTYPE


class Names:
    def text(self, id):
        return {0: "", 1: "/logs\0", 2: "tag"}[id]


def batch_of(count, first=1):
    records = np.zeros(count, RECORD_DTYPE)
    records["kind"], records["tag_id"], records["writer_id"] = EVENT, 2, 1
    records["sequence"] = np.arange(first, first + count)
    records["step"] = records["sequence"] * 10
    records["wall_time"] = 1.5
    records["payload_offset"], records["payload_size"] = np.arange(count), 1
    records.flags.writeable = False
    return Batch(records, Names(), bytes(range(first, first + count)))


class Played:
    def __init__(self, tmp_path, monkeypatch):
        self.events = {}
        """What is in the event of each sequence: parts, or an exception."""
        self.lines, self.uploads, self.places = [], [], []
        self.refuses_lines = self.refuses_upload = lambda *_: None
        self.params, self.configurations, self.steps = [], [], []
        task = SimpleNamespace(
            id="t1", task=SimpleNamespace(), is_offline=False,
            update_params=self.params.append,
            set_configuration=lambda *pair: self.configurations.append(pair),
            note_iteration=self.steps.append,
        )  # fmt: skip
        options = Options(backend=("clearml",))
        info = RunInfo(options, "a-run", str(tmp_path))
        store = SimpleNamespace(
            upload=self.upload, place=self.place, close=lambda: None, forget_delivered=lambda: None
        )
        monkeypatch.setattr(module, "SampleStore", lambda task, lines: store)
        monkeypatch.setattr(module.parts, "parts_of", self.parts_of)
        self.sink = ClearMLMediaSink(task, info, TaskNames())
        self.sink._post = self.post

    def parts_of(self, payload):
        found = self.events.get(payload[0], [])
        if isinstance(found, Exception):
            raise found
        return found

    def place(self, sequence, part, metric, variant, extension):
        self.places.append((sequence, part, metric, variant, extension))
        return SimpleNamespace(key=f"k{sequence}-{part}")

    def upload(self, data, place):
        if error := self.refuses_upload(data):
            raise error
        self.uploads.append(data)
        return f"url of {place.key}"

    def post(self, lines):
        if error := self.refuses_lines([json.loads(line) for line in lines]):
            raise error
        self.lines += [json.loads(line) for line in lines]

    def write_until_taken(self, batch, most=30):
        for attempt in range(1, most):
            try:
                return attempt, self.sink.write(batch)
            except SinkUnavailableError:
                pass
        raise AssertionError


@pytest.fixture
def played(tmp_path, monkeypatch):
    return Played(tmp_path, monkeypatch)


def test_a_session_s_lines_reach_the_disk_behind_the_files_that_they_name(
    played, tmp_path, monkeypatch
):
    synced, refuses = [], [5]

    def sync(path):
        if refuses:
            raise OSError(refuses.pop(), "refused")
        synced.append(path)

    monkeypatch.setattr(module, "sync_file", sync)
    sink = played.sink
    sink._store.sync = lambda: synced.append("samples")
    sink._names = replace(sink._names, lines=SimpleNamespace(sync=lambda: synced.append("names")))
    played.events[1] = played.events[2] = [Scalar("s", 0.5)]
    sink.write(batch_of(1))
    sink.sync()
    assert synced == ["samples", "names"]  # a server has the lines
    sink._task.is_offline = True
    sink._task.task.get_offline_mode_folder = lambda: tmp_path
    sink.write(batch_of(1, first=2))
    with pytest.raises(OSError, match="refused"):
        sink.sync()
    sink.sync()
    sink.sync()
    lines = str(tmp_path / "metrics.jsonl")
    assert synced[2:] == ["samples", "names", "samples", "names", lines, "samples", "names"]


@pytest.mark.parametrize(
    ("is_offline", "reopen", "is_other_boot", "is_certain"),
    [(True, {}, True, False), (True, {}, False, True), (True, None, True, True),
     (False, {}, True, True)],
)  # fmt: skip
def test_after_a_loss_of_power_all_that_is_left_of_a_session_s_events_is_given_again(
    played, tmp_path, is_offline, reopen, is_other_boot, is_certain
):
    task = SimpleNamespace(is_offline=is_offline)
    info = RunInfo(Options(), "a-run", str(tmp_path), reopen, is_other_boot)
    assert ClearMLMediaSink(task, info, TaskNames()).is_certain is is_certain


def test_each_part_has_its_line_or_its_request(played):
    played.events[1] = [
        Sample("a/img", "Images", ".png", b"PNG"), Plot("b/p", "{}", has_series=True),
        Plot("q", "{}"), Scalar("s", 0.5), Parameters({"lr": 1}), Configuration("c", "text"),
    ]  # fmt: skip
    delivery = played.sink.write(batch_of(1))
    assert (delivery.delivered, delivery.set_aside) == (1, {})
    assert played.lines[0] == {
        "type": "training_debug_image", "task": "t1", "iter": 10, "metric": "a", "variant": "img",
        "key": "k1-0", "url": "url of k1-0", "timestamp": 1500,
    }  # fmt: skip
    shown = [(e["type"], e["metric"], e["variant"]) for e in played.lines[1:]]
    assert shown == [("plot", "b", "p"), ("plot", "q", ""), ("training_stats_scalar", "s", "s")]
    assert played.lines[3]["value"] == 0.5
    assert played.params == [{"lr": 1}]
    assert played.configurations == [("c", "text")]
    assert played.places == [(1, 0, "a", "img", ".png")]
    assert played.steps == [10]


def test_what_can_not_be_shown_is_counted_by_its_reason_and_noted_once(played, caplog):
    largest = 3.4028234663852886e38
    played.events.update({
        1: [NoForm("graph"), Scalar("a", 1.0)], 2: [Scalar("a", math.nan)],
        3: [Scalar("a", 1e39)], 4: ValueError("torn"), 5: [NoForm("graph")],
        6: [Scalar("a", largest)], 7: [Scalar("a", math.inf), NoForm("mesh")],
    })  # fmt: skip
    with caplog.at_level(logging.INFO, "tracelet"):
        delivery = played.sink.write(batch_of(7))
    assert delivery.delivered == 1
    assert delivery.not_finite == 2
    assert delivery.set_aside == {
        "no form on clearml: graph": 2, "beyond float32": 1, UNREADABLE: 1,
    }  # fmt: skip
    assert caplog.text.count("no form for a graph") == 1
    assert caplog.text.count("can't be shown") == 1
    assert [line["value"] for line in played.lines] == [1.0, largest]


def test_an_event_whose_file_is_gone_is_one_that_can_not_be_read(played, monkeypatch):
    def gone(self, record):
        raise FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr(Batch, "event", gone)
    assert played.sink.write(batch_of(2)).set_aside == {UNREADABLE: 2}


def test_requests_are_sent_when_they_are_large(played, monkeypatch):
    posts = []
    played.sink._post = lambda lines: posts.append(len(lines))
    played.events.update({n: [Scalar("a", 1.0)] for n in range(1, 6)})
    monkeypatch.setattr(module, "_REQUEST_EVENTS", 2)
    played.sink.write(batch_of(5))
    assert posts == [2, 2, 1]
    posts.clear()
    monkeypatch.setattr(module, "_REQUEST_EVENTS", 100)
    monkeypatch.setattr(module, "_REQUEST_BYTES", 1)
    played.sink.write(batch_of(5))
    assert posts == [1] * 5
    posts.clear()
    played.events = {}
    played.sink.write(batch_of(5))
    assert posts == []  # nothing to be sent


def test_what_was_uploaded_is_not_uploaded_again_and_goes_to_its_first_place(played):
    played.events.update({
        1: [Sample("a", "Images", ".png", b"1"), Sample("a", "Images", ".png", b"2")],
        2: [Sample("a", "Images", ".png", b"3")],
    })  # fmt: skip
    fails = [OSError("away")]
    played.refuses_upload = lambda data: fails.pop() if data == b"2" and fails else None
    batch = batch_of(2)
    attempt, delivery = played.write_until_taken(batch)
    assert delivery.delivered == 2
    assert played.uploads.count(b"3") == 1
    assert sorted(set(played.uploads)) == [b"1", b"2", b"3"]
    assert [place[:2] for place in played.places].count((1, 1)) == 1
    assert [line["key"] for line in played.lines] in (
        ["k2-0", "k1-0", "k1-1"], ["k1-0", "k1-1", "k2-0"],
    )  # fmt: skip
    assert attempt == 2


def test_one_that_is_refused_while_others_are_taken_is_set_aside(played, tmp_path):
    for n in range(1, 5):
        played.events[n] = [Scalar("a", float(n))]
    played.refuses_lines = lambda lines: (
        RefusedError(400, "bad") if any(line["value"] == 3.0 for line in lines) else None
    )
    attempt, delivery = played.write_until_taken(batch_of(4))
    assert delivery.set_aside == {REFUSED: 1}
    assert delivery.delivered == 3
    assert attempt == REFUSALS_BEFORE_SETTING_ASIDE
    values = [line["value"] for line in played.lines]
    assert {1.0, 2.0, 4.0} == set(values)
    (line,) = (tmp_path / "set_aside-clearml-media.jsonl").read_text().splitlines()
    assert (json.loads(line)["step"], json.loads(line)["answer"]) == (30, "400: bad")


def test_one_that_is_refused_alone_is_set_aside_as_another_was_taken_before(played):
    """Else it would hold back all that comes behind it, for ever: nothing tells the server from
    one that is sick."""
    played.events.update({1: [Scalar("a", 1.0)], 2: [Scalar("a", 2.0)]})
    played.refuses_lines = lambda lines: (
        RefusedError(400, "bad") if any(line["value"] == 2.0 for line in lines) else None
    )
    assert played.sink.write(batch_of(1)).delivered == 1
    attempt, delivery = played.write_until_taken(batch_of(1, first=2))
    assert (attempt, delivery.set_aside) == (REFUSALS_BEFORE_SETTING_ASIDE, {REFUSED: 1})


def test_a_verdict_on_a_file_is_taken_at_once(played):
    played.events.update({1: [Sample("a", "Images", ".png", b"1"), Scalar("a", 1.0)]})
    played.refuses_upload = lambda data: ValueError("Failed uploading object a (413): large")
    attempt, delivery = played.write_until_taken(batch_of(1))
    assert (attempt, delivery.set_aside) == (1, {REFUSED: 1})
    assert [line["type"] for line in played.lines] == ["training_stats_scalar"]


def test_a_storage_or_a_server_that_is_away_holds_all_and_sets_nothing_aside(played, tmp_path):
    played.events.update({
        n: [Sample("a", "Images", ".png", bytes([n])), Scalar("a", 1.0)] for n in (1, 2, 3)
    })  # fmt: skip
    tries = []
    played.refuses_upload = lambda data: tries.append(data) or OSError("no storage")
    for _ in range(8):
        with pytest.raises(SinkUnavailableError, match="3 events wait: no storage"):
            played.sink.write(batch_of(3))
    assert len(tries) == 8  # one each time, not one for each event
    played.refuses_upload = lambda data: None
    played.refuses_lines = lambda lines: RefusedError(500, "sick")
    with pytest.raises(SinkUnavailableError):
        played.sink.write(batch_of(3))
    played.refuses_lines = lambda lines: None
    assert played.sink.write(batch_of(3)).delivered == 3
    assert not (tmp_path / "set_aside-clearml-media.jsonl").exists()
    assert len(played.lines) == 6
    assert played.sink.write(batch_of(1, first=9)).delivered == 1


def test_another_batch_begins_anew_and_a_longer_one_goes_on(played):
    played.events.update({n: [Scalar("a", float(n))] for n in range(1, 9)})
    fails = [SinkUnavailableError("away")]
    played.refuses_lines = lambda lines: fails.pop() if fails else None
    with pytest.raises(SinkUnavailableError):
        played.sink.write(batch_of(2))
    assert played.sink.write(batch_of(3)).delivered == 3
    assert [line["value"] for line in played.lines] == [1.0, 2.0, 3.0]
    fails.append(SinkUnavailableError("away"))
    with pytest.raises(SinkUnavailableError):
        played.sink.write(batch_of(2, first=4))
    assert played.sink.write(batch_of(1, first=7)).delivered == 1
    assert played.lines[-1]["value"] == 7.0
    assert len(played.lines) == 4


def test_lines_are_one_list_offline_and_lines_online(tmp_path):
    (tmp_path / "session").mkdir()
    task = SimpleNamespace(
        task=SimpleNamespace(get_offline_mode_folder=lambda: tmp_path / "session")
    )
    append = module._append_to(task)
    append([b'{"a": 1}', b'{"a": 2}'])
    assert (tmp_path / "session" / "metrics.jsonl").read_bytes() == b'[{"a": 1}, {"a": 2}]\n'
    sent = []
    send = module._send_by(lambda body: sent.append(body) or 2)
    send([b"1", b"2"])
    assert sent == [b"1\n2"]
    with pytest.raises(RefusedError, match="1 of 3 events not taken"):
        send([b"1", b"2", b"3"])
    assert module._milliseconds(1.5) == 1500
    assert module._milliseconds(math.nan) > 1.6e12


def test_a_probe_of_the_last_line_tells_a_sick_server(played):
    played.events[1] = [Scalar("a", 1.0)]
    played.sink.write(batch_of(1))
    given = []
    played.sink._requests = Probe(lambda lines: given.append(lines))
    played.sink.write(batch_of(1))
    played.sink._requests.passes()
    assert [[json.loads(line)["value"] for line in lines] for lines in given] == [[1.0]]


# ---- Models.


def weights(**changes):
    made = {"entry": "net", "framework": "PyTorch", "extension": ".pth", "source": "/x/net.pth",
            "metadata": {"acc": 0.5}}  # fmt: skip
    return Model(**{**made, **changes})


def test_a_comment_has_the_metadata_once():
    first = model_comment("mine", {"a": 1, "b": 2})
    assert first == "mine\nmetadata:\na: 1\nb: 2\n"
    assert model_comment(first, {"c": 3}) == "mine\nmetadata:\nc: 3\n"
    assert model_comment(first, {}) == "mine"
    assert typed({"a": 1.5, "b": True, "c": [1], "d": "x", "e": 3}) == {
        "a": {"value": "1.5", "type": "float"}, "b": {"value": "True", "type": "bool"},
        "c": {"value": "[1]", "type": "str"}, "d": {"value": "x", "type": "str"},
        "e": {"value": "3", "type": "int"},
    }  # fmt: skip
    entries = ({"source": "a/b"}, {"source": "", "weights": {"register_uri": "file:///c"}},
               {"weights": {"register_uri": None}})  # fmt: skip
    found = [source_of(entry) for entry in entries]
    assert found[0].endswith("/a/b")
    assert found[1:] == ["/c", ""]


class SessionTask:
    name = "task"

    def __init__(self, folder):
        self.folder = folder
        self._offline_output_models = []

    def get_offline_mode_folder(self):
        return self.folder

    def get_tags(self):
        return ["of the task"]


def test_a_session_has_each_file_once_with_its_own_metadata_before_the_runs(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(b"w")
    task = SessionTask(tmp_path / "session")
    registry = ModelRegistry(task, is_offline=True, output_uri="s3://out")
    assert not registry.has_metadata
    registry.apply()
    registry.add_metadata({"lr": 1, "acc": 0.1})
    assert registry.has_metadata
    registry.register(weights(), "", str(path))
    registry.register(weights(tags=["t"], name="best"), "", str(path))
    registry.register(weights(entry="b/c", source=""), "", str(path))
    registry.register(weights(entry="b/c", source=""), "", str(path))
    first, second, third = task._offline_output_models
    assert (first["init"]["name"], first["init"]["tags"]) == ("best", ["t"])
    assert (second["init"]["name"], second["init"]["tags"]) == ("task - b/c", ["of the task"])
    assert first["init"]["comment"] == "\nmetadata:\nlr: 1\nacc: 0.5\n"
    kept = first["weights"]
    assert (kept["upload_uri"], kept["update_comment"]) == ("s3://out", False)
    assert (tmp_path / "session" / "models" / kept["target_filename"]).read_bytes() == b"w"
    registry.add_metadata({"lr": 2})
    registry.apply()
    assert first["init"]["comment"] == "\nmetadata:\nlr: 2\nacc: 0.5\n"
    registry.finish()
    assert task._offline_output_models == [first, second, third]
    again = {**first, "id": "again"}
    task._offline_output_models.append(again)
    registry.finish()
    assert task._offline_output_models == [second, third, again]
    online = ModelRegistry(task, is_offline=False, output_uri=None)
    online.finish()
    assert task._offline_output_models == [second, third, again]


def test_online_the_metadata_of_a_model_wins_and_one_that_is_not_taken_is_an_error():
    given = []
    taken = [True]
    model = SimpleNamespace(
        id="m", name="n",
        set_all_metadata=lambda values, replace: given.append((values, replace)) or taken[0],
    )  # fmt: skip
    task = SimpleNamespace(get_models=lambda: {"output": [model]})
    registry = ModelRegistry(task, is_offline=False, output_uri=None)
    registry.apply()
    registry._set_metadata(model)
    assert given == []
    registry.add_metadata({"a": 1, "b": 1})
    registry._own["m"] = {"b": 2}
    registry.apply()
    assert given == [(typed({"a": 1, "b": 2}), False)]
    taken[0] = False
    with pytest.raises(BackendError, match="did not take the metadata of model 'n'"):
        registry.apply()


def test_a_stored_session_has_a_model_once_and_gives_it_what_it_lacks(tmp_path, monkeypatch):
    write_task(tmp_path, {"name": "task", "tags": ["of the task"]})
    path = tmp_path / "w"
    path.write_bytes(b"w")
    held = SessionModels(tmp_path, "s3://out")
    held.register(weights(), "", str(path))
    held.register(weights(), "", str(path))
    held.register(weights(entry="other", source=""), "", str(path))
    held.register(weights(entry="other", source="", tags=[]), "", str(path))
    first, second = read_task(tmp_path)["offline_output_models"]
    assert (first["init"]["name"], first["init"]["tags"]) == ("task - net", ["of the task"])
    assert second["init"]["tags"] == []
    assert first["init"]["comment"] == "\nmetadata:\nacc: 0.5\n"
    held.apply({})
    held.apply({"acc": 9, "lr": "a: b"})
    first, _ = read_task(tmp_path)["offline_output_models"]
    assert first["init"]["comment"] == "\nmetadata:\nacc: 0.5\nlr: a: b\n"


class Edits:
    def __init__(self, task, **answers):
        self.content = task
        self.answers = answers
        self.calls = []

    def task(self):
        return self.content

    def call(self, request, **body):
        self.calls.append((request, body))

    def call_models(self, request, **body):
        self.calls.append((request, body))
        return self.answers.get(request)


def test_a_stored_tasks_models_are_made_once_on_the_server():
    task = {"id": "t", "name": "task", "project": "p", "tags": ["a"]}
    edits = Edits(task, CreateRequest={"id": "m1"}, GetAllRequest={"models": []})
    OnlineModels(edits).register(weights(), "s3://x", "path")
    requests = [request for request, _ in edits.calls]
    assert requests == ["GetAllRequest", "CreateRequest", "AddOrUpdateModelRequest",
                        "AddOrUpdateMetadataRequest"]  # fmt: skip
    body = edits.calls[1][1]
    assert (body["name"], body["uri"], body["tags"]) == ("task - net", "s3://x", ["a"])
    assert edits.calls[2][1] == {"name": "net", "type": "output", "model": "m1"}
    assert edits.calls[3][1]["replace_metadata"] is False
    listed = {**task, "models": {"output": [{"name": "net", "model": "m2"}]}}
    edits = Edits(listed)
    OnlineModels(edits).register(weights(metadata={}), "s3://x", "path")
    assert [request for request, _ in edits.calls] == ["EditRequest", "AddOrUpdateModelRequest"]
    assert edits.calls[0][1]["model"] == "m2"
    # An earlier try has made one, and died before it was listed.
    found = [{"id": "m2", "name": "task - other"}, {"id": "m3", "name": "task - other"},
             {"id": "m4", "name": "x"}]  # fmt: skip
    edits = Edits(listed, GetAllRequest={"models": found})
    OnlineModels(edits).register(weights(entry="other", metadata={}), "s3://x", "path")
    assert edits.calls[1] == ("EditRequest", {**edits.calls[1][1], "model": "m3"})


def test_a_stored_tasks_models_get_what_they_lack_of_the_metadata():
    task = {"models": {"output": [{"model": "m1"}]}}
    for held in ([{"key": "a"}], {"a": {"value": 1}}):
        edits = Edits(task, GetByIdRequest={"model": {"metadata": held}})
        OnlineModels(edits).apply({"a": 9, "b": 2})
        assert [item["key"] for item in edits.calls[-1][1]["metadata"]] == ["b"]
    edits = Edits(task, GetByIdRequest={"model": {"metadata": [{"key": "a"}]}})
    OnlineModels(edits).apply({"a": 9})
    assert [request for request, _ in edits.calls] == ["GetByIdRequest"]
    edits = Edits(task)
    OnlineModels(edits).apply({})
    assert edits.calls == []
