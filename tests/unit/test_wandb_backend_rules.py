"""A run of W&B's as the pipeline knows it: its verbs and its end, by an SDK that is played."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from types import SimpleNamespace

import pytest

pytest.importorskip("wandb")

import wandb
from tracelet.backends.artifact import Artifact, Model
from tracelet.backends.base import RunInfo
from tracelet.backends.wandb import backend as backend_module
from tracelet.backends.wandb import run as sdk
from tracelet.backends.wandb import uploads
from tracelet.backends.wandb.backend import WandbBackend
from tracelet.backends.wandb.log_file import RunLog, row_column
from tracelet.backends.wandb.uploads import ArtifactUpload, Config, nested
from tracelet.errors import BackendError
from tracelet.options import Options
from wandb_sdk import Run

# ---- Its start and its end.


@pytest.fixture
def path(tmp_path):
    (tmp_path / "run-w1.wandb").touch()
    return tmp_path / "run-w1.wandb"


@pytest.fixture
def played(monkeypatch, path, tmp_path):
    """A backend whose SDK's run is `played.run`."""
    hooks = []  # what is to be called at the exit
    monkeypatch.setattr(
        sdk, "atexit", SimpleNamespace(register=hooks.append, unregister=hooks.remove)
    )
    run = Run(path, offline=False)
    monkeypatch.setattr(sdk, "active_run", lambda: None)
    monkeypatch.setattr(sdk, "start_run", lambda options, own, run_id: run)
    folder = tmp_path / "run"
    folder.mkdir()
    info = RunInfo(Options(backend=("wandb",)), "a-run", str(folder))
    return SimpleNamespace(run=run, info=info, opened=lambda: WandbBackend.opened(info))


def test_a_new_run_says_how_it_is_gone_on_with(played, path):
    made = played.opened()
    assert made.reopen_state == {
        "id": "w1", "dir": str(path.parent), "is_online": True, "is_owned": True, "first_row": 4,
        "may_lack": True, "base_url": "http://h:1",
    }  # fmt: skip
    assert (made.id, made.url) == ("w1", "http://h:1/w1")
    assert (made.captures_console, made.samples_system) == (False, False)
    assert made.log.paths == [str(path)]
    assert made.log.column == row_column("a-run")
    played.run.offline = True
    played.run.settings.console, played.run.settings.x_disable_stats = "wrap", False
    offline = played.opened()
    assert (offline.captures_console, offline.samples_system) == (True, True)
    assert (offline.reopen_state["may_lack"], offline.reopen_state["base_url"]) == (False, None)
    assert offline.url == str(path.parent)


def test_an_active_run_is_gone_on_with_and_left(played, monkeypatch):
    monkeypatch.setattr(sdk, "active_run", lambda: played.run)
    monkeypatch.setattr(sdk, "start_run", lambda *_: pytest.fail("a new one"))
    made = played.opened()
    state = made.reopen_state
    assert (state["is_owned"], state["may_lack"], state["first_row"]) == (False, False, 0)
    made.log_row(0, 3, 1.5, {"a": 1.0})
    made.log_row(1, 4, 1.5, {"a": 1.0, "b": 2.0})
    assert [name for name, _ in played.run.defined] == ["a", "b"]  # each once
    made.begin_end()
    assert made.unsent == 0
    made.close(False)
    made.let_process_end()
    assert played.run.codes == []


def test_the_end_of_a_run_has_its_reason_and_waits_for_its_server(played, monkeypatch):
    monkeypatch.delattr(sys, "last_value", raising=False)
    made = played.opened()
    assert made.unsent == 0
    made.begin_end()
    assert made.unsent == 1
    made.note_failure(KeyboardInterrupt())
    played.run.hangs = True
    with pytest.raises(BackendError, match="has not got all of this run"):
        made.close(False)
    assert made.unsent == 1
    assert made.sinks == ()
    second = played.opened()
    played.run.hangs = False
    second.close(False)
    assert (second.unsent, played.run.codes) == (0, [0])
    monkeypatch.setattr(sys, "last_value", ValueError(), raising=False)
    monkeypatch.delattr(sys, "ps1", raising=False)
    played.opened().close(True)
    played.opened().close(False)
    assert played.run.codes == [0, 1, 0]
    killed = []
    monkeypatch.setattr(sdk, "kill_service", lambda: killed.append(1))
    played.opened().let_process_end()
    assert killed == [1]


