"""Options: where they come from, and what is said of wrong ones."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import tracelet
from tracelet import environment
from tracelet.options import OPTION_NAMES, Options, resolve_options
from tracelet.safe_names import file_name


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


# One row an input: the option, what is given, and what the error says. The option's name is in
# front of each.
WRONG = [
    ("task_nam", "x", "config has no option 'task_nam' (a str); did you mean 'task_name'?"),
    ("zzz", 1, "config has no option 'zzz' (a str); known: log_dir, tensorboard"),
    (5, 1, "config has no option 5 (an int); known: log_dir"),
    ("project", "x", "config has no option 'project': it is an argument of start_logging itself"),
    ("project_name", "x", "it is start_logging's argument `project`"),
    ("deferred_init", True, "needs the task's id at once"),
    ("log_dir", 5, "log_dir must be a path, as str or os.PathLike, not 5 (an int)"),
    ("log_dir", "", "log_dir must be a path that is not empty, not '' (a str)"),
    ("log_dir", "a\0b", r"log_dir must be a path without a NUL character, not 'a\x00b'"),
    ("log_dir", "a\udcff", r"log_dir must be a path without lone surrogates (half a character"),
    ("runs_dir", 5, "runs_dir must be a path, as str or os.PathLike, not 5 (an int)"),
    ("runs_dir", " ", "runs_dir must be a path that is not empty, not ' ' (a str)"),
    ("history_dir", 5, "history_dir must be a path, as str or os.PathLike, not 5 (an int)"),
    ("history_runs", -1, "from 0 to 100000 runs; 0: no record is kept, not -1 (an int)"),
    ("ring_dir", ["x"], "ring_dir must be a path, as str or os.PathLike, not a list"),
    ("tensorboard", "nativ", "must be one of 'native', 'passthrough', 'off', not 'nativ' (a str); "
     "did you mean 'native'?"),
    ("tensorboard", True, "must be one of 'native', 'passthrough', 'off', not True"),
    ("ring_slots", "1024", "a power of two from 16 to 16777216 slots, not '1024' (a str)"),
    ("ring_slots", 1000, "ring_slots must be a power of two from 16 to 16777216 slots, not 1000"),
    ("ring_slots", 8, "not 8 (an int)"),
    ("ring_slots", 1 << 30, "not 1073741824 (an int)"),
    ("ring_slots", 1 << 300, "not an int of 301 bits"),
    ("ring_slots", 1024.0, "not 1024.0 (a float)"),
    ("ring_slots", True, "not True"),
    ("payload_bytes", 100, "payload_bytes must be an int from 65536 to 1073741824 bytes, not 100"),
    ("payload_bytes", "16M", "not '16M' (a str)"),
    ("full_ring_timeout_s", "x", "full_ring_timeout_s must be a number of seconds, 0 or more; "
     "0: no wait, not 'x' (a str)"),
    ("full_ring_timeout_s", -1, "not -1 (an int)"),
    ("full_ring_timeout_s", float("nan"), "not nan (a float)"),
    ("full_ring_timeout_s", [1], "not a list"),
    ("drain_interval_s", "0.1", "a number of seconds, 0.001 or more, not '0.1' (a str)"),
    ("drain_interval_s", 0, "a number of seconds, 0.001 or more, not 0 (an int)"),
    ("drain_interval_s", 1e-300, "not 1e-300 (a float)"),
    ("drain_interval_s", False, "not False"),
    ("batch_max_points", "5", "batch_max_points must be an int from 1 to 16777216 points, not '5'"),
    ("batch_max_points", 0, "not 0 (an int)"),
    ("batch_max_bytes", 1.5, "batch_max_bytes must be an int from 1 to 1073741824 bytes, not 1.5"),
    ("batch_max_age_s", "2", "batch_max_age_s must be a number of seconds, 0 or more; 0: no wait"),
    ("batch_max_age_s", -2, "not -2 (an int)"),
    ("stop_timeout_s", "30", "stop_timeout_s must be a number of seconds, 0.001 or more, not '30'"),
    ("stop_timeout_s", 1j, "not a complex"),
    ("exit_timeout_s", -5, "exit_timeout_s must be a number of seconds, 0.001 or more, not -5"),
    ("exit_timeout_s", "x", "not 'x' (a str)"),
    ("mlflow", "http://host", "mlflow must be"),
    ("wandb", "offline", "wandb must be"),
    ("aim", "folder", "aim must be"),
    ("start_timeout_s", "30", "start_timeout_s must be a number of seconds"),
    ("on_unreachable", "offlin", "not 'offlin' (a str); did you mean 'offline'?"),
    ("exit_timeout_s", -(10**400), "not an int of 1329 bits"),
    ("journal_sync_interval_s", -1, "0: whenever the operating system does, not -1 (an int)"),
    ("journal_sync_interval_s", {}, "not a dict"),
    ("journal_limit_bytes", 5, "an int from 1048576 to 4611686018427387904 bytes, not 5 (an int)"),
    ("journal_overflow", "blok", "'block', 'drop_oldest', 'drop_new', not 'blok' (a str); did you "
     "mean 'block'?"),
    ("aggregate", ["a"], "aggregate must be a mapping of tag patterns to rules, not a list"),
    ("aggregate", {1: {"every_steps": 5}}, "aggregate must have str for keys, not 1 (an int)"),
    ("aggregate", {"a": 5}, """aggregate['a'] must be like {"every_steps": 100, """),
    ("aggregate", {"a": {}}, "aggregate['a'] needs one of every_steps and every_s"),
    ("aggregate", {"a": {"every_steps": 5, "every_s": 1}}, "needs one of every_steps and every_s"),
    ("aggregate", {"a": {"every_steps": 0}}, "the window must be positive, not 0 (an int)"),
    ("aggregate", {"a": {"every_s": float("inf")}}, "the window must be positive, not inf"),
    ("aggregate", {"a": {"every_steps": 10**40}}, "the window must be positive, not 10000000000"),
    ("aggregate", {"a": {"every_steps": 2.5}}, "every_steps must be an int, not 2.5 (a float)"),
    ("aggregate", {"a": {"every_steps": 2, "reduce": "median"}}, "reduce must be one of mean, "
     "last, min_max, not 'median' (a str)"),
    ("aggregate", {"a": {"every_steps": 2, "reduce": []}}, "reduce must be one of mean, last"),
    ("ranks", "each", "ranks must be a mapping of tag patterns"),
    ("ranks", {1: "each"}, "ranks must have str for keys, not 1 (an int)"),
    ("ranks", {"*": "mean"}, "ranks['*'] must be one of first, each, not 'mean'"),
    ("ranks", {"*": ["each"]}, "ranks['*'] must be one of first, each, not a list"),
    ("rank_window_s", "1m", "rank_window_s must be a number of seconds"),
    ("aggregate", {"a": {"every_step": 2}}, "has no 'every_step': every_steps, every_s, reduce; "
     "did you mean 'every_steps'?"),
    ("histogram_threads", -1, "an int from 0 to 256 threads; 0: it chooses, not -1 (an int)"),
    ("histogram_threads", "all", "not 'all' (a str)"),
    ("histogram_view_interval_s", "1m", "histogram_view_interval_s must be a number of seconds"),
    ("task_name", "", "task_name must be a name (a str) that is not empty or blank, not ''"),
    ("task_type", "trainig", "'training', 'testing', 'inference', 'data_processing'"),
    ("task_type", "trainig", "not 'trainig' (a str); did you mean 'training'?"),
    ("tags", "abc", 'tags must be a list of str, like ["baseline"], not \'abc\' (a str)'),
    ("tags", [1], 'tags must be a list of str, like ["baseline"]; it holds 1 (an int)'),
    ("tags", ["a\0"], r"tags must be text without a NUL character, not 'a\x00' (a str)"),
    ("output_uri", 5, "output_uri must be True or False or a URL or a path, not 5 (an int)"),
    ("auto_connect_frameworks", "no", "must be True or False or a mapping, not 'no' (a str)"),
    ("auto_connect_arg_parser", 1, "must be True or False or a mapping, not 1 (an int)"),
    ("auto_resource_monitoring", "x", "must be True or False or a mapping, not 'x' (a str)"),
    ("auto_connect_streams", {1: True}, "must be True or False or a mapping, not a dict"),
    ("continue_last_task", 7, "continue_last_task=7: tracelet shifts no iteration; give True"),
    ("continue_last_task", "", "a task's id that is not empty or blank, not '' (a str)"),
    ("continue_last_task", 1.5, "must be True, False or a task's id, not 1.5 (a float)"),
    ("reuse_last_task_id", 5, "reuse_last_task_id must be True or False or a task's id"),
    ("random_seed", "x", "an int from 0 to 4294967295 or True or False, not 'x' (a str)"),
    ("random_seed", -1, "not -1 (an int)"),
    ("comment", 5, "comment must be a str, not 5 (an int)"),
    ("docker", 5, "docker must be an image's name that is not empty or blank or a mapping"),
    ("docker", {"arguments": "-e KEY=secret"}, "needs 'image'; it has arguments"),
    ("quiet", "yes", "quiet must be True or False, not 'yes' (a str)"),
    ("environment", "yes", "environment must be True or False, not 'yes' (a str)"),
    ("git_diff", 1, "git_diff must be True or False, not 1 (an int)"),
    ("system_metrics", "on", "system_metrics must be True or False, not 'on' (a str)"),
    ("system_interval_s", 0.0, "system_interval_s must be a number of seconds, 0.1 or more"),
    ("console", "all", "console must be True or False, not 'all' (a str)"),
    ("child_task", "yes", "child_task must be True or False, not 'yes' (a str)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given", "words"), WRONG, ids=[f"{n}-{row[0]}" for n, row in enumerate(WRONG)]
)
def test_wrong_options_name_the_option_what_was_given_and_the_fix(name, given, words):
    """Of a wrong type it is a TypeError as well, and never another library's error."""
    with pytest.raises(tracelet.ConfigurationError) as raised:
        resolve_options("name", "project", "tensorboard", {name: given})
    message = str(raised.value)
    assert words in message
    assert str(name) in message
    assert "secret" not in message
    assert len(message) < 800


def test_each_option_has_a_row_in_the_table():
    rows = {name for name, _, _ in WRONG}
    names = {each.name for each in dataclasses.fields(Options)}
    assert names - rows == {"exp_name", "backend"}  # arguments of the call, below


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", "p", None, None), "exp_name must be a name (a str) that is not empty or blank"),
        (("  ", "p", None, None), "that is not empty or blank, not '  ' (a str)"),
        (
            (5, "p", None, None),
            "exp_name must be a name (a str) that is not empty or blank, not 5",
        ),
        (("a\0b", "p", None, None), "exp_name must be text without a NUL character"),
        (("a\ud800", "p", None, None), "exp_name must be text without lone surrogates"),
        (("name", 5, None, None), "project must be a name (a str), not 5 (an int)"),
        (("name", "p\0", None, None), "project must be text without a NUL character"),
        (("name", "p", "", None), "backend must name a backend"),
        (("name", "p", [], None), "backend must name a backend"),
        (("name", "p", ["clearml", ""], None), "it is partly empty"),
        (("name", "p", 5, None), "backend must be a name or a list of names"),
        (("name", "p", [5], None), "not a list with 5 (an int)"),
        (("name", "p", None, [("a", 1)]), "config must be a mapping of options, not a list"),
    ],
)
def test_wrong_arguments_of_the_call(arguments, words):
    with pytest.raises(tracelet.ConfigurationError) as raised:
        resolve_options(*arguments)
    assert words in str(raised.value)
    is_type_error = any(isinstance(each, (int, list)) and each for each in arguments[:2])
    assert not is_type_error or isinstance(raised.value, TypeError)


