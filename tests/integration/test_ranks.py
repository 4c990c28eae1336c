"""The ranks of a job on one node log into one run, without a mix: processes without torchrun."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import tracelet
from job_ranks import script, sink
from readers import event_file_scalars
from tracelet import backends
from tracelet.cli import main
from tracelet.recovery.resend import resend
from tracelet.runs.stored_run import find_runs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="of POSIX")

SEED = int(os.environ.get("TRACELET_TEST_RANKS_SEED", "7"))

START = """
config = {{"log_dir": "log", "ranks": {{"*": "first"}}, {config}}}
experiment = tracelet.start_logging("net", "tests", ["tensorboard", "lines"], config)
"""


def body(text: str, config: str = "", is_remote: bool = True) -> str:
    return sink(is_remote) + START.format(config=config) + text


def lines(folder: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (folder / "lines.jsonl").read_text().splitlines():
        tag, step, value, _ = json.loads(line)
        assert found[tag].setdefault(step, value) == value, line  # twice does no harm
    return dict(found)


def values(folder: Path, tag: str) -> dict[int, float]:
    return {step: value for step, value, _ in event_file_scalars(folder).get(tag, [])}


def runs(folder: Path) -> list[str]:
    """What is left of them: "" for all delivered."""
    return [each.name for each in (folder / "tracelet-runs").iterdir() if each.name != ".jobs"]


def send(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """As `tracelet sync` does; how many runs there were."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(backends, "_factories", dict(backends._factories))
    exec(sink(), {"tracelet": tracelet})
    found = find_runs(str(folder / "tracelet-runs"))
    for run in found:
        assert not resend(run).kept
    return len(found)


@pytest.mark.parametrize("is_remote", [True, False])
def test_ranks_are_one_run_and_a_tag_is_the_first_ranks(run_script, tmp_path, is_remote):
    text = """
for step in range(50):
    experiment.log_metric("loss", 100.0 * rank + step, step)
    if rank == 2:
        experiment.log_metric("of_the_last", float(step), step)
experiment.log_params({"a": 1})
touch(f"logged-{rank}")
for other in (0, 1, 2):
    wait_for(f"logged-{other}")
run_id = experiment._run.run_id
tracelet.stop_logging()
stats = experiment.stats
print("run", run_id)
if rank == 0:
    assert stats.accepted >= 200
    assert stats.lanes["lines"].delivered == 100, stats
    assert stats.dropped == {"another rank's": 100}, stats
"""
    config = '"rank_window_s": 0.2'
    done = run_script(script(body(text, config, is_remote), [0, 1, 2]))
    assert "codes {0: 0, 1: 0, 2: 0}" in done.stdout, done.stderr
    assert len({line for line in done.stdout.splitlines() if line.startswith("run")}) == 1
    assert lines(tmp_path) == {
        "loss": {step: float(step) for step in range(50)},
        "of_the_last": {step: float(step) for step in range(50)},
    }
    for rank, folder in ((0, "log"), (1, "log/rank-1"), (2, "log/rank-2")):
        expected = {step: 100.0 * rank + step for step in range(50)}
        assert values(tmp_path / folder, "loss") == expected
    assert done.stderr.count("several ranks log 'loss'") == 1
    assert done.stderr.count("log_params: this is rank") == 2
    assert not runs(tmp_path)


def test_a_leader_that_is_killed_is_followed_by_the_lowest_rank_that_lives(run_script, tmp_path):
    text = """
for step in range(50):
    experiment.log_metric(f"of/{rank}", float(step), step)
touch(f"logged-{rank}")
for other in (0, 1, 2):
    wait_for(f"logged-{other}")
if rank == 0:
    touch("killed")
    os.kill(os.getpid(), signal.SIGKILL)
wait_for("killed")
for step in range(50, 100):
    experiment.log_metric(f"of/{rank}", float(step), step)
experiment.log_params({"a": 1})
assert experiment.flush(60)
touch(f"flushed-{rank}")
for other in (1, 2):
    wait_for(f"flushed-{other}")
tracelet.stop_logging()
stats = experiment.stats
print("leads", rank, bool(stats.lanes))
for lane in stats.lanes.values():
    assert lane.delivered + lane.by_others + lane.not_meant == lane.passed == 250, stats
"""
    done = run_script(script(body(text, '"rank_window_s": 0.2'), [0, 1, 2]))
    assert "codes {0: -9, 1: 0, 2: 0}" in done.stdout, done.stderr
    assert "leads 1 True" in done.stdout
    assert "leads 2 False" in done.stdout
    counts = {"of/0": 50, "of/1": 100, "of/2": 100}
    expected = {tag: {step: float(step) for step in range(n)} for tag, n in counts.items()}
    assert lines(tmp_path) == expected
    assert not runs(tmp_path)
    folders = {"of/0": "log", "of/1": "log/rank-1", "of/2": "log/rank-2"}
    for tag, folder in folders.items():
        assert values(tmp_path / folder, tag) == expected[tag]


