"""Offline sessions and their import, what the SDK is told and asked, by a task that is played."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("clearml")

from tracelet import environment
from tracelet.backends.base import RunInfo
from tracelet.backends.clearml import import_session
from tracelet.backends.clearml import session_task as session_task_module
from tracelet.backends.clearml.import_session import OfflineSession, note_session
from tracelet.backends.clearml.session_task import SessionGoal
from tracelet.backends.clearml.start import ServerAwayError
from tracelet.errors import BackendError, NotTakenError
from tracelet.options import Options
from tracelet.runs.process_identity import process_identity
from tracelet.runs.run_lock import RunLock

OPTIONS = Options(exp_name="e", project="p")


class Server:
    """The SDK's Task class, and what was asked of it."""

    def __init__(self, folder):
        self.calls, self.found, self.refused, self.error = [], [], [], None
        self.folder = folder

    def get_task(self, task_id):
        return SimpleNamespace(
            set_parent=lambda parent: self.calls.append(("parent", task_id, parent)),
            mark_started=lambda force: self.calls.append(("started", task_id, force)),
            get_output_log_web_page=lambda: f"http://h/{task_id}",
        )

    def get_tasks(self, project_name, task_name, task_filter):
        self.calls.append(("asked", project_name, task_name))
        return self.found

    def create(self, project_name, task_name):
        self.calls.append(("made", project_name, task_name))
        return SimpleNamespace(id="new")


@pytest.fixture
def server(tmp_path, monkeypatch):
    made = Server(tmp_path)

    class Task:
        get_task, get_tasks = made.get_task, made.get_tasks
        create = made.create

        @classmethod
        def import_offline_session(cls, folder):
            note = json.loads((Path(folder) / "tracelet.json").read_text())
            made.calls.append(("noted", note.get("task"), bool(note.get("token"))))
            if made.error:
                raise made.error
            cls.import_task({"id": "x"})

        @classmethod
        def import_task(cls, data, target_task, update):
            made.calls.append(("imported", target_task, update))

    class Deadline(contextlib.nullcontext):
        def __init__(self, timeout_s, is_renewed, creation):
            super().__init__()
            assert is_renewed
            self.refused = made.refused

    monkeypatch.setattr(import_session, "load_task_class", lambda: Task)
    monkeypatch.setattr(import_session, "StartDeadline", Deadline)
    monkeypatch.setattr(import_session, "go_online", lambda task_class: None)
    monkeypatch.setattr(import_session, "api_host", lambda: "http://h")
    monkeypatch.setattr(environment, "clearml_offline", lambda: False)
    return made


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "offline-1"
    made.mkdir()
    (made / "task.json").write_text(json.dumps({"name": "e", "project_name": "of-the-task"}))
    (made / "metrics.jsonl").write_text('[{"iter": 1}]\n[{"it')
    return made


def note_of(folder, goal=None, **options):
    made = Options(**{"exp_name": "e", "project": "p", **options})
    task = SimpleNamespace(get_offline_mode_folder=lambda: folder)
    note_session(task, RunInfo(made, "a-run", str(folder)), goal)
    return json.loads((folder / "tracelet.json").read_text())


