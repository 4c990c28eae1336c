"""What `config` takes of Task.init's arguments: first a few, then most."""

import tracelet

tracelet.start_logging(
    backend="clearml",
    exp_name="my_experiment",
    project="computer_vision",
    config={
        "task_name": "resnet_training",
        "tags": ["pytorch", "baseline"],
        "task_type": "training",
        "output_uri": "s3://my-bucket/",
    },
)
tracelet.stop_logging()

tracelet.start_logging(
    backend="clearml",
    exp_name="advanced_experiment",
    project="ml_research",
    config={
        "task_name": "hyperparameter_sweep",
        "task_type": "training",
        "tags": ["experiment", "sweep", "v2.0"],
        "output_uri": "s3://clearml-artifacts/",
        "auto_connect_frameworks": True,
        "auto_connect_arg_parser": True,
        "continue_last_task": False,
        "reuse_last_task_id": False,
    },
)
tracelet.stop_logging()