def test_a_leader_that_ends_first_leaves_the_run_to_the_others(run_script, tmp_path):
    text = """
for step in range(50):
    experiment.log_metric(f"of/{rank}", float(step), step)
touch(f"logged-{rank}")
wait_for("logged-1")
if rank:
    wait_for("ended")
    for step in range(50, 100):
        experiment.log_metric(f"of/{rank}", float(step), step)
tracelet.stop_logging()
touch("ended")
"""
    done = run_script(script(body(text, '"rank_window_s": 0.2'), [0, 1]))
    assert "codes {0: 0, 1: 0}" in done.stdout, done.stderr
    assert {tag: len(each) for tag, each in lines(tmp_path).items()} == {"of/0": 50, "of/1": 100}
    assert len(values(tmp_path / "log/rank-1", "of/1")) == 100
    assert not runs(tmp_path)


def test_what_a_backend_lacks_that_the_next_leader_cannot_open_is_kept(
    run_script, tmp_path, monkeypatch
):
    text = """
def factory(info):
    if info.reopen is not None:
        raise RuntimeError("away")
    return LinesSink()

tracelet.register_sink("lines", factory)
config = {
    "log_dir": "log", "ranks": {"*": "first"}, "rank_window_s": 0.1, "stop_timeout_s": 3.0,
    "start_timeout_s": 60.0,
}
experiment = tracelet.start_logging("net", "tests", ["tensorboard", "lines"], config)
touch(f"begun-{rank}")
for other in (0, 1):
    wait_for(f"begun-{other}")
if rank == 0:
    os.kill(os.getpid(), signal.SIGKILL)
while experiment._run._member.others():
    time.sleep(0.01)
for step in range(50):
    experiment.log_metric("loss", float(step), step)
tracelet.stop_logging()
assert experiment.stats.pending == 50, experiment.stats
"""
    done = run_script(script(sink() + text, [0, 1]))
    assert "codes {0: -9, 1: 0}" in done.stdout, done.stderr
    assert "'lines' can't be opened again: away" in done.stderr
    assert "tracelet sync" in done.stderr
    assert send(tmp_path, monkeypatch) == 1
    assert lines(tmp_path) == {"loss": {step: float(step) for step in range(50)}}
    assert not runs(tmp_path)


def test_without_the_option_each_rank_has_a_run_of_its_own(run_script, tmp_path):
    text = (
        sink()
        + """
config = {"log_dir": f"log-{rank}"}
experiment = tracelet.start_logging("net", "tests", ["tensorboard", "lines"], config)
print("run", experiment._run.run_id)
experiment.log_metric("loss", float(rank), rank)
tracelet.stop_logging()
"""
    )
    done = run_script(script(text, [0, 1]))
    assert "codes {0: 0, 1: 0}" in done.stdout, done.stderr
    names = [line for line in done.stdout.splitlines() if line.startswith("run ")]
    assert len(set(names)) == 2
    assert "this is rank 1 of 2 (torchrun), and it has a run of its own" in done.stderr
    assert not (tmp_path / "tracelet-runs" / ".jobs").exists()


def test_a_rank_that_cant_ask_for_the_others_leaves_the_run_to_them(run_script, tmp_path):
    text = """
import shutil
touch(f"begun-{rank}")
for other in (0, 1):
    wait_for(f"begun-{other}")
if rank == 0:
    shutil.rmtree(os.environ["TRACELET_DIR"] + "/.jobs")
    tracelet.stop_logging()
    touch("ended")
wait_for("ended")
for step in range(50):
    if rank:
        experiment.log_metric("loss", float(step), step)
tracelet.stop_logging()
"""
    done = run_script(script(body(text, '"rank_window_s": 0.1'), [0, 1]))
    assert "codes {0: 0, 1: 0}" in done.stdout, done.stderr
    assert lines(tmp_path) == {"loss": {step: float(step) for step in range(50)}}


