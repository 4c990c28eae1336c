"""Artifacts, models and their metadata of a killed run, sent by `tracelet sync`: once, counted."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from pathlib import Path

import pytest
from tracelet.runs.stored_run import find_runs

pytest.importorskip("clearml")

LOG = """
import os, pathlib, signal, numpy, tracelet
experiment = tracelet.start_logging("killed", "tests")
pathlib.Path("config.yaml").write_text("first")
pathlib.Path("folder").mkdir()
pathlib.Path("folder/a.txt").write_text("in a folder")
pathlib.Path("net.pt").write_bytes(b"weights")
experiment.log_artifact("config.yaml")
pathlib.Path("config.yaml").write_text("second")
experiment.log_artifact("folder")
experiment.log_artifact({"lr": 0.1}, "params")
experiment.log_artifact(numpy.arange(400_000.0), "array")
experiment.log_model("net.pt", name="resnet", metadata={"accuracy": 0.9}, tags=["best"])
experiment.log_params({"model": {"version": 7, "accuracy": 0.1}, "lr": 0.1})
experiment.log_metric("a", 1.0, 1)
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)\n"
NAMES = ["array", "config.yaml", "folder", "params"]


@pytest.fixture
def killed(run_script, tmp_path):
    def run(code=LOG, env=None):
        done = run_script(textwrap.dedent(code) + KILL, env=env, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        (left,) = find_runs(str(tmp_path / "tracelet-runs"))
        return left

    return run


@pytest.fixture
def sync(run_script):
    def sync(run, env=None, before=""):
        code = f"""
        import sys
        from tracelet.cli import main
        {before}
        sys.exit(main(["sync", {run.run_id!r}]))
        """
        return run_script(code, env=env, check=False)

    return sync


def file_at(server, url):
    assert url.startswith(server.files_url)
    return server.files[url[len(server.files_url) :].lstrip("/")]


def content_of(server, task, key):
    (artifact,) = [each for each in task["execution"]["artifacts"] if each["key"] == key]
    return file_at(server, artifact["uri"])


@pytest.mark.slow
def test_what_a_killed_run_had_not_uploaded_is_uploaded_once(killed, sync, clearml_server):
    """Their copies stayed in the run's folder, and it said so."""
    environment = clearml_server.environment()
    clearml_server.file_faults.add("503", endpoints=None)
    run = killed(env=environment)
    clearml_server.file_faults.clear()
    # It dies in the middle: the file is there, its entry is not.
    dying = (
        "import os; from clearml.backend_api.services import tasks; "
        "tasks.Artifact = lambda **_: os._exit(9)"
    )
    assert sync(run, environment, dying).returncode == 9
    done = sync(run, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "artifacts and models: 5 sent, 0 refused, 0 left" in done.stdout
    assert not os.path.exists(run.path)
    (task,) = clearml_server.tasks.values()
    assert sorted(each["key"] for each in task["execution"]["artifacts"]) == NAMES
    assert content_of(clearml_server, task, "config.yaml") == b"first"
    assert json.loads(content_of(clearml_server, task, "params")) == {"lr": 0.1}
    (model,) = clearml_server.models.values()
    assert model["name"] == "resnet"
    assert model["tags"] == ["best"]
    values = {key: each["value"] for key, each in model["metadata"].items()}
    assert values == {"accuracy": "0.9", "version": "7"}
    assert file_at(clearml_server, model["uri"]) == b"weights"
    assert [each["model"] for each in task["models"]["output"]] == [model["id"]]
    assert task["status"] == "stopped"
    assert clearml_server.schema_violations == []


@pytest.mark.slow
def test_a_damaged_copy_is_named_and_kept_and_the_others_are_sent(killed, sync, clearml_server):
    environment = clearml_server.environment()
    clearml_server.file_faults.add("503", endpoints=None)
    run = killed(env=environment)
    clearml_server.file_faults.clear()
    folder = Path(run.path) / "set_aside-artifacts"
    (copy,) = folder.rglob("config.yaml")
    copy.write_text("First")
    (other,) = folder.rglob("params.json")
    other.unlink()
    for _ in range(2):
        done = sync(run, environment)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "artifact 'config.yaml' is not sent" in done.stderr
        assert "is damaged" in done.stderr
        assert "artifact 'params' is not sent" in done.stderr
        (task,) = clearml_server.tasks.values()
        assert sorted(each["key"] for each in task["execution"]["artifacts"]) == ["array", "folder"]
    assert copy.exists()
    copy.write_text("first")
    other.write_text(json.dumps({"lr": 0.1}, sort_keys=True, indent=4))
    done = sync(run, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 sent, 0 refused, 0 left" in done.stdout
    assert len(clearml_server.models) == 1


@pytest.mark.slow
def test_a_killed_offline_run_s_uploads_are_in_its_session(
    killed, sync, clearml_server, run_script
):
    code = LOG.replace(
        "experiment.log_artifact",
        "import tracelet.pipeline.uploads as u; u.Uploads._take = lambda self: None\n"
        "experiment.log_artifact",
        1,
    )
    run = killed(code)
    folder = run.manifest["reopen"]["clearml"]["offline_folder"]
    done = sync(run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "artifacts and models: 5 sent, 0 refused, 0 left" in done.stdout
    assert not os.path.exists(run.path)
    run_script(
        f"from clearml import Task; Task.import_offline_session({folder + '.zip'!r})",
        env=clearml_server.environment(),
    )
    (task,) = clearml_server.tasks.values()
    assert sorted(each["key"] for each in task["execution"]["artifacts"]) == NAMES
    assert content_of(clearml_server, task, "config.yaml") == b"first"
    (model,) = clearml_server.models.values()
    assert (model["name"], model["tags"]) == ("resnet", ["best"])
    assert "accuracy: 0.9" in model["comment"]
    assert "version: 7" in model["comment"]
