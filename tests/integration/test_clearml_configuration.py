"""Configuration of the ClearML backend: options, variables, the file, what wrong ones say."""

from __future__ import annotations

import pytest

pytest.importorskip("clearml")


def project_name(server, task):
    return server.projects[task["project"]]["name"]


@pytest.mark.slow
def test_every_option_of_task_init_reaches_the_task(clearml_server, run_script):
    """And those that only ClearML's page knows, from the environment."""
    done = run_script(
        """
        import tracelet
        experiment = tracelet.start_logging(
            "ignored", "Vision/Classification",
            config={
                "task_name": "all options", "task_type": "data_processing", "tags": ["a", "b"],
                "output_uri": True, "auto_connect_frameworks": {"matplotlib": False},
                "auto_connect_arg_parser": {"secret": False}, "auto_resource_monitoring": False,
                "auto_connect_streams": {"stdout": True}, "reuse_last_task_id": False,
                "continue_last_task": False, "random_seed": 7, "comment": "what it is",
                "docker": {"image": "python:3.11", "arguments": "--ipc=host"},
            },
        )
        tracelet.stop_logging()
        tracelet.start_logging()
        tracelet.stop_logging()
        from clearml import Task
        print(experiment.id, Task._random_seed)
        """,
        env={
            **clearml_server.environment(),
            "CLEARML_PROJECT_NAME": "from clearml",
            "CLEARML_TASK_NAME": "task from clearml",
        },
    )
    task, other = clearml_server.tasks.values()
    assert f"{task['id']} 1337" in done.stdout  # the user's own tasks keep the SDK's seed
    assert task["name"] == "all options"
    assert project_name(clearml_server, task) == "Vision/Classification"
    assert task["type"] == "data_processing"
    assert set(task["tags"]) >= {"a", "b"}
    assert task["comment"] == "what it is"
    assert task["container"]["image"] == "python:3.11"
    assert "--ipc=host" in str(task["container"]["arguments"])
    assert task["output"]["destination"] == clearml_server.files_url
    assert task["status"] == other["status"] == "completed"
    assert other["name"] == "task from clearml"
    assert project_name(clearml_server, other) == "from clearml"
    assert clearml_server.schema_violations == []


@pytest.mark.slow
def test_what_is_set_after_clearml_was_imported(run_script):
    """And seeds: the user's, or none, or the SDK's."""
    done = run_script(
        """
        import clearml, logging, os, tracelet
        import numpy  # not random: the SDK draws from that itself
        os.environ["CLEARML_OFFLINE_MODE"] = "1"
        os.environ["CLEARML_LOG_LEVEL"] = "CRITICAL"
        numpy.random.seed(5); expected = numpy.random.rand(); numpy.random.seed(5)
        experiment = tracelet.start_logging("late", "tests", config={"random_seed": False})
        assert numpy.random.rand() == expected  # left alone
        print(logging.getLogger("clearml").level, "offline" in experiment.url)
        tracelet.stop_logging()
        tracelet.start_logging("late", "tests", config={"random_seed": 11})
        first = numpy.random.rand(); numpy.random.seed(11)
        print("same", first == numpy.random.rand())
        """,
        env={"CLEARML_OFFLINE_MODE": "", "CLEARML_LOG_LEVEL": "INFO"},
    )
    assert "50 True" in done.stdout
    assert "same True" in done.stdout


CONFIGURATION = """
api {
    web_server: URL
    api_server: URL
    files_server: FILES
    credentials {
        "access_key" = "KEY"
        "secret_key" = "SECRET"
    }
}
"""


@pytest.mark.slow
def test_the_file_in_the_folder_of_that_name(clearml_server, run_script, tmp_path):
    """~/.clearml/clearml.conf, which the SDK does not know, also when it has read its own; before
    it is there, the missing credentials are told."""
    text = CONFIGURATION.replace("URL", clearml_server.url)
    for word, value in [
        ("FILES", clearml_server.files_url),
        ("KEY", clearml_server.auth.access_key),
        ("SECRET", clearml_server.auth.secret_key),
    ]:
        text = text.replace(word, value)
    (tmp_path / "clearml.conf").write_text(text)
    done = run_script(
        """
        import os, pathlib, shutil, tracelet
        try:
            tracelet.start_logging("refused", "tests", "clearml")
        except tracelet.CredentialsError as error:
            print("told:", error)
        assert tracelet.get_active_experiment() is None
        folder = pathlib.Path.home() / ".clearml"
        folder.mkdir(parents=True)
        shutil.move("clearml.conf", folder)
        tracelet.start_logging("from file", "tests")
        tracelet.stop_logging()
        """,
        env={"HOME": str(tmp_path / "home"), "CLEARML_OFFLINE_MODE": ""},
    )
    assert "told: ClearML has no credentials here. Run `clearml-init`" in done.stdout
    (task,) = clearml_server.tasks.values()
    assert (task["name"], task["status"]) == ("from file", "completed")


@pytest.mark.slow
def test_what_can_not_be_started_is_told_at_start(clearml_server, run_script):
    """Credentials that the server does not know, and a task to continue that it does not have."""
    done = run_script(
        """
        import os, tracelet
        def start(config=None):
            try:
                tracelet.start_logging("refused", "tests", config=config)
            except tracelet.TraceletError as error:
                print(type(error).__name__, error)
            assert tracelet.get_active_experiment() is None
        good = os.environ["CLEARML_API_SECRET_KEY"]
        os.environ["CLEARML_API_SECRET_KEY"] = "wrong-secret-words"
        start()
        os.environ["CLEARML_API_SECRET_KEY"] = good
        start({"continue_last_task": "0" * 32})
        """,
        env=clearml_server.environment(),
    )
    assert "CredentialsError ClearML's server does not know these credentials" in done.stdout
    assert "clearml-init" in done.stdout
    assert "wrong-secret-words" not in done.stdout + done.stderr
    assert "ConfigurationError" in done.stdout
    assert "there is no such task" in done.stdout
    assert not clearml_server.tasks


@pytest.mark.slow
def test_a_task_is_continued_without_a_shift(clearml_server, run_script):
    """True, 0 and the id: the same task, the same steps; what is logged again overwrites."""
    code = """
        import tracelet
        from clearml import Logger, Task
        ids = set()
        def run(number, wanted):
            experiment = tracelet.start_logging(
                "resumed", "tests", config={"continue_last_task": wanted})
            for step in range(number * 50, number * 50 + 100):
                experiment.log_metric("loss", float(step + number), step)
            assert Task.current_task().get_initial_iteration() == 0
            Logger.current_logger().report_scalar("sdk", "own", 1.0, iteration=number)
            tracelet.stop_logging()
            ids.add(experiment.id)
            return experiment.id
    """
    environment = clearml_server.environment()
    run_script(code + "    run(0, False)", env=environment)
    run_script(
        code + "    run(3, run(2, run(1, True) and 0)); assert len(ids) == 1", env=environment
    )
    (task,) = clearml_server.tasks
    assert clearml_server.scalars(task)["loss", "loss"] == {
        step: float(step + min(step // 50, 3)) for step in range(250)
    }
    assert set(clearml_server.scalars(task)["sdk", "own"]) == {0, 1, 2, 3}
    assert clearml_server.tasks[task]["status"] == "completed"
    assert clearml_server.schema_violations == []
