"""A start with ClearML's server away, slow or refusing: in time, offline, and online the next time.

The scripts have the loopback server in their own process, so that they can stop and start it.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("clearml")

_TESTS = str(Path(__file__).parents[1])
_HEAD = """
    import json, os, sys, threading, time
    from clearml_server import ClearMLServer
    server = ClearMLServer().start()
    os.environ.pop("CLEARML_OFFLINE_MODE", None)
    os.environ.update(server.environment())
    import torch, tracelet

    def start(**config):
        began_s = time.monotonic()
        experiment = tracelet.start_logging(
            "exp", "tests", config={"auto_resource_monitoring": False, **config}
        )
        experiment.start_took_s = time.monotonic() - began_s
        return experiment
"""


@pytest.fixture
def run_with_server(run_script):
    def run(code: str, **options) -> subprocess.CompletedProcess[str]:
        env = {
            "PYTHONPATH": _TESTS + os.pathsep + os.environ.get("PYTHONPATH", ""),
            **options.pop("env", {}),
        }
        return run_script(_HEAD + code, env=env, **options)

    return run


def _session_values(folder: Path) -> list[float]:
    (path,) = (folder / "clearml" / "offline").glob("offline-*.zip")
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("metrics.jsonl").decode().splitlines()
    return [e["value"] for line in lines for e in json.loads(line) if "value" in e]


def test_with_the_server_refusing_the_run_goes_on_offline(run_with_server, tmp_path):
    done = run_with_server("""
    server.stop()
    experiment = start(start_timeout_s=4)
    for step in range(50):
        experiment.log_metric("loss", step, step)
    tracelet.stop_logging()
    print(json.dumps([experiment.url, experiment.start_took_s, experiment.stats.pending]))
    """)
    url, took_s, pending = json.loads(done.stdout.splitlines()[-1])
    assert url is None
    assert pending == 0
    assert took_s < 4 + 26  # the time-out, and Task.init itself on a busy machine
    assert sorted(_session_values(tmp_path)) == list(range(50))
    told = [line for line in done.stderr.splitlines() if "tracelet:" in line]
    assert len(told) == 1, told
    assert "goes on offline" in told[0]
    assert "tracelet sync" in told[0]


@pytest.mark.parametrize(
    "endpoint",
    [
        "tasks.create",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("auth.login", "tasks.get_by_id", "tasks.started")
        ),
    ],
)
def test_a_server_that_hangs_at_the_start_is_given_up(run_with_server, tmp_path, endpoint):
    """Wherever in Task.init that is: what it had made is let go of, and the process can end."""
    done = run_with_server(f"""
    server.faults.add("slow", endpoints=["{endpoint}"], delay=600.0)
    experiment = start(start_timeout_s=3)
    experiment.log_metric("loss", 1.0, 0)
    print(json.dumps([experiment.url, experiment.start_took_s]))
    sys.stdout.flush()
    tracelet.stop_logging()
    from clearml import Task
    assert Task.current_task() is None
    server.faults.clear()
    """, timeout_s=120)  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    url, took_s = json.loads(lines[-1])
    assert url is None
    assert took_s < 3 + 27
    assert _session_values(tmp_path) == [1.0]


@pytest.mark.slow
def test_a_server_that_comes_back_within_the_time_is_waited_for(run_with_server):
    done = run_with_server("""
    server.faults.add("503", endpoints=["auth.login"], times=3)
    server.faults.add("close before", endpoints=["tasks.create"], times=2)
    experiment = start(start_timeout_s=60)
    url, is_known = experiment.url, experiment.id in server.tasks
    tracelet.stop_logging()
    print(json.dumps([url, is_known]))
    """)
    url, is_known = json.loads(done.stdout.splitlines()[-1])
    assert url
    assert url.startswith("http")
    assert is_known


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["close after", "half answer"])
def test_a_task_whose_making_was_not_answered_is_not_made_twice(run_with_server, mode):
    """tasks.create is the one request of a start that may not be sent twice."""
    done = run_with_server(f"""
    server.faults.add("{mode}", endpoints=["tasks.create"], times=2)
    server.faults.add("close before", endpoints=["tasks.get_all"], times=1)
    other = server.add_task("exp", comment="of another process (tracelet-start: 0123456789ab)")
    experiment = start(start_timeout_s=60)
    tracelet.stop_logging()
    tasks = [id for id, task in server.tasks.items() if id != other]
    print(json.dumps([experiment.url, tasks == [experiment.id], server.schema_violations]))
    """)
    url, is_the_only_one, violations = json.loads(done.stdout.splitlines()[-1])
    assert url
    assert is_the_only_one
    assert violations == []


@pytest.mark.slow
def test_the_session_goes_into_the_task_whose_making_was_not_answered(run_with_server):
    done = run_with_server("""
    from tracelet.cli import main
    server.faults.add("close after", endpoints=["tasks.create"])
    server.faults.add("slow", endpoints=["tasks.get_all"], delay=600.0)
    experiment = start(start_timeout_s=3)
    experiment.log_metric("loss", 1.0, 5)
    tracelet.stop_logging()
    server.faults.clear()
    code = main(["sync", "--all"])
    points = [server.scalars(task).get(("loss", "loss")) for task in server.tasks]
    print(json.dumps([experiment.url, code, points]))
    """)
    url, code, points = json.loads(done.stdout.splitlines()[-1])
    assert url is None
    assert code == 0
    assert points == [{"5": 1.0}]


@pytest.mark.slow
def test_a_later_run_of_the_process_is_online_again(run_with_server):
    done = run_with_server("""
    server.stop()
    first = start(start_timeout_s=2)
    first.log_metric("loss", 1.0, 0)
    tracelet.stop_logging()
    assert "CLEARML_OFFLINE_MODE" not in os.environ
    server.start()
    second = start()
    second.log_metric("loss", 2.0, 0)
    assert second.flush(60)
    tracelet.stop_logging()
    print(json.dumps([first.url, second.url, server.scalars(second.id)[("loss", "loss")]]))
    """)
    first, second, points = json.loads(done.stdout.splitlines()[-1])
    assert first is None
    assert second
    assert points == {"0": 2.0}


@pytest.mark.slow
def test_on_unreachable_raise(run_with_server):
    done = run_with_server("""
    server.stop()
    try:
        start(start_timeout_s=10, on_unreachable="raise")
    except tracelet.BackendError as error:
        print("raised:", error)
    assert tracelet.get_active_experiment() is None
    """)
    assert "raised: ClearML's server" in done.stdout
    assert "connection refused" in done.stdout


_OWN_TASK = """
    from clearml import Task
    Task._report_subprocess_enabled = False  # a forked reporter would hold the server's port
    task = Task.init("tests", "mine", auto_resource_monitoring=False)
    server.stop()