def test_a_rank_that_is_there_already_is_another_jobs(run_script, tmp_path):
    """One of a crashed job hangs, and the job is started again at the same address."""
    text = """
touch(f"begun-{rank}")
if rank == 1:
    wait_for("again")
    tracelet.stop_logging()
else:
    wait_for("begun-1")
    first = experiment._run.run_id
    os.kill(os.getpid(), signal.SIGKILL) if not os.path.exists("killed") else None
"""
    again = """
os.waitpid(pids[0], 0)
touch("killed")
pids[0] = start(0)
os.waitpid(pids[0], 0)
touch("again")
"""
    names = """
with open("names", "a") as file:
    file.write(experiment._run.run_id + chr(10))
"""
    code = script(body(names + text), [0, 1], meanwhile=again)
    code = code.replace("for rank, pid in pids.items()", "for rank, pid in [(1, pids[1])]")
    done = run_script(code)
    assert "codes {1: 0}" in done.stdout, done.stderr
    first, second, third = (tmp_path / "names").read_text().splitlines()
    assert first == second != third


def test_a_rank_that_named_other_backends_goes_on_with_the_runs(run_script, tmp_path):
    text = (
        sink()
        + """
names = ["tensorboard", "lines"] if rank == 0 else ["tensorboard"]
config = {"log_dir": "log", "ranks": {"*": "first"}, "rank_window_s": 0.1, "ring_slots": 1024}
experiment = tracelet.start_logging("net", "tests", names, config)
touch(f"begun-{rank}")
for other in (0, 1):
    wait_for(f"begun-{other}")
if rank == 0:
    os.kill(os.getpid(), signal.SIGKILL)
for step in range(3000):
    experiment.log_metric("loss", float(step), step)
tracelet.stop_logging(60)
print("dropped", dict(experiment.stats.dropped), "pending", experiment.stats.pending)
"""
    )
    done = run_script(script(text, [0, 1]))
    assert "codes {0: -9, 1: 0}" in done.stdout, done.stderr
    assert "dropped {} pending 0" in done.stdout, done.stderr
    assert lines(tmp_path) == {"loss": {step: float(step) for step in range(3000)}}


def test_a_stop_beside_a_backend_that_opens_for_ever_keeps_its_time(run_script, tmp_path):
    text = (
        sink()
        + """
def factory(info):
    if rank:
        touch("opening")
        time.sleep(60)
    return LinesSink()

tracelet.register_sink("lines", factory)
config = {"log_dir": "log", "ranks": {"*": "first"}, "stop_timeout_s": 1.0, "exit_timeout_s": 1.0}
experiment = tracelet.start_logging("net", "tests", ["tensorboard", "lines"], config)
touch(f"begun-{rank}")
for other in (0, 1):
    wait_for(f"begun-{other}")
if rank == 0:
    os.kill(os.getpid(), signal.SIGKILL)
while experiment._run._member.others():
    time.sleep(0.01)
experiment.log_metric("loss", 1.0, 1)
wait_for("opening")
began_s = time.monotonic()
tracelet.stop_logging()
assert time.monotonic() - began_s < 30
"""
    )
    done = run_script(script(text, [0, 1]))
    assert "codes {0: -9, 1: 0}" in done.stdout, done.stderr
    assert "tracelet sync" in done.stderr


@pytest.mark.parametrize("how", ["flush", "stop"])
def test_without_the_first_rank_the_lowest_one_leads(run_script, tmp_path, how):
    text = f"""
if "{how}" == "flush":
    experiment.log_metric("loss", 1.0 * rank, 0)
    assert experiment.flush(60)
for step in range(1, 50):
    experiment.log_metric("loss", 1.0 * rank, step)
tracelet.stop_logging()
"""
    start_timeout_s = 0.3 if how == "flush" else 60.0
    config = f'"rank_window_s": 0.1, "start_timeout_s": {start_timeout_s}'
    ranks = [1, 2] if how == "flush" else [2]
    done = run_script(script(body(text, config), ranks, 4))
    assert "-" not in done.stdout, done.stderr
    assert len(lines(tmp_path)["loss"]) in (49, 50)
    assert len(set(lines(tmp_path)["loss"].values())) == 1  # no mix
    assert not runs(tmp_path)


