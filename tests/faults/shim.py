"""The fault library (fault_shim.cpp): built once into build/, and what it exports."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("fault_shim.cpp")
BUILD = Path(__file__).parents[2] / "build" / "faults"
KINDS = ("open", "write", "sync", "truncate", "allocate", "map", "rename")
EVER = (1 << 64) - 1


def built_shim() -> str:
    """The library's path; "" where it can't be had: no Linux, no compiler."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if not sys.platform.startswith("linux") or compiler is None:
        return ""
    library = BUILD / "fault_shim.so"
    if not library.exists() or library.stat().st_mtime < SOURCE.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        new = BUILD / f"fault_shim.{os.getpid()}.so"
        flags = ["-std=c++20", "-O1", "-g", "-shared", "-fPIC", "-fvisibility=hidden"]
        warnings = ["-Wall", "-Wextra", "-Werror"]
        subprocess.run(
            [compiler, *flags, *warnings, "-o", new, SOURCE, "-ldl"], check=True, timeout=300
        )
        os.replace(new, library)
    return str(library)


class Shim:
    """The library in this process, which was started with it (LD_PRELOAD)."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faults_begin.argtypes = [
            ctypes.c_char_p, ctypes.c_uint64, ctypes.c_double, ctypes.c_uint32, ctypes.c_uint64,
            ctypes.c_uint64, ctypes.c_int,
        ]  # fmt: skip
        self._library.record_begin.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        for name in ("faults_injected", "faults_calls"):
            getattr(self._library, name).restype = ctypes.c_uint64

    def begin(
        self, prefixes: list[str], seed: int, rate: float, kinds: list[str], first: int = 0,
        last: int = EVER,
    ) -> None:  # fmt: skip
        """Calls of these kinds that touch files below the prefixes fail from now on; each one that
        does is told on stderr."""
        mask = sum(1 << KINDS.index(kind) for kind in kinds)
        joined = ":".join(prefixes).encode()
        self._library.faults_begin(joined, seed, rate, mask, first, last, 2)

    def end(self) -> None:
        self._library.faults_end()

    @property
    def injected(self) -> int:
        return int(self._library.faults_injected())

    @property
    def calls(self) -> int:
        return int(self._library.faults_calls())

    def record(self, prefix: str, log: str) -> None:
        self._library.record_begin(prefix.encode(), log.encode())

    def end_record(self) -> None:
        self._library.record_end()
