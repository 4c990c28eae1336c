"""The line at a run's start says where it goes, the one at its end what arrived."""

from __future__ import annotations

import pytest

RUN = """
import os, sys, tracelet
def run(name="exp", points=3, **config):
    experiment = tracelet.start_logging(name, "demo", "tensorboard", config)
    for step in range(points):
        experiment.log_metric("loss", 0.5, step)
    return experiment
"""
BEGINS = "tracelet: run 'exp' of project 'demo' goes to tensorboard (event files in runs/exp"


@pytest.fixture(autouse=True)
def _not_quiet(monkeypatch):
    monkeypatch.delenv("TRACELET_QUIET")


def lines_of(done, words="tracelet: run "):
    return [line for line in done.stderr.splitlines() if line.startswith(words)]


def test_one_line_says_where_and_one_what_arrived(run_script):
    done = run_script(RUN + "run()\ntracelet.stop_logging()\ntracelet.stop_logging()")
    begins, ends = lines_of(done)
    assert begins.startswith(BEGINS), done.stderr
    assert ends.startswith("tracelet: run 'exp' has ended after "), done.stderr
    assert ends.endswith(" s: 3 points to tensorboard (1 event file in runs/exp)"), done.stderr


def test_the_end_of_the_process_and_sigterm_say_it_too(run_script):
    done = run_script(RUN + "run()")
    assert len(lines_of(done)) == 2, done.stderr
    script = RUN + "import signal\nrun()\nos.kill(os.getpid(), signal.SIGTERM)"
    done = run_script(script, check=False)
    assert [" 3 points to" in line for line in lines_of(done)] == [False, True], done.stderr


def test_a_password_in_a_servers_url_is_in_no_line_and_in_no_attribute(run_script):
    script = """
import tracelet
from tracelet.backends.base import Backend
class Remote(Backend):
    name, url, id = "remote", "http://joe:hunter2@host:1/run", "r"
tracelet.register_sink("remote", lambda info: Remote())
experiment = tracelet.start_logging("exp", "demo", "remote")
print(experiment.url, dict(experiment.urls))
experiment.log_metric("a", 1, 1)
tracelet.stop_logging()
"""
    done = run_script(script)
    begins, ends = lines_of(done)
    assert "(http://(redacted)@host:1/run)" in begins
    assert "(http://(redacted)@host:1/run)" in ends
    assert "http://(redacted)@host:1/run" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_quiet_says_nothing_and_another_rank_that_it_is_alone(run_script):
    done = run_script(
        RUN
        + """
run("option", quiet=True)
tracelet.stop_logging()
torchrun = {"RANK": "3", "WORLD_SIZE": "4"}
srun = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0"}
for variables in {"TRACELET_QUIET": "1"}, torchrun, torchrun, srun:
    os.environ.update(variables)
    run("other")
    tracelet.stop_logging()
    for name in variables:
        del os.environ[name]
os.environ.update(RANK="0", WORLD_SIZE="4", SLURM_PROCID="0", TRACELET_QUIET="")
run("leader")
tracelet.stop_logging()
"""
    )
    ranks, lines = done.stderr.splitlines()[:2], done.stderr.splitlines()[2:]
    assert [line.split("'")[1] for line in lines] == ["leader"] * 2, done.stderr
    # Told once, not with each run.
    assert "this is rank 3 of 4" in ranks[0], done.stderr
    assert "this is rank 1 of 2 (Slurm)" in ranks[1], done.stderr


def test_nested_runs_and_forked_children_say_one_line_a_run(run_script):
    done = run_script(
        RUN
        + """
outer = run()
with tracelet.logging("tensorboard", exp_name="inner", project="demo") as inner:
    inner.log_metric("a", 1.0, 1)
pid = os.fork()
if pid == 0:
    outer.log_metric("loss", 0.5, 7)
    tracelet.stop_logging()
    os._exit(0)
os.waitpid(pid, 0)
tracelet.stop_logging()
"""
    )
    words = [line.partition(" of ")[0].partition(" after ")[0] for line in lines_of(done)]
    assert words == [
        "tracelet: run 'exp'", "tracelet: run 'inner'",
        "tracelet: run 'inner' has ended", "tracelet: run 'exp' has ended",
    ], done.stderr  # fmt: skip
    assert " 4 points to tensorboard" in lines_of(done)[-1]


