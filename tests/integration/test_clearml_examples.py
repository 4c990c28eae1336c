"""examples/clearml: each block of the user's page as a program, run offline and online.

What is checked is what lies on the server: for the offline runs, after the SDK's own import of
their sessions. The programs run one after the other in one process, which imports torch and
clearml once; each starts and stops its own run.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clearml_server import ClearMLServer

pytest.importorskip("clearml")
pytest.importorskip("torch")
boto3 = pytest.importorskip("boto3")
pytest.importorskip("pandas")
pytest.importorskip("flask")
moto_server = pytest.importorskip("moto.server")

EXAMPLES = Path(__file__).parents[2] / "examples" / "clearml"
# The one with a command line last but one, the one that goes offline last: both stay in a process.
PROGRAMS = (
    "quick_start", "configuration", "manual_logging", "visualizations", "pipeline",
    "model_registry", "good_practice", "from_tensorboard", "complete", "offline_mode",
)  # fmt: skip
NEEDS_A_SERVER = {"hyperparameter_search"}  # test_clearml_hyperparameters.py runs it

RUN_ALL = """
import os, runpy, shutil, sys
for name in {programs!r}:
    os.makedirs("work/" + name)
    os.chdir("work/" + name)
    sys.argv = [name + ".py"]
    runpy.run_path(os.path.join({examples!r}, name + ".py"), run_name="__main__")
    os.chdir("../..")
"""

IMPORT_ALL = """
from clearml import Task
for session in {sessions!r}:
    Task.import_offline_session(session)
"""


@pytest.fixture(scope="module")
def buckets():
    """The S3 buckets that the page's configuration names, on loopback."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    variables = {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="test-key",
        aws_secret_access_key="test-secret",
    )
    for bucket in ("my-bucket", "clearml-artifacts"):
        client.create_bucket(Bucket=bucket)
    yield variables
    server.stop()


def configured(tmp_path, **variables):
    """With reports from threads for the tasks that the examples make themselves: quick to close."""
    path = tmp_path / "clearml.conf"
    path.write_text("sdk.development.report_use_subprocess: false\n")
    return {**variables, "CLEARML_CONFIG_FILE": str(path)}


def test_every_program_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PROGRAMS, *NEEDS_A_SERVER}


@pytest.mark.slow
def test_the_examples_online(clearml_server, run_script, tmp_path, buckets):
    environment = configured(tmp_path, **clearml_server.environment(), **buckets)
    code = RUN_ALL.format(programs=PROGRAMS, examples=str(EXAMPLES))
    done = run_script(code, env=environment)
    check_everything(clearml_server, tmp_path / "work", is_import=False)
    assert "Training completed!" in done.stdout
    destinations = {
        task["name"]: task["output"]["destination"] for task in clearml_server.tasks.values()
    }
    assert destinations["resnet_training"] == "s3://my-bucket"
    assert destinations["hyperparameter_sweep"] == "s3://clearml-artifacts"


@pytest.mark.slow
def test_the_examples_offline_and_their_sessions_imported(clearml_server, run_script, tmp_path):
    code = RUN_ALL.format(programs=PROGRAMS, examples=str(EXAMPLES))
    run_script(code, env=configured(tmp_path))
    sessions = {}
    for archive in (tmp_path / "clearml").rglob("offline-*.zip"):
        task = json.loads((archive.with_suffix("") / "task.json").read_text())
        sessions[task["name"]] = str(archive)
    sessions.pop("offline_experiment")  # the one of offline_mode, which isn't there online either
    run_script(
        IMPORT_ALL.format(sessions=list(sessions.values())),
        env=configured(tmp_path, **clearml_server.environment()),
    )
    assert {task["name"] for task in clearml_server.tasks.values()} == set(sessions)
    check_everything(clearml_server, tmp_path / "work", is_import=True)