def test_a_wrong_type_is_a_type_error_too():
    for config in ({"tags": "abc"}, {"ring_slots": "1024"}, {"docker": 5}, {"log_dir": 5}):
        with pytest.raises(TypeError, match=next(iter(config))):
            resolve_options(None, None, None, config)


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("TRACELET_RING_SLOTS", "many", "TRACELET_RING_SLOTS='many': ring_slots must be a power"),
        ("TRACELET_RING_SLOTS", "1000", "TRACELET_RING_SLOTS='1000': ring_slots must be a power"),
        ("TRACELET_STOP_TIMEOUT_S", "soon", "stop_timeout_s must be a number of seconds"),
        ("TRACELET_STOP_TIMEOUT_S", "-1", "TRACELET_STOP_TIMEOUT_S='-1': stop_timeout_s must be"),
        ("TRACELET_AGGREGATE", "[", "TRACELET_AGGREGATE='[': aggregate must be a mapping"),
        ("TRACELET_AGGREGATE", "[1]", "TRACELET_AGGREGATE='[1]': aggregate must be a mapping"),
        ("TRACELET_CHILD_TASK", "maybe", "child_task must be True or False"),
        ("TRACELET_TASK_TYPE", "trainig", "did you mean 'training'?"),
        ("TRACELET_BACKEND", " , ", "TRACELET_BACKEND=' , ': backend must name a backend"),
    ],
)
def test_wrong_environment_variables_are_named(monkeypatch, variable, text, words):
    monkeypatch.setenv(variable, text)
    with pytest.raises(tracelet.ConfigurationError) as raised:
        resolve_options(None, None, None, None)
    assert words in str(raised.value)


