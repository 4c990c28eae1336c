"""Processes that a run's process starts and that are no forks of it (spawn, forkserver, loky,
subprocess): what they log goes into its run, and nothing that befalls them befalls the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from readers import event_file_scalars
from tracelet.cli import main
from tracelet.environment import ParentRun
from tracelet.runs.run_folder import write_manifest
from tracelet.runs.stored_run import find_runs

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="of POSIX")

_PARENT = """
import multiprocessing, os, signal, subprocess, sys, time
import numpy as np
import tracelet
from torch.utils.tensorboard import SummaryWriter

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.01)

{functions}
if __name__ == "__main__":
    experiment = tracelet.start_logging("starts", "tests", backend="tensorboard")
    writer = SummaryWriter("log")
    writer.add_scalar("parent", 0.5, 0)
{body}
    writer.add_scalar("parent", 0.5, 1)
    tracelet.stop_logging()
    stats = experiment.stats
    print("stats", stats.accepted, stats.pending, stats.dropped)
"""


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.strip().splitlines())


def run(tmp_path, body, functions="", code=0):
    script = tmp_path / "train.py"
    script.write_text(_PARENT.format(functions=functions, body=indented(body)), "utf-8")
    environment = {**os.environ, "TRACELET_DIR": str(tmp_path / "runs")}
    # Into files: a process that outlives this one would keep a pipe open.
    with open(tmp_path / "out", "w+") as out, open(tmp_path / "err", "w+") as err:
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=tmp_path, env=environment, stdout=out, stderr=err, timeout=240,
        )  # fmt: skip
    done.stdout, done.stderr = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


def points(tmp_path):
    found = event_file_scalars(tmp_path / "log")
    return {tag: [(step, value) for step, value, _ in each] for tag, each in found.items()}


_WORK = """
def work(name):
    writer = SummaryWriter("log")
    for step in range(500):
        writer.add_scalar(name, step, step)
    writer.add_histogram(name + "/histogram", np.arange(10), 1)
    writer.add_text(name + "/text", "x" * 100, 1)
    inside = tracelet.get_active_experiment()
    assert not inside.is_active
    writer.add_scalar(name + "/accepted", 1, 0)
    inside.log_metric("metric/" + name, 1.0, 1)
    inside.log({"logged/" + name: 2.0}, 1)
    assert inside.flush(60)
    assert inside.stats.pending == 0
    try:
        inside.log_params({"a": 1})
    except tracelet.TraceletError as error:
        assert "the run is another process'" in str(error)
    else:
        raise AssertionError
"""


def test_children_of_each_start_method_log_into_the_run(tmp_path):
    done = run(
        tmp_path,
        """
for method in ("fork", "spawn", "forkserver"):
    child = multiprocessing.get_context(method).Process(target=work, args=(method,))
    child.start()
    child.join(120)
    assert child.exitcode == 0, method
assert tracelet.get_active_experiment() is experiment
""",
        _WORK,
    )
    assert f"stats {2 + 3 * 505} 0 {{}}" in done.stdout
    found = points(tmp_path)
    for method in ("fork", "spawn", "forkserver"):
        assert found[method] == [(step, float(step)) for step in range(500)], method
    assert "tracelet:" not in done.stderr
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_workers_of_loky_log_into_the_run(tmp_path):
    pytest.importorskip("joblib")
    (tmp_path / "worker.py").write_text(
        "import tracelet\n"
        "from torch.utils.tensorboard import SummaryWriter\n"
        "def work(number):\n"
        "    SummaryWriter('log').add_scalar(f'worker/{number}', number, 1)\n"
        "    tracelet.get_active_experiment().log({f'handle/{number}': number}, 1)\n"
    )
    done = run(
        tmp_path,
        """
