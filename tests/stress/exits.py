"""`python exits.py COUNT`: processes that end while threads of theirs are inside tracelet's calls.

This process imports torch once and forks; each child goes to the end of the script, and so through
the whole end of the interpreter, with four daemon threads inside add_scalar, add_histogram,
tracelet.histogram, add_text and so on, in half of them beside one that stops and starts runs. Each
must end with exit code 0. Prints how many did, and what the others said.

No tensor is given to a SummaryWriter: after the run's end torch's own method counts it, and torch's
C++ code, which gives the GIL up and takes it again in functions that are noexcept, ends such a
process with SIGABRT itself (up to Python 3.13).
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter

from core import use_core_of_environment

use_core_of_environment()

import numpy as np
import torch
import tracelet
from torch.utils.tensorboard import SummaryWriter

LATEST_S = 120.0  # an exit may take exit_timeout_s, of 30 s
LARGE = np.ones(2_000_000, np.float32)  # counted without the GIL
SMALL = np.ones(100)
TENSOR = torch.ones(100)


def calls_of(writer: SummaryWriter, experiment: tracelet.Experiment):
    return [
        lambda step: writer.add_scalar("scalar", 0.5, step),
        lambda step: writer.add_scalars("scalars", {"a": 0.5, "b": 1.5}, step),
        lambda step: writer.add_histogram("large", LARGE, step),
        lambda step: writer.add_histogram("small", SMALL, step),
        lambda step: tracelet.histogram(LARGE),
        lambda step: tracelet.histogram(TENSOR),
        lambda step: writer.add_text("text", "text", step),
        lambda step: experiment.log_metric("metric", 0.5, step),
    ]


def start() -> tracelet.Experiment:
    return tracelet.start_logging(
        "exits", "tests", backend="tensorboard", config={"log_dir": "log/handle"}
    )


def call_for_ever(call, begun: threading.Semaphore) -> None:
    step = 0
    while True:
        # The run has ended; or no thread for torch's own file can be started any more.
        with contextlib.suppress(tracelet.TraceletError, RuntimeError):
            call(step)
        step += 1
        if step == 2:
            begun.release()


def restart_for_ever(begun: threading.Semaphore) -> None:
    begun.release()
    while True:
        tracelet.stop_logging()
        try:
            start()
        except RuntimeError:  # no thread can be started any more
            time.sleep(0.001)


def child(number: int) -> None:
    """Returns with the threads at work."""
    rng = random.Random(number)
    writer = SummaryWriter(f"log/{number}")
    experiment = start()
    begun = threading.Semaphore(0)
    calls = rng.sample(calls_of(writer, experiment), 4)
    bodies = [(call_for_ever, (call, begun)) for call in calls]
    if number % 2:
        bodies.append((restart_for_ever, (begun,)))
    for body, arguments in bodies:
        threading.Thread(target=body, args=arguments, daemon=True).start()
    for _ in bodies:
        begun.acquire()
    time.sleep(rng.uniform(0, 0.03))
    if number % 5 == 0:
        threading.Thread(target=tracelet.stop_logging, daemon=True).start()
    if number % 7 == 0:
        sys.exit(0)


def wait(pid: int) -> str:
    deadline_s = time.monotonic() + LATEST_S
    while time.monotonic() < deadline_s:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return str(os.waitstatus_to_exitcode(status))
        time.sleep(0.005)
    os.kill(pid, signal.SIGUSR1)  # it says where each thread is
    time.sleep(1.0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"


def main(count: int) -> None:
    torch.set_num_threads(1)
    sys.setswitchinterval(0.0005)  # s: the main thread has to get its turn among them
    codes: Counter[str] = Counter()
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            log = os.open(f"exit-{number}.txt", os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            faulthandler.register(signal.SIGUSR1)
            child(number)
            return
        code = wait(pid)
        codes[code] += 1
        if code != "0":
            with open(f"exit-{number}.txt", encoding="utf-8", errors="replace") as said:
                print(f"exit {number}: {code}\n{said.read()[-6000:]}", flush=True)
    print(json.dumps(codes))
    sys.exit(codes != {"0": count})


if __name__ == "__main__":
    main(int(sys.argv[1]))
