"""One run in several trackers: python examples/multi_backend.py [BACKEND ...]

Without an argument, all whose package is installed. None needs an account or a server: ClearML gets
an offline session, MLflow a database and Aim a repository in this folder, trackio its local one;
without a login W&B has an offline run.
"""

import importlib.util
import math
import sys

import tracelet
from torch.utils.tensorboard import SummaryWriter

names = ("clearml", "mlflow", "wandb", "aim", "trackio")
installed = [name for name in names if importlib.util.find_spec(name)]
backends = sys.argv[1:] or [*installed, "tensorboard"]

experiment = tracelet.start_logging("multi_backend", "examples", backend=backends)
experiment.log_params({"lr": 0.1, "model": {"depth": 3, "wide": True}})

writer = SummaryWriter()  # existing code, as it is
for step in range(100):
    writer.add_scalar("train/loss", math.exp(-step / 25), step)
experiment.log_metric("val/accuracy", 0.75, 99)
experiment.log_artifact({"classes": ["cat", "dog"]}, artifact_path="labels.json")

assert experiment.flush(), "some backend does not have everything yet"
tracelet.stop_logging()

for name in backends:
    print(f"{name}: run {experiment.ids.get(name, '-')}, {experiment.urls.get(name) or 'files'}")
print("points delivered:", dict(experiment.stats.delivered))
