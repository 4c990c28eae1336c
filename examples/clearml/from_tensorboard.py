"""Code written for TensorBoard: two lines make it log to ClearML as well."""

import tracelet
from torch.utils.tensorboard import SummaryWriter

tracelet.start_logging(backend="clearml", exp_name="from_tensorboard", project="examples")
writer = SummaryWriter("runs/from_tensorboard")  # the same code; its event file is written too
for step in range(100):
    writer.add_scalar("train/loss", 1 / (step + 1), step)
writer.close()
tracelet.stop_logging()
