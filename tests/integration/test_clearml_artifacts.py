"""Artifacts and models of log_artifact and log_model, online and offline, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("clearml")
pytest.importorskip("torch")

# Values of every kind, logged; `kept` is what they were.
EVERY_KIND = """
import matplotlib, numpy as np, pathlib, torch, tracelet
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image
experiment = tracelet.start_logging("kinds", "tests/artifacts", config={"tags": ["kept"]})
pathlib.Path("config.yaml").write_text("a: 1")
pathlib.Path("folder/deep").mkdir(parents=True)
pathlib.Path("folder/deep/one.txt").write_text("one")
pathlib.Path("other").mkdir()
pathlib.Path("other/config.yaml").write_text("b: 2")
array = np.arange(6.0).reshape(2, 3)
table = {"b": 1, "a": [1, 2]}
image = Image.new("RGB", (4, 3), (255, 0, 0))
figure = plt.figure()
plt.plot([1, 2])
experiment.log_artifact("config.yaml", artifact_path="configs/")
experiment.log_artifact("other/config.yaml", artifact_path="configs/")
experiment.log_artifact(pathlib.Path("folder"))
experiment.log_artifact(array, artifact_path="arrays/array")
experiment.log_artifact(table, artifact_path="table.json")
experiment.log_artifact(image, artifact_path="image.png")
experiment.log_artifact(figure, artifact_path="figure")
experiment.log_artifact(b"bytes", artifact_path="raw.dat")
try:
    import pandas
    frame = pandas.DataFrame({"metric": [1, 2, 3], "value": [0.8, 0.9, 0.95]})
    experiment.log_artifact(frame, artifact_path="results.csv")
    frame["value"] = 0.0
except ImportError:
    pass
array[:] = -1
table["a"] = None
image.paste((0, 0, 0), (0, 0, 4, 3))
pathlib.Path("config.yaml").write_text("overwritten")
for value, words in [("absent.yaml", "absent.yaml"), (object(), "JSON")]:
    try:
        experiment.log_artifact(value, artifact_path="x")
        raise SystemExit(f"{value} was taken")
    except (FileNotFoundError, TypeError) as error:
        assert words in str(error) or "DataFrame" in str(error), error
model = torch.nn.Linear(2, 1)
weights = {name: value.clone() for name, value in model.state_dict().items()}
experiment.log_params({"model.accuracy": 0.95, "lr": 0.1})
torch.save(model.state_dict(), "best_model.pth")
experiment.log_artifact("best_model.pth", artifact_path="models/")
pathlib.Path("final").mkdir()
pathlib.Path("final/model.onnx").write_bytes(b"onnx")
experiment.log_artifact("final/model.onnx", artifact_path="models/final/")
experiment.log_model(model, name="whole", metadata={"depth": 3, "accuracy": 0.5}, tags=["own"])
with torch.no_grad():
    model.weight.fill_(7)
for _ in range(2):
    torch.save(model.state_dict(), "binding only.pth")
experiment.log_params({"model.version": "v1.2"})
"""


def run_every_kind(run_script, environment, code=""):
    return run_script(
        EVERY_KIND
        + """
session = experiment.url
tracelet.stop_logging()
print("stats", experiment.stats.artifacts)
print("id", experiment.id, session)
"""
        + code,
        env=environment,
    )


READ_BACK = """
import torch, sys
from clearml import Task
task = Task.get_task(task_id=TASK)
got = task.artifacts
assert got["arrays/array"].get().tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
assert got["table.json"].get() == {"b": 1, "a": [1, 2]}
assert got["image.png"].get().getpixel((0, 0)) == (255, 0, 0)
assert got["figure"].get().size[0] > 100
assert open(got["configs/config.yaml"].get_local_copy()).read() == "a: 1"
assert open(got["configs/config-2.yaml"].get_local_copy()).read() == "b: 2"
assert open(got["raw.dat"].get_local_copy(), "rb").read() == b"bytes"
import pathlib
folder = pathlib.Path(got["folder"].get_local_copy())
assert (folder / "deep" / "one.txt").read_text() == "one"
if "results.csv" in got:
    assert got["results.csv"].get()["value"].tolist() == [0.8, 0.9, 0.95]
