"""A run on ClearML as the pipeline knows it, and what the SDK is told and asked, by one played."""

from __future__ import annotations

import json
import sys
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("clearml")

from tracelet import environment
from tracelet.backends.base import RunInfo
from tracelet.backends.clearml import backend as backend_module
from tracelet.backends.clearml import child_task, offline, sdk, set_up
from tracelet.backends.clearml.backend import ClearMLBackend
from tracelet.backends.clearml.signals import covered_by_sdk
from tracelet.backends.clearml.start import Work
from tracelet.errors import BackendError, CredentialsError
from tracelet.options import Options

OPTIONS = Options(exp_name="e", project="p")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "offline-1"
    made.mkdir()
    return made


# ---- The backend.


@pytest.fixture
def task(folder, monkeypatch):
    calls = []
    made = SimpleNamespace(
        id="t1", url="", is_offline=True, goal=None, calls=calls, last_upload=None,
        task=SimpleNamespace(get_offline_mode_folder=lambda: folder),
        send_params=lambda params: {}, send_description=lambda about: {},
        take_params=lambda params, given: params, take_description=lambda about: about,
        close=lambda is_ending: calls.append(("close", is_ending)),
        leave=lambda: calls.append("leave"), give_back=lambda: calls.append("give_back"),
        let_process_end=lambda: calls.append("end"), note_failure=calls.append,
    )  # fmt: skip
    for name in ("OfflineClearMLSink", "OnlineClearMLSink", "ClearMLMediaSink"):
        monkeypatch.setattr(backend_module, name, lambda *_, name=name: name)
    monkeypatch.setattr(backend_module, "reopen_state", lambda task: {"task": task.id})
    return made


def test_a_session_is_left_by_its_run_when_that_ends(task, folder, tmp_path):
    made = ClearMLBackend(task, RunInfo(OPTIONS, "a-run", str(tmp_path)))
    assert made.sinks == ["OfflineClearMLSink", "ClearMLMediaSink"]
    assert made.reopen_state == {"task": "t1"}
    user = folder / "tracelet-a-run.json"
    assert "ended" not in json.loads(user.read_text())
    made.leave(True)
    assert task.calls == []
    made.leave(False)
    made.close(False)
    assert json.loads(user.read_text())["ended"]
    for do in (made.give_back, made.let_process_end, lambda: made.note_failure("why")):
        do()
    assert task.calls == ["leave", ("close", False), "give_back", "end", "why"]


def test_an_online_run_and_one_that_is_reopened_note_no_session(task, folder, tmp_path):
    made = ClearMLBackend(task, RunInfo(OPTIONS, "a-run", str(tmp_path), {"task": "t2"}))
    assert made.reopen_state == {"task": "t2"}
    made.close(True)
    task.is_offline = False
    online = ClearMLBackend(task, RunInfo(OPTIONS, "a-run", str(tmp_path)))
    assert online.sinks[0] == "OnlineClearMLSink"
    online.close(True)
    assert not (folder / "tracelet-a-run.json").exists()


def test_where_a_run_is_to_be_seen_is_told_with_what_is_to_be_done(
    task, folder, tmp_path, monkeypatch
):
    made = ClearMLBackend(task, RunInfo(OPTIONS, "a-run", str(tmp_path)))
    made.url = "/x/offline-1"
    monkeypatch.setattr(environment, "clearml_offline", lambda: True)
    assert made.place(False) == "offline session in /x/offline-1"
    assert made.place(True).endswith("; to send it: CLEARML_OFFLINE_MODE=0 tracelet sync a-run")
    monkeypatch.setattr(environment, "clearml_offline", lambda: False)
    assert made.place(True).endswith("; to send it: tracelet sync a-run")
    made.url = None
    assert made.place(True) == "its server is away; later: tracelet sync a-run"
    task.is_offline = False
    assert made.place(True) == ""
    with pytest.raises(ValueError, match="too short"):
        made.check_model_name("a b ")
    made.check_model_name("a b c")
    made.close(False)


def test_parameters_are_kept_and_the_upload_behind_them_comes_at_the_end(task, tmp_path):
    later, at_end = SimpleNamespace(soon=lambda upload: None), []
    later.at_end = at_end.append
    made = ClearMLBackend(task, RunInfo(OPTIONS, "a-run", str(tmp_path)))
    made.log_params({"a": 1}, {"a": 1}, later)
    made.describe({"notes": "n"}, later)
    assert (made.unsent, at_end) == (2, [])
    task.last_upload = "upload"
    made.log_params({"a": 2}, {"a": 2}, later)
    assert (made.unsent, at_end) == (3, ["upload"])
    made.close(False)


# ---- What the SDK is told and asked.


def test_a_handler_is_the_sdks_by_what_it_covers():
    covered = {2: 0}
    hooks = SimpleNamespace(_org_handlers=covered)
    assert covered_by_sdk(SimpleNamespace(__self__=hooks)) is covered
    hooks._org_handlers = [2]
    assert covered_by_sdk(SimpleNamespace(__self__=hooks)) is None
    assert covered_by_sdk(len) is None


