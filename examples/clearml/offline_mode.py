"""The same without a server: a session in a folder, to be imported later."""

import os

import tracelet

os.environ["CLEARML_OFFLINE_MODE"] = "1"

experiment = tracelet.start_logging(
    backend="clearml", exp_name="offline_experiment", project="development"
)
experiment.log_metric("loss", 0.5, 1)
tracelet.stop_logging()

# Later: clearml.Task.import_offline_session(folder)
print("the session is in", experiment.url)