FULL_PIPE = (
    "read, write = os.pipe(); os.dup2(write, 2); os.set_blocking(2, False)\n"
    "try:\n    while True: os.write(2, b'x' * 512)\nexcept BlockingIOError: pass\n"
    "os.set_blocking(2, True)"
)
WRAPPED = """
class Wrapped:  # as ClearML's, in both places
    def __init__(self, stream):
        self.stream = stream
    def write(self, text):
        self.stream.write(text)
    def __getattr__(self, name):
        return getattr(self.stream, name)
sys.stderr = sys.__stderr__ = Wrapped(sys.stderr)
"""


@pytest.mark.parametrize(
    "broken",
    [
        "sys.stderr = None",
        "sys.stderr.close()",
        "os.close(2)",
        "read, write = os.pipe(); os.dup2(write, 2); os.close(read)",
        FULL_PIPE,  # that nobody reads
        WRAPPED + FULL_PIPE,
        # Not the process' stderr, and full as well.
        "read, write = os.pipe(); sys.stderr = open(write, 'w'); os.set_blocking(write, False)\n"
        "try:\n    while True: os.write(write, b'x' * 512)\nexcept BlockingIOError: pass\n"
        "os.set_blocking(write, True)",
    ],
    ids=[
        "none",
        "closed",
        "no descriptor",
        "broken pipe",
        "full pipe",
        "wrapped full pipe",
        "another full pipe",
    ],
)
def test_a_stderr_that_takes_nothing_costs_the_run_nothing(run_script, broken):
    done = run_script(
        RUN + f"{broken}\nexperiment = run()\ntracelet.stop_logging()\n"
        "print(experiment.stats.delivered, flush=True)",
        timeout_s=60,
    )  # the exit code is 0
    assert "{'tensorboard': 3}" in done.stdout, done


def test_a_wrapped_stderr_and_one_in_memory_get_the_lines(run_script):
    done = run_script(RUN + WRAPPED + "run()\ntracelet.stop_logging()")
    assert len(lines_of(done)) == 2, done.stderr
    memory = "import io\nsys.stderr = io.StringIO()\nrun()\ntracelet.stop_logging()\n"
    done = run_script(RUN + memory + "print(sys.stderr.getvalue().count('tracelet: run '))")
    assert done.stdout.strip() == "2", done


def test_what_did_not_arrive_is_told_with_the_command_that_sends_it(run_script):
    done = run_script(
        RUN
        + """
class Away:
    name, is_remote, takes_every_point = "away", True, True
    def write(self, batch):
        raise OSError("away")
    def close(self, process_is_ending):
        pass
tracelet.register_sink("away", lambda info: Away())
experiment = tracelet.start_logging("exp", "demo", "away")
experiment.log_metric("loss", 0.5, 1)
print(experiment._run.folder.run_id)
tracelet.stop_logging(timeout_s=0.5)
"""
    )
    ends = lines_of(done)[-1]
    run_id = done.stdout.split()[0]
    assert ends.endswith(
        f" s: 0 points to away; 1 point kept, to send them: tracelet sync {run_id}"
    ), done.stderr


def test_the_command_for_an_offline_session_sends_it(run_script, clearml_server):
    pytest.importorskip("clearml")
    done = run_script("""
        import tracelet
        quick = dict.fromkeys(("auto_connect_frameworks", "auto_connect_arg_parser",
            "auto_connect_streams", "auto_resource_monitoring"), False)
        experiment = tracelet.start_logging("sent", "demo", "clearml", quick)
        experiment.log_metric("loss", 0.5, 1)
        tracelet.stop_logging()
    """)
    ends = lines_of(done)[-1]
    assert ": 1 point to clearml (offline session in " in ends, done.stderr
    would = run_script(
        "from tracelet.cli import main\nmain(['sync', '--all', '--dry-run'])",
        env={**clearml_server.environment(), "CLEARML_OFFLINE_MODE": "0"},
    )
    assert ": would import its offline session " in would.stdout, would
    assert not clearml_server.tasks
    command = ends.partition("to send it: CLEARML_OFFLINE_MODE=0 tracelet ")[2].rstrip(")")
    sent = run_script(
        f"import sys\nfrom tracelet.cli import main\nsys.exit(main({command.split()!r}))",
        env={**clearml_server.environment(), "CLEARML_OFFLINE_MODE": "0"},
    )
    assert "its offline session is imported" in sent.stdout, sent
    assert "sent" in [task["name"] for task in clearml_server.tasks.values()]