@pytest.mark.parametrize("ranks", [[0, 1, 2], [1, 2]])
def test_of_a_job_that_was_killed_all_is_sent(run_script, tmp_path, monkeypatch, capsys, ranks):
    """Also where its first rank never came, so that no backend was opened."""
    text = f"""
for step in range(50):
    experiment.log_metric("loss", 100.0 * rank + step, step)
    experiment.log_metric("each/loss", 100.0 * rank + step, step)
    experiment.log_metric(f"of/{{rank}}", float(step), step)
touch(f"logged-{{rank}}")
for other in {ranks}:
    wait_for(f"logged-{{other}}")
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run_script(script(body(text, '"ranks": {"each/*": "each"}'), ranks, 3))
    assert done.stdout.count("-9") == len(ranks), done.stderr
    (run_id,) = runs(tmp_path)
    monkeypatch.setenv("TRACELET_DIR", str(tmp_path / "tracelet-runs"))
    assert main(["show", run_id, "--ranks"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [row.split()[:3] for row in shown[1:-1]] == [[str(r), "died", "49"] for r in ranks]
    assert "stopped first, at step 49" in shown[-1]
    assert send(tmp_path, monkeypatch) == 1
    steps = range(50)
    expected = {"loss": {step: 100.0 * ranks[0] + step for step in steps}}
    for rank in ranks:
        expected[f"each/loss/rank {rank}"] = {step: 100.0 * rank + step for step in steps}
        expected[f"of/{rank}"] = {step: float(step) for step in steps}
    assert lines(tmp_path) == expected
    assert not runs(tmp_path)


KILLS = """
import random
counts = {{rank: open(f"count-{{rank}}", "r+b", buffering=0) for rank in pids}}
for rank in pids:
    wait_for(f"begun-{{rank}}")
chance = random.Random({seed})
for rank in chance.sample(sorted(pids), chance.randint(1, len(pids))):
    time.sleep(chance.uniform(0.0, 0.6))
    os.kill(pids[rank], signal.SIGKILL)
time.sleep(chance.uniform(0.0, 0.6))
touch("stop")
"""


@pytest.mark.parametrize(
    "number",
    [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 12))],
)
def test_ranks_that_are_killed_at_any_moment_cost_nobody_a_point(
    run_script, tmp_path, monkeypatch, number
):
    text = """
note = open(f"count-{rank}", "r+b", buffering=0)
step = 0
while not os.path.exists("stop"):
    experiment.log_metric(f"of/{rank}", step / 7, step)
    experiment.log_metric("loss", 100.0 * rank + step, step)
    step += 1
    os.pwrite(note.fileno(), step.to_bytes(8, "little"), 0)
    if step == 10:
        touch(f"begun-{rank}")
    time.sleep(0.0005)
tracelet.stop_logging()
"""
    ranks = [0, 1, 2]
    for rank in ranks:
        (tmp_path / f"count-{rank}").write_bytes(bytes(8))
    config = '"rank_window_s": 0.2, "batch_max_age_s": 0.1'
    code = script(body(text, config), ranks, meanwhile=KILLS.format(seed=SEED + number))
    done = run_script(code)
    send(tmp_path, monkeypatch)
    found = lines(tmp_path)
    for rank in ranks:
        (count,) = struct.unpack("Q", (tmp_path / f"count-{rank}").read_bytes())
        its = found[f"of/{rank}"]
        assert count <= len(its) <= count + 1, (rank, count, len(its), done.stdout, done.stderr)
        assert its == {step: step / 7 for step in range(len(its))}
        folder = tmp_path / ("log" if rank == 0 else f"log/rank-{rank}")
        assert set(values(folder, f"of/{rank}")) == set(its)
    owners = {value - step for step, value in found["loss"].items()}
    assert len(owners) == 1, owners  # no mix
    assert not runs(tmp_path)


_TORCHRUN = """
import os, sys, time, tracelet
rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
config = {"log_dir": "log", "ranks": {"each/*": "each"}}
experiment = tracelet.start_logging("net", "tests", "clearml", config)
for step in range(100):
    experiment.log_metric("loss", 100.0 * rank + step, step)
    experiment.log_metric("each/loss", 100.0 * rank + step, step)
open(f"logged-{rank}", "w").close()
while not all(os.path.exists(f"logged-{other}") for other in range(world_size)):
    time.sleep(0.01)
tracelet.stop_logging()
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_the_ranks_of_torchrun_are_one_task(clearml_server, tmp_path, count):
    pytest.importorskip("torch")
    (tmp_path / "train.py").write_text(_TORCHRUN)
    environment = {**os.environ, "TRACELET_DIR": str(tmp_path / "tracelet-runs")}
    environment.pop("CLEARML_OFFLINE_MODE", None)
    environment.update(clearml_server.environment(), CLEARML_CACHE_DIR=str(tmp_path / "clearml"))
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    done = subprocess.run(
        [sys.executable, *torchrun, "train.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (task,) = clearml_server.tasks
    steps = range(100)
    expected = {("loss", "loss"): {step: float(step) for step in steps}}
    for rank in range(count):
        series = {step: 100.0 * rank + step for step in steps}
        expected["each_loss", f"rank {rank}"] = series
    found = clearml_server.scalars(task)
    assert {key: found[key] for key in expected} == expected, (found.keys(), done.stderr)
    assert not runs(tmp_path)