"""


@pytest.mark.slow
def test_a_run_on_a_task_that_is_there_goes_on_online(run_with_server):
    """Its points are in the journal until the server is back, as in any outage."""
    done = run_with_server(
        _OWN_TASK
        + """
    experiment = start(start_timeout_s=4)
    assert experiment.id == task.id
    for step in range(20):
        experiment.log_metric("loss", step, step)
    experiment.log_params({"lr": 0.5})
    assert not experiment.flush(1)
    server.start()
    assert experiment.flush(120)
    tracelet.stop_logging()
    task.close()
    points = server.scalars(task.id)[("loss", "loss")]
    lr = server.tasks[task.id]["hyperparams"]["General"]["lr"]["value"]
    print(json.dumps([experiment.start_took_s, sorted(points.values()), lr]))
    """
    )
    took_s, values, lr = json.loads(done.stdout.splitlines()[-1])
    assert took_s < 4 + 26
    assert values == list(range(20))
    assert lr == "0.5"


@pytest.mark.slow
def test_a_child_task_is_a_session_that_sync_imports_as_a_child(run_with_server):
    """The SDK stays online, for the parent: offline mode would be for both."""
    done = run_with_server(
        _OWN_TASK
        + """
    import numpy as np
    from recording_sink import RecordingSink
    from tracelet.cli import main
    from torch.utils.tensorboard import SummaryWriter
    from clearml.binding.frameworks.tensorflow_bind import PatchSummaryToEventTransformer as Binding
    other = RecordingSink()
    tracelet.register_sink("mine", lambda info: other)
    config = {"start_timeout_s": 3, "tags": ["quick"]}
    try:
        strict = {**config, "child_task": True, "on_unreachable": "raise"}
        tracelet.start_logging("child", config=strict)
    except tracelet.BackendError as error:
        assert "is away" in str(error)
    assert Binding._current_task is Task.current_task() is task
    with tracelet.logging(["clearml", "mine"], exp_name="child", config=config) as experiment:
        assert Task.current_task() is task
        assert not Task.is_offline()
        assert Binding._current_task is None
        assert experiment.url is None
        writer = SummaryWriter("log")
        writer.add_scalar("loss", 0.5, 1)
        writer.add_image("image", np.zeros((3, 4, 4), dtype=np.uint8), 1)
        experiment.log_params({"lr": 0.5})
        experiment.log_artifact({"a": 1}, "thing.json")
    assert Binding._current_task is task
    assert len(other.points) == 2
    assert (experiment.stats.pending, experiment.stats.artifacts) == (0, {"failed": 1})
    server.start()
    assert main(["sync", "--all"]) == 0
    child = next(each for each in server.tasks.values() if each["name"] == "child")
    images = server.events(child["id"], "training_debug_image")
    task.close()
    print(json.dumps([
        child["parent"] == task.id, child["tags"], child["hyperparams"]["General"]["lr"]["value"],
        server.scalars(child["id"])["loss", "loss"], len(images), len(server.tasks),
        server.scalars(task.id).get(("loss", "loss")), server.schema_violations,
    ]))
    """
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [
        True, ["quick"], "0.5", {"1": 0.5}, 1, 2, None, [],
    ]  # fmt: skip
    assert done.stderr.count("goes on offline") == 1
    assert "artifact 'thing.json' is not on the server" in done.stderr


@pytest.mark.slow
def test_after_a_run_that_could_not_be_closed_its_task_is_current_no_more(run_with_server):
    """Else the next run logs to it, and its parent's bindings. `tracelet sync` sends the rest."""
    done = run_with_server("""
    from clearml import Task
    from clearml.binding.frameworks.tensorflow_bind import PatchSummaryToEventTransformer as Binding
    from tracelet.cli import main
    config = {"auto_resource_monitoring": False, "stop_timeout_s": 2}
    ids = []

    def run_with_an_outage(block):
        with block as experiment:
            ids.append(experiment.id)
            experiment.log_metric("before", 1.0, 1)
            assert experiment.flush(60)
            server.stop()
            experiment.log_metric("during", 2.0, 2)
        assert experiment.stats.pending
        server.start()

    run_with_an_outage(tracelet.logging("clearml", exp_name="first", config=config))
    assert Task.current_task() is None
    Task._report_subprocess_enabled = False  # a forked reporter would hold the server's port
    parent = Task.init("tests", "parent", auto_resource_monitoring=False)
    run_with_an_outage(tracelet.logging("clearml", exp_name="child", config=config))
    assert Task.current_task() is Binding._current_task is parent
    config["stop_timeout_s"] = 60  # this one has its server, and is to be closed in time
    with tracelet.logging("clearml", exp_name="second child", config=config) as experiment:
        ids.append(experiment.id)
        experiment.log_metric("during", 2.0, 2)
    assert Task.current_task() is parent
    parent.close()
    code = main(["sync", "--all"])
    tasks = [server.tasks[id] for id in ids]
    print(json.dumps([
        code, [each["name"] for each in tasks], [each["status"] for each in tasks],
        [each.get("parent") == parent.id for each in tasks],
        [server.scalars(id)["during", "during"] for id in ids],
        server.scalars(parent.id).get(("during", "during")),
    ]))
    """, timeout_s=400)  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == [
        0, ["first", "child", "second child"], ["stopped", "stopped", "completed"],
        [False, True, True], [{"2": 2.0}] * 3, None,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [False, True])
