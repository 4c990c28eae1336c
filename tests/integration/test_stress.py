"""What `tests/stress` does, with the core as it is installed; `.ci/stress` does it with sanitizers.

60 s and 40 exits; STRESS_S and STRESS_EXITS set more or less (`make soak-stress`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

SECONDS = float(os.environ.get("STRESS_S", "60"))
EXITS = int(os.environ.get("STRESS_EXITS", "40"))


def run(script: str, argument: float, folder: Path, timeout_s: float) -> dict[str, int]:
    path = Path(__file__).parents[1] / "stress" / script
    done = subprocess.run(
        [sys.executable, str(path), str(argument)],
        cwd=folder, timeout=timeout_s, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-20_000:]}"
    print(done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_runs_that_start_and_stop_beside_sixteen_threads_that_log(tmp_path):
    sums = run("runs_beside_calls.py", SECONDS, tmp_path, 600 + 10 * SECONDS)
    assert sums["runs"] > 5
    assert sums["accepted"] > 1_000


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_processes_that_end_while_their_threads_log(tmp_path):
    assert run("exits.py", EXITS, tmp_path, 600 + 30 * EXITS) == {"0": EXITS}
