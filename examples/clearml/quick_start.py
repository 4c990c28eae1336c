"""Two points on ClearML, by the SummaryWriter that the code has anyway."""

import tracelet
from torch.utils.tensorboard import SummaryWriter

tracelet.start_logging(exp_name="clearml_experiment", project="my_project", backend="clearml")

writer = SummaryWriter()
writer.add_scalar("loss", 0.5, 1)
writer.add_scalar("accuracy", 0.9, 1)

tracelet.stop_logging()
