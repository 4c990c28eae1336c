"""Runs and syncs whose system calls fail: `python victims.py` with the fault library, a round per
line of stdin.

It imports torch, tracelet and clearml once, and forks: a run, a sync under faults, a sync without
them. Each line is JSON, and so is each answer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import tracelet
from crash_victims import fork, wait
from imports import import_before_forks
from shim import Shim
from tracelet.cli import main
from tracelet.commands import sync as sync_command
from tracelet.errors import TraceletError
from tracelet.recovery import resend as resend_module
from tracelet.runs.stored_run import scan_runs

CONFIG = {
    "drain_interval_s": 0.01,
    "batch_max_age_s": 0.03,
    "ring_slots": 1 << 14,
    "payload_bytes": 1 << 16,
    "full_ring_timeout_s": 0.5,
    "stop_timeout_s": 4.0,
    "exit_timeout_s": 4.0,
    "journal_sync_interval_s": 0.02,
    "auto_connect_frameworks": False,
    "auto_connect_arg_parser": False,
    "auto_resource_monitoring": False,
    "auto_connect_streams": False,
    "reuse_last_task_id": False,
}
SCALARS, LARGE = 400, 6
TIMEOUT_S = 60
shim = Shim()


def value_of(seed: int, step: int) -> float:
    return ((step * 2654435761 + seed) % (1 << 32)) / 7.0


class Round:
    def __init__(self, order):
        self.order = order
        self.random = random.Random(order["seed"])
        os.environ["TRACELET_DIR"] = order["runs_dir"]
        os.environ["TRACELET_RING_DIR"] = order["ring_dir"]

    def begin(self, seed, more=()):
        order = self.order
        shim.begin([order["folder"] + "/", *more], seed, order["rate"], order["kinds"])

    def answer(self, what, **values):
        with open(f"{self.order['answers']}.{what}", "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def run(self):
        order = self.order
        if order["when"] == "start":
            self.begin(order["seed"])
        try:
            experiment = tracelet.start_logging(
                order["name"], "faults", backend=order["backend"],
                config={**CONFIG, "log_dir": order["handle_dir"]},
            )  # fmt: skip
        except (TraceletError, OSError) as error:
            self.answer("run", start=str(error), injected=shim.injected)
            return
        session = None
        if order["backend"] == "clearml":
            session = f"{experiment.url}/metrics.jsonl"
            self.answer("session", path=session)
        if order["when"] != "stop":
            self.begin(order["seed"], [session] if session else ())
        calls = self.log(experiment)
        self.answer("calls", **calls)
        if order["dies"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if order["when"] == "stop":
            self.begin(order["seed"], [session] if session else ())
        tracelet.stop_logging()
        injected = shim.injected
        shim.end()
        stats = experiment.stats
        self.answer(
            "run", accepted=stats.accepted, dropped=dict(stats.dropped), pending=stats.pending,
            injected=injected,
            lanes={
                name: {"delivered": lane.delivered, "set_aside": dict(lane.set_aside)}
                for name, lane in stats.lanes.items()
            },
        )  # fmt: skip

    def log(self, experiment):
        """How many calls of each kind returned."""
        from torch.utils.tensorboard import SummaryWriter

        calls = {"handle": 0, "writer": 0, "large": 0}
        writer = None
        try:
            writer = SummaryWriter(self.order["log_dir"])
        except OSError as error:  # as without tracelet, when the folder can't be made
            print(f"no writer: {error}", file=sys.stderr)
        seed = self.order["seed"]
        for step in range(SCALARS):
            experiment.log_metric("handle/value", value_of(seed, step), step)
            calls["handle"] += 1
            if writer is not None:
                writer.add_scalar("writer/value", value_of(seed, step), step)
                calls["writer"] += 1
            if writer is not None and step % (SCALARS // LARGE) == 0:
                # More than a quarter of `payload_bytes`: into a file of its own.
                writer.add_text("large", f"{step} " * 8_000, step)
                calls["large"] += 1
            if step % 40 == 0:
                wait_a_moment(self.random.uniform(0, 0.02))
        return calls

    def sync(self, is_faulty):
        results = []

        def resend(*arguments):
            result = resend_module.resend(*arguments)
            results.append(result)
            return result

        sync_command.resend = resend
        resend_module._FIRST_PAUSE_S = 0.001
        runs = [run.run_id for run in scan_runs(self.order["runs_dir"])[0]]
        if is_faulty:
            self.begin(self.order["seed"] + 1)
        code = 0
        for run_id in runs:
            code = max(code, main(["sync", run_id]))
        injected = shim.injected if is_faulty else 0
        shim.end()
        self.answer(
            "sync", code=code, injected=injected,
            results=[
                {
                    "logged": result.logged, "dropped": result.dropped, "kept": result.kept,
                    "failures": result.failures, "notes": result.notes,
                    "sinks": {
                        each.name: {
                            "sent": each.sent, "set_aside": dict(each.set_aside),
                            "failed": dict(each.failed), "missing": each.missing,
                            "left": each.left, "dropped": each.dropped, "before": each.before,
                            "not_for_it": each.not_for_it,
                        }
                        for each in result.sinks
                    },
                }
                for result in results
            ],
        )  # fmt: skip
        return code


def wait_a_moment(seconds):
    import time

    time.sleep(seconds)


def lines_of(path):
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]
    return []


def play(order):
    os.makedirs(order["folder"], exist_ok=True)
    made = Round(order)
    log = f"{order['answers']}.log"
    codes = {}
    codes["run"] = wait(fork(made.run, log), TIMEOUT_S)
    codes["faulty sync"] = wait(fork(lambda: made.sync(True), log), TIMEOUT_S)
    codes["sync"] = wait(fork(lambda: made.sync(False), log), TIMEOUT_S)
    runs, unreadable = scan_runs(order["runs_dir"])
    return {
        "codes": codes,
        "left": [run.run_id for run in runs],
        "unreadable": [run.problem for run in unreadable],
        "run": lines_of(f"{order['answers']}.run"),
        "calls": lines_of(f"{order['answers']}.calls"),
        "session": lines_of(f"{order['answers']}.session"),
        "syncs": lines_of(f"{order['answers']}.sync"),
    }


if __name__ == "__main__":
    import torch.utils.tensorboard  # noqa: F401

    logging.basicConfig(level=logging.WARNING)
    import_before_forks()
    for line in sys.stdin:
        print(json.dumps(play(json.loads(line))), flush=True)
