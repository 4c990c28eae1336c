"""How everything here is measured: interleaved rounds, each contender in a child process.

In a round every contender is measured once, in an order shuffled with a seed that is printed.
A machine that slows down for a while slows down a whole round, so ratios are formed within a round
and then their median is taken. The loop around the calls is part of every figure; what the bare
loop costs is recorded beside them.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.environments import ROOT, python_of

Rounds = dict[int, dict[str, Any]]
"""What a contender measured, by number of the round."""

_CALL_TIMEOUT_S = 900.0
_CALM_WINDOW_S = 0.1
_CALM_CPU_S = 0.02  # psutil counts in steps of 10 ms
_CALM_LIMIT_S = 10.0


@dataclass(frozen=True)
class Settings:
    """How this invocation measures."""

    quick: bool
    """Everything tiny, to see that it works; the numbers mean nothing."""
    seed: int
    temp_root: Path
    """Workers have their folders in it; removed in the end."""

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def rng(self, part: str) -> random.Random:
        return random.Random(f"{self.seed} {part}")


@dataclass(frozen=True)
class Summary:
    """Several measurements of one thing."""

    median: float
    low: float
    high: float
    rounds: int


def summarise(values: Iterable[float]) -> Summary:
    values = sorted(values)
    return Summary(statistics.median(values), values[0], values[-1], len(values))


def ratios(above: Mapping[int, float], below: Mapping[int, float]) -> Summary:
    """`above` by `below`, round by round, for the rounds that have both."""
    return summarise(above[n] / below[n] for n in above if n in below)


@dataclass(frozen=True)
class Entrant:
    """A contender in interleaved rounds."""

    name: str
    measure: Callable[[], dict[str, Any]]
    rounds: int
    """It takes part in so many of the rounds, evenly spread."""


def interleave(
    entrants: Sequence[Entrant], rounds: int, rng: random.Random, warm_up: bool = True
) -> dict[str, Rounds]:
    """What each entrant measured, by name.

    `warm_up`: there is a first round of all that is not kept.
    """
    results: dict[str, Rounds] = {each.name: {} for each in entrants}
    for number in range(-1 if warm_up else 0, rounds):
        order = [each for each in entrants if number < 0 or _takes_part(each, number, rounds)]
        rng.shuffle(order)
        for each in order:
            measured = each.measure()
            if number >= 0:
                results[each.name][number] = measured
    return results


def _takes_part(entrant: Entrant, number: int, rounds: int) -> bool:
    wanted = min(entrant.rounds, rounds)
    return (number + 1) * wanted // rounds > number * wanted // rounds


def column(rounds: Rounds, key: str) -> dict[int, float]:
    """One quantity of an entrant's rounds."""
    return {number: measured[key] for number, measured in rounds.items()}


class MissingError(Exception):
    """The contender's library can't be imported."""


class WorkerError(Exception):
    """The child process failed; its traceback or its last words."""


