"""Several processes in one ClearML offline session, some killed: each point of each is there, once.

`make soak-sessions` has 200 rounds of each.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from readers import session_scalars
from session_ranks import RANKS, value_of
from tracelet.cli import main
from tracelet.runs.process_identity import is_alive
from tracelet.runs.stored_run import find_runs

pytest.importorskip("clearml")
pytest.importorskip("torch")

ROUNDS = int(os.environ.get("TRACELET_SOAK_SESSIONS", "1"))
SEED = int(os.environ.get("TRACELET_SESSIONS_SEED", random.randrange(1 << 30)))
START_S = 120.0
# The first rank is the one whose SDK makes the zip.
KILLED = ([0], [1, 2], [0, 1], [2], [2, 0], [1])
PROGRAM = str(Path(__file__).parent.parent / "session_ranks.py")


class Ranks:
    """Three of them in one session."""

    def __init__(self, folder, seed, *launcher):
        self.folder, self.seed = folder, seed
        folder.mkdir()
        environment = {**os.environ, "CLEARML_CACHE_DIR": str(folder / "clearml")}
        environment["TRACELET_DIR"] = str(folder / "runs")
        for name in ("CLEARML_PROC_MASTER_ID", "TRAINS_PROC_MASTER_ID"):
            environment.pop(name, None)
        self.log = open(folder / "log.txt", "w")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, *launcher, PROGRAM, str(folder), str(seed)],
            env=environment, cwd=folder, stdout=self.log, stderr=self.log,
        )  # fmt: skip
        self.pids = [self._pid_of(rank) for rank in range(RANKS)]

    def _pid_of(self, rank):
        path = self.folder / f"rank{rank}.pid"
        self._wait(
            lambda: path.exists() or self.process.poll() is not None,
            f"rank {rank} has not started",
        )
        assert path.exists(), (self.folder / "log.txt").read_text()
        return int(path.read_text())

    def _wait(self, is_so, words):
        deadline_s = time.monotonic() + START_S
        while not is_so():
            log = self.folder / "log.txt"
            assert time.monotonic() < deadline_s, f"{words}\n{log.read_text()}"
            time.sleep(0.01)

    def count(self, rank):
        """How many calls have returned."""
        return struct.unpack("Q", (self.folder / f"rank{rank}.count").read_bytes())[0]

    def wait_for_points(self, rank):
        count = self.count(rank)
        self._wait(lambda: self.count(rank) > count, f"rank {rank} logs nothing")

    def kill(self, rank):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids[rank], signal.SIGKILL)
        self.wait_until_dead(rank)

    def wait_until_dead(self, rank):
        def is_dead():
            try:  # a zombie is one
                stat = Path(f"/proc/{self.pids[rank]}/stat").read_text()
            except OSError:
                return True
            return stat.rpartition(")")[2].split()[0] in "ZX"

        self._wait(is_dead, f"rank {rank} does not end")

    def run_of(self, rank):
        """What a killed one has left. The kernel may need a moment for its locks."""
        (run,) = [
            each
            for each in find_runs(str(self.folder / "runs"))
            if each.manifest["pid"] == self.pids[rank]
        ]
        self._wait(lambda: run.state == "unsent", f"rank {rank} has left nothing")
        return run

    @property
    def session(self):
        (path,) = (self.folder / "clearml" / "offline").glob("*/task.json")
        return path.parent

    def dead_runs(self):
        return [run for run in find_runs(str(self.folder / "runs")) if run.state == "unsent"]

    def sync(self, run):
        return main(["sync", "--runs-dir", str(self.folder / "runs"), run.run_id])

    def end(self):
        for pid in (*getattr(self, "pids", ()), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def check(self, events_of, killed):
        """Each point once, and nothing else; one whose call was cut off may be there or not."""
        total = 0
        for rank in range(RANKS):
            count = self.count(rank)
            points = events_of("rank" + str(rank), "value")
            assert len(points) in ((count, count + 1) if rank in killed else (count,)), rank
            for step, value in enumerate(value_of(self.seed, rank, n) for n in range(len(points))):
                assert tuple(points[step][:2]) == (step, value)
            total += count
        assert total > 100
        return total


@pytest.fixture
def ranks():
    made = []

    def make(*arguments):
        made.append(Ranks(*arguments))
        return made[-1]

    yield make
    for each in made:
        each.end()


def lines_of(folder):
    text = (folder / "metrics.jsonl").read_bytes()
    assert not text or text.endswith(b"\n")
    return [json.loads(line) for line in text.splitlines()]


def check_session(ranks, killed):
    """The folder, and its zip: what the SDK's import reads."""
    left = [run.manifest for run in ranks.dead_runs()]
    assert left == [], (ranks.pids, left, (ranks.folder / "log.txt").read_text())
    lines_of(ranks.session)  # each can be read
    scalars = session_scalars(ranks.session)
    total = ranks.check(lambda *name: sorted(scalars.get(name, [])), killed)
    with zipfile.ZipFile(f"{ranks.session}.zip") as archive:
        zipped = archive.read("metrics.jsonl")
    assert zipped == (ranks.session / "metrics.jsonl").read_bytes()
    general = json.loads((ranks.session / "task.json").read_text())["hyperparams"]["General"]
    assert {f"of_rank{rank}" for rank in range(RANKS)} <= set(general)
    return total, general


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
def test_killed_processes_of_a_session_are_sent_beside_living_ones(ranks, tmp_path, number):
    """Sync dropped what others had appended behind the dead process' lines, and put its own copy of
    the session's task in the place of theirs."""
    rng = random.Random(SEED + number)
    print(f"TRACELET_SESSIONS_SEED={SEED + number}")
    group = ranks(tmp_path / "ranks", rng.randrange(1 << 30))
    killed = KILLED[number % len(KILLED)]
    for rank in killed:
        group.wait_for_points(rank)
        time.sleep(rng.uniform(0.0, 0.2))
        group.kill(rank)
        living = next(each for each in range(RANKS) if each not in killed)
        before = (group.session / "metrics.jsonl").read_bytes().splitlines()
        assert group.sync(group.run_of(rank)) == 0
        group.wait_for_points(living)
        after = (group.session / "metrics.jsonl").read_bytes().splitlines()
        whole = [line.strip() for line in before if line.endswith(b"]")]
        assert [line.strip() for line in after][: len(whole)] == whole
    (tmp_path / "ranks" / "stop").touch()
    for rank in range(RANKS):
        group.wait_until_dead(rank)
    total, general = check_session(group, killed)
    assert {f"end_of_rank{n}" for n in range(RANKS) if n not in killed} <= set(general)
    print(f"killed {killed}: {total:,} points")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_rank_of_torchrun_that_is_killed_costs_no_rank_a_point(
    ranks, clearml_server, run_script, tmp_path, number
):
    """torchrun ends the other ranks, by SIGTERM, when one is dead."""
    rng = random.Random(SEED + number)
    print(f"TRACELET_SESSIONS_SEED={SEED + number}")
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}")
    group = ranks(tmp_path / "ranks", rng.randrange(1 << 30), *torchrun)
    victim = rng.randrange(RANKS)
    group.wait_for_points(victim)
    time.sleep(rng.uniform(0.0, 0.2))
    group.kill(victim)
    for rank in range(RANKS):
        group.wait_until_dead(rank)
    runs = group.dead_runs()
    assert runs
    for run in runs:
        assert is_alive(run.manifest) is False
        assert group.sync(run) == 0
    total, _ = check_session(group, range(RANKS))  # a call may be cut off by the signal, too
    print(f"killed {victim}, {len(runs)} runs were sent: {total:,} points")
    code = "import sys; from clearml import Task; Task.import_offline_session({!r})"
    run_script(code.format(f"{group.session}.zip"), env=clearml_server.environment())
    (task_id,) = clearml_server.tasks
    scalars = clearml_server.scalars(task_id)
    group.check(lambda *name: sorted(scalars.get(name, {}).items()), range(RANKS))
