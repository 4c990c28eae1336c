"""Runs inside a task of the user's own, and inside the steps of ClearML's pipelines.

These also watch over the private names of the SDK that `backends/clearml/child_task.py` uses.
"""

from __future__ import annotations

import json

import pytest
from readers import session_scalars

pytest.importorskip("clearml")
pytest.importorskip("torch")

# The supported way to have a task of the user's own report from threads: quick at the end.
THREADS = "sdk.development.report_use_subprocess: false\n"


def by_name(server):
    return {task["name"]: task for task in server.tasks.values()}


def own_scalars(server, task):
    """The scalars without those of the SDK's machine monitor."""
    found = server.scalars(task["id"])
    return {name: points for name, points in found.items() if not name[0].startswith(":monitor")}


def console(server, task):
    return "\n".join(event["msg"] for event in server.logs(task["id"]))


def models(task):
    return [model["name"] for model in task["models"]["output"]]


PARENT_AND_STEPS = """
    import atexit, sys, torch, tracelet
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from clearml import Task
    from torch.utils.tensorboard import SummaryWriter

    parent = Task.init(project_name="ML Pipeline", task_name="Data Processing Pipeline")
    hook = sys.excepthook

    def use_the_current_task(name):
        print("printed by", name)
        torch.save({"weights": torch.zeros(2)}, name + ".pt")
        torch.save({"weights": torch.zeros(2)}, "model.pt")
        pyplot.plot([1, 2], [3, 4])
        pyplot.title("figure of " + name)
        pyplot.show()

    for step in ("data_preprocessing", "model_training"):
        with tracelet.logging("clearml", step, config={"output_uri": True}) as experiment:
            assert Task.current_task().id == experiment.id != parent.id
            writer = SummaryWriter("runs/" + step)
            for index in range(100):
                writer.add_scalar("train/loss", index, index)
            experiment.log_params({"step": step})
            use_the_current_task(step)
        assert Task.current_task() is parent

    try:
        with tracelet.logging("clearml", exp_name="failing_step"):
            raise ValueError("no data")
    except ValueError:
        pass
    with tracelet.logging("clearml") as experiment:
        assert experiment.id == parent.id
        experiment.log_metric("adopted", 1.0, 1)
    experiment = tracelet.start_logging("another name")
    assert experiment.id == parent.id
    experiment.log_metric("adopted", 2.0, 2)
    tracelet.stop_logging()

    assert Task.current_task() is parent
    assert parent.get_status() in ("in_progress", "created")  # "created": offline
    assert sys.excepthook == hook
    parent.get_logger().report_scalar("own", "own", 1.0, 1)
    use_the_current_task("parent")
    tracelet.start_logging("left_open", config={"child_task": True}).log_metric("late", 1.0, 1)
"""


@pytest.mark.slow
def test_each_block_under_the_users_task_is_a_child_of_it(clearml_server, run_script):
    """With the user's task in the SDK's default mode, whose reporter is a process of its own."""
    run_script(PARENT_AND_STEPS, env=clearml_server.environment())
    tasks = by_name(clearml_server)
    parent = tasks.pop("Data Processing Pipeline")
    assert set(tasks) == {"data_preprocessing", "model_training", "failing_step", "left_open"}
    for step in ("data_preprocessing", "model_training"):
        task = tasks[step]
        assert (task["parent"], task["status"]) == (parent["id"], "completed")
        assert task["project"] == parent["project"]
        losses = {index: float(index) for index in range(100)}
        assert own_scalars(clearml_server, task) == {("train", "loss"): losses}
        assert task["hyperparams"]["General"]["step"]["value"] == step
        # ClearML's own bindings: torch.save, matplotlib, the console.
        assert models(task) == [step, "model"]
        plots = clearml_server.events(task["id"], "plot")
        assert [plot["metric"] for plot in plots] == ["figure of " + step]
        assert f"printed by {step}" in console(clearml_server, task)
    assert tasks["failing_step"]["status"] == "failed"
    assert tasks["failing_step"]["status_reason"] == "ValueError: no data"
    assert tasks["left_open"]["status"] == "completed"
    assert own_scalars(clearml_server, tasks["left_open"]) == {("late", "late"): {1: 1.0}}

    assert parent["status"] == "completed"
    assert own_scalars(clearml_server, parent) == {
        ("own", "own"): {1: 1.0},
        ("adopted", "adopted"): {1: 1.0, 2: 2.0},
    }
    assert models(parent) == ["parent", "model"]
    # Three tasks with a model of that file name, and three models.
    owners = {model["task"] for model in clearml_server.models.values() if "model" in model["name"]}
    assert len(owners) == 3
    plots = clearml_server.events(parent["id"], "plot")
    assert [plot["metric"] for plot in plots] == ["figure of parent"]
    printed = console(clearml_server, parent)
    assert "printed by parent" in printed
    assert "printed by model_training" not in printed
    assert clearml_server.schema_violations == []
    assert clearml_server.unknown_endpoints == []


