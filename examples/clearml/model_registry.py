"""A model that ClearML catches by torch.save, its file as an artifact, and its metadata."""

import torch
import tracelet

experiment = tracelet.start_logging(
    exp_name="model_registry", project="examples", backend="clearml"
)

model = torch.nn.Linear(4, 2)
torch.save(model.state_dict(), "best_model.pth")
experiment.log_artifact("best_model.pth", artifact_path="models/")

experiment.log_params({"model.accuracy": 0.95, "model.f1_score": 0.93, "model.version": "v1.2"})

experiment.log_model(model, name="explicit", metadata={"accuracy": 0.95}, tags=["small"])

tracelet.stop_logging()
