"""A start that fails half way leaves nothing behind, and the next one works: no thread, no patch,
no run that is reported as unsent, no ring."""

from __future__ import annotations

import sys
import textwrap

import pytest

pytest.importorskip("torch")

_HEAD = """
import contextlib, gc, logging, os, resource, sys, threading, tracelet
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard import writer as torch_writer
from tensorboard.summary.writer.event_file_writer import EventFileWriter

TRACKED = [SummaryWriter, torch_writer.FileWriter, EventFileWriter]
RUNS = os.environ["TRACELET_DIR"]
told = []

class Telling(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())

logging.getLogger("tracelet").addHandler(Telling())

backend = "tensorboard"

def start():
    return tracelet.start_logging("failed", "tests", backend=backend)

def state():
    gc.collect()
    return {
        "threads": sorted(t.name for t in threading.enumerate() if t.name.startswith("tracelet")),
        "methods": [dict(vars(cls)) for cls in TRACKED],
        "runs": sorted(os.listdir(RUNS)) if os.path.isdir(RUNS) else [],
        "rings": sorted(n for n in in_shared_memory() if MINE(n)),
        # Without sources: ClearML's SDK reads its caller's in a thread of its own.
        "descriptors": sorted(
            path for path in map(target, os.listdir("/proc/self/fd"))
            if "tracelet" in path and not path.endswith(".py")
        ),
    }

def target(number):
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{number}")
    return ""

def in_shared_memory():
    return os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []

before_all = set(in_shared_memory())
def MINE(name):  # other tests run beside this one: theirs are in folders of their own
    return name.startswith("tracelet-") and name not in before_all and is_mapped(name)

def is_mapped(name):
    with open("/proc/self/maps") as maps:
        return name in maps.read()

def check_next_start():
    experiment = start()
    SummaryWriter("log").add_scalar("tag", 0.5, 1)
    tracelet.stop_logging()
    stats = experiment.stats
    assert stats.accepted == 1 and stats.pending == 0, stats
    assert stats.delivered["tensorboard"] == 1, stats
    assert not [line for line in told if "earlier run" in line], told

def fails(what):
    before = state()
    try:
        start()
    except Exception as error:
        print(what, type(error).__name__, error)
    else:
        raise AssertionError(f"{what}: it started")
    assert tracelet.get_active_experiment() is None
    after = state()
    for name in before:
        assert after[name] == before[name], (what, name, before[name], after[name])
"""


def run_failing(run_script, body: str) -> str:
    return run_script(_HEAD + textwrap.dedent(body)).stdout


@pytest.mark.slow
def test_no_thread_can_be_started(run_script):
    """Not the first, the second ...: each in turn fails, until a start needs no further one."""
    out = run_failing(
        run_script,
        """
        original = threading.Thread.start
        for number in range(20):
            left = [number]
            def refusing(thread):
                if not thread.name.startswith("tracelet"):
                    return original(thread)
                left[0] -= 1
                if left[0] < 0:
                    raise RuntimeError("can't start new thread")
                original(thread)
            before = state()
            threading.Thread.start = refusing
            try:
                started = start()
            except RuntimeError as error:
                assert "can't start new thread" in str(error)
            else:
                threading.Thread.start = original
                tracelet.stop_logging()
                break
            finally:
                threading.Thread.start = original
            after = state()
            for name in before:
                assert after[name] == before[name], (number, name, before[name], after[name])
        print("failed starts", number)
        assert 1 < number < 19
        check_next_start()
        """,
    )
    assert "failed starts" in out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of Linux' limits")
def test_no_descriptor_is_left(run_script):
    """With each number of descriptors that are left, until it is enough."""
    out = run_failing(
        run_script,
        """
        backend = ["tensorboard", "clearml"]
        start()  # the SDK keeps what it opens first
        tracelet.stop_logging()
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        failed = 0
        for left in range(60):
            before = state()
            highest = max(map(int, os.listdir("/proc/self/fd")))
            filled = []  # so that none of a lower number is free
            while not filled or filled[-1] < highest:
                filled.append(os.open("/dev/null", os.O_RDONLY))
            resource.setrlimit(resource.RLIMIT_NOFILE, (filled[-1] + 1 + left, most))
            try:
                start()
            except Exception as error:
                error = None
                failed += 1
            else:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
                tracelet.stop_logging()
                break
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
                for fd in filled:
                    os.close(fd)
            assert tracelet.get_active_experiment() is None
            after = state()
            for name in before:
                assert after[name] == before[name], (left, name, before[name], after[name])
        print("failed starts", failed)
        assert failed > 1
        check_next_start()
        """,
    )
    assert "failed starts" in out


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux' limits")
def test_no_memory_is_left(run_script):
    out = run_failing(
        run_script,
        """
        start()
        tracelet.stop_logging()
        gc.collect()  # what the first run left in cycles would be room for the second
        with open("/proc/self/statm") as file:
            used_bytes = int(file.read().split()[0]) * resource.getpagesize()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes + (16 << 20), limits[1]))
        try:
            fails("no memory")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        check_next_start()
        """,
    )
    assert "no memory" in out
