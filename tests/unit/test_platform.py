"""The operating system is talked to in one place, so that another one needs one file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_CPP = Path(__file__).resolve().parents[2] / "cpp"
_PLATFORM = {"platform.cpp", "platform_windows.cpp"}
# Headers that compilers bring, for their processors and their exceptions, and Python's own.
_NOT_OF_THE_SYSTEM = {"Python.h", "arm_acle.h", "cpuid.h", "cxxabi.h", "nmmintrin.h", "x86intrin.h"}


@pytest.mark.parametrize("layer", ["tracelet", "bindings"])
def test_only_the_platform_files_include_headers_of_the_operating_system(layer: str) -> None:
    sources = [path for path in (_CPP / layer).rglob("*") if path.suffix in (".cpp", ".h")]
    assert len(sources) > 10
    found = {
        f"{path.name}: {header}"
        for path in sources
        if path.name not in _PLATFORM
        for header in re.findall(r"#\s*include\s*<([^>]+\.h)>", path.read_text("utf-8"))
        if header not in _NOT_OF_THE_SYSTEM and not header.startswith("nanobind/")
    }
    assert found == set()