def test_an_unknown_variable_is_told_once_with_the_nearest_name(monkeypatch, caplog):
    monkeypatch.setattr(environment, "_warned", set())
    monkeypatch.setenv("TRACELET_RING_SLOT", "1024")
    monkeypatch.setenv("TRACELET_SOAK_S", "5")  # of the tests
    for _ in range(2):
        resolve_options(None, None, None, None)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "TRACELET_RING_SLOT sets no option; did you mean TRACELET_RING_SLOTS?" in told[0]


def test_the_variables_that_name_a_job_are_no_typos(monkeypatch, caplog):
    monkeypatch.setattr(environment, "_warned", set())
    for name in ("RANK", "WORLD_SIZE", "NODE", "JOB"):
        monkeypatch.setenv(f"TRACELET_{name}", "1")
    resolve_options(None, None, None, None)
    assert [record.getMessage() for record in caplog.records] == []


def test_times_without_an_end_are_a_year():
    config = {
        "stop_timeout_s": math.inf, "drain_interval_s": 1e10, "batch_max_age_s": 10**400,
        "exit_timeout_s": np.float32(5), "full_ring_timeout_s": np.int64(3),
    }  # fmt: skip
    options = resolve_options(None, None, None, config)
    year_s = 365 * 86400
    assert (options.stop_timeout_s, options.drain_interval_s) == (year_s, year_s)
    assert options.batch_max_age_s == year_s
    assert (options.exit_timeout_s, options.full_ring_timeout_s) == (5.0, 3.0)


