"""`python -m benchmarks`: runs the measurements and reports them. `--help` lists the options."""

from __future__ import annotations

import argparse
import importlib
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report
from benchmarks.harness import MissingError, Settings, WorkerError
from benchmarks.parts import memory, scale

PARTS = (
    "import_cost",
    "scalars",
    "call_shapes",
    "compiled",
    "latency",
    "shipping",
    "memory",
    "histograms",
    "event_files",
    "reading",
    "training",
    "journal",
    "durability",
    "outage",
    "server_outage",
    "backends",
    "scale",
)


def main() -> int:
    arguments = _parse_arguments()
    if arguments.render:
        _write({})
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # cleans up, as Ctrl-C does
    temp_root = Path(tempfile.mkdtemp(prefix="tracelet-bench-", dir=arguments.temp_dir))
    settings = Settings(arguments.quick, arguments.seed, temp_root)
    print(f"seed {settings.seed}; files go to {temp_root} and are removed", flush=True)
    facts = report.machine_facts({"seed": settings.seed, "quick": settings.quick})
    records = {}
    try:
        for name in arguments.only:
            start_s = time.monotonic()
            try:
                part = importlib.import_module(f"benchmarks.parts.{name}").run(settings)
            except (MissingError, WorkerError) as error:
                print(f"{name} FAILED: {error}", flush=True)
                continue
            records[name] = report.as_record(part, facts)
            print(f"{name}: {time.monotonic() - start_s:.0f} s", flush=True)
    finally:
        shutil.rmtree(temp_root, ignore_errors=True)

    if records:
        print(f"\n{report.markdown(records)}")
    if settings.quick:
        print("--quick: everything tiny, the numbers mean nothing")
    if arguments.write and records:
        _write(records)
    return 0 if len(records) == len(arguments.only) else 1


def _write(records: dict[str, dict]) -> None:
    """Puts what was measured in the place of the same parts of the last results."""
    records = {**report.read_json(report.RESULTS), **records}
    records = {name: records[name] for name in PARTS if name in records}
    report.write_json(report.RESULTS, records)
    written = [report.RESULTS, *report.update_documents(records)]
    if "scalars" in records:
        report.plot(records["scalars"]["costs_ns"], report.PLOT)
        written.append(report.PLOT)
    for part, draw, path in (
        ("scale", scale.draw, scale.PLOT),
        ("memory", memory.draw, memory.PLOT),
    ):
        if records.get(part, {}).get("plots"):
            draw(records[part]["rounds"], path)
            written.append(path)
    print("written:", *written)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(PARTS),
        help=f"parts to run, separated by commas: {','.join(PARTS)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="everything tiny, to see that it works"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write benchmarks/results/latest.json, docs/bench-*.png, and the tables between "
        "the markers in README.md and docs/performance.md",
    )
    parser.add_argument(
        "--render",
        action="store_true",
        help="write the tables and the plots of the last results anew",
    )
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 16), help="of the shuffled orders"
    )
    parser.add_argument("--temp-dir", help="folder for temporary files; 4 GB for all of it")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.only if name not in PARTS]
    if unknown:
        parser.error(f"--only: there is no part {unknown[0]!r}; parts: {', '.join(PARTS)}")
    if arguments.quick and arguments.write:
        parser.error("--quick measures nothing worth writing")
    if arguments.write and report.is_dirty():
        parser.error("--write: commit first: figures belong to a commit")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
