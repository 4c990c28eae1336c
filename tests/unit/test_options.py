"""Options: where they come from, and what is said of wrong ones."""

from __future__ import annotations

import pytest
import tracelet
from tracelet import environment
from tracelet.options import resolve_options


def test_arguments_win_over_the_environment_and_that_over_the_default(monkeypatch):
    assert resolve_options(None, None, None, None).project == "Default Project"
    monkeypatch.setenv("TRACELET_PROJECT", "from environment")
    monkeypatch.setenv("TRACELET_EXPERIMENT_NAME", "named")
    monkeypatch.setenv("TRACELET_BACKEND", "tensorboard, mine")
    options = resolve_options(None, None, None, None)
    assert (options.project, options.exp_name) == ("from environment", "named")
    assert options.backend == ("tensorboard", "mine")
    options = resolve_options("given", "also given", "clearml", None)
    assert (options.exp_name, options.project, options.backend) == (
        "given", "also given", ("clearml",),
    )  # fmt: skip


def test_each_kind_of_option_is_read_from_the_environment(monkeypatch):
    variables = {
        "TRACELET_RING_SLOTS": "1024",
        "TRACELET_STOP_TIMEOUT_S": "1.5",
        "TRACELET_TAGS": "a, b",
        "TRACELET_REUSE_LAST_TASK_ID": "true",
        "TRACELET_OUTPUT_URI": "s3://bucket/folder",
        "TRACELET_AUTO_CONNECT_FRAMEWORKS": '{"matplotlib": false}',
        "TRACELET_AGGREGATE": '{"a*": {"every_steps": 5}}',
    }
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    options = resolve_options(None, None, None, None)
    assert options.ring_slots == 1024
    assert options.stop_timeout_s == 1.5
    assert options.tags == ("a", "b")
    assert options.reuse_last_task_id is True
    assert options.output_uri == "s3://bucket/folder"
    assert options.auto_connect_frameworks == {"matplotlib": False}
    assert options.aggregate == {"a*": {"every_steps": 5}}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"task_nam": "x"}, "did you mean 'task_name'"),
        ({"zzz": 1}, "known: "),
        ({"project": "x"}, "no option 'project'"),
        ({"task_type": "trainig"}, "is not one of training, testing"),
        ({"ring_slots": 1000}, "power of two"),
        ({"drain_interval_s": 0}, "must be positive"),
        ({"aggregate": {"a": 5}}, "must be like"),
        ({"aggregate": {"a": {}}}, "needs one of"),
        ({"aggregate": {"a": {"every_steps": 5, "every_s": 1}}}, "needs one of"),
        ({"aggregate": {"a": {"every_steps": 0}}}, "must be positive"),
        ({"aggregate": {"a": {"every_steps": 2.5}}}, "must be positive"),
        ({"aggregate": {"a": {"every_steps": 2, "reduce": "median"}}}, "reduce must be one of"),
        ({"aggregate": {"a": {"every_step": 2}}}, "has no 'every_step'"),
        ({"project_name": "x"}, "argument `project`"),
        ({"deferred_init": True}, "needs the task's id"),
        ({"continue_last_task": 7}, "shifts no iteration"),
        ({"docker": {"arguments": "x"}}, "needs 'image'"),
    ],
)
def test_wrong_options_name_the_option_and_the_fix(config, words):
    with pytest.raises(tracelet.ConfigurationError, match=words):
        resolve_options(None, None, None, config)


def test_wrong_environment_variables_are_named(monkeypatch):
    monkeypatch.setenv("TRACELET_RING_SLOTS", "many")
    with pytest.raises(tracelet.ConfigurationError, match="TRACELET_RING_SLOTS='many'"):
        resolve_options(None, None, None, None)


def test_wrong_types_raise_type_error():
    with pytest.raises(TypeError, match="config must be a mapping"):
        resolve_options(None, None, None, [("a", 1)])
    with pytest.raises(TypeError, match="backend must be"):
        resolve_options(None, None, 5, None)
    with pytest.raises(TypeError, match="exp_name must be a str"):
        resolve_options(5, None, None, None)


def test_an_unknown_backend_is_named_and_leaves_nothing_behind():
    with pytest.raises(tracelet.ConfigurationError, match="'mlfow' is not known"):
        tracelet.start_logging("run", "project", backend="mlfow")
    assert tracelet.get_active_experiment() is None


def test_a_default_experiment_name_is_never_too_short_for_clearml(monkeypatch):
    monkeypatch.setattr("sys.argv", ["-c"])
    assert resolve_options(None, None, None, None).exp_name == "experiment"
    monkeypatch.setattr("sys.argv", ["/work/train_model.py"])
    assert resolve_options(None, None, None, None).exp_name == "train_model"


def test_names_come_from_clearmls_variables_last(monkeypatch):
    monkeypatch.setenv("CLEARML_PROJECT_NAME", "theirs")
    monkeypatch.setenv("CLEARML_TASK_NAME", "their task")
    options = resolve_options(None, None, None, None)
    assert (options.project, options.exp_name) == ("theirs", "their task")
    monkeypatch.setenv("TRACELET_EXP_NAME", "ours")
    monkeypatch.setenv("TRACELET_TASK_NAME", "our task")
    options = resolve_options(None, None, None, None)
    assert (options.exp_name, options.task_name) == ("ours", "our task")
    options = resolve_options("argument", None, None, None)
    assert (options.exp_name, options.task_name) == ("argument", None)
    options = resolve_options("argument", None, None, {"task_name": "config's"})
    assert options.task_name == "config's"


@pytest.mark.parametrize(
    "config",
    [{"tags": "abc"}, {"tags": [1]}, {"auto_connect_frameworks": "no"}, {"docker": 5}],
)
def test_wrong_types_of_clearmls_options(config):
    with pytest.raises(TypeError, match=next(iter(config))):
        resolve_options(None, None, None, config)


def test_clearmls_configuration_file(monkeypatch, tmp_path):
    for name in ("CLEARML_CONFIG_FILE", "TRAINS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert environment.clearml_config_file() is None
    assert not environment.use_clearml_config_file()
    (tmp_path / ".clearml").mkdir()
    path = tmp_path / ".clearml" / "clearml.conf"
    path.touch()
    (tmp_path / "clearml.conf").touch()
    assert not environment.use_clearml_config_file()  # the SDK finds its own
    (tmp_path / "clearml.conf").unlink()
    monkeypatch.setenv("CLEARML_CONFIG_FILE", "elsewhere")
    assert not environment.use_clearml_config_file()  # the user has named one
    monkeypatch.delenv("CLEARML_CONFIG_FILE")
    assert environment.use_clearml_config_file()
    assert environment.clearml_config_file() == str(path)


def test_the_files_servers_timeout(monkeypatch):
    assert environment.clearml_files_timeout_s() is None
    monkeypatch.setenv("CLEARML_FILES_SERVER_TIMEOUT", "300")
    assert environment.clearml_files_timeout_s() == 300
    for text in ("-1", "0", "soon", "inf", "nan"):
        monkeypatch.setenv("CLEARML_FILES_SERVER_TIMEOUT", text)
        with pytest.raises(tracelet.ConfigurationError, match="CLEARML_FILES_SERVER_TIMEOUT"):
            environment.clearml_files_timeout_s()
