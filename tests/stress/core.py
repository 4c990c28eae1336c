"""Which native core a script of this folder runs with: the installed one, or one that a sanitizer
was built into (`.ci/stress`)."""

from __future__ import annotations

import importlib.util
import os
import sys


def use_core_of_environment() -> None:
    """STRESS_CORE: the path of the extension module. To be called before tracelet is
    imported, which finds it as its own then."""
    path = os.environ.get("STRESS_CORE")
    if not path:
        return
    spec = importlib.util.spec_from_file_location("tracelet._core", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tracelet._core"] = module
    spec.loader.exec_module(module)
