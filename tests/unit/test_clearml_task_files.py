"""A session's files and a task's edits, by a server that is played: merged, halved, left alone."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("clearml")

from tracelet.backends.clearml import reopen, session, task_edits
from tracelet.backends.clearml.api import RefusedError
from tracelet.backends.clearml.parameters import model_metadata
from tracelet.backends.clearml.reopen import (
    ReopenedTask,
    StoredTask,
    _check_session,
    _value_of,
    all_events_behind,
    event_key,
    events_behind,
)
from tracelet.backends.clearml.session import (
    SessionUsers,
    edit_task,
    events_in,
    locked,
    mend_lines,
    read_task,
    write_task,
    zip_session,
)
from tracelet.backends.clearml.task_edits import (
    TaskEdits,
    described_tags,
    edit_lock,
    section_items,
    show_params,
)
from tracelet.errors import BackendError, SinkUnavailableError

LINE = b'[{"iter": 1}]\n'
ID = "offline-" + "0" * 32


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / ID
    made.mkdir()
    write_task(made, {"id": ID})
    (made / session.METRICS).write_bytes(LINE)
    return made


def test_a_task_is_written_whole_and_by_each_thread_in_a_file_of_its_own(folder, monkeypatch):
    edit_task(folder, lambda content: content.update(b=1, a=2))
    text = (folder / "task.json").read_text()
    assert text == json.dumps({"a": 2, "b": 1, "id": ID}, sort_keys=True)
    written = []
    monkeypatch.setattr(session, "write_whole", lambda *arguments: written.append(arguments))
    write_task(folder, {})
    ((path, data, mode, own),) = written
    assert (path, data, mode) == (str(folder / "task.json"), b"{}", 0o666)
    assert own.startswith(f"{path}.{os.getpid()}-")


def test_a_task_that_can_not_be_read_is_left_as_it_is(folder, monkeypatch):
    monkeypatch.setattr(session, "_PAUSE_S", 0.0)
    path = folder / "task.json"
    for content, why in ((b"{", "is damaged"), (b"[1]", "is no task of ClearML's")):
        path.write_bytes(content)
        assert read_task(folder) == {}
        with pytest.raises(OSError, match=why):
            edit_task(folder, lambda content: content.update(a=1))
        assert path.read_bytes() == content
    path.unlink()
    edit_task(folder, lambda content: content.update(a=1))
    assert read_task(folder) == {"a": 1}


def test_a_task_that_another_process_is_writing_is_waited_for(folder, monkeypatch):
    path = folder / "task.json"
    path.write_bytes(b"{")
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            path.write_bytes(b'{"a": 1}')

    monkeypatch.setattr(session.time, "sleep", sleep)
    edit_task(folder, lambda content: content.update(b=1))
    assert read_task(folder) == {"a": 1, "b": 1}
    assert pauses == [session._PAUSE_S] * 3
    path.write_bytes(b"{")
    pauses[:] = [0.0] * 10
    with pytest.raises(OSError, match="damaged"):
        edit_task(folder, lambda content: None)
    assert len(pauses) - 10 == session._READ_ATTEMPTS - 1


def test_one_process_at_a_time_has_the_session(folder):
    import fcntl

    before = len(os.listdir("/dev/fd"))
    with locked(folder):
        fd = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    assert len(os.listdir("/dev/fd")) == before
    with locked(folder / "gone"):  # what can't be locked is edited without
        pass


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b'[{"a": 1}]', (0, [{"a": 1}])), (b"[]", (0, [])), (b'{"a": 1}', None), (b"", None),
        (b'torn[{"a": 1}]', (4, [{"a": 1}])), (b'[{"a": [{"b": 1}]', (7, [{"b": 1}])),
        (b'[{"x[{"y[{"a": 1}]', (8, [{"a": 1}])), (b'[{"a": 1', None),
    ],
)  # fmt: skip
def test_the_events_of_a_line_are_those_of_its_last_whole_list(line, wanted):
    assert events_in(line) == wanted


def test_of_very_many_torn_beginnings_not_all_are_tried():
    torn = b'[{"' * (session._MOST_STARTS - 2)
    assert events_in(torn + b'[{"a": 1}]') == (len(torn), [{"a": 1}])
    end = b'[{"a": 1}]' + b'[{"' * session._MOST_STARTS
    assert events_in(b"x" + end) is None


def test_lines_are_mended_in_their_place_and_a_file_that_is_gone_is_none(folder, tmp_path):
    path = folder / session.METRICS
    torn = b'[{"a": 1}, {"b'
    path.write_bytes(LINE + torn + LINE + LINE + torn + b"\n" + b"x\n" + LINE[:-1])
    size = path.stat().st_size
    mend_lines(path, is_settled=False)
    mended = path.read_bytes()
    assert len(mended) == size
    assert mended == LINE + b" " * len(torn) + LINE + LINE + b"[]".ljust(len(torn)) + b"\n" + (
        b"x\n" + LINE[:-1]
    )
    mend_lines(path, is_settled=True)
    assert path.read_bytes() == mended + b"\n"
    mend_lines(tmp_path / "gone", is_settled=True)
    assert not (tmp_path / "gone").exists()


def test_events_behind_a_place_are_those_of_whole_lines_of_ours(folder, tmp_path):
    path = folder / session.METRICS
    ours, sdks = b'[{"type":"a","n":1}]\n', b'[{"type": "b"}]\n'
    path.write_bytes(ours + sdks + ours + b'torn[{"type":"a","n":2}]\n' + b'[{"type":"c"}]')
    one, two = event_key({"type": "a", "n": 1}), event_key({"n": 2, "type": "a"})
    prefix = b'[{"type":"'
    counted = all_events_behind(str(path), 0, prefix)
    assert counted == {hash(one): 2, hash(two): 1}
    assert all_events_behind(str(path), len(ours), prefix)[hash(one)] == 1
    assert events_behind(str(path), 0, prefix, {one, "other"}) == {one}
    assert events_behind(str(path), len(ours) * 2 + len(sdks), prefix, {one, two}) == {two}
    assert all_events_behind(str(tmp_path / "gone"), 0, prefix) == {}


def test_a_zip_has_all_of_the_session_under_its_own_names(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_bytes(b"x" * 10_000)
    zip_session(folder)
    with zipfile.ZipFile(f"{folder}.zip") as archive:
        assert sorted(archive.namelist()) == ["inner/file", "metrics.jsonl", "task.json"]
        assert archive.getinfo("inner/file").compress_type == zipfile.ZIP_DEFLATED
    assert sorted(os.listdir(folder.parent)) == [ID, f"{ID}.zip"]


def test_who_uses_a_session_is_noted_in_a_file_of_its_own(folder):
    users = SessionUsers(folder)
    users.add("../../one")
    path = folder / "tracelet-one.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["pid"] == os.getpid()
    assert users.others_live("two")
    assert not users.others_live("../../one")
    (folder / "tracelet-odd.json").write_text("[1]")
    (folder / "tracelet-torn.json").write_text("{")
    (folder / "tracelet-name.json").write_text('{"run": 1}')
    os.symlink(path, folder / "tracelet-link.json")
    assert [each["run"] for each in users.all()] == ["../../one"]
    users.end("../../one")
    assert not users.others_live("two")
    assert not Path(f"{folder}.zip").exists()  # its SDK makes it
    dead = {"run": "dead", "pid": 1, "host": os.uname().nodename, "process_start": "another/1"}
    (folder / "tracelet-dead.json").write_text(json.dumps(dead))
    assert not users.others_live("two")
    users.add("late")
    users.end("late")  # who would have made it is dead
    assert Path(f"{folder}.zip").exists()


def test_a_session_that_is_not_the_sdks_for_that_task_is_left_alone(folder, tmp_path):
    _check_session(str(folder), ID)
    with pytest.raises(BackendError, match="is gone"):
        _check_session(str(tmp_path / "gone"), ID)
    other = tmp_path / ("offline-" + "1" * 32)
    other.mkdir()
    (tmp_path / "offline-x").mkdir()
    write_task(tmp_path / "offline-x", {})
    for path, id in ((folder, "offline-" + "1" * 32), (other, other.name),
                     (tmp_path / "offline-x", "offline-x")):  # fmt: skip
        with pytest.raises(BackendError, match="is not the folder of this user's"):
            _check_session(str(path), id)
    (folder / session.METRICS).unlink()
    _check_session(str(folder), ID)  # before the first point
    os.symlink("/dev/null", folder / session.METRICS)
    with pytest.raises(BackendError, match="it is left alone"):
        _check_session(str(folder), ID)


STATE = {
    "task": ID, "is_owned": True, "files_at": "s3://bucket", "files_folder": "p/t.1/metrics",
    "artifacts_folder": "p/t.1", "output_uri": "s3://out", "has_secret_uri": False,
    "files_history": 7,
}  # fmt: skip


def test_a_stored_task_answers_as_the_sdks_did(folder):
    task = StoredTask({**STATE, "offline_folder": str(folder)})
    assert (task.id, task.output_uri, task.get_logger()) == (ID, "s3://out", task)
    assert task.get_offline_mode_folder() == folder
    assert task.get_output_log_web_page() == ""
    assert task.get_default_upload_destination() == "s3://bucket"
    assert task.get_default_debug_sample_history() == 7
    assert task._get_output_destination_suffix("metrics") == "p/t.1/metrics"
    assert task._get_output_destination_suffix() == "p/t.1"
    before = StoredTask({**STATE, "artifacts_folder": None})  # of an older version
    assert before._get_output_destination_suffix() == "p/t.1"
    assert StoredTask({**STATE, "output_uri": None}).output_uri is None
    with pytest.raises(SinkUnavailableError, match="password"):
        _ = StoredTask({**STATE, "has_secret_uri": True}).output_uri


def artifact(key, value=1):
    return SimpleNamespace(to_dict=lambda: {"key": key, "value": value})


def test_artifacts_of_a_stored_task_replace_those_of_their_key_alone(folder):
    task = StoredTask({**STATE, "offline_folder": str(folder)})
    task._add_artifacts([artifact("a"), artifact("b")])
    edit_task(folder, lambda content: content["execution"].update(other=1))
    given = [artifact("b", 2)]
    assert task._add_artifacts(given) is given
    execution = read_task(folder)["execution"]
    assert execution["other"] == 1
    assert [(each["key"], each["value"]) for each in execution["artifacts"]] == [("a", 1), ("b", 2)]
    calls = []
    task.edits = SimpleNamespace(call=lambda request, **body: calls.append((request, body)))
    task._add_artifacts(given)
    assert calls == [("AddOrUpdateArtifactsRequest",
                      {"artifacts": [{"key": "b", "value": 2}], "force": True})]  # fmt: skip


def test_an_offline_task_is_edited_in_its_session_and_zipped_when_nobody_is_at_it(folder):
    task = ReopenedTask({**STATE, "offline_folder": str(folder)}, "dead")
    task.update_params({"General/lr": 0.1, "Args/n": None})
    task.update_params({"General/depth": [1]})
    task.set_configuration("net", "text")
    task.take_description({"tags": ["a"], "notes": "n"})
    content = read_task(folder)
    general = content["hyperparams"]["General"]
    assert {name: each["value"] for name, each in general.items()} == {"lr": "0.1", "depth": "[1]"}
    assert content["hyperparams"]["Args"]["n"]["value"] == ""
    assert content["configuration"]["net"] == {"name": "net", "value": "text"}
    assert (content["tags"], content["comment"]) == (["a"], "n")
    users = SessionUsers(folder)
    users.add("other")
    (folder / session.METRICS).write_bytes(LINE + LINE[:-1])
    task.close(False)
    assert not Path(f"{folder}.zip").exists()
    assert (folder / session.METRICS).read_bytes() == LINE + LINE[:-1]
    Path(f"{folder}.zip").write_bytes(b"")
    task.close(False)  # made anew, where there is one
    assert Path(f"{folder}.zip").stat().st_size > 0
    Path(f"{folder}.zip").unlink()
    users.was_sent("other")
    task.close(False)
    assert Path(f"{folder}.zip").exists()
    assert (folder / session.METRICS).read_bytes() == LINE + LINE
    assert {each["run"] for each in users.all()} == {"dead", "other"}


def test_parameters_come_back_in_their_types():
    for type, value, wanted in (
        ("float", "0.5", 0.5), ("int", "3", 3), ("bool", "True", True), ("bool", "False", False),
        ("str", "x", "x"), (None, "5", "5"), ("int", "x", "x"), ("float", None, "None"),
    ):  # fmt: skip
        found = _value_of({"type": type, "value": value})
        assert (found, found.__class__) == (wanted, wanted.__class__)
    flat = {"model.accuracy": 1, "model/f1": 2, "models.x": 3, "model.": 4, "lr": 5}
    assert model_metadata(flat) == {"accuracy": 1, "f1": 2}


class Server:
    """The server's side of TaskEdits: `refuses(request, body)` gives a status, or None."""

    def __init__(self, **task):
        self.is_connected = False
        self.content = {"status": "in_progress", **task}
        self.calls = []
        self.refuses = lambda request, body: None

    def connect(self):
        self.is_connected = True

    def call(self, service, request, **body):
        self.calls.append((request, body))
        if status := self.refuses(request, body):
            raise RefusedError(status, "no")
        return {"task": self.content}

    def names(self, request):
        return [
            [item["name"] for item in body["hyperparams"]]
            for made, body in self.calls
            if made == request
        ]