def check_everything(server: ClearMLServer, work: Path, is_import: bool) -> None:
    """`work` has the files that the examples wrote."""
    tasks = {task["name"]: Arrived(server, task) for task in server.tasks.values()}
    assert set(tasks) == {
        "clearml_experiment", "resnet_training", "hyperparameter_sweep", "manual_logging",
        "visualizations", "Data Processing Pipeline", "data_preprocessing", "model_training",
        "model_registry", "resnet50_cifar10_baseline_v2.1", "from_tensorboard",
        "clearml_pytorch_example",
    }  # fmt: skip
    assert {task.record["status"] for task in tasks.values()} == {"completed"}

    quick = tasks["clearml_experiment"]
    assert quick.project == "my_project"
    assert quick.scalars == {("loss", "loss"): {1: 0.5}, ("accuracy", "accuracy"): {1: 0.9}}

    assert tasks["resnet_training"].project == "computer_vision"
    assert tasks["resnet_training"].record["type"] == "training"
    assert set(tasks["resnet_training"].record["tags"]) == {"pytorch", "baseline"}
    assert set(tasks["hyperparameter_sweep"].record["tags"]) == {"experiment", "sweep", "v2.0"}

    by_hand = tasks["manual_logging"]
    assert by_hand.parameters == {
        "learning_rate": "0.001", "batch_size": "32", "epochs": "100", "optimizer": "adam"
    }  # fmt: skip
    assert set(by_hand.artifacts) == {"models/model.pth", "config.yaml", "results.csv"}
    assert by_hand.artifacts["config.yaml"] == b"depth: 50\n"
    assert (
        by_hand.artifacts["models/model.pth"]
        == (work / "manual_logging" / "model.pth").read_bytes()
    )

    assert by_hand.plots == {("val", "results"): [3]}
    assert list(by_hand.samples.values()) == [[3]]

    pictures = tasks["visualizations"]
    assert pictures.scalars == {("train", "loss"): {step: 1 / (step + 1) for step in range(5)}}
    assert pictures.plots["model", "weights"] == [0, 1, 2, 3, 4]
    assert pictures.samples == {
        ("Images", "predictions"): [0, 1, 2, 3, 4],
        ("notes", "text_summary"): [0, 1, 2, 3, 4],
    }

    parent = tasks["Data Processing Pipeline"]
    losses = {("train", "loss"): {step: 1 / (step + 1) for step in range(10)}}
    assert tasks["data_preprocessing"].scalars == {("rows", "rows"): {0: 1000.0}}
    assert tasks["model_training"].scalars == losses
    assert parent.scalars == {}
    for step in ("data_preprocessing", "model_training"):
        assert tasks[step].project == "ML Pipeline"
        if not is_import:
            assert tasks[step].record["parent"] == parent.record["id"]

    registry = tasks["model_registry"]
    assert set(registry.models) == {"best_model", "explicit"}
    assert {model["framework"] for model in registry.models.values()} == {"PyTorch"}
    assert set(registry.models["explicit"]["tags"]) == {"small"}
    assert registry.parameters["model.accuracy"] == "0.95"
    if not is_import:
        metadata = {
            key: item["value"] for key, item in registry.models["best_model"]["metadata"].items()
        }
        assert metadata == {"accuracy": "0.95", "f1_score": "0.93", "version": "v1.2"}

    practice = tasks["resnet50_cifar10_baseline_v2.1"]
    assert practice.project == "Computer Vision/Image Classification"
    assert set(practice.artifacts) == {
        "models/final/model.pth", "models/checkpoints/checkpoint.pth",
        "data/statistics/train_stats.json", "results/predictions/predictions.csv",
        "configs/config.yaml",
    }  # fmt: skip

    board = tasks["from_tensorboard"]
    assert len(board.scalars["train", "loss"]) == 100
    assert list((work / "from_tensorboard" / "runs" / "from_tensorboard").glob("events.*"))

    check_complete(tasks["clearml_pytorch_example"], work / "complete")
    assert server.schema_violations == []
    assert server.unknown_endpoints == []


def check_complete(task: Arrived, work: Path) -> None:
    """The page's complete example: 330 scalars, 40 histograms, parameters, artifacts, a model."""
    assert task.project == "tutorials"
    assert set(task.record["tags"]) == {"pytorch", "tutorial", "automated"}
    assert {name: len(points) for name, points in task.scalars.items()} == {
        ("batch", "loss"): 320,
        ("epoch", "loss"): 10,
    }
    weights = ["0.weight", "0.bias", "2.weight", "2.bias"]
    for name in weights:
        assert task.plots["weights", name] == list(range(10))
    assert sum(map(len, task.plots.values())) == 44  # and each histogram over time
    arguments = {name: item["value"] for name, item in task.record["hyperparams"]["Args"].items()}
    assert arguments == {"lr": "0.001", "batch_size": "32", "epochs": "10"}
    last = task.scalars["epoch", "loss"][9]
    assert task.parameters == {
        "model.type": "simple_mlp",
        "model.architecture": "784->128->10",
        "training.final_loss": str(last),
        "training.total_batches": "320",
    }
    assert set(task.artifacts) == {"models/model.pth", "metadata/training_metadata.json"}
    assert task.artifacts["models/model.pth"] == (work / "model.pth").read_bytes()
    metadata = json.loads(task.artifacts["metadata/training_metadata.json"])
    assert metadata == {
        "training_completed": True, "final_epoch": 10, "total_parameters": 784 * 128 + 128 + 1290
    }  # fmt: skip
    assert set(task.models) == {"model"}
    assert any("Training completed" in line["msg"] or "ClearML" in line["msg"] for line in task.log)


class Arrived:
    """What of a task is on the server."""

    def __init__(self, server: ClearMLServer, record) -> None:
        identifier = record["id"]
        self.record = record
        self.project = server.projects[record["project"]]["name"]
        self.parameters = {
            name: item["value"] for name, item in record["hyperparams"].get("General", {}).items()
        }
        self.scalars = {
            name: points
            for name, points in server.scalars(identifier).items()
            if not name[0].startswith(":monitor")
        }
        self.plots = _iterations(server.events(identifier, "plot"))
        self.samples = _iterations(server.events(identifier, "training_debug_image"))
        self.log = server.logs(identifier)
        self.artifacts = {
            artifact["key"]: _content(server, artifact["uri"])
            for artifact in record["execution"].get("artifacts") or []
        }
        # The SDK's import puts the artifact's folder into a model's name.
        self.models = {
            item["name"].replace("models_", "", 1): server.models[item["model"]]
            for item in record["models"]["output"]
        }


def _content(server, url):
    from urllib.parse import unquote

    assert url.startswith(server.files_url), url
    return server.files[unquote(url[len(server.files_url) :]).lstrip("/")]


def _iterations(events):
    found = {}
    for event in events:
        found.setdefault((event["metric"], event["variant"]), []).append(event["iter"])
    return {name: sorted(steps) for name, steps in found.items()}
