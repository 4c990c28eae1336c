"""Nested projects, names with a version, artifacts in folders."""

import json
from pathlib import Path

import torch
import tracelet

experiment = tracelet.start_logging(
    backend="clearml",
    project="Computer Vision/Image Classification",
    exp_name="resnet50_cifar10_baseline_v2.1",
    config={"tags": ["resnet50", "cifar10", "v2.1"]},
)

weights = torch.nn.Linear(4, 2).state_dict()
for name in ("model.pth", "checkpoint.pth"):
    torch.save(weights, name)
Path("train_stats.json").write_text(json.dumps({"mean": 0.5}))
Path("predictions.csv").write_text("a,b\n1,2\n")
Path("config.yaml").write_text("depth: 50\n")

experiment.log_artifact("model.pth", artifact_path="models/final/")
experiment.log_artifact("checkpoint.pth", artifact_path="models/checkpoints/")
experiment.log_artifact("train_stats.json", artifact_path="data/statistics/")
experiment.log_artifact("predictions.csv", artifact_path="results/predictions/")
experiment.log_artifact("config.yaml", artifact_path="configs/")

tracelet.stop_logging()