def ended(folder):
    """Its processes have come to their end."""
    for path in folder.glob("tracelet-*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "ended": True}))
    Path(f"{folder}.zip").touch()
    return OfflineSession(folder)


def test_the_first_process_of_a_session_notes_it_or_one_that_knows_the_task(folder):
    note = note_of(folder, continue_last_task=True)
    assert (note["run"], note["project"], note["exp_name"]) == ("a-run", "p", "e")
    assert (note["task"], note["token"], note["parent"]) == (None, None, None)
    assert (note["continue"], note["pid"]) == (True, os.getpid())
    assert note_of(folder, project="other")["project"] == "p"
    known = note_of(folder, SessionGoal("t1", "token", "t0"), project="other")
    assert (known["task"], known["token"], known["parent"]) == ("t1", "token", "t0")
    assert known["project"] == "other"
    assert (folder / "tracelet-a-run.json").exists()


def test_a_folder_that_can_not_be_noted_is_told_and_costs_nothing(tmp_path, caplog):
    task = SimpleNamespace(get_offline_mode_folder=lambda: tmp_path / "gone")
    note_session(task, RunInfo(OPTIONS, "a-run", str(tmp_path)), None)
    assert "will not find this session" in caplog.text


def test_a_session_is_whole_when_nobody_is_at_it_and_it_is_zipped_or_its_process_dead(folder):
    note_of(folder)
    session = OfflineSession(folder)
    assert (session.run_id, session.run_ids) == ("a-run", ["a-run"])
    assert not session.is_whole  # this process is at it
    Path(f"{folder}.zip").touch()
    assert not OfflineSession(folder).is_whole
    assert ended(folder).is_whole
    os.unlink(f"{folder}.zip")
    assert not OfflineSession(folder).is_whole  # alive yet
    dead = {**process_identity(), "process_start": "x/0", "run": "a-run"}
    (folder / "tracelet.json").write_text(json.dumps(dead))
    assert OfflineSession(folder).is_whole


def test_a_session_goes_into_one_task_that_is_noted_before_anything_is_sent(folder, server):
    note_of(folder)
    session = ended(folder)
    assert not session.is_imported
    assert session.send() == "http://h/new"
    assert server.calls == [
        ("made", "of-the-task", "e"), ("noted", "new", True), ("started", "new", True),
        ("imported", "new", True),
    ]  # fmt: skip
    assert (folder / "metrics.jsonl").read_text() == '[{"iter": 1}]\n[]   \n'
    again = OfflineSession(folder)
    assert again.is_imported
    assert again.send() == "http://h/new"
    assert len(server.calls) == 4
    with open(folder / "metrics.jsonl", "a") as file:  # sync has put a run's rest into it
        file.write('[{"iter": 2}]\n')
    more = OfflineSession(folder)
    assert not more.is_imported
    more.send()
    assert [call[0] for call in server.calls[4:]] == ["noted", "started", "imported"]
    (folder / "task.json").write_text(json.dumps({"name": "f"}))
    assert not OfflineSession(folder).is_imported


def test_what_failed_is_tried_again_with_the_same_task(folder, server):
    note_of(folder, SessionGoal(None, "token", "t0"))
    session = ended(folder)
    server.refused.append("413: too large")
    with pytest.raises(BackendError, match="did not take 1 requests: 413: too large"):
        session.send()
    assert ("parent", "new", "t0") in server.calls
    assert not OfflineSession(folder).is_imported
    server.refused.clear()
    for error, words in ((ServerAwayError("no answer"), "http://h is away"),
                         (BackendError("as it is"), "as it is"),
                         (ValueError("odd"), "could not start the task: odd")):  # fmt: skip
        server.error = error
        with pytest.raises(BackendError, match=words):
            OfflineSession(folder).send()
    server.error = None
    assert OfflineSession(folder).send() == "http://h/new"
    assert [call[0] for call in server.calls].count("made") == 1


def test_a_session_is_sent_by_one_process_and_not_where_clearml_is_offline(
    folder, server, monkeypatch
):
    note_of(folder)
    session = ended(folder)
    lock = RunLock(str(folder / "tracelet.lock"))
    assert lock.acquire()
    with pytest.raises(BackendError, match="another process imports it"):
        session.send()
    lock.release()
    (folder / "tracelet.json").write_text("{")
    with pytest.raises(BackendError, match="is damaged"):
        session.send()
    monkeypatch.setattr(environment, "clearml_offline", lambda: True)
    with pytest.raises(BackendError, match="CLEARML_OFFLINE_MODE"):
        session.send()
    assert server.calls == []


@pytest.mark.parametrize(
    ("wanted", "found", "target"),
    [(False, ["old"], "new"), (None, ["old"], "new"), (True, ["old", "older"], "old"),
     (True, [], "new"), ("t7", ["old"], "t7"), (0, ["old"], "old")],
)  # fmt: skip
def test_the_task_to_go_on_with_is_the_one_that_the_run_meant(server, wanted, found, target):
    server.found = [SimpleNamespace(id=each) for each in found]
    note = {"continue": wanted, "project": "p"}
    assert import_session._target(server, note, {"name": "e"}) == target
    assert all(call[1:] == ("p", "e") for call in server.calls)


def test_sessions_that_are_not_imported_are_found_oldest_first_and_damage_is_told(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(import_session, "load_task_class", lambda: None)
    monkeypatch.setattr("clearml.config.get_offline_dir", lambda: str(tmp_path))
    for number, name in enumerate(("c", "a", "b", "damaged", "done", "none")):
        (tmp_path / name).mkdir()
        if name == "none":
            continue
        note_of(tmp_path / name)
        path = tmp_path / name / "tracelet.json"
        if name == "damaged":
            path.write_text("{}")
        if name == "done":
            path.write_text(json.dumps({**json.loads(path.read_text()), "url": "u"}))
        os.utime(path, (1000 + number,) * 2)
    found = [session.folder.name for session in import_session.find_sessions()]
    assert found == ["c", "a", "b"]
    assert "damaged" in caplog.text
    monkeypatch.setattr("clearml.config.get_offline_dir", lambda: str(tmp_path / "gone"))
    assert list(import_session.find_sessions()) == []


# ---- A session that is made here.


@pytest.mark.parametrize(
    ("goal", "is_named"),
    [(SessionGoal(None, None, None), True), (SessionGoal("t1", None, None), False),
     (SessionGoal("t1", None, "t0"), True)],
)  # fmt: skip
def test_a_session_of_ours_names_the_task_where_a_new_one_is_to_be_made(
    tmp_path, monkeypatch, goal, is_named
):
    monkeypatch.setattr("clearml.config.get_offline_dir", lambda id: str(tmp_path / id))
    options = Options(exp_name="e e", project="p/q", tags=["t"], comment="c")
    state = session_task_module._make_session(options, goal)
    folder = Path(state["offline_folder"])
    content = json.loads((folder / "task.json").read_text())
    assert (folder / "data").is_dir()
    assert state["files_folder"] == f"p/q/e%20e.{state['task']}/metrics"
    assert content["id"] == state["task"] == folder.name
    named = {"name": "e e", "project_name": "p/q", "tags": ["t"], "comment": "c"}
    assert named.items() <= content.items() if is_named else "name" not in content
    kept = session_task_module._KeptFile(SimpleNamespace(name="a"))
    with pytest.raises(NotTakenError):
        kept.upload()
    assert kept.is_refused(ValueError())