import joblib, worker
joblib.Parallel(n_jobs=2)(joblib.delayed(worker.work)(number) for number in range(6))
""",
    )
    assert "stats 14 0 {}" in done.stdout, done.stderr
    assert {f"worker/{n}" for n in range(6)} <= points(tmp_path).keys()


@pytest.mark.slow
def test_a_program_that_is_started_logs_into_the_run_and_one_with_a_run_of_its_own_does_not(
    tmp_path,
):
    (tmp_path / "program.py").write_text(
        "import sys, tracelet, subprocess\n"
        "from torch.utils.tensorboard import SummaryWriter\n"
        "if 'own' in sys.argv:\n"
        "    own = tracelet.start_logging('own', 'tests', backend='tensorboard')\n"
        "    assert tracelet.get_active_experiment() is own and own.is_active\n"
        "writer = SummaryWriter(sys.argv[1])\n"
        "writer.add_scalar('program', 1.0, 1)\n"
        "tracelet.stop_logging()\n"  # of an attached one: its own capture alone
        "assert tracelet.get_active_experiment() is None\n"
    )
    done = run(
        tmp_path,
        """
subprocess.run([sys.executable, "program.py", "log/a"], check=True)
subprocess.run([sys.executable, "program.py", "log/b", "own"], check=True)
""",
    )
    assert "stats 3 0 {}" in done.stdout, done.stderr
    assert "program" in event_file_scalars(tmp_path / "log" / "a")
    assert "program" in event_file_scalars(tmp_path / "log" / "b")


@pytest.mark.slow
def test_a_command_that_is_run_beside_a_run_opens_nothing_of_it(tmp_path):
    done = run(
        tmp_path,
        """
subprocess.run([sys.executable, "-m", "tracelet", "runs"], check=True)
maps = "import tracelet; print([line for line in open('/proc/self/maps') if '.ring' in line])"
subprocess.run([sys.executable, "-c", maps], check=True)
""",
    )
    assert "\n[]\n" in done.stdout


_SPAWN = """
child = multiprocessing.get_context("spawn").Process(target=work)
child.start()
"""


@pytest.mark.slow
def test_a_child_that_is_killed_while_it_logs_stalls_nothing(tmp_path):
    done = run(
        tmp_path,
        _SPAWN + "wait_for('logs')\nos.kill(child.pid, signal.SIGKILL)\nchild.join(60)",
        """
def work():
    writer = SummaryWriter("log")
    for step in range(10_000_000):
        writer.add_scalar("child", step, step)
        if step == 1000:
            open("logs", "w").close()
