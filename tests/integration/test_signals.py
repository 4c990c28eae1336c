"""Signals and the end of the process: what was logged is delivered, the exit code is as ever."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from readers import session_scalars
from tracelet.cli import main

pytest.importorskip("clearml")

START = """
    import os, signal, sys, threading, time, tracelet
    experiment = tracelet.start_logging("signals", "tests", config=CONFIG)
    print(experiment.url, flush=True)
    for step in range(5_000):
        experiment.log_metric("a", step, step)
"""


def script(body: str, before: str = "", config: str = "{}") -> str:
    lines = [line[4:] for line in START.replace("CONFIG", config).splitlines()]
    lines[2:2] = [before]
    return "\n".join(lines) + "\n" + body


def points(done) -> int:
    session = next(line for line in done.stdout.splitlines() if Path(line).is_dir())
    ((name, each),) = session_scalars(session).items()
    assert name == ("a", "a")
    assert [step for step, _, _ in each] == list(range(len(each)))
    return len(each)


def runs_left(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "tracelet-runs").iterdir()]


def test_sigterm_flushes_and_ends_by_the_signal(run_script, tmp_path):
    done = run_script(
        script("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60); print('alive')"), check=False
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "alive" not in done.stdout
    assert points(done) == 5_000
    assert runs_left(tmp_path) == []


@pytest.mark.slow
def test_sigterm_online_flushes_and_the_sdk_ends_the_task(clearml_server, run_script):
    done = run_script(
        script("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"),
        env=clearml_server.environment(),
        check=False,
    )
    assert done.returncode == -signal.SIGTERM
    (task,) = [id for id, each in clearml_server.tasks.items() if each["name"] == "signals"]
    assert len(clearml_server.scalars(task)["a", "a"]) == 5_000
    assert clearml_server.tasks[task]["status"] in ("stopped", "failed", "completed")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_users_handler_of_sigterm_decides(when, run_script):
    """A last checkpoint after the signal: the run goes on until the handler's program ends it."""
    handler = "import signal; got = []; signal.signal(signal.SIGTERM, lambda *a: got.append(1))"
    body = """
if WHEN == "during":
    exec(HANDLER)
os.kill(os.getpid(), signal.SIGTERM)
while not got:
    time.sleep(0.01)
for step in range(5_000, 6_000):
    experiment.log_metric("a", step, step)
sys.exit(7)
""".replace("WHEN", repr(when)).replace("HANDLER", repr(handler))
    before = handler if when == "before" else ""
    done = run_script(script(body, before), check=False)
    assert done.returncode == 7, done.stderr
    assert points(done) == 6_000


def test_ctrl_c_raises_keyboard_interrupt_as_ever(run_script):
    done = run_script(
        script(
            """
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    experiment.log_metric("a", 5_000, 5_000)
"""
        )
    )
    assert points(done) == 5_001


def test_ctrl_c_ends_the_process_by_the_signal(run_script, tmp_path):
    """Without ClearML: a thread of its that imports something as the process ends can make Python
    forget, with any eval(), that it was interrupted, and exit with 1."""
    done = run_script(
        """
        import os, signal, time, tracelet
        experiment = tracelet.start_logging("signals", backend="tensorboard")
        experiment.log_metric("a", 1.0, 1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
        """,
        check=False,
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert runs_left(tmp_path) == []


@pytest.mark.slow
def test_after_stop_logging_signals_do_what_they_did(run_script):
    """The SDK left handlers that did nothing: Ctrl-C and SIGTERM were swallowed."""
    done = run_script(
        script(
            """
tracelet.stop_logging()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
except KeyboardInterrupt:
    print("interrupted", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(1)
"""
        ),
        check=False,
    )
    assert "interrupted" in done.stdout
    assert done.returncode == -signal.SIGTERM


@pytest.mark.slow
def test_sigterm_with_the_server_gone_ends_at_the_deadline(clearml_server, run_script, tmp_path):
    clearml_server.faults.add("503", endpoints=("events.add_batch",))
    done = run_script(
        script(
            """
thread = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
thread.start()
time.sleep(60)
""",
            config='{"exit_timeout_s": 1.0}',
        ),
        env=clearml_server.environment(),
        check=False,
        timeout_s=60,
    )
    assert done.returncode == -signal.SIGTERM
    (run,) = runs_left(tmp_path)
    assert "tracelet sync " + run in done.stderr
    assert clearml_server.stored_count() == 0


@pytest.mark.slow
def test_a_child_that_is_terminated_is_no_concern_of_the_run(run_script):
    done = run_script(
        script(
            """
pid = os.fork()
if pid == 0:
    experiment_of_child = tracelet.get_active_experiment()
    time.sleep(60)
time.sleep(0.3)
os.kill(pid, signal.SIGTERM)
print("child", os.waitpid(pid, 0)[1], tracelet.get_active_experiment() is experiment)
experiment.log_metric("a", 5_000, 5_000)
tracelet.stop_logging()
"""
        )
    )
    assert f"child {int(signal.SIGTERM)} True" in done.stdout
    assert points(done) == 5_001


@pytest.mark.slow
def test_threads_that_log_while_the_interpreter_ends(run_script):
    done = run_script(
        script(
            """
logged = 5_000
def log():
    global logged
    while True:
        experiment.log_metric("a", logged, logged)
        logged += 1
def leave():
    sys.exit(3)  # ends this thread alone
for target in (log, leave):
    threading.Thread(target=target, daemon=True).start()
time.sleep(0.2)
print("logged", logged)
"""
        )
    )
    logged = int(done.stdout.split("logged ")[1].split()[0])
    assert points(done) >= logged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code"),
    [("raise SystemExit(4)", 4), ("raise ValueError('in the block')", 1), ("os._exit(5)", 5)],
)
def test_a_block_that_is_left_by_an_exception(end, code, run_script, tmp_path):
    done = run_script(
        f"""
        import os, tracelet
        with tracelet.logging("clearml", exp_name="signals", project="tests") as experiment:
            print(experiment.url, flush=True)
            for step in range(5_000):
                experiment.log_metric("a", step, step)
            {end}
        """,
        check=False,
    )
    assert done.returncode == code
    if code == 5:
        assert len(runs_left(tmp_path)) == 1  # on disk, for `tracelet sync`
    else:
        assert points(done) == 5_000
        assert runs_left(tmp_path) == []


@pytest.mark.slow
def test_a_fault_ends_the_process_and_what_was_logged_is_sent(run_script, tmp_path, monkeypatch):
    done = run_script(script("import ctypes; ctypes.string_at(0)"), check=False, timeout_s=60)
    assert done.returncode == -signal.SIGSEGV, done.stderr
    assert len(runs_left(tmp_path)) == 1
    monkeypatch.setenv("TRACELET_DIR", str(tmp_path / "tracelet-runs"))
    assert main(["sync", "--all"]) == 0
    assert points(done) == 5_000