class Worker:
    """A child process that holds one object (see worker.py), with a folder of its own.

    It starts at once; the first `call`, or `wait_until_ready`, waits until the object is made.
    `close` ends the process and removes the folder.
    """

    def __init__(
        self, settings: Settings, target: str, environment: str | None = None, **options: Any
    ) -> None:
        """`environment`: the name of one in environments.py, None for this process' own."""
        self.target = target
        self.folder = Path(tempfile.mkdtemp(prefix="worker-", dir=settings.temp_root))
        self._log_path = self.folder / "stderr.txt"
        self._buffer = b""
        self._is_ready = False
        self._process: subprocess.Popen[bytes] | None = None
        try:
            python = sys.executable if environment is None else python_of(environment)
        except LookupError as error:
            self._missing = str(error)
            return
        command = [python, "-m", "benchmarks.worker", target, str(self.folder)]
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=_environment(self.folder),
                start_new_session=True,  # the SDKs' own processes end with it
            )

    def wait_until_ready(self) -> None:
        """Raises MissingError where the contender can't be imported, WorkerError."""
        if self._process is None:
            raise MissingError(self._missing)
        if not self._is_ready:
            self._read_reply(None)
            self._is_ready = True

    def call(
        self, method: str, while_waiting: Callable[[], None] | None = None, **arguments: Any
    ) -> Any:
        """Calls the object's method there. `while_waiting` is called some 100 times a second."""
        self.wait_until_ready()
        request = json.dumps({"call": method, "arguments": arguments}) + "\n"
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(request.encode())
        self._process.stdin.flush()
        return self._read_reply(while_waiting)

    def settle(self) -> None:
        """Waits until what was logged is dealt with, so that it does not disturb the next one."""
        self.call("settle")
        deadline_s = time.monotonic() + _CALM_LIMIT_S
        used_s = self.tree_cpu_s()
        while time.monotonic() < deadline_s:
            time.sleep(_CALM_WINDOW_S)
            before_s, used_s = used_s, self.tree_cpu_s()
            if used_s - before_s < _CALM_CPU_S:
                return

    def tree_cpu_s(self) -> float:
        """CPU time of the process and of its children that live."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        total_s = 0.0
        for each in [process, *process.children(recursive=True)]:
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total_s += times.user + times.system
        return total_s

    def rss_bytes(self) -> int:
        assert self._process is not None
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def close(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()
        _remove_rings(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_reply(self, while_waiting: Callable[[], None] | None) -> Any:
        deadline_s = time.monotonic() + _CALL_TIMEOUT_S
        assert self._process is not None
        pipe = self._process.stdout
        assert pipe is not None
        while b"\n" not in self._buffer:
            if time.monotonic() > deadline_s:
                self._process.send_signal(signal.SIGUSR1)  # it says where each thread is
                time.sleep(1.0)
                words = self._last_words()
                raise WorkerError(f"{self.target}: no answer for {_CALL_TIMEOUT_S:g} s\n{words}")
            if while_waiting:
                while_waiting()
            if select.select([pipe], [], [], 0.01)[0]:
                read = os.read(pipe.fileno(), 1 << 16)
                self._buffer += read
                if not read:
                    raise WorkerError(f"{self.target} died:\n{self._last_words()}")
            elif self._process.poll() is not None:
                # A child of its own may still hold the pipe.
                raise WorkerError(f"{self.target} died:\n{self._last_words()}")
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply = json.loads(line)
        if "missing" in reply:
            raise MissingError(reply["missing"])
        if "error" in reply:
            raise WorkerError(f"{self.target}:\n{reply['error']}\n{self._last_words()}")
        return reply["result"]

    def _last_words(self) -> str:
        return self._log_path.read_text(errors="replace")[-4000:]


def _environment(folder: Path) -> dict[str, str]:
    """The parent's, without its settings for what is measured, and with all files in `folder`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRACELET_", "CLEARML_", "TRAINS_"))
    }
    for name in ("temp", "clearml", "runs"):
        (folder / name).mkdir()
    return {
        **kept,
        "CLEARML_OFFLINE_MODE": "1",
        "CLEARML_CACHE_DIR": str(folder / "clearml"),
        "TRACELET_DIR": str(folder / "runs"),
        "TMPDIR": str(folder / "temp"),
        # Spares the SDK its look at the repository. It calls git in a thread, and when it forks
        # its reporter process meanwhile, that process holds git's pipe open: the thread waits for
        # ever, and Task.close for it 300 s.
        "CLEARML_VCS_REPO_URL": "tracelet",
        "CLEARML_VCS_ROOT": str(ROOT),
    }


def _remove_rings(folder: Path) -> None:
    """A killed run leaves its ring in shared memory; its manifest says where."""
    for manifest in folder.glob("runs/*/manifest.json"):
        Path(json.loads(manifest.read_text())["ring"]).unlink(missing_ok=True)


@contextmanager
def workers(
    made: Mapping[str, Worker], required: str
) -> Iterator[tuple[dict[str, Worker], list[str]]]:
    """Those of the workers whose contender is there, and a line for each whose is not.

    Closes them all in the end. Raises MissingError when the required one isn't there.
    """
    with ExitStack() as stack:
        for worker in made.values():
            stack.callback(worker.close)
        ready: dict[str, Worker] = {}
        missing: list[str] = []
        for name, worker in made.items():
            try:
                worker.wait_until_ready()
                ready[name] = worker
            except MissingError as error:
                if name == required:
                    raise
                missing.append(f"{name}: not measured, {error}")
        yield ready, missing


@contextmanager
def worker(
    settings: Settings, target: str, environment: str | None = None, **options: Any
) -> Iterator[Worker]:
    """One worker, closed in the end."""
    with ExitStack() as stack:
        made = Worker(settings, target, environment, **options)
        stack.callback(made.close)
        made.wait_until_ready()
        yield made