def items(*names):
    return [{"section": "General", "name": name, "value": "1"} for name in names]


def test_parameters_are_sent_in_requests_of_a_bounded_size(monkeypatch):
    monkeypatch.setattr(task_edits, "_MOST_ITEMS", 2)
    server = Server()
    edits = TaskEdits(ID, server)
    edits.connect()
    assert server.is_connected
    assert edits.set_params(items("a", "b", "c")) == {}
    assert server.names("EditHyperParamsRequest") == [["a", "b"], ["c"]]
    assert all(body["force"] and body["task"] == ID for _, body in server.calls)
    assert edits.set_params([]) == {}


def test_what_is_refused_together_is_halved_until_the_culprit_is_alone():
    server = Server()
    server.refuses = lambda request, body: (
        400 if any(each["name"] == "bad" for each in body.get("hyperparams", ())) else None
    )
    refused = TaskEdits(ID, server).set_params(items("a", "b", "bad", "c", "d"))
    assert refused == {"bad": "400: no"}
    taken = [set(names) for names in server.names("EditHyperParamsRequest") if "bad" not in names]
    assert set().union(*taken) == {"a", "b", "c", "d"}


def test_where_very_many_are_refused_they_are_not_asked_for_one_by_one(monkeypatch):
    monkeypatch.setattr(task_edits, "_MOST_REFUSED", 2)
    server = Server()
    server.refuses = lambda request, body: 400 if "hyperparams" in body else None
    refused = TaskEdits(ID, server).set_params(items(*"abcdefgh"))
    assert set(refused) == set("abcdefgh")
    assert len(server.names("EditHyperParamsRequest")) < 10
    server.refuses = lambda request, body: 500 if "hyperparams" in body else None
    with pytest.raises(SinkUnavailableError, match="did not take parameters"):
        TaskEdits(ID, server).set_params(items("a", "b"))


