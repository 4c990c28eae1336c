"""tracelet version."""

from __future__ import annotations

import argparse
import platform

import numpy as np

from tracelet._version import __version__

HELP = "print the versions of tracelet and Python"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(arguments: argparse.Namespace) -> int:
    print(f"tracelet {__version__} (Python {platform.python_version()}, numpy {np.__version__})")
    return 0
