"""Under a ClearML agent: the task that it gives, with the parameters that were edited there."""

from __future__ import annotations

import pytest

pytest.importorskip("clearml")

PROGRAM = """
import argparse, dataclasses, enum, pathlib, sys, tracelet
import numpy as np

class Color(enum.Enum):
    RED = 1
    BLUE = 2

@dataclasses.dataclass
class Optimizer:
    name: str = "adam"
    betas: tuple = (0.9, 0.99)

@dataclasses.dataclass
class Config:
    width: int = 8
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
arguments = parser.parse_args(sys.argv[1:])
experiment = tracelet.start_logging("base", "tests/remote")
params = {
    "lr": 0.1, "layers": [1, 2], "use_bias": True, "name": None, "color": Color.RED,
    "data": {"path": pathlib.Path("train"), "folds": np.int64(5)},
}
config = Config()
namespace = argparse.Namespace(batch_size=32, nested={"deep": "x"})
try:
    from omegaconf import OmegaConf
    omega = OmegaConf.create({"heads": 4, "block": {"depth": 2, "twice": "${heads}"}})
except ImportError:
    omega = {"heads": 4, "block": {"depth": 2, "twice": 4}}
for each in (params, config, namespace, omega):
    experiment.log_params(each)
experiment.log_metric("loss", 0.5, 7)
print("epochs", repr(arguments.epochs))
print(params["lr"], params["layers"], params["use_bias"], params["color"], params["data"])
print(config)
print(namespace)
print("omega", omega["heads"], omega["block"]["depth"], omega["block"]["twice"])
tracelet.stop_logging()
print("id", experiment.id)
"""

EDITED = {
    "Args/epochs": "9", "General/lr": "0.5", "General/layers": "[3, 4]",
    "General/use_bias": "False", "General/color": "BLUE", "General/data/path": "elsewhere",
    "General/data/folds": "7", "General/width": "16", "General/optimizer/name": "sgd",
    "General/optimizer/betas": "(0.5, 0.6)", "General/batch_size": "64",
    "General/nested/deep": "y", "General/block/depth": "6",
}  # fmt: skip


@pytest.mark.slow
def test_edited_parameters_come_back_typed(clearml_server, run_script):
    environment = clearml_server.environment()
    here = run_script(PROGRAM, env=environment)
    assert "epochs 3" in here.stdout
    assert "0.1 [1, 2] True Color.RED" in here.stdout
    (task,) = clearml_server.tasks.values()
    assert task["name"] == "base"
    general = task["hyperparams"]["General"]
    assert general["lr"]["value"] == "0.1"
    assert general["lr"]["type"] == "float"
    assert general["optimizer/name"]["value"] == "adam"
    for name, value in EDITED.items():
        section, _, key = name.partition("/")
        task["hyperparams"][section][key]["value"] = value
    task["status"] = "queued"
    task["name"] = "edited"

    remote = run_script(PROGRAM, env={**environment, "CLEARML_TASK_ID": task["id"]})
    assert len(clearml_server.tasks) == 1  # attached, none made
    assert f"id {task['id']}" in remote.stdout
    assert "epochs 9" in remote.stdout
    assert "0.5 [3, 4] False Color.BLUE" in remote.stdout
    assert "PosixPath('elsewhere')" in remote.stdout
    assert "7" in remote.stdout.split("folds")[1][:20]
    assert "Config(width=16, optimizer=Optimizer(name='sgd', betas=(0.5, 0.6)))" in remote.stdout
    assert "Namespace(batch_size=64, nested={'deep': 'y'})" in remote.stdout
    assert "omega 4 6 4" in remote.stdout
    assert task["name"] == "edited"
    assert clearml_server.scalars(task["id"])["loss", "loss"] == {7: 0.5}
    assert task["status"] == "in_progress"  # it is the agent that ends it
    assert clearml_server.schema_violations == []