def test_an_offline_run_lacks_nothing_as_it_ends(played):
    played.run.offline = True
    made = played.opened()
    made.begin_end()
    assert made.unsent == 0
    made.close(False)
    assert played.run.codes == [0]


def test_a_dead_run_s_files_must_be_there(played, tmp_path):
    info = RunInfo(Options(), "a-run", str(tmp_path / "run"), {"first_row": 0, "is_owned": True})
    with pytest.raises(BackendError, match="no name"):
        WandbBackend.reopened(info)
    (tmp_path / "run" / "wandb_files.jsonl").write_text('["/gone.wandb"]\n[]\n7\n')
    with pytest.raises(BackendError, match=r"/gone\.wandb"):
        WandbBackend.reopened(info)


@pytest.mark.parametrize("is_online", [True, False])
@pytest.mark.parametrize("is_owned", [True, False])
def test_a_dead_run_is_gone_on_with_where_something_is_left(
    played, monkeypatch, path, is_online, is_owned
):
    played.opened().close_kept()
    state = {"id": "w1", "first_row": 4, "is_owned": is_owned, "is_online": is_online,
             "base_url": "http://h:1"}  # fmt: skip
    info = RunInfo(Options(start_timeout_s=8.0), "a-run", played.info.run_dir, state)
    calls, caught = [], []
    monkeypatch.setattr(backend_module, "wait_until_left", lambda paths: calls.append("left"))
    monkeypatch.setattr(sdk, "check_server", lambda url, s: calls.append((url, s)))
    monkeypatch.setattr(sdk, "check_owner", lambda own, id, step, s: calls.append((id, step, s)))
    monkeypatch.setattr(
        sdk, "go_on", lambda own, online, s: calls.append((own["project"], online)) or played.run
    )
    monkeypatch.setattr(backend_module, "catch_up", lambda run, paths: caught.append(list(paths)))
    made = WandbBackend.reopened(info)
    assert (made.id, made.url) == ("w1", str(path.parent))
    assert calls == ["left"]
    made.close(False)
    if is_online and is_owned:  # also where its files have all: the server may not
        assert calls[1:] == [("http://h:1", 8.0), ("a-run", -1, 8.0), ("", True)]
        assert caught == [[str(path)]]
        assert played.run.codes == [137]  # its process was killed
    else:
        assert (calls[1:], caught, played.run.codes) == ([], [], [])
    again = WandbBackend.reopened(info)
    again.log.exit_code = 0
    again.log_row(4, 1, 1.5, {"a": 1.0})
    again.close(False)
    assert played.run.codes[-1] == 0
    assert calls[-1] == ("", is_online and is_owned)


def test_a_run_that_could_not_be_brought_up_is_not_begun_twice(played, monkeypatch):
    played.opened().close_kept()
    state = {"id": "w1", "first_row": 4, "is_owned": True, "is_online": True}
    info = RunInfo(Options(), "a-run", played.info.run_dir, state)
    begun = []
    monkeypatch.setattr(backend_module, "wait_until_left", lambda paths: None)
    for name in ("check_server", "check_owner"):
        monkeypatch.setattr(sdk, name, lambda *_: None)
    monkeypatch.setattr(sdk, "go_on", lambda *_: begun.append(1) or played.run)

    def fail(run, paths):
        raise OSError("damaged")

    monkeypatch.setattr(backend_module, "catch_up", fail)
    made = WandbBackend.reopened(info)
    for _ in range(2):
        with pytest.raises(OSError, match="damaged"):
            made.log_row(4, 1, 1.5, {"a": 1.0})
    assert begun == [1]