def test_parameters_of_a_task_that_has_ended_are_merged_with_what_it_has():
    held = {"General": {"old": {"name": "old"}}, "Args": {}}
    server = Server(status="completed", hyperparams=held)
    server.refuses = lambda request, body: 400 if request == "EditHyperParamsRequest" else None
    assert TaskEdits(ID, server).set_params(items("a")) == {}
    request, body = server.calls[-1]
    assert request == "EditRequest"
    assert set(body["hyperparams"]["General"]) == {"old", "a"}
    assert body["force"] is True
    for status in ("created", "in_progress"):
        server.content["status"] = status
        assert TaskEdits(ID, server).set_params(items("a")) == {"a": "400: no"}


def test_a_configuration_of_a_task_that_has_ended_is_merged_with_what_it_has():
    server = Server(status="stopped", configuration={"old": {"name": "old"}})
    edits = TaskEdits(ID, server)
    edits.set_configuration("net", "text")
    ((request, body),) = server.calls
    assert (request, body["force"]) == ("EditConfigurationRequest", True)
    assert body["configuration"] == [{"name": "net", "value": "text"}]
    server.refuses = lambda request, body: 400 if request == "EditConfigurationRequest" else None
    edits.set_configuration("net", "text")
    assert set(server.calls[-1][1]["configuration"]) == {"old", "net"}
    assert server.calls[-1][1]["force"] is True
    server.content["status"] = "created"
    with pytest.raises(RefusedError):
        edits.set_configuration("net", "text")


