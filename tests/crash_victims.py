"""Makes victims for the crash matrix: `python crash_victims.py`, a round per line of stdin.

It imports torch, tracelet and clearml once, and forks: a victim that logs and dies as told, then
`tracelet sync` in another process. Each line is JSON, and so is each answer.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import mmap
import os
import random
import signal
import sys
import threading
import time
from multiprocessing import get_context

import clearml  # noqa: F401
import tracelet
from clearml.utilities.process import mp
from imports import import_before_forks
from tracelet.cli import main
from tracelet.journal import journal as journal_module
from tracelet.pipeline import lane as lane_module
from tracelet.pipeline import run as run_module
from tracelet.runs.stored_run import find_runs

STARTED, MAIN, CHILD, STOPPING = 0, 1, 2, 3  # words shared with the victim
MOST_STEPS = 4_000
CONFIG = {
    "drain_interval_s": 0.01,
    "batch_max_age_s": 0.03,
    "batch_max_points": 400,
    "ring_slots": 1 << 14,
    "payload_bytes": 1 << 16,
    "auto_connect_frameworks": False,
    "auto_connect_arg_parser": False,
    "auto_resource_monitoring": False,
    "auto_connect_streams": False,
    "reuse_last_task_id": False,
    "exit_timeout_s": 20.0,
}


def value_of(seed: int, step: int) -> float:
    return ((step * 2654435761 + seed) % (1 << 32)) / 7.0


class Victim:
    """One process that logs until it dies."""

    def __init__(self, order, words):
        self.order = order
        self.words = words
        self.random = random.Random(order["seed"])
        self.is_over = threading.Event()  # the main thread is to raise
        self.ring = None

    def die(self):
        how, group = self.order["death"], self.order["scope"] == "group"
        if how == "exception":
            self.is_over.set()
            return
        if how == "os._exit":
            os._exit(7)
        number = {"SIGKILL": signal.SIGKILL, "SIGSEGV": signal.SIGSEGV, "SIGTERM": signal.SIGTERM}
        if group:
            os.killpg(0, number[how])
        else:
            os.kill(os.getpid(), number[how])
        if how != "SIGTERM":
            time.sleep(10)

    def run(self):
        place = self.order["place"]
        if place in ("journal", "send"):
            self.die_at_call(place)
        from torch.utils.tensorboard import SummaryWriter

        experiment = tracelet.start_logging(
            self.order["name"], "crashes", backend=self.order["backend"], config=CONFIG
        )
        self.ring = experiment._run.ring
        # The SDK has a Python handler for it, with which a process that faults hangs for ever.
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        writer = SummaryWriter(self.order["log_dir"])
        if self.order["scope"] == "group" and os.fork() == 0:
            self.push(writer, "child/value", CHILD, MOST_STEPS)
            os._exit(0)  # its parent may have ended long since
        self.words[STARTED] = 1
        count = self.random.randrange(1, 2_000) if place == "stop" else MOST_STEPS
        dies_at = self.random.randrange(MOST_STEPS) if place == "push" else MOST_STEPS
        by_itself = self.order["death"] in ("os._exit", "exception")
        self.push(writer, "main/value", MAIN, min(count, dies_at if by_itself else count))
        if place == "stop":
            self.stop()
        self.die()
        self.raise_if_over()

    def raise_if_over(self):
        if self.is_over.is_set():
            raise RuntimeError("training failed")

    def push(self, writer, tag, word, count):
        seed = self.order["seed"]
        for step in range(count):
            writer.add_scalar(tag, value_of(seed, step), step)
            if word == CHILD and self.ring.is_closed:
                return  # its parent has ended in good order: this point is in, or it is counted
            self.words[word] = step + 1
            if step % 20 == 0:
                self.raise_if_over()
                time.sleep(0.001)

    def stop(self):
        self.words[STOPPING] = 1
        if self.order["death"] in ("os._exit", "exception"):
            call = self.random.choice(["close_backends", "finish_folder", "after"])
            if call != "after":
                original = getattr(run_module, call)

                def dying(*arguments):
                    if self.random.random() < 0.5:
                        original(*arguments)
                    self.die()
                    raise RuntimeError("training failed")

                setattr(run_module, call, dying)
        tracelet.stop_logging()
        if self.order["death"].startswith("SIG"):
            time.sleep(0.5)  # for the signal, which comes from outside

    def die_at_call(self, place):
        """At a write of the journal (before, in the middle of, after it), or at one of a sink."""
        left = [self.random.randrange(1, 12)]
        when = self.random.choice(["before", "half", "after"])
        module, name = (
            (journal_module, "write_all") if place == "journal" else (lane_module.Lane, "_write")
        )
        original = getattr(module, name)
        in_main = os.getpid()

        def dying(*arguments):
            left[0] -= 1
            if left[0] or os.getpid() != in_main:
                return original(*arguments)
            if when == "half" and place == "journal":
                data = b"".join(bytes(memoryview(piece).cast("B")) for piece in arguments[1:])
                os.write(arguments[0], data[: self.random.randrange(len(data))])
                self.die()
                raise OSError("cut off")
            if when == "before":
                self.die()
            made = original(*arguments)
            if when != "before":
                self.die()
            return made

        setattr(module, name, dying)
        if place == "journal" and self.order["backend"] != "clearml-online":
            self.fail_once()

    def fail_once(self):
        """Sinks that write at once have no journal before they have failed."""
        original = lane_module.Lane._write
        failed = set()

        def failing(lane, *arguments):
            if lane.sink.name not in failed:
                failed.add(lane.sink.name)
                return False
            return original(lane, *arguments)

        lane_module.Lane._write = failing


def forget_lock_of_the_dead():
    """The SDK has a semaphore that is shared by all that are forked from here. A victim that died
    with it would have each later one wait for 90 s."""
    shared = mp._ForkSafeThreadSyncObject
    shared._ForkSafeThreadSyncObject__process_lock = get_context("fork").Lock()


def fork(body, log_path):
    """A process in a group of its own that ends as a script does; its pid."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        faulthandler.register(signal.SIGUSR1)
        forget_lock_of_the_dead()
        code = body() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid, timeout_s):
    """The exit status as subprocess has it; None when it had to be killed for being late."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGUSR1)  # it says where each thread is
    time.sleep(1)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def set_environment(order):
    os.environ["TRACELET_DIR"] = order["runs_dir"]
    os.environ["CLEARML_OFFLINE_MODE"] = "1" if order["store"] == "offline" else "0"


def round_of(order):
    words = memoryview(mmap.mmap(-1, 4096)).cast("Q")
    rng = random.Random(order["seed"] + 1)

    def victim():
        set_environment(order)
        Victim(order, words).run()

    pid = fork(victim, order["log"])
    comes_from_outside = order["death"].startswith("SIG") and order["place"] in (
        "push",
        "stop",
        "sync",
    )
    if comes_from_outside:
        word = STOPPING if order["place"] == "stop" else STARTED
        deadline_s = time.monotonic() + 30
        while not words[word] and time.monotonic() < deadline_s:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.12 if order["place"] == "stop" else 0.3))
        with contextlib.suppress(ProcessLookupError):
            number = getattr(signal, order["death"])
            (os.killpg if order["scope"] == "group" else os.kill)(pid, number)
    ended = wait(pid, 60)
    with contextlib.suppress(ProcessLookupError):  # children are never left behind
        os.killpg(pid, signal.SIGKILL)
    counts = [words[MAIN], words[CHILD]]

    def sync():
        set_environment(order)
        # By name, which waits a moment for children that were killed just now.
        return max([main(["sync", run.run_id]) for run in find_runs(order["runs_dir"])], default=0)

    def dying_sync():
        left = [rng.randrange(1, 8)]
        for module, name in ((lane_module.Lane, "_note_success"), (journal_module, "write_all")):
            original = getattr(module, name)

            def dying(*arguments, _original=original):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                made = _original(*arguments)
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return made

            setattr(module, name, dying)
        return sync()

    died = wait(fork(dying_sync, order["log"]), 60) if order["place"] == "sync" else 0
    synced = wait(fork(sync, order["log"]), 60)
    # A folder without a manifest is what a death in its removal leaves; it holds no point.
    left = [run.run_id for run in find_runs(order["runs_dir"])]
    return {"counts": counts, "victim": ended, "died": died, "synced": synced, "left": left}


if __name__ == "__main__":
    import torch.utils.tensorboard  # noqa: F401

    import_before_forks()
    for line in sys.stdin:
        print(json.dumps(round_of(json.loads(line))), flush=True)
