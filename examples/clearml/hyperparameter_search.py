"""ClearML's optimizer over a task that logs through tracelet, whose id is the argument."""

import sys

from clearml import Task
from tracelet.clearml import hyperparameter_optimizer

task = Task.init("Search", "search", task_type=Task.TaskTypes.optimizer)
optimizer = hyperparameter_optimizer(
    base_task_id=sys.argv[1],
    parameters={"learning_rate": [0.001, 0.1], "batch_size": [16]},
    objective="train/loss",
    sign="min",
    max_number_of_concurrent_tasks=2,
    pool_period_min=0.05,
)
optimizer.set_report_period(0.05)
optimizer.start_locally()  # start() leaves the jobs to agents
optimizer.wait()
optimizer.stop()

(best,) = optimizer.get_top_experiments(1)
print("best:", best.get_parameters())
task.close()