def test_tags_and_notes_are_set_beside_those_of_others_and_shown():
    about = {"tags": ["mine", "new"], "gone": ["old"], "notes": "n"}
    assert described_tags(["theirs", "old", "mine"], about) == ["theirs", "mine", "new"]
    assert described_tags(None, {"tags": []}) == []
    server = Server(tags=["theirs"])
    shown = SimpleNamespace(tags=None, comment=None)
    edits = TaskEdits(ID, server)
    assert edits.describe(about, shown) == {}
    assert (shown.tags, shown.comment) == (["theirs", "mine", "new"], "n")
    assert all(body.get("force", True) is True for _, body in server.calls)
    server.refuses = lambda request, body: 400 if "comment" in body else None
    assert edits.describe({"notes": "m"}, shown) == {"comment": "400: no"}
    assert shown.comment == "n"
    assert edits.describe({"notes": "m"}, None) == {"comment": "400: no"}
    server.refuses = lambda request, body: 500 if "comment" in body else None
    with pytest.raises(SinkUnavailableError):
        edits.describe({"notes": "m"}, shown)
    server.refuses = lambda request, body: None
    assert edits.describe({"notes": "m"}, None) == {}


def test_values_are_texts_as_the_sdk_makes_them():
    found = section_items({"Args/a/b": (1, 2), "x": None, "General/d": {"k": {1}}, "y": True})
    assert [(each["section"], each["name"], each["value"]) for each in found] == [
        ("Args", "a/b", "[1, 2]"), ("x", "", ""), ("General", "d", "{'k': {1}}"), ("y", "", "True"),
    ]  # fmt: skip