def test_a_path_may_stand_wherever_a_str_does(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = {
        "log_dir": tmp_path / "logs", "runs_dir": Path("~/runs"), "ring_dir": tmp_path,
        "output_uri": tmp_path / "out",
    }  # fmt: skip
    options = resolve_options(None, None, None, config)
    assert options.log_dir == str(tmp_path / "logs")
    assert options.runs_dir == str(tmp_path / "runs")
    assert options.ring_dir == str(tmp_path)
    assert options.output_uri == str(tmp_path / "out")
    assert resolve_options(None, None, None, {"output_uri": "s3://b/~"}).output_uri == "s3://b/~"


def test_a_long_name_is_shortened_and_told(caplog):
    options = resolve_options("x" * 5000, None, None, {"task_name": "y" * 5000})
    assert len(options.exp_name) == len(options.task_name) == 200
    other = resolve_options("x" * 4999, None, None, None)
    assert other.exp_name != options.exp_name
    assert "exp_name has 5000 characters and is shortened to 'xxx" in caplog.text


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("run", "run"),
        ("a/b", "a_b"),
        ("/etc/x", "_etc_x"),
        ("../../escaped", ".._.._escaped"),
        ("..", "__"),
        (".", "_"),
        ("a\\b:c", "a_b_c"),
        ("a.", "a"),
        (" \n", "_"),
        ("\ud800", "_"),
        ("ünïcode 名前", "ünïcode 名前"),
    ],
)
def test_names_become_safe_names_of_files(name, safe):
    assert file_name(name) == safe