def test_under_an_agent_the_session_goes_into_the_task_that_it_gave(
    clearml_server, run_script, tmp_path, is_killed
):
    task = clearml_server.add_task("remote")
    environment = {**clearml_server.environment(), "CLEARML_CACHE_DIR": str(tmp_path / "clearml")}
    clearml_server.stop()
    done = run_script(
        f"""
        import os, signal, tracelet
        experiment = tracelet.start_logging("exp", "tests", config={{"start_timeout_s": 3}})
        experiment.log_metric("loss", 1.0, 5)
        experiment.log_params({{"lr": 0.5}})
        if {is_killed}:
            os.kill(os.getpid(), signal.SIGKILL)
        tracelet.stop_logging()
        """,
        env={**environment, "CLEARML_TASK_ID": task},
        check=False,
    )
    assert done.returncode == (-9 if is_killed else 0), done.stderr
    assert done.stderr.count("goes on offline") == 1
    clearml_server.start()
    run_script("from tracelet.cli import main; exit(main(['sync', '--all']))", env=environment)
    assert list(clearml_server.tasks) == [task]
    assert clearml_server.tasks[task]["name"] == "remote"
    assert clearml_server.scalars(task)["loss", "loss"] == {5: 1.0}
    assert clearml_server.tasks[task]["hyperparams"]["General"]["lr"]["value"] == "0.5"
    assert clearml_server.schema_violations == []


def test_wrong_credentials_are_an_error_at_once(run_with_server):
    done = run_with_server("""
    os.environ["CLEARML_API_SECRET_KEY"] = "wrong"
    began_s = time.monotonic()
    try:
        start(start_timeout_s=300)
    except tracelet.CredentialsError as error:
        print("raised:", error)
    assert time.monotonic() - began_s < 100
    """)
    assert "raised: " in done.stdout


