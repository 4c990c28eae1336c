"""What `import tracelet` costs and does not bring."""

from __future__ import annotations

import subprocess
import sys

_HEAVY = ("torch", "clearml", "tensorboard", "tensorboardX", "pandas", "matplotlib", "requests")
_LIMIT_MS = 50
_ROUNDS = 15


def run(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout, done.stderr


def test_neither_torch_nor_clearml_is_imported():
    code = "import sys, tracelet; print('\\n'.join(sys.modules))"
    modules = {name.partition(".")[0] for name in run("-c", code)[0].split()}
    assert "tracelet" in modules
    assert modules.isdisjoint(_HEAVY)


def test_the_import_takes_less_than_50_ms_beyond_numpys():
    """The least of some rounds: the machine may be busy, the import can't be quicker than it is."""
    took_ms = []
    for _ in range(_ROUNDS):
        _, report = run("-X", "importtime", "-c", "import numpy; import tracelet")
        (line,) = [line for line in report.splitlines() if line.split("|")[-1] == " tracelet"]
        took_ms.append(int(line.split("|")[1]) / 1000)
        if took_ms[-1] < _LIMIT_MS:
            break
    print(f"import tracelet: {min(took_ms):.1f} ms beyond numpy's")
    assert min(took_ms) < _LIMIT_MS
