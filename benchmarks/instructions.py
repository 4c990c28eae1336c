"""`python -m benchmarks.instructions`: what the hot calls cost in instructions, by valgrind.

Time on a shared machine varies by tens of percent; the instructions of a call do not. Each loop of
instruction_loops.py runs under callgrind; the bare loop is subtracted. The figures are compared
with the committed ones in results/instructions.json, and a call that became dearer by more than
`TOLERANCE` fails: either find out why, or write the new figures with --write and say why in the
commit. A call that became cheaper by more fails as well, so that the mark follows.

The figures hold for one minor version of Python, whose interpreter is part of them, and one
architecture. Elsewhere, and without valgrind, this prints a line and succeeds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import ROOT
from benchmarks.instruction_loops import CALLS, LOOPS

FIGURES = ROOT / "benchmarks" / "results" / "instructions.json"
TOLERANCE = 0.03


def environment() -> dict[str, str]:
    """What the figures depend on besides our own code."""
    return {"python": ".".join(platform.python_version_tuple()[:2]), "machine": platform.machine()}


def measure() -> dict[str, float]:
    """Instructions a call, by name of the loop, without those of the bare loop."""
    with tempfile.TemporaryDirectory(prefix="tracelet-callgrind-") as folder:
        subprocess.run(
            [
                "valgrind", "--tool=callgrind", "--dump-before=getppid", f"--log-file={folder}/log",
                f"--callgrind-out-file={folder}/out", sys.executable, "-m",
                "benchmarks.instruction_loops", folder,
            ],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}, check=True, timeout=300,
        )  # fmt: skip
        # One dump for each mark: the first is what came before the first loop.
        totals = [_total(Path(folder, f"out.{number}")) for number in range(2, len(LOOPS) + 2)]
    per_call = {name: total / CALLS for name, total in zip(LOOPS, totals)}
    bare = per_call.pop("bare loop")
    return {name: round(each - bare, 1) for name, each in per_call.items()}


def _total(dump: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    assert found is not None, f"{dump} has no sum"
    return int(found[1])


def compare(measured: dict[str, float], committed: dict[str, float]) -> list[str]:
    """What is not as committed, a line each."""
    complaints = []
    for name, expected in committed.items():
        found = measured.get(name)
        if found is None:
            complaints.append(f"{name}: not measured")
        elif abs(found / expected - 1) > TOLERANCE:
            direction = "dearer" if found > expected else "cheaper"
            complaints.append(f"{name}: {found} instructions, {direction} than {expected}")
    complaints += [f"{name}: not committed" for name in measured.keys() - committed.keys()]
    return complaints


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {FIGURES.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("instructions: not counted, there is no valgrind (Debian: apt-get install valgrind)")
        return 0
    committed = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    if committed and committed["environment"] != environment() and not arguments.write:
        print(f"instructions: not counted, {environment()} is not that of the committed figures")
        return 0
    measured = measure()
    for name, count in measured.items():
        was = committed.get("instructions", {}).get(name)
        print(f"{name}: {count} instructions a call, {was} committed")
    if arguments.write:
        content = {"environment": environment(), "instructions": measured}
        FIGURES.write_text(json.dumps(content, indent=2) + "\n")
        return 0
    complaints = compare(measured, committed.get("instructions", {}))
    print("\n".join(f"FAILED {complaint}" for complaint in complaints))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