@pytest.mark.slow
def test_other_backends_of_the_run_stay_online(run_with_server):
    done = run_with_server("""
    from recording_sink import RecordingSink
    sink = RecordingSink()
    tracelet.register_sink("mine", lambda info: sink)
    server.stop()
    experiment = tracelet.start_logging(
        "exp", "tests", backend=["clearml", "mine"], config={"start_timeout_s": 2}
    )
    experiment.log_metric("loss", 1.0, 0)
    tracelet.stop_logging()
    print(json.dumps(experiment.stats.delivered))
    """)
    delivered = json.loads(done.stdout.splitlines()[-1])
    assert delivered["clearml"] == 1
    assert sum(delivered.values()) == 2


@pytest.mark.parametrize(
    ("seed", "is_same"),
    [(None, False), *(pytest.param(s, True, marks=pytest.mark.slow) for s in (True, 3))],
)
def test_a_start_leaves_the_seeds_alone(run_script, seed, is_same):
    """The SDK's default makes all runs of a sweep alike: it is asked for, not given."""
    code = f"""
    import random, numpy, torch, tracelet
    config = {{}} if {seed!r} is None else {{"random_seed": {seed!r}}}
    random.seed(); numpy.random.seed(); torch.seed()
    torch_before = torch.get_rng_state()
    tracelet.start_logging("exp", "tests", config=config)
    same = torch.equal(torch_before, torch.get_rng_state())
    print("drawn", same, random.random(), numpy.random.rand(), torch.rand(1).item())
    tracelet.stop_logging()
    """

    def drawn() -> list[str]:
        out = run_script(code).stdout
        return next(line for line in out.splitlines() if line.startswith("drawn")).split()[1:]

    first, second = drawn(), drawn()
    assert (first[0] == "True") != is_same
    assert [a == b for a, b in zip(first[1:], second[1:])] == [is_same] * 3


@pytest.mark.slow
def test_sync_imports_the_session_once_the_server_is_back(run_with_server):
    """Into one task, with all its points; a second sync finds nothing to do."""
    done = run_with_server("""
    from tracelet.cli import main
    server.stop()
    experiment = start(start_timeout_s=2)
    for step in range(30):
        experiment.log_metric("loss", step, step)
    experiment.log_params({"lr": 0.5})
    tracelet.stop_logging()
    server.start()
    codes = [main(["sync", "--all"]), main(["sync", "--all"])]
    (task,) = server.tasks
    points = server.scalars(task)[("loss", "loss")]
    print(json.dumps([codes, sorted(points.values()), str(server.tasks[task]), task]))
    """)
    codes, values, task, task_id = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0, 0]
    assert values == list(range(30))
    assert "'lr'" in task
    (told,) = [line for line in done.stdout.splitlines() if "session is imported" in line]
    assert task_id in told


@pytest.mark.slow
def test_sync_imports_into_the_task_that_the_run_was_to_go_on_with(run_with_server):
    done = run_with_server("""
    from tracelet.cli import main
    task = server.add_task("exp", project=None)
    server.stop()
    experiment = start(start_timeout_s=2, continue_last_task=task)
    experiment.log_metric("loss", 1.0, 5)
    tracelet.stop_logging()
    server.start()
    server.faults.add("400", times=1)  # what it does not take now, the same task gets later
    codes = [main(["sync", experiment._run.folder.run_id]) for _ in range(2)]
    print(json.dumps([codes, list(server.tasks) == [task], server.scalars(task)[("loss", "loss")]]))
    """)
    codes, is_only, points = json.loads(done.stdout.splitlines()[-1])
    assert codes == [1, 0]
    assert is_only
    assert points == {"5": 1.0}


@pytest.mark.parametrize("is_adopted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_process_ends_in_time_with_the_server_down(run_with_server, is_adopted):
    """The SDK's hook at the end joins its threads without a time-out; the exit code stays."""
    done = run_with_server(f"""
    if {is_adopted}:
        from clearml import Task
        Task.init("tests", "mine", auto_resource_monitoring=False)
    experiment = start(exit_timeout_s=3)
    experiment.log_metric("loss", 1.0, 5)
    server.stop()
    experiment.log_metric("loss", 1.0, 6)
    print("ending", time.time())
    sys.exit(3)
    """, check=False, timeout_s=150)  # fmt: skip
    ended_s = time.time()
    assert done.returncode == 3, done.stderr
    (began,) = [line for line in done.stdout.splitlines() if line.startswith("ending")]
    assert ended_s - float(began.split()[1]) < 40


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "kill"), reason="signals")
def test_sigterm_ends_the_process_with_the_server_down(run_with_server):
    done = run_with_server("""
    import signal
    experiment = start()
    server.stop()
    experiment.log_metric("loss", 1.0, 6)
    print("ending", time.time())
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)
    """, check=False, timeout_s=150)  # fmt: skip
    ended_s = time.time()
    assert done.returncode == -15
    (began,) = [line for line in done.stdout.splitlines() if line.startswith("ending")]
    assert ended_s - float(began.split()[1]) < 25  # 10, and a busy machine
