"""Parameters go the way of the points: written down at the call, sent behind it, kept for sync."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("clearml")

_TESTS = str(Path(__file__).parents[1])

# Notes the requests that the main thread sends while `requests_of_main` is a list.
_HEAD = """
    import json, logging, os, sys, threading, time
    import tracelet, requests
    requests_of_main = None
    original = requests.adapters.HTTPAdapter.send
    def send(adapter, request, *args, **options):
        is_main = threading.current_thread() is threading.main_thread()
        if requests_of_main is not None and is_main:
            requests_of_main.append(request.url)
        return original(adapter, request, *args, **options)
    requests.adapters.HTTPAdapter.send = send
    CONFIG = {"auto_resource_monitoring": False, "auto_connect_streams": False}
"""


@pytest.fixture
def run_sync(run_script, clearml_server, tmp_path):
    """`tracelet sync` of the one run that there is."""

    def sync(**options):
        (run,) = os.listdir(tmp_path / "tracelet-runs")
        code = f"import sys; from tracelet.cli import main; sys.exit(main(['sync', {run!r}]))"
        return run_script(code, env=clearml_server.environment(), **options)

    return sync


def params_of(server) -> dict[str, str]:
    (task,) = server.tasks.values()
    return {name: item["value"] for name, item in task["hyperparams"]["General"].items()}


def test_an_outage_costs_log_params_no_time_and_no_parameter(run_script):
    code = """
    from clearml_server import ClearMLServer
    server = ClearMLServer().start()
    os.environ.pop("CLEARML_OFFLINE_MODE", None)
    os.environ.update(server.environment())
    experiment = tracelet.start_logging("params", "tests", config=CONFIG)
    assert experiment.flush(100)
    from tracelet.backends.clearml.sdk import wait_for_repository_scan
    wait_for_repository_scan(60)  # it would hold the SDK's lock of the task, repeating a request
    server.stop()
    told = []
    class Told(logging.Handler):
        def emit(self, record):
            told.append(record.getMessage())
    logging.getLogger("tracelet").addHandler(Told())
    requests_of_main = []
    began_s = time.monotonic()
    for n in range(50):
        experiment.log_params({"lr": n, "each": {f"p{n}": [n, "x"]}})
    took_s = time.monotonic() - began_s
    from clearml import Task
    shown = Task.current_task().get_parameters()["General/each/p7"]
    by_main, requests_of_main = requests_of_main, None
    unsent = experiment.stats.unsent_calls
    deadline_s = time.monotonic() + 60
    while not any("parameters can't be sent now" in each for each in told):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    server.start()
    assert experiment.flush(100)
    left = experiment.stats.unsent_calls
    general = server.tasks[experiment.id]["hyperparams"]["General"]
    tracelet.stop_logging()
    print(json.dumps([took_s, by_main, shown, unsent, left, general, told]))
    assert server.schema_violations == []
    """
    env = {"PYTHONPATH": _TESTS + os.pathsep + os.environ.get("PYTHONPATH", "")}
    done = run_script(_HEAD + code, env=env)
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    took_s, by_main, shown, unsent, left, general, told = json.loads(lines[-1])
    assert by_main == []
    assert took_s < 30  # one such call was 62 s
    assert shown == '[7, "x"]'
    assert (unsent, left) == (50, 0)
    assert general["lr"]["value"] == "49"
    assert general["lr"]["type"] == "int"
    assert [general[f"each/p{n}"]["value"] for n in range(50)] == [f'[{n}, "x"]' for n in range(50)]
    assert sum("parameters can't be sent now" in each for each in told) == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_sync_sends_the_parameters_that_a_process_left(
    clearml_server, run_script, run_sync, tmp_path, end
):
    """A killed one, and one whose server took the points and not the parameters: its task is
    completed by then."""
    clearml_server.faults.add("503", endpoints=["tasks.edit_hyper_params"])
    ends = {"kill": "os.kill(os.getpid(), 9)", "stop": "tracelet.stop_logging(timeout_s=2)"}[end]
    code = f"""
    experiment = tracelet.start_logging("params", "tests", config=CONFIG)
    experiment.log_metric("loss", 1.0, 0)
    experiment.log_params({{"lr": 0.1, "old": 1}})
    experiment.log_params({{"lr": 0.2}})
    {ends}
    """
    died = run_script(_HEAD + code, env=clearml_server.environment(), check=False)
    if end == "stop":
        assert (
            "0 points and 2 calls (log_params, set_tags, set_notes) are not delivered yet"
            in died.stderr
        )
        (task,) = clearml_server.tasks.values()
        assert task["status"] == "completed"
    failed = run_sync(check=False)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    clearml_server.faults.clear()
    run_sync()
    assert params_of(clearml_server) == {"lr": "0.2", "old": "1"}
    (task,) = clearml_server.tasks
    assert clearml_server.scalars(task)["loss", "loss"] == {0: 1.0}
    assert os.listdir(tmp_path / "tracelet-runs") == []
    assert clearml_server.schema_violations == []


@pytest.mark.slow
def test_a_parameter_that_is_refused_is_counted_and_costs_no_other(clearml_server, run_script):
    clearml_server.faults.add("400", endpoints=["tasks.edit_hyper_params"], times=3)
    code = """
    experiment = tracelet.start_logging("params", "tests", config=CONFIG)
    experiment.log_params({"a": 1, "b": 2, "c": 3, "d": 4})
    assert experiment.flush(100)
    tracelet.stop_logging()
    print(json.dumps([experiment.stats.not_taken, experiment.stats.unsent_calls]))
    """
    done = run_script(_HEAD + code, env=clearml_server.environment())
    not_taken, unsent = json.loads(done.stdout.splitlines()[-1])
    assert not_taken == {"clearml: refused parameter: 400: Injected fault (subcode 0)": 1}
    assert unsent == 0
    assert params_of(clearml_server) == {"b": "2", "c": "3", "d": "4"}


@pytest.mark.slow
def test_an_agents_overrides_are_written_back_without_a_request(clearml_server, run_script):
    """They were read when the run started; what the task does not have is sent, as ever."""
    items = {"lr": "0.5", "layers": "[3, 4]", "use": "False"}
    task = clearml_server.add_task(
        "edited", status="queued",
        hyperparams={"General": {
            name: {"section": "General", "name": name, "value": value}
            for name, value in items.items()
        }},
    )  # fmt: skip
    code = """
    experiment = tracelet.start_logging("params", "tests", config=CONFIG)
    params = {"lr": 0.1, "layers": [1], "use": True, "new": {"x": 1}}
    requests_of_main = []
    experiment.log_params(params)
    by_main, requests_of_main = requests_of_main, None
    tracelet.stop_logging()
    from tracelet.runs.history import read_records
    (record,), _ = read_records(os.environ["TRACELET_HISTORY_DIR"])
    print(json.dumps([params, by_main, dict(record.params)]))
    """
    env = {**clearml_server.environment(), "CLEARML_TASK_ID": task}
    done = run_script(_HEAD + code, env=env)
    params, by_main, noted = json.loads(done.stdout.splitlines()[-1])
    assert noted == {"lr": 0.5, "layers": "[3, 4]", "use": False, "new/x": 1}
    assert params == {"lr": 0.5, "layers": [3, 4], "use": False, "new": {"x": 1}}
    assert by_main == []
    assert params_of(clearml_server) == {**items, "new/x": "1"}


@pytest.mark.slow
def test_tags_and_notes_arrive_and_survive_a_death(clearml_server, run_script, run_sync):
    code = """
    experiment = tracelet.start_logging("about", "tests", config={**CONFIG, "tags": ["a", "b"]})
    from clearml import Task
    Task.current_task().add_tags(["theirs"])
    experiment.set_tags(["b", "c"])
    experiment.set_notes("first")
    assert experiment.flush(100)
    print(sorted(Task.current_task().get_tags()), flush=True)
    from tracelet.backends.clearml.task_edits import TaskEdits
    from tracelet.errors import SinkUnavailableError
    def away(*_):
        raise SinkUnavailableError("away")
    TaskEdits.describe = away
    experiment.set_tags(["d"])
    experiment.set_notes("second")
    os.kill(os.getpid(), 9)
    """
    died = run_script(_HEAD + code, env=clearml_server.environment(), check=False)
    assert "['b', 'c', 'theirs']" in died.stdout, died
    (task,) = clearml_server.tasks.values()
    assert (sorted(task["tags"]), task["comment"]) == (["b", "c", "theirs"], "first")
    run_sync()
    (task,) = clearml_server.tasks.values()
    assert (sorted(task["tags"]), task["comment"]) == (["d", "theirs"], "second")
    assert clearml_server.schema_violations == []