""",
    )
    found = points(tmp_path)
    assert [step for step, _ in found["child"]] == list(range(len(found["child"])))
    assert len(found["child"]) > 1000
    assert [step for step, _ in found["parent"]] == [0, 1]
    assert " 0 {" in done.stdout


_LONGER = """
def work():
    writer = SummaryWriter("log")
    writer.add_scalar("child", 0, 0)
    open("logs", "w").close()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(os.open("told.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    wait_for("go")
    for step in range(1, 6):
        writer.add_scalar("child", step, step)
    with open("new", "w") as file:
        file.write(str(dict(tracelet.get_active_experiment().stats.dropped)))
    os.rename("new", "done")
    os._exit(0)
"""


def wait_for(condition):
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.slow
def test_a_child_that_outlives_its_killed_parent_keeps_the_run_until_it_ends(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("TRACELET_DIR", str(tmp_path / "runs"))
    run(
        tmp_path, _SPAWN + "wait_for('logs')\nos.kill(os.getpid(), signal.SIGKILL)", _LONGER,
        code=-signal.SIGKILL,
    )  # fmt: skip
    (left,) = find_runs(str(tmp_path / "runs"))
    assert left.state == "running", "its child may log"
    assert main(["sync", left.run_id]) != 0
    (tmp_path / "go").touch()
    wait_for((tmp_path / "done").exists)
    wait_for(lambda: left.state == "unsent")
    assert main(["sync", left.run_id]) == 0, capsys.readouterr()
    assert [step for step, _ in points(tmp_path)["child"]] == list(range(6))


@pytest.mark.slow
def test_what_a_child_logs_after_the_end_of_the_run_is_counted_and_told_once(tmp_path):
    done = run(
        tmp_path,
        _SPAWN + "wait_for('logs')\nimport atexit\nmultiprocessing.process._children.discard(child)"
        "\natexit.register(lambda: open('go', 'w').close())",
        _LONGER,
    )
    wait_for((tmp_path / "done").exists)
    assert (tmp_path / "done").read_text() == "{'run ended': 5}"
    told = (tmp_path / "told.txt").read_text()
    assert told.count("logs into a run that has ended in the process that started it") == 1, told
    assert "stats 3 0 {}" in done.stdout


_LOOK = (
    "import tracelet; from torch.utils.tensorboard import SummaryWriter;"
    "SummaryWriter('other').add_scalar('a', 1, 1);"
    "print('found', tracelet.get_active_experiment())"
)


def look(tmp_path, folder):
    return subprocess.run(
        [sys.executable, "-c", _LOOK],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
        env={**os.environ, "TRACELET_PARENT_RUN": f"{folder}|{os.getpid()}||0"},
    )  # fmt: skip


@pytest.fixture
def living(tmp_path):
    """The folder of a run whose process lives."""
    import tracelet

    experiment = tracelet.start_logging(
        "living", "tests", backend="tensorboard", config={"runs_dir": tmp_path / "runs"}
    )
    yield experiment._run.folder
    tracelet.stop_logging()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["host", "pid", "gone", "finished", "none"])
def test_the_run_of_another_machine_or_a_dead_process_is_passed_over_in_silence(
    change, living, tmp_path
):
    changes = {
        "host": {"host": "elsewhere"},
        "pid": {"pid": _dead_pid()},
        "finished": {"state": "finished"},
    }
    manifest = dict(living._manifest)
    folder = living.path
    if change == "gone":
        folder += "-gone"
    write_manifest(living.path, {**manifest, **changes.get(change, {})})
    try:
        done = look(tmp_path, folder)
    finally:
        write_manifest(living.path, manifest)
    assert done.returncode == 0
    assert ("found None" in done.stdout) == (change != "none"), done.stdout
    assert "tracelet:" not in done.stderr


def _dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["manifest", "ring", "format"])
def test_a_run_that_can_not_be_opened_is_told_once_and_costs_the_child_nothing(
    damage, living, tmp_path
):
    manifest = dict(living._manifest)
    if damage == "manifest":
        with open(os.path.join(living.path, "manifest.json"), "r+") as file:
            file.write("[[")
    elif damage == "format":
        write_manifest(living.path, {**manifest, "format": 99})
    else:
        write_manifest(living.path, {**manifest, "ring": "/nowhere/tracelet.ring", "ring_id": "0"})
    try:
        done = look(tmp_path, living.path)
    finally:
        write_manifest(living.path, manifest)
    assert done.returncode == 0
    assert "found None" in done.stdout
    assert done.stderr.count("can't log into the run of the process that started it") == 1
    assert list((tmp_path / "other").iterdir()), "torch's own writer has it"


@pytest.mark.slow
def test_values_on_a_device_are_read_by_the_call_of_a_child(tmp_path):
    """A ticket for one means nothing to the process that drains the ring."""
    done = run(
        tmp_path,
        "for method in ('fork', 'spawn'):\n"
        "    child = multiprocessing.get_context(method).Process(target=work, args=(method,))\n"
        "    child.start()\n"
        "    child.join(120)\n"
        "    assert child.exitcode == 0\n",
        """
def work(method):
    import torch
    from tracelet import _core
    torch.set_num_threads(1)
    _core.treat_cpu_as_device(True)
    writer = SummaryWriter("log")
    for step in range(20):
        writer.add_scalar(method, torch.tensor(step + 0.5), step)
    writer.add_histogram("h", torch.arange(8.0), 1)
""",
    )
    assert "stats 44 0 {}" in done.stdout
    for method in ("fork", "spawn"):
        assert points(tmp_path)[method] == [(step, step + 0.5) for step in range(20)]


def announced():
    return os.environ["TRACELET_PARENT_RUN"].split("|")[0]


def test_the_variable_is_there_while_a_run_goes_on_and_gone_after_it(tmp_path, monkeypatch):
    import tracelet

    monkeypatch.delenv("TRACELET_PARENT_RUN", raising=False)
    config = {"runs_dir": tmp_path}
    outer = tracelet.start_logging("outer", backend="tensorboard", config=config)
    assert announced() == outer._run.folder.path
    with tracelet.logging("tensorboard", exp_name="inner", config=config) as inner:
        assert announced() == inner._run.folder.path
    assert announced() == outer._run.folder.path
    tracelet.stop_logging()
    assert "TRACELET_PARENT_RUN" not in os.environ


@pytest.mark.slow
def test_the_handle_of_a_child_logs_where_the_parents_does(tmp_path):
    done = run(
        tmp_path,
        "experiment.log({'both': 1.0}, 1)\n" + _SPAWN + "child.join(120)",
        "def work():\n    tracelet.get_active_experiment().log({'both': 2.0}, 2)\n",
    )
    assert "stats 4 0 {}" in done.stdout
    assert points(tmp_path)["both"] == [(1, 1.0), (2, 2.0)]
    assert json.dumps(sorted(each.name for each in tmp_path.iterdir())).count("log") == 1


@pytest.mark.slow
def test_workers_that_began_in_one_run_log_into_the_next(tmp_path):
    """A fork server has the first run's variable for ever, and a pool's worker its ring."""
    done = run(
        tmp_path,
        """
tracelet.stop_logging()
from concurrent.futures import ProcessPoolExecutor
spawn, server = map(multiprocessing.get_context, ("spawn", "forkserver"))
pool = ProcessPoolExecutor(1, mp_context=spawn)
for number in (1, 2, 3):
    experiment = tracelet.start_logging(f"run{number}", "tests", backend="tensorboard")
    pool.submit(work, "pool", number).result()
    assert experiment.flush(60)
    print("pool", number, experiment.stats.accepted, flush=True)
    child = server.Process(target=work, args=("server", number))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    assert experiment.flush(60)
    print("server", number, experiment.stats.accepted, flush=True)
    if number < 3:
        tracelet.stop_logging()
pool.shutdown()
""",
        """
def work(name, number):
    writer = SummaryWriter(f"log/{name}")
    writer.add_scalar("worker", number, number)
    writer.close()
    tracelet.get_active_experiment().log({name: number}, number)
""",
    )
    for number in (1, 2, 3):
        assert f"pool {number} 2\n" in done.stdout, done.stdout + done.stderr
        assert f"server {number} 4\n" in done.stdout, done.stdout + done.stderr


_START_BESIDE_IMPORT = """
import sys, threading, time, faulthandler, torch, tracelet
faulthandler.dump_traceback_later(100, exit=True)
assert tracelet.get_active_experiment() is not None
def work():
    import torch.utils.tensorboard
thread = threading.Thread(target=work)
thread.start()
while "torch.utils.tensorboard" not in sys.modules:
    time.sleep(0.0005)
with tracelet.start_logging("own", "tests", "tensorboard") as own:
    own.log({"a": 1.0}, 1)
thread.join()
"""


@pytest.mark.slow
def test_a_start_beside_the_import_of_torchs_writer_waits_for_no_lock_of_it(tmp_path):
    """The hook of the import waited for the start, and the start for the import."""
    (tmp_path / "beside.py").write_text(_START_BESIDE_IMPORT)
    run(tmp_path, 'subprocess.run([sys.executable, "beside.py"], check=True)')


@pytest.mark.slow
def test_a_block_inside_the_run_of_another_process_ends_and_that_one_goes_on(tmp_path):
    done = run(
        tmp_path,
        """
for method in ("fork", "spawn"):
    child = multiprocessing.get_context(method).Process(target=work, args=(method,))
    child.start()
    child.join(120)
    assert child.exitcode == 0, method
""",
        """
def work(method):
    outer = tracelet.get_active_experiment()
    writer = SummaryWriter("log")
    with tracelet.logging("tensorboard", exp_name=f"inner of {method}") as inner:
        assert tracelet.get_active_experiment() is inner and inner.is_active
        inner.log({"inner": 1.0}, 1)
        outer.log({f"{method}/handle": 1.0}, 1)
    assert tracelet.get_active_experiment() is outer
    outer.log({f"{method}/after": 1.0}, 1)
    writer.add_scalar(f"{method}/writer", 1.0, 1)
""",
    )
    assert "stats 8 0 {}" in done.stdout, done.stdout + done.stderr
    assert points(tmp_path)["spawn/writer"] == [(1, 1.0)]


def test_a_file_of_a_large_event_is_nobody_elses(tmp_path):
    """A process may have the pid that another had, and count from 0, too."""
    from tracelet.capture.events import EventCapture

    captures = [EventCapture(str(tmp_path), 10, lambda folder, suffix: "") for _ in range(2)]
    paths = {capture._keep(b"x" * 100) for capture in captures for _ in range(2)}
    assert len(paths) == 4
    assert all(os.path.getsize(path) == 100 for path in paths)
    taken = next(iter(paths))
    with pytest.raises(FileExistsError):
        captures[0]._write(taken, b"y")
    assert os.path.getsize(taken) == 100


_RANKS = """
rank = int(os.environ["LOCAL_RANK"])
SummaryWriter("log").add_scalar("loss", rank, rank)
if __name__ == "__main__" and len(sys.argv) > 1 and sys.argv[1] == "own":
    # A worker of a rank that has a run of its own is that rank's.
    own = tracelet.start_logging("own", "tests", backend="tensorboard")
    subprocess.run([sys.executable, __file__, "worker"], check=True)
    assert own.flush(60)
    print("own", own.stats.accepted, flush=True)
    tracelet.stop_logging()
"""


@pytest.mark.slow
def test_another_rank_that_is_started_by_the_first_is_no_worker_of_it(tmp_path):
    """As Lightning's launcher starts them: all ranks' points were in one series."""
    head = _PARENT.split("def wait_for")[0]
    (tmp_path / "rank.py").write_text(head + _RANKS)
    done = run(
        tmp_path,
        """
job = {**os.environ, "NODE_RANK": "0", "WORLD_SIZE": "3"}
for rank, argument in ("0", "worker"), ("1", "worker"), ("2", "own"):
    subprocess.run(
        [sys.executable, "rank.py", argument], check=True, env={**job, "LOCAL_RANK": rank}
    )
""",
    )
    assert "stats 3 0 {}" in done.stdout, done.stdout + done.stderr
    assert "own 1\n" in done.stdout, done.stdout
    assert done.stderr.count("this is rank 1 of 3 (Lightning), and ranks are not") == 1, done.stderr


def test_a_worker_whose_parents_run_has_ended_does_not_look_for_another_at_each_call(monkeypatch):
    """A training step may ask for the handle, and a look cost 3.5 ms."""
    from types import SimpleNamespace

    from tracelet import parent_run

    looks = []
    monkeypatch.setattr(parent_run, "_parent", ParentRun("/gone", 1, "", 0))
    ended = SimpleNamespace(ring=SimpleNamespace(is_closed=True))
    monkeypatch.setattr(parent_run, "_run", ended)
    monkeypatch.setattr(parent_run, "_next_look_s", 0.0)
    monkeypatch.setattr(parent_run, "_open", looks.append)
    now_s = 1000.0
    monkeypatch.setattr(parent_run.time, "monotonic", lambda: now_s)
    for _ in range(100):
        parent_run.attach_to_parent()
    assert len(looks) == 1
    now_s += 1.0
    parent_run.attach_to_parent()
    assert len(looks) == 2
