"""What a run, its end and a sync import and read, once, in a process that is to be forked often."""

from __future__ import annotations

import gc
import importlib
import pkgutil
from pathlib import Path

import tracelet
from clearml.config import config

# What the SDK imports when it is first needed: half a second of CPU in each process.
_OF_CLEARML = (
    "clearml.backend_api.services.v2_9.events", "clearml.backend_api.services.v2_9.models",
    "clearml.backend_api.services.v2_9.projects", "clearml.backend_api.services.v2_9.tasks",
    "clearml.utilities.pigar.__main__", "multiprocessing.dummy", "multiprocessing.queues", "pdb",
)  # fmt: skip
_OF_TRACELET = (
    "backends.clearml", "backends.tensorboard", "capture", "commands", "journal", "monitor",
    "pipeline", "reading", "recovery", "runs",
)  # fmt: skip


def import_before_forks() -> None:
    """To be called by the one thread of a process, which has imported torch and clearml."""
    for name in _OF_CLEARML:
        importlib.import_module(name)
    root = Path(tracelet.__file__).parent
    for package in _OF_TRACELET:
        folder = root.joinpath(*package.split("."))
        for module in pkgutil.iter_modules([str(folder)], f"tracelet.{package}."):
            importlib.import_module(module.name)
    # The SDK parses its own defaults when it is first asked: 0.4 s of CPU in each process.
    config.get("storage", None)
    gc.collect()
    gc.freeze()  # else the children's collections would copy the pages of all that is here