def test_long_names_fit_a_file_system_and_stay_two():
    for letter in ("x", "名"):
        first, second = file_name(letter * 5000), file_name(letter * 5001)
        assert first != second
        assert max(len(first.encode()), len(second.encode())) <= 200


def test_the_page_of_the_options_is_what_the_declarations_say():
    path = Path(__file__).parents[2] / ".ci" / "options_page.py"
    spec = importlib.util.spec_from_file_location("options_page", path)
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = page.PATH.read_text("utf-8")
    assert text == page.page(), "write it anew: .venv/bin/python .ci/options_page.py"


def test_the_type_of_config_is_what_the_declarations_say():
    path = Path(__file__).parents[2] / ".ci" / "config_types.py"
    spec = importlib.util.spec_from_file_location("config_types", path)
    types = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(types)
    text = types.PATH.read_text("utf-8")
    assert text == types.text(), "write it anew: .venv/bin/python .ci/config_types.py"
    arguments = set(types.ARGUMENTS)
    assert set(tracelet.Config.__annotations__) == OPTION_NAMES - arguments


def test_an_unknown_backend_is_named_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(tracelet.ConfigurationError, match="'mlfow' is not known"):
        tracelet.start_logging("run", "project", backend="mlfow")
    with pytest.raises(tracelet.ConfigurationError, match="did you mean 'tensorboard'"):
        tracelet.start_logging("run", "project", backend="TensorBoard")
    assert tracelet.get_active_experiment() is None
    assert not (tmp_path / "tracelet-runs").exists()


def test_a_mistake_in_the_call_leaves_the_run_before_it_alone():
    experiment = tracelet.start_logging("run", "project", backend="tensorboard")
    for arguments in (("run", "project", "mlfow"), ("r", "", "clearml"), ("", "p", "tensorboard")):
        with pytest.raises(tracelet.ConfigurationError):
            tracelet.start_logging(*arguments)
    for wrong in ("30", -1, math.nan, None.__class__):
        with pytest.raises(tracelet.ConfigurationError, match="timeout_s must be a number"):
            tracelet.stop_logging(wrong)
        with pytest.raises(tracelet.ConfigurationError, match="timeout_s must be a number"):
            experiment.flush(wrong)
    assert experiment.is_active
    experiment.log_metric("a", 1.0, 1)
    assert experiment.flush(math.inf)
    tracelet.stop_logging(math.inf)
    assert experiment.stats.delivered == {"tensorboard": 1}


def test_a_name_given_to_the_block_for_its_backend_is_told():
    block = tracelet.logging("myrun")
    with pytest.raises(tracelet.ConfigurationError, match=r"logging\(exp_name='myrun'\)"):
        block.__enter__()


@pytest.mark.parametrize("name", ["ab", "../../escaped", "/etc/x"])
def test_any_name_is_taken_where_clearml_is_not_asked(name, tmp_path, monkeypatch):
    """And the folder of its event file stays within `runs`, whatever the name is."""
    home = tmp_path / "a" / "b"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    experiment = tracelet.start_logging(name, "", backend="tensorboard")
    experiment.log_metric("a", 1.0, 1)
    tracelet.stop_logging()
    assert experiment.stats.delivered == {"tensorboard": 1}
    files = [each for each in tmp_path.rglob("events.out.*")]
    assert [each.parent.parent for each in files] == [home / "runs"]
    with pytest.raises(tracelet.ConfigurationError, match="too short for ClearML"):
        tracelet.start_logging(name, "", backend="clearml")


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
