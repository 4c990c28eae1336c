# ruff: noqa
# fmt: off
"""The whole of the user's page in one program, as it stands there."""

import tracelet
import torch
import torch.nn as nn
import torch.optim as optim
from torch.utils.tensorboard import SummaryWriter
from torch.utils.data import DataLoader, TensorDataset
import argparse

# Command line arguments (automatically captured by ClearML)
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.001)
parser.add_argument("--batch_size", type=int, default=32)
parser.add_argument("--epochs", type=int, default=10)
args = parser.parse_args()

# Start ClearML tracking
tracelet.start_logging(
    exp_name="clearml_pytorch_example",
    project="tutorials",
    backend="clearml",
    config={
        "tags": ["pytorch", "tutorial", "automated"],
        "task_type": "training"
    }
)

# Model setup (automatically detected and logged)
model = nn.Sequential(
    nn.Linear(784, 128),
    nn.ReLU(),
    nn.Linear(128, 10)
)
optimizer = optim.Adam(model.parameters(), lr=args.lr)
criterion = nn.CrossEntropyLoss()

# Data
X = torch.randn(1000, 784)
y = torch.randint(0, 10, (1000,))
dataset = TensorDataset(X, y)
dataloader = DataLoader(dataset, batch_size=args.batch_size)

# Training with automatic ClearML logging
writer = SummaryWriter()

for epoch in range(args.epochs):
    total_loss = 0
    for batch_idx, (data, target) in enumerate(dataloader):
        optimizer.zero_grad()
        output = model(data)
        loss = criterion(output, target)
        loss.backward()
        optimizer.step()

        # Metrics automatically enhanced in ClearML
        writer.add_scalar("batch/loss", loss.item(),
                         epoch * len(dataloader) + batch_idx)
        total_loss += loss.item()

    # Epoch metrics with automatic comparison
    avg_loss = total_loss / len(dataloader)
    writer.add_scalar("epoch/loss", avg_loss, epoch)

    # Model analysis (automatic histograms in ClearML)
    for name, param in model.named_parameters():
        writer.add_histogram(f"weights/{name}", param, epoch)

# Manual parameter logging (supplements automatic detection)
exp = tracelet.get_active_experiment()
exp.log_params({
    "model.type": "simple_mlp",
    "model.architecture": "784->128->10",
    "training.final_loss": avg_loss,
    "training.total_batches": len(dataloader) * args.epochs
})

# Save model (automatically tracked in model registry)
torch.save(model.state_dict(), "model.pth")
exp.log_artifact("model.pth", artifact_path="models/")

# Save training metadata
import json
metadata = {
    "training_completed": True,
    "final_epoch": args.epochs,
    "total_parameters": sum(p.numel() for p in model.parameters())
}
with open("training_metadata.json", "w") as f:
    json.dump(metadata, f)
exp.log_artifact("training_metadata.json", artifact_path="metadata/")

# Cleanup
writer.close()
tracelet.stop_logging()

print("✅ Training completed! View results at: https://app.clear.ml")