@pytest.mark.slow
def test_a_child_that_is_terminated_is_stopped_and_not_completed(clearml_server, run_script):
    done = run_script(
        """
        import os, signal, time, tracelet
        import clearml
        clearml.Task.init("tests", "parent", auto_resource_monitoring=False)
        with tracelet.logging("clearml", exp_name="child") as experiment:
            experiment.log_metric("a", 1.0, 1)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        """,
        env=clearml_server.environment(),
        check=False,
    )
    assert done.returncode == -15, done.stderr
    child = by_name(clearml_server)["child"]
    assert own_scalars(clearml_server, child) == {("a", "a"): {1: 1.0}}
    assert (child["status"], child["status_reason"]) == ("stopped", "Terminated: SIGTERM")


@pytest.mark.slow
def test_offline_each_block_is_a_session_that_the_sdk_replays(clearml_server, run_script, tmp_path):
    (tmp_path / "clearml.conf").write_text(THREADS)
    run_script(PARENT_AND_STEPS, env={"CLEARML_CONFIG_FILE": str(tmp_path / "clearml.conf")})
    sessions = {}
    for archive in (tmp_path / "clearml").rglob("offline-*.zip"):
        folder = archive.with_suffix("")
        sessions[json.loads((folder / "task.json").read_text())["name"]] = archive
    assert set(sessions) == {
        "Data Processing Pipeline", "data_preprocessing", "model_training", "failing_step",
        "left_open",
    }  # fmt: skip
    points = session_scalars(sessions["model_training"].with_suffix(""))
    assert len(points["train", "loss"]) == 100
    run_script(
        f"""
        from clearml import Task
        for session in {[str(archive) for archive in sessions.values()]!r}:
            Task.import_offline_session(session)
        """,
        env=clearml_server.environment(),
    )
    tasks = by_name(clearml_server)
    assert set(tasks) == set(sessions)
    parent_session = sessions["Data Processing Pipeline"].stem
    for step in ("data_preprocessing", "model_training"):
        assert parent_session in tasks[step]["comment"]
        assert own_scalars(clearml_server, tasks[step])["train", "loss"] == {
            index: float(index) for index in range(100)
        }
    assert own_scalars(clearml_server, tasks["Data Processing Pipeline"]) == {
        ("own", "own"): {1: 1.0},
        ("adopted", "adopted"): {1: 1.0, 2: 2.0},
    }
    assert clearml_server.schema_violations == []


