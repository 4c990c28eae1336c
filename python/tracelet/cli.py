"""The command `tracelet`."""

from __future__ import annotations

import argparse

from tracelet._version import __version__


def main() -> int:
    parser = argparse.ArgumentParser(prog="tracelet", description="Native experiment logging.")
    parser.add_argument("--version", action="version", version=f"tracelet {__version__}")
    parser.parse_args()
    parser.print_help()
    return 0
