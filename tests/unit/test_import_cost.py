"""What `import tracelet` does not bring; what it takes is in `benchmarks/parts/import_cost.py`."""

from __future__ import annotations

import subprocess
import sys

_HEAVY = ("torch", "clearml", "tensorboard", "tensorboardX", "pandas", "matplotlib", "requests")


def test_neither_torch_nor_clearml_is_imported():
    code = "import sys, tracelet; print('\\n'.join(sys.modules))"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60)
    modules = {name.partition(".")[0] for name in printed.split()}
    assert "tracelet" in modules
    assert modules.isdisjoint(_HEAVY)
