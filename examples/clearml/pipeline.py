"""Steps of a script as child tasks of its own task."""

import tracelet
from clearml import Task
from torch.utils.tensorboard import SummaryWriter

pipeline_task = Task.init(project_name="ML Pipeline", task_name="Data Processing Pipeline")

with tracelet.logging("clearml", exp_name="data_preprocessing") as experiment:
    experiment.log_metric("rows", 1_000, 0)

with tracelet.logging("clearml", exp_name="model_training"):
    writer = SummaryWriter()
    for step in range(10):
        writer.add_scalar("train/loss", 1 / (step + 1), step)

assert Task.current_task() is pipeline_task
pipeline_task.close()
