"""The type of `config`, an argument of `start_logging`: its keys are the options.

Written by `.ci/config_types.py` from the declarations in `options.py`, which say what each is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict


class Config(TypedDict, total=False):
    """Options of a run, see `tracelet.options.Options`. None stands for the default."""

    log_dir: str | os.PathLike[str] | None
    tensorboard: Literal["native", "passthrough", "off"] | None
    runs_dir: str | os.PathLike[str] | None
    history_dir: str | os.PathLike[str] | None
    history_runs: int | None
    quiet: bool | None
    environment: bool | None
    git_diff: bool | None
    system_metrics: bool | None
    system_interval_s: float | None
    console: bool | None
    ring_slots: int | None
    ring_dir: str | os.PathLike[str] | None
    full_ring_timeout_s: float | None
    payload_bytes: int | None
    journal_limit_bytes: int | None
    journal_overflow: Literal["block", "drop_oldest", "drop_new"] | None
    drain_interval_s: float | None
    batch_max_points: int | None
    batch_max_bytes: int | None
    batch_max_age_s: float | None
    stop_timeout_s: float | None
    start_timeout_s: float | None
    on_unreachable: Literal["offline", "raise"] | None
    exit_timeout_s: float | None
    journal_sync_interval_s: float | None
    aggregate: Mapping[str, object] | None
    ranks: Mapping[str, object] | None
    rank_window_s: float | None
    histogram_threads: int | None
    histogram_view_interval_s: float | None
    task_name: str | None
    task_type: (
        Literal[
            "training",
            "testing",
            "inference",
            "data_processing",
            "application",
            "monitor",
            "controller",
            "optimizer",
            "service",
            "qc",
            "custom",
        ]
        | None
    )
    tags: Sequence[str] | None
    output_uri: bool | str | os.PathLike[str] | None
    auto_connect_frameworks: bool | Mapping[str, object] | None
    auto_connect_arg_parser: bool | Mapping[str, object] | None
    auto_resource_monitoring: bool | Mapping[str, object] | None
    auto_connect_streams: bool | Mapping[str, object] | None
    continue_last_task: bool | int | str | None
    reuse_last_task_id: bool | str | None
    random_seed: int | bool | None
    comment: str | None
    docker: str | Mapping[str, object] | None
    child_task: bool | None
    mlflow: Mapping[str, object] | None
    wandb: Mapping[str, object] | None
    aim: Mapping[str, object] | None
