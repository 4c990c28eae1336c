"""How a run of W&B's is made, gone on with and ended, by an SDK that is played."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("wandb")

import wandb
from tracelet.backends.ending import uncaught
from tracelet.backends.wandb import run as sdk
from tracelet.backends.wandb.backend import _exit_code
from tracelet.backends.wandb.names import STEP
from tracelet.backends.wandb.run import SdkRun
from tracelet.errors import BackendError, ConfigurationError
from tracelet.options import Options
from wandb_sdk import Run


@pytest.fixture
def path(tmp_path):
    (tmp_path / "run-w1.wandb").touch()
    return tmp_path / "run-w1.wandb"


@pytest.fixture
def hooks(monkeypatch):
    """What is to be called at the exit."""
    found = []
    monkeypatch.setattr(
        sdk, "atexit", SimpleNamespace(register=found.append, unregister=found.remove)
    )
    return found


class Inits:
    """`wandb.init`, and what it was asked for."""

    def __init__(self, monkeypatch, path):
        self.asked, self.error, self.path = [], None, path
        self.mode, self.project, self.is_logged_in = "online", None, True
        monkeypatch.setattr(wandb, "init", self._init)
        monkeypatch.setattr(wandb, "login", self._login)
        monkeypatch.setattr(wandb, "setup", lambda: SimpleNamespace(settings=SimpleNamespace(
            mode=self.mode, project=self.project, base_url="http://joe:x@h:1/"
        )))  # fmt: skip
        monkeypatch.setattr(wandb, "Settings", lambda **settings: settings)
        monkeypatch.delenv("WANDB_MODE", raising=False)

    def _init(self, **arguments):
        self.asked.append(arguments)
        if self.error is not None and arguments["mode"] == "online":
            raise self.error
        return Run(self.path, offline=arguments["mode"] == "offline")

    def _login(self, prompt):
        assert prompt is False
        return self.is_logged_in


@pytest.fixture
def inits(monkeypatch, path):
    return Inits(monkeypatch, path)


OPTIONS = Options(exp_name="e", project="p/q", tags=["t", "t"], comment="c", start_timeout_s=8.0)


# ---- Options.


@pytest.mark.parametrize(
    ("own", "words"),
    [({"enttiy": "x"}, "did you mean 'entity'"), ({"qqqqqq": 1}, "known: entity"),
     ({7: 1}, "known: entity"), ({"entity": 7}, "must be a str"),
     ({"system_metrics": "yes"}, "must be a bool"), ({"mode": "on"}, "must be one of online"),
     ({"resume": "yes"}, "must be one of allow")],
)  # fmt: skip
def test_an_option_that_is_none_is_named(own, words):
    with pytest.raises(ConfigurationError, match=words):
        sdk.own_options(Options(wandb=own))


def test_options_of_wandbs_are_taken_as_they_are():
    own = {"entity": "e", "mode": "online", "resume": "must", "system_metrics": True}
    assert sdk.own_options(Options(wandb=own)) == own
    assert sdk.own_options(Options()) == {}


# ---- The start.


def test_a_run_begins_online_with_what_the_user_has_said(inits):
    own = {"entity": "team", "group": "g", "job_type": "", "console": "wrap", "mode": "online",
           "system_metrics": True}  # fmt: skip
    made = sdk.start_run(OPTIONS, own, "ours")
    (asked,) = inits.asked
    settings = asked.pop("settings")
    assert asked == {
        "mode": "online", "reinit": "create_new", "entity": "team", "group": "g", "name": "e",
        "project": "p-q", "config": {"tracelet_run": "ours"}, "tags": ["t"], "notes": "c",
    }  # fmt: skip
    assert 4.0 < settings["init_timeout"] <= 8.0
    assert (settings["console"], settings["x_disable_stats"]) == ("wrap", False)
    assert settings["silent"] is settings["finish_timeout_raises"] is True
    assert settings["sync_tensorboard"] is False
    least = min(OPTIONS.stop_timeout_s, OPTIONS.exit_timeout_s, 40.0) / 2
    assert settings["finish_timeout"] == least
    assert made.defined == [(STEP, {"hidden": True}), ("*", {"step_metric": STEP})]


def test_a_login_that_takes_all_of_the_time_leaves_the_start_a_quarter(inits, monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(sdk, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    for took_s, left_s in ((20.0, 2.0), (1.0, 7.0)):
        monkeypatch.setattr(
            sdk, "is_logged_in", lambda timeout_s, s=took_s: not now_s.append(now_s.pop() + s)
        )
        sdk.start_run(OPTIONS, {}, "ours")
        assert inits.asked[-1]["settings"]["init_timeout"] == left_s


def test_a_run_of_which_nothing_is_said_has_few_arguments(inits):
    inits.mode, inits.project = "offline", "of-the-settings"
    sdk.start_run(Options(exp_name="e", task_name="task"), {}, "ours")
    (asked,) = inits.asked
    settings = asked.pop("settings")
    assert asked == {"mode": "offline", "reinit": "create_new", "name": "task"}
    assert settings["init_timeout"] == sdk._LOCAL_S  # it asks no server
    assert (settings["console"], settings["x_disable_stats"]) == ("off", True)
    inits.project = None
    sdk.start_run(Options(exp_name="e"), {}, "ours")
    assert inits.asked[-1]["project"] == Options.project


def test_the_mode_is_that_of_the_option_then_of_the_environment_then_of_the_settings(
    inits, monkeypatch
):
    inits.mode = "offline"
    assert sdk._wanted_mode({}) == "offline"
    monkeypatch.setenv("WANDB_MODE", "run")
    assert sdk._wanted_mode({}) == "online"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert sdk._wanted_mode({}) == "offline"
    assert sdk._wanted_mode({"mode": "disabled"}) == "disabled"
    assert sdk.start_run(OPTIONS, {"mode": "disabled"}, "ours") is None
    monkeypatch.setenv("WANDB_MODE", "shared")
    with pytest.raises(BackendError, match="'shared'"):
        sdk._wanted_mode({})
    assert inits.asked == []


def test_without_a_login_or_a_server_it_is_offline_and_told(inits, caplog):
    inits.is_logged_in = False
    sdk.start_run(OPTIONS, {}, "ours")
    assert [each["mode"] for each in inits.asked] == ["offline"]
    assert "no API key" in caplog.text
    assert "config" not in inits.asked[0]
    inits.is_logged_in, inits.error = True, wandb.errors.CommError("http://joe:x@h is away")
    sdk.start_run(OPTIONS, {}, "ours")
    assert [each["mode"] for each in inits.asked[1:]] == ["online", "offline"]
    assert "can't be reached" in caplog.text
    assert "joe:x" not in caplog.text
    with pytest.raises(BackendError):
        sdk.start_run(Options(on_unreachable="raise"), {}, "ours")
    inits.error = wandb.errors.UsageError("no such entity")  # the user's to mend
    with pytest.raises(BackendError, match="no such entity"):
        sdk.start_run(OPTIONS, {}, "ours")


def test_a_run_without_a_file_is_none(inits):
    inits.path.unlink()
    with pytest.raises(BackendError, match="made no file"):
        sdk.start_run(OPTIONS, {}, "ours")


def test_what_takes_too_long_is_left_and_undone_when_it_comes():
    come, undone = threading.Event(), threading.Event()
    with pytest.raises(BackendError, match=r"wandb did not answer within 0\.01 s"):
        sdk._within(0.01, "answer", lambda: come.wait(60), lambda late: undone.set())
    assert not undone.is_set()
    come.set()
    assert undone.wait(60)
    assert sdk._within(60, "answer", lambda: 7, lambda late: undone.clear()) == 7
    assert undone.is_set()
    with pytest.raises(BackendError, match="wandb: invalid literal") as raised:
        sdk._within(60, "answer", lambda: int("bad"))
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_run_that_is_gone_on_with_is_the_same_one(inits):
    own = {"project": "p", "entity": "", "id": "w1", "dir": "/d", "is_owned": True}
    sdk.go_on(own, True, 8.0)
    sdk.go_on(own, False, 8.0)
    first, second = inits.asked
    assert (first["mode"], second["mode"]) == ("online", "offline")
    settings = first.pop("settings")
    assert first == {"mode": "online", "reinit": "create_new", "project": "p", "id": "w1",
                     "dir": "/d", "resume": "allow"}  # fmt: skip
    assert settings["init_timeout"] == 8.0
    assert settings["finish_timeout"] == sdk._SYNC_S
    assert settings["finish_timeout_raises"] is True


def test_only_who_is_logged_in_goes_on_with_an_online_run(inits):
    sdk.check_server("http://h:1", 8.0)
    inits.is_logged_in = False
    with pytest.raises(BackendError, match="nobody has logged in"):
        sdk.check_server("http://h:1", 8.0)


@pytest.mark.parametrize(
    ("owner", "step", "is_ours"),
    [("ours", 7, True), (None, None, True), ("ours", 8, False), ("theirs", 1, False),
     (None, 7, True), (None, 8, False)],
)  # fmt: skip
def test_a_run_that_another_process_has_resumed_is_left_to_it(monkeypatch, owner, step, is_ours):
    asked = []

    class Api:
        def __init__(self, timeout):
            asked.append(timeout)

        def run(self, path):
            asked.append(path)
            return SimpleNamespace(config={"tracelet_run": owner}, summary_metrics={"_step": step})

    monkeypatch.setattr(wandb, "Api", Api)
    own = {"entity": "e", "project": "p", "id": "w1"}
    if is_ours:
        sdk.check_owner(own, "ours", 7, 8.5)
        sdk.check_owner({"id": "w1"}, "ours", 7, 0.5)
        assert asked == [8, "e/p/w1", 1, "w1"]
    else:
        with pytest.raises(BackendError, match="resumed by another process"):
            sdk.check_owner(own, "ours", 7, 8.5)


def test_a_run_of_which_the_server_has_nothing_yet_is_ours(monkeypatch):
    cause = [ValueError("no such run")]

    class Api:
        def __init__(self, timeout):
            pass

        def run(self, path):
            raise wandb.errors.CommError("x", cause[0])

    monkeypatch.setattr(wandb, "Api", Api)
    sdk.check_owner({"id": "w1"}, "ours", 7, 8.0)
    cause[0] = ConnectionError("away")
    with pytest.raises(BackendError):
        sdk.check_owner({"id": "w1"}, "ours", 7, 8.0)


def test_an_active_run_is_taken_unless_it_is_disabled(monkeypatch, path):
    run = Run(path)
    monkeypatch.setattr(wandb, "run", run)
    assert sdk.active_run() is run
    run.disabled = True
    assert sdk.active_run() is None
    monkeypatch.setattr(wandb, "run", None)
    assert sdk.active_run() is None


# ---- Rows, tags and the end.


def test_a_row_has_its_number_as_its_step_or_in_its_column(path, hooks, monkeypatch):
    monkeypatch.setattr(wandb, "patched", {"tensorboard": []})
    run = Run(path)
    SdkRun(run, True, "column", False).log_row(5, 9, 1.5, {"a": 1})
    SdkRun(run, True, "column", True, 30).log_row(5, 9, 0.0, {"a": 1})
    own = SdkRun(run, True, "column", True, 30)
    for number in (6, 7):
        own.log_row(number, 9, 1e11, {})
    SdkRun(run, False, "column", True).log_row(8, 9, -1.0, {})
    monkeypatch.setattr(wandb, "patched", {"tensorboard": [1]})
    SdkRun(run, True, "column", False).log_row(5, 9, 1.5, {})
    assert run.rows == [
        (5, {STEP: 9, "a": 1, "_timestamp": 1.5}), (30, {STEP: 9, "a": 1, "column": 5}),
        (30, {STEP: 9, "column": 6}), (31, {STEP: 9, "column": 7}),
        (None, {STEP: 9, "column": 8}), (5, {STEP: 9, "_timestamp": 1.5, "column": 5}),
    ]  # fmt: skip


def test_tags_of_others_stay_and_ours_that_are_gone_go(path, hooks):
    run = Run(path, tags=("theirs", "old", "kept"))
    own = SdkRun(run, True, "c", False)
    assert own.describe({"tags": ["kept", "new"], "gone": ["old"], "notes": "n"}) == 2
    assert run.tags == ("theirs", "kept", "new")
    assert run.notes == "n"
    assert own.describe({"notes": "m"}) == own.describe({"tags": []}) == 1
    assert own.describe({}) == 0
    run.tags = None
    own.describe({"tags": ["a"]})
    assert run.tags == ("a",)


def test_a_run_that_has_ended_leaves_nothing_at_the_exit_and_one_that_hangs_is_ended(
    path, hooks, monkeypatch
):
    killed = []
    monkeypatch.setattr(sdk, "kill_service", lambda: killed.append(1))
    run = Run(path)
    SdkRun(run, False, "c", False)
    assert hooks == []
    own = SdkRun(run, True, "c", False)
    assert hooks == [own.let_process_end]
    run.hangs = True
    with pytest.raises(TimeoutError):
        own.finish(3)
    assert hooks == [own.let_process_end]
    run.hangs = False
    own.finish(3)
    assert (run.codes, hooks) == ([3], [])
    SdkRun(run, False, "c", False).let_process_end()
    child = SdkRun(run, True, "c", False)
    child._pid -= 1
    child.let_process_end()
    assert killed == []
    for _ in range(2):
        own.let_process_end()
    assert killed == [1]


def test_a_step_is_the_x_of_a_users_runs_columns(path, hooks):
    run = Run(path)
    SdkRun(run, False, "c", True).define_step("loss")
    assert run.defined == [("loss", {"step_metric": STEP})]


def test_how_a_run_ended_is_its_exit_code(monkeypatch):
    codes = [_exit_code(each) for each in (
        None, SystemExit(), SystemExit(0), SystemExit(3), SystemExit("words"), KeyboardInterrupt(),
        ValueError())]  # fmt: skip
    assert codes == [0, 0, 0, 3, 1, 130, 1]
    monkeypatch.delattr(sys, "ps1", raising=False)
    monkeypatch.delattr(sys, "last_value", raising=False)
    assert uncaught() is None
    error = ValueError()
    monkeypatch.setattr(sys, "last_value", error, raising=False)
    assert uncaught() is error
    monkeypatch.setattr(sys, "ps1", ">", raising=False)
    assert uncaught() is None  # of a call before, at the prompt
