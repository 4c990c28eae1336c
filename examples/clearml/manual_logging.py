"""Parameters, files and tables, logged by hand."""

from pathlib import Path

import pandas as pd
import torch
import tracelet

experiment = tracelet.start_logging(
    exp_name="manual_logging", project="examples", backend="clearml"
)

experiment.log_params(
    {"learning_rate": 0.001, "batch_size": 32, "epochs": 100, "optimizer": "adam"}
)

torch.save(torch.nn.Linear(4, 2).state_dict(), "model.pth")
Path("config.yaml").write_text("depth: 50\n")
experiment.log_artifact("model.pth", artifact_path="models/")
experiment.log_artifact("config.yaml")

frame = pd.DataFrame({"metric": [1, 2, 3], "value": [0.8, 0.9, 0.95]})
experiment.log_artifact(frame, artifact_path="results.csv")
experiment.log_table("val/results", frame, step=3)
experiment.log_text("val/notes", "as expected", step=3)

tracelet.stop_logging()
