"""tracelet doctor: whether logging works here, and what to do where it does not."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tracelet import checks
from tracelet.checks import Check, version_of
from tracelet.commands.selection import add_runs_dir, runs_dir_of
from tracelet.monitor.environment import gpu_names
from tracelet.options import from_environment
from tracelet.ranks.job import find_job

HELP = "check the installation, disks, credentials and servers, and say how to fix what fails"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs_dir(parser)
    parser.add_argument(
        "--timeout-s", type=float, default=5.0, help="how long to wait for a server (default: 5)"
    )


def run(arguments: argparse.Namespace) -> int:
    failed = 0
    for check in _all_checks(arguments):
        failed += not check.is_ok
        print(f"{'ok  ' if check.is_ok else 'FAIL'}  {check.name}: {check.found}", flush=True)
        if check.fix:
            print(f"      fix: {check.fix}", flush=True)
    print("all is well" if not failed else f"{failed} of them failed")
    return 1 if failed else 0


def _all_checks(arguments: argparse.Namespace) -> Iterator[Check]:
    found = {}
    for check in checks.installation():
        found[check.name] = check.is_ok
        yield check
    runs_dir = runs_dir_of(arguments)
    yield from checks.disks(runs_dir, from_environment("ring_dir"))
    yield checks.unsent_runs(runs_dir)
    yield _job()
    yield _system_metrics()
    if found["clearml"]:
        yield from _clearml_checks(arguments.timeout_s)


def _job() -> Check:
    """Which rank of which job this process is."""
    found = find_job()
    if found is None:
        return Check("job", True, "this process is no rank of a job of several processes")
    name = f"job {found.id}" if found.id else "a job without an id (TRACELET_JOB gives it one)"
    return Check("job", True, f"{found}, {name}")


def _system_metrics() -> Check:
    """What the option of that name needs; a run does without."""
    psutil, nvml = version_of("psutil"), version_of("nvidia-ml-py")
    found = f"psutil {psutil}" if psutil else "no psutil"
    has_gpu = bool(gpu_names())
    if has_gpu:
        found += f", nvidia-ml-py {nvml}" if nvml else ", no nvidia-ml-py for the GPUs"
    if not psutil or (has_gpu and not nvml):
        found += "; pip install 'tracelet[system]' for the option system_metrics"
    return Check("system metrics", True, found)


def _clearml_checks(timeout_s: float) -> Iterator[Check]:
    from tracelet.backends.clearml.set_up import is_installed, is_set_up

    if not is_installed():
        return
    if is_set_up() or "clearml" in (from_environment("backend") or ()):
        from tracelet.backends.clearml.server_checks import server_checks

        yield from server_checks(timeout_s)
        return
    yield Check("ClearML", True, "not set up: runs that name no backend go to TensorBoard's files; "
                "clearml-init sets it up")  # fmt: skip