assert torch.load(got["models/best_model.pth"].get_local_copy())["weight"].shape == (1, 2)
models = task.get_models()["output"]
for model in models:
    print("model", model.name, model.framework, sorted(model.tags or []), model.url,
          model.get_all_metadata(), model.comment.replace(chr(10), "|"))
"""


@pytest.mark.slow
def test_every_kind_online_and_back(clearml_server, run_script):
    environment = clearml_server.environment()
    done = run_every_kind(run_script, environment, READ_BACK.replace("TASK", "experiment.id"))
    (task,) = clearml_server.tasks.values()
    artifacts = {artifact["key"]: artifact for artifact in task["execution"]["artifacts"]}
    assert len({artifact["uri"] for artifact in artifacts.values()}) == len(artifacts)
    models = {entry["name"]: entry["model"] for entry in task["models"]["output"]}
    assert len(models) == len(set(models.values())) == 4, models
    assert set(models) == {"best_model", "models/final/model", "whole", "binding only"}
    by_name = {name: clearml_server.models[models[name]] for name in models}
    best = by_name["best_model"]
    assert best["uri"] == artifacts["models/best_model.pth"]["uri"]  # one upload for both
    assert best["framework"] == "PyTorch"
    assert "kept" in best["tags"]
    assert by_name["models/final/model"]["framework"] == "ONNX"
    assert by_name["whole"]["tags"] == ["own"]
    for name, model in by_name.items():
        values = {key: item["value"] for key, item in model["metadata"].items()}
        own = {"depth": "3", "accuracy": "0.5"} if name == "whole" else {"accuracy": "0.95"}
        assert values == {"version": "v1.2", **own}, name
    general = task["hyperparams"]["General"]
    assert general["model.accuracy"]["value"] == "0.95"
    uploaded = 12 if "results.csv" in artifacts else 11
    assert f"stats {{'uploaded': {uploaded}}}" in done.stdout
    assert clearml_server.schema_violations == []
    assert clearml_server.unknown_endpoints == []
    assert len(clearml_server.models) == 4


@pytest.mark.slow
def test_every_kind_offline_and_imported(clearml_server, run_script, tmp_path):
    environment = {"CLEARML_FILES_HOST": clearml_server.files_url}
    done = run_every_kind(run_script, environment)
    session = next(line for line in done.stdout.splitlines() if line.startswith("id ")).split()[2]
    exported = json.loads((Path(session) / "task.json").read_text())
    assert len(exported["offline_output_models"]) == 4
    read = run_script(
        f"""
