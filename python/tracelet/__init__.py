"""Logging from inside a training loop at a cost nobody can measure.

import tracelet
from torch.utils.tensorboard import SummaryWriter

tracelet.start_logging(exp_name="run", project="demo", backend="clearml")
writer = SummaryWriter()
writer.add_scalar("train/loss", 0.5, 1)
tracelet.stop_logging()
"""

from __future__ import annotations

from tracelet._version import __version__
from tracelet.api import get_active_experiment, logging, read, start_logging, stop_logging
from tracelet.backends import Backend, Batch, Delivery, RunInfo, Sink, register_sink
from tracelet.capture.arguments import watch_argument_parsers
from tracelet.capture.compiled import watch_for_compiler
from tracelet.config import Config
from tracelet.errors import (
    BackendError,
    ConfigurationError,
    CredentialsError,
    LeaseError,
    NotTakenError,
    TraceletError,
)
from tracelet.experiment import Experiment
from tracelet.histograms import Histogram, histogram
from tracelet.parent_run import watch_for_writers
from tracelet.records import EVENT, HISTOGRAM, RECORD_DTYPE, SCALAR
from tracelet.stats import Stats
from tracelet.summary import SeriesSummary

# Before the script parses its command line, while ClearML's SDK is not there to see it.
watch_argument_parsers()
watch_for_writers()
watch_for_compiler(Experiment)

__all__ = [
    "EVENT",
    "HISTOGRAM",
    "RECORD_DTYPE",
    "SCALAR",
    "Backend",
    "BackendError",
    "Batch",
    "Config",
    "ConfigurationError",
    "CredentialsError",
    "Delivery",
    "Experiment",
    "Histogram",
    "LeaseError",
    "NotTakenError",
    "RunInfo",
    "SeriesSummary",
    "Sink",
    "Stats",
    "TraceletError",
    "__version__",
    "get_active_experiment",
    "histogram",
    "logging",
    "read",
    "register_sink",
    "start_logging",
    "stop_logging",
]