def test_streams_that_are_not_captured_are_none(monkeypatch):
    from clearml.backend_interface.logger import StdStreamPatch

    for proxies in ((None, None), ("out", None), (None, "err"), ("out", "err")):
        for name, proxy in zip(("_stdout_proxy", "_stderr_proxy"), proxies):
            monkeypatch.setattr(StdStreamPatch, name, proxy)
        assert child_task._captured_streams() == [each for each in proxies if each]


def test_work_that_is_half_told_is_not_done():
    work = Work(lambda: 1)
    assert work.result(60.0) == 1
    work._outcome = [True]
    with pytest.raises(TimeoutError):
        work.result(0.0)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (type("MissingConfigError", (Exception,), {})("x"), CredentialsError, "no credentials"),
        (type("LoginError", (Exception,), {})("401 no"), CredentialsError, "does not know these"),
        (type("LoginError", (Exception,), {})("403 no"), CredentialsError, "does not know these"),
        (type("LoginError", (Exception,), {})("500 no"), BackendError, "could not start"),
        (ValueError("401"), BackendError, "could not start"),
        (ValueError("bad Credentials"), CredentialsError, "bad Credentials"),
    ],
)
def test_an_error_of_the_start_is_told_with_its_fix(error, kind, words):
    made = sdk.startup_error(error)
    assert type(made) is kind
    assert words in str(made)


def test_log_levels_and_time_outs_are_handed_to_the_sdk(monkeypatch, caplog):
    import logging

    from clearml.storage import helper

    logger = logging.getLogger("clearml")
    monkeypatch.setattr(logger, "level", logger.level)
    for level, number in (("ERROR", 40), ("10", 10), ("odd", 10)):
        sdk._set_log_level(level)
        assert logger.level == number
    monkeypatch.setattr(helper._HttpDriver, "timeout_total", 7)
    for given_s, timeout_s in ((0.2, 1), (2.6, 3)):
        sdk._set_files_timeout(given_s)
        assert helper._HttpDriver.timeout_total == timeout_s
    assert caplog.text == ""
    monkeypatch.setattr(helper, "_HttpDriver", None)
    sdk._set_files_timeout(5.0)
    assert "no effect" in caplog.text


def test_the_scan_of_the_repository_is_waited_for(monkeypatch):
    from clearml import Task

    waited = []

    class Scan(threading.Thread):
        def join(self, timeout_s=None):
            waited.append(timeout_s)

    for scan in (Scan(), "no thread", None):
        monkeypatch.setattr(
            Task, "_Task__main_task", SimpleNamespace(_detect_repo_async_thread=scan), raising=False
        )
        sdk.wait_for_repository_scan(3.0)
    assert waited == [3.0]


def test_the_sdk_is_set_up_by_a_variable_a_file_or_the_program(monkeypatch, tmp_path):
    for name in set_up._KEYS:
        monkeypatch.delenv(name, raising=False)
    for module in ("clearml.backend_api.session.session", "clearml.task"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(environment, "clearml_offline", lambda: False)
    monkeypatch.setattr(environment, "clearml_config_file", lambda: None)
    assert not set_up.is_set_up()
    monkeypatch.setattr(environment, "clearml_config_file", lambda: str(tmp_path / "conf"))
    assert not set_up.is_set_up()
    (tmp_path / "conf").touch()
    assert set_up.is_set_up()
    (tmp_path / "conf").unlink()
    with monkeypatch.context() as with_key:
        with_key.setenv("CLEARML_AUTH_TOKEN", "x")
        assert set_up.is_set_up()
    with monkeypatch.context() as without:
        without.setattr(environment, "clearml_offline", lambda: True)
        assert set_up.is_set_up()
    session = SimpleNamespace(Session=SimpleNamespace(default_key=""))
    task = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "clearml.backend_api.session.session", session)
    assert not set_up.is_set_up()
    monkeypatch.setitem(sys.modules, "clearml.task", task)
    assert not set_up.is_set_up()  # half imported
    task.Task = SimpleNamespace(is_offline=lambda: False)
    assert not set_up.is_set_up()
    task.Task._Task__main_task = None
    assert not set_up.is_set_up()
    task.Task._Task__main_task = "task"
    assert set_up.is_set_up()
    task.Task._Task__main_task = None
    session.Session.default_key = "key"
    assert set_up.is_set_up()


def test_a_note_without_a_size_is_not_certain():
    size = offline._core.UNKNOWN_SIZE
    ledger = SimpleNamespace(entries=lambda: rows, add=lambda writer, path: 7, is_damaged=False)
    rows = []
    assert offline._noted(ledger, "x") == offline._Noted(7, is_certain=False)
    rows = [(1, "x", size, 5, 5, True, 3)]
    assert offline._noted(ledger, "x") == offline._Noted(3, is_certain=False)
    rows = [(1, "x", 9, 5, 4, True, 3)]
    assert offline._noted(ledger, "x") == offline._Noted(3, 9, 5, 4, True)
    rows = [(1, "x", 9, 5, 4, False, 3)]
    assert not offline._noted(ledger, "x").is_certain
    rows, ledger.is_damaged = [(1, "x", 9, 5, 4, True, 3)], True
    assert not offline._noted(ledger, "x").is_certain