from clearml import Task
id = Task.import_offline_session({session + ".zip"!r})
"""
        + READ_BACK.replace("TASK", "id"),
        env=clearml_server.environment(),
    )
    (task,) = clearml_server.tasks.values()
    models = [clearml_server.models[entry["model"]] for entry in task["models"]["output"]]
    assert len(models) == len(clearml_server.models) == 4, read.stdout
    best, final, whole = (
        next(model for model in models if model["name"].endswith(name))
        for name in ("best_model", "final/model", "whole")
    )
    assert best["uri"].startswith(clearml_server.files_url)
    assert final["framework"] == "ONNX"
    assert {"kept"} <= set(best["tags"])
    assert "accuracy: 0.95" in best["comment"]
    assert "version: v1.2" in best["comment"]
    assert "accuracy: 0.5" in whole["comment"]
    assert clearml_server.schema_violations == []


@pytest.mark.slow
def test_uploads_that_fail_are_told_counted_and_kept(clearml_server, run_script, tmp_path):
    """One that the file server refuses, one it has no answer for by the deadline, one it takes in
    the end. Scalars are there long before."""
    clearml_server.file_faults.add("413", endpoints=("refused.bin",))
    clearml_server.file_faults.add("slow", delay=4.0, endpoints=("slow.txt",))
    clearml_server.file_faults.add("503", times=2, endpoints=("later.txt",))
    done = run_script(
        """
        import pathlib, time, tracelet
        experiment = tracelet.start_logging("failing", "tests")
        for name in ("slow.txt", "refused.bin", "later.txt"):
            pathlib.Path(name).write_text(name)
            experiment.log_artifact(name, artifact_path="things/")
        experiment.log_metric("a", 1.0, 1)
        start = time.monotonic()
        assert experiment.flush(10)
        print("scalars after", time.monotonic() - start < 4)
        start = time.monotonic()
        tracelet.stop_logging(timeout_s=7)
        print("stopped", time.monotonic() - start < 12, experiment.stats.artifacts)
        """,
        env={**clearml_server.environment(), "CLEARML_FILES_SERVER_TIMEOUT": "1"},
    )
    assert "scalars after True" in done.stdout
    assert "stopped True {'uploaded': 1, 'failed': 2}" in done.stdout, done.stdout + done.stderr
    (task,) = clearml_server.tasks.values()
    assert [artifact["key"] for artifact in task["execution"]["artifacts"]] == ["things/later.txt"]
    assert task["status"] == "completed"
    refused = [line for line in done.stderr.splitlines() if "refused.bin" in line]
    assert len(refused) == 1
    assert "is not on the server" in refused[0]
    assert "413" in refused[0]
    slow = [line for line in done.stderr.splitlines() if "artifact 'things/slow.txt'" in line]
    assert len(slow) == 2  # at the first failure, and at the end
    assert "timeout" in slow[1]
    (folder,) = (tmp_path / "tracelet-runs").iterdir()
    kept = {path.name: path.read_text() for path in (folder / "set_aside-artifacts").iterdir()}
    assert sorted(kept.values()) == ["refused.bin", "slow.txt"]


@pytest.mark.slow
def test_a_script_that_fails_leaves_a_failed_task_with_everything(clearml_server, run_script):
    """And the time-out of the file server that the page names: the answer comes after 2 s."""
    clearml_server.file_faults.add("slow", delay=2.0, endpoints=("last.txt",))
    run_script(
        """
        import pathlib, tracelet
        experiment = tracelet.start_logging("crash", "tests")
        pathlib.Path("last.txt").write_text("last")
        experiment.log_artifact("last.txt")
        experiment.log_params({"lr": 0.1})
        for step in range(1_000):
            experiment.log_metric("a", step, step)
        raise RuntimeError("training failed")
        """,
        env={**clearml_server.environment(), "CLEARML_FILES_SERVER_TIMEOUT": "300"},
        check=False,
    )
    (task,) = clearml_server.tasks.values()
    assert task["status"] == "failed"
    assert [artifact["key"] for artifact in task["execution"]["artifacts"]] == ["last.txt"]
    assert task["hyperparams"]["General"]["lr"]["value"] == "0.1"
    assert len(clearml_server.scalars(task["id"])["a", "a"]) == 1_000
    assert clearml_server.upload_count == 1


@pytest.mark.slow
def test_a_killed_process_leaves_its_copies(clearml_server, run_script, tmp_path):
    """Where what sends the points afterwards does not remove them, while the server is away."""
    clearml_server.file_faults.add("503", endpoints=None)
    run_script(
        """
        import os, pathlib, signal, tracelet
        experiment = tracelet.start_logging("killed", "tests")
        pathlib.Path("config.yaml").write_text("first")
        experiment.log_artifact("config.yaml")
        pathlib.Path("config.yaml").write_text("second")
        experiment.log_metric("a", 1.0, 1)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        env=clearml_server.environment(),
        check=False,
    )
    (folder,) = (tmp_path / "tracelet-runs").iterdir()
    (kept,) = (folder / "set_aside-artifacts").rglob("config.yaml")
    assert kept.read_text() == "first"
    done = run_script("from tracelet.cli import main; main(['sync', '--all'])",
                      env=clearml_server.environment())  # fmt: skip
    assert kept.read_text() == "first"
    assert "artifact 'config.yaml' is not sent" in done.stderr