# ---- Parameters, artifacts, models.


def test_flat_parameters_become_mappings_and_one_in_the_way_stays_flat():
    assert nested({"lr": 1, "m/depth": 2, "m/w": 3}) == {"lr": 1, "m": {"depth": 2, "w": 3}}
    assert nested({"a": 1, "a/b": 2}) == {"a": 1, "a/b": 2}
    assert nested({"a/b/c": 1, "a/b": 2, "a/d": 3}) == {"a": {"b": {"c": 1}, "d": 3}, "a/b": 2}


class Log:
    """W&B's file, in which all is as soon as it was asked for."""

    def __init__(self):
        self.configs, self.artifacts, self.waits, self.refreshed = Counter(), Counter(), [], 0

    def refresh(self):
        self.refreshed += 1

    def wait_for(self, is_there, what):
        self.waits.append((what, is_there()))


def test_a_fork_waits_for_no_lock_of_its_parent():
    for made in (Config(None, None), RunLog([], "column", False)):
        assert made._lock.acquire(blocking=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork
            pid = os.fork()
        if pid == 0:
            os._exit(0 if made._lock.acquire(blocking=False) else 1)
        assert os.waitpid(pid, 0)[1] == 0


def test_of_the_config_what_changed_is_sent_as_a_whole():
    log, sent = Log(), []

    def update(values, allow_val_change):
        assert allow_val_change
        sent.append(values)
        if not log.waits:
            log.configs.update(list(values))

    run = SimpleNamespace(sdk=SimpleNamespace(config=SimpleNamespace(update=update)))
    config = Config(lambda: run, log)
    config.know({"m/depth": 2, "lr": 1})
    config.send({"m/w": 3, "lr": 5})
    assert sent == [{"m": {"depth": 2, "w": 3}, "lr": 5}]
    assert (log.waits, log.refreshed) == ([("parameters", True)], 1)
    config.know({"lr": 7})
    config.send({"z": 1})
    assert sent[1] == {"z": 1}
    config.send({"lr/x": 1})
    assert sent[2] == {"lr": 5, "lr/x": 1}  # what this process has said is newer
    assert log.waits[1:] == [("parameters", False)] * 2  # not in the file: it is waited for


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("is_model", [True, False])
def test_an_artifact_is_sent_when_it_is_in_the_file_and_on_the_server(
    tmp_path, monkeypatch, offline, is_model
):
    source = tmp_path / "w.pt"
    source.write_bytes(b"weights")
    log, made, waited = Log(), [], []

    class Made:
        def __init__(self, name, type, metadata):
            self.name, self.type, self.metadata, self.files = name, type, metadata, []
            made.append(self)

        def add_file(self, path, name):
            self.files.append((os.path.basename(path), name))

    def log_artifact(artifact):
        log.artifacts[artifact.name] += 1
        return SimpleNamespace(wait=lambda timeout: waited.append(timeout))

    monkeypatch.setattr(wandb, "Artifact", Made)
    run = SimpleNamespace(sdk=SimpleNamespace(offline=offline, log_artifact=log_artifact))
    content = SimpleNamespace(
        filename="w.pt", path=str(source), write=None, check_unchanged=lambda: None
    )
    artifact = Artifact("net", content, str(tmp_path))
    model = Model("net", "PyTorch", tags=["t"], metadata={"k": 1}) if is_model else None
    upload = ArtifactUpload(artifact, lambda: run, log, model)
    upload.upload()
    assert log.waits == [("an artifact", True)]
    assert log.refreshed == 1
    assert waited == ([] if offline else [uploads._UPLOAD_S])
    about = {"name": "net"}
    if is_model:
        about.update(framework="PyTorch", tags=["t"], k="1")
    assert (made[0].name, made[0].files) == ("net", [("w.pt", "net.pt")])
    assert (made[0].type, made[0].metadata) == ("model" if is_model else "artifact", about)
