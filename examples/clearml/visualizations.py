"""Scalars, histograms, images and text of a SummaryWriter, all of them on ClearML."""

import torch
import tracelet
from torch.utils.tensorboard import SummaryWriter

tracelet.start_logging(exp_name="visualizations", project="examples", backend="clearml")
writer = SummaryWriter()
generator = torch.Generator().manual_seed(0)

for step in range(5):
    writer.add_scalar("train/loss", 1 / (step + 1), step)
    writer.add_histogram("model/weights", torch.randn(1_000, generator=generator), step)
    writer.add_image("predictions", torch.rand(3, 32, 32, generator=generator), step)
    writer.add_text("notes", f"after step {step}", step)

tracelet.stop_logging()