def test_parameters_on_their_way_are_shown_unless_they_are_very_many(monkeypatch):
    items_of = task_edits.params_items({"lr": 0.5, "none": None})
    assert items_of["lr"]["type"] == "float"
    assert items_of["none"] == {"section": "General", "name": "none", "value": "", "type": None}
    task = SimpleNamespace(_data=SimpleNamespace(hyperparams={"Args": {}, "General": {"old": 1}}))
    show_params(task, items_of)
    assert set(task._data.hyperparams["General"]) == {"old", "lr", "none"}
    assert set(task._data.hyperparams) == {"Args", "General"}
    monkeypatch.setattr(task_edits, "_MOST_SHOWN", 2)
    show_params(task, items_of)
    show_params(task, {**items_of, "third": items_of["lr"]})
    assert "third" not in task._data.hyperparams["General"]
    show_params(SimpleNamespace(), items_of)
    empty = SimpleNamespace(_data=SimpleNamespace(hyperparams=None))
    show_params(empty, items_of)
    assert set(empty._data.hyperparams["General"]) == {"lr", "none"}


def test_the_sdks_lock_is_waited_for_a_while_and_given_back():
    class Lock:
        def __init__(self, is_free):
            self.is_free, self.waits, self.released = is_free, [], 0

        def acquire(self, timeout):
            self.waits.append(timeout)
            return self.is_free

        def release(self):
            self.released += 1

    free, held = Lock(True), Lock(False)
    with pytest.raises(KeyError), edit_lock(SimpleNamespace(_edit_lock=free)):
        raise KeyError
    assert (free.waits, free.released) == ([task_edits._LOCK_S], 1)
    with pytest.raises(SinkUnavailableError), edit_lock(SimpleNamespace(_edit_lock=held)):
        raise AssertionError
    assert held.released == 0


def test_what_a_task_needs_to_be_opened_again_names_no_password(folder):
    task = ReopenedTask({**STATE, "offline_folder": str(folder)})
    assert reopen.reopen_state(task) is task.state
