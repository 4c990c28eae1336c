"""What does `import tracelet` take beyond numpy's import?"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness import Settings, summarise
from benchmarks.report import Figure, Part


def run(settings: Settings) -> Part:
    times_ms = [_import_ms() for _ in range(settings.pick(25, 2))]
    return Part(
        name="import_cost",
        figures=[
            Figure(
                "import tracelet, beyond numpy's", "ms", summarise(times_ms), at_least=50, aim=50
            )
        ],
        rounds={"ms": times_ms},
    )


def _import_ms() -> float:
    """By `python -X importtime`, of a process of its own."""
    report = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import numpy; import tracelet"],
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    (line,) = [line for line in report.splitlines() if line.split("|")[-1] == " tracelet"]
    return int(line.split("|")[1]) / 1000