@pytest.mark.slow
def test_signals_after_a_block_are_the_parents_again(run_script, tmp_path):
    """Handlers that are registered anew on another thread cover themselves, and never end."""
    (tmp_path / "clearml.conf").write_text(THREADS)
    done = run_script(
        """
        import os, signal, time, tracelet
        from clearml import Task

        parent = Task.init(project_name="tests", task_name="parent")
        before = signal.getsignal(signal.SIGTERM)
        with tracelet.logging("clearml", exp_name="step") as experiment:
            experiment.log_metric("a", 1.0, 1)
        assert signal.getsignal(signal.SIGTERM) == before
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        hooks = before.__self__
        assert before not in hooks._org_handlers.values()
        """,
        env={"CLEARML_CONFIG_FILE": str(tmp_path / "clearml.conf")},
    )
    assert "interrupted" in done.stdout


def run_file(run_script, tmp_path, code, environment):
    """Runs `code` as a file: a pipeline's steps are started from it again."""
    path = tmp_path / "pipeline.py"
    path.write_text(code)
    (tmp_path / "clearml.conf").write_text(THREADS)
    environment["CLEARML_CONFIG_FILE"] = str(tmp_path / "clearml.conf")
    return run_script(f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')",
                      env=environment)  # fmt: skip


FUNCTION_STEP = """
from clearml import PipelineController


def train(size):
    import tracelet
    from clearml import Task

    size = int(size)
    with tracelet.logging("clearml", exp_name="train_block") as experiment:
        for step in range(10):
            experiment.log_metric("train/loss", size / (step + 1), step)
    with tracelet.logging("clearml") as experiment:
        experiment.log_metric("of the step", 1.0, 0)
    Task.current_task().get_logger().report_scalar("own", "own", 1.0, 1)
    return size * 2


if __name__ == "__main__":
    pipeline = PipelineController("pipe", "ML Pipeline", "1.0", pool_frequency=0.01)
    pipeline.add_parameter("size", 21)
    pipeline.add_function_step(
        "train", train, function_kwargs={"size": "${pipeline.size}"}, function_return=["doubled"]
    )
    pipeline.start_locally(run_pipeline_steps_locally=True)
"""

DECORATED_STEP = """
from clearml import PipelineDecorator


@PipelineDecorator.component(return_values=["doubled"])
def train(size: int):
    import tracelet
    from clearml import Task

    with tracelet.logging("clearml", exp_name="train_block") as experiment:
        for step in range(10):
            experiment.log_metric("train/loss", size / (step + 1), step)
    with tracelet.logging("clearml") as experiment:
        experiment.log_metric("of the step", 1.0, 0)
    Task.current_task().get_logger().report_scalar("own", "own", 1.0, 1)
    return size * 2


@PipelineDecorator.pipeline(name="pipe", project="ML Pipeline", version="1.0", pool_frequency=0.01)
def pipeline(size):
    print("doubled:", int(train(size)))


if __name__ == "__main__":
    PipelineDecorator.run_locally()
    pipeline(21)
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [FUNCTION_STEP, DECORATED_STEP], ids=["function", "decorator"])
def test_a_block_in_a_pipelines_step_is_a_child_of_the_step(
    code, clearml_server, run_script, tmp_path
):
    """The steps are processes that run as an agent would run them, with a task given to them."""
    done = run_file(run_script, tmp_path, code, clearml_server.environment())
    tasks = by_name(clearml_server)
    assert set(tasks) == {"pipe", "train", "train_block"}, done.stderr
    assert tasks["train"]["parent"] == tasks["pipe"]["id"]
    assert tasks["train_block"]["parent"] == tasks["train"]["id"]
    assert {task["status"] for task in tasks.values()} == {"completed"}, done.stderr
    losses = {step: 21 / (step + 1) for step in range(10)}
    assert own_scalars(clearml_server, tasks["train_block"]) == {("train", "loss"): losses}
    assert own_scalars(clearml_server, tasks["train"]) == {
        ("own", "own"): {1: 1.0},
        ("of the step", "of the step"): {0: 1.0},
    }
    if code is DECORATED_STEP:
        assert "doubled: 42" in done.stdout
    assert clearml_server.schema_violations == []
    assert clearml_server.unknown_endpoints == []
