"""`tracelet.start_logging()` where nothing is configured works, and says where the run goes."""

from __future__ import annotations

import os

import pytest
from readers import event_file_scalars

pytest.importorskip("clearml")

PROGRAM = """
import logging, os, tracelet
experiment = tracelet.start_logging("default", "tests", config={"log_dir": "log"})
print("backends", [each.name for each in experiment._run.backends], flush=True)
experiment.log({"loss": 0.5}, step=1)
tracelet.stop_logging()
"""
NOTHING = {"CLEARML_OFFLINE_MODE": "", "TRACELET_BACKEND": "", "CLEARML_CONFIG_FILE": ""}


@pytest.fixture
def run_default(run_script, tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("CLEARML_API", "TRAINS_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()

    def run(code=PROGRAM, **environment):
        return run_script(code, env={**NOTHING, "HOME": str(home), **environment})

    return run


def test_without_an_account_the_run_goes_to_event_files_and_says_so_once(run_default, tmp_path):
    done = run_default(PROGRAM + PROGRAM)
    assert done.stdout.count("backends ['tensorboard']") == 2, done
    assert done.stderr.count("ClearML has no credentials here") == 1, done.stderr
    assert [step for step, _, _ in event_file_scalars(tmp_path / "log")["loss"]] == [1, 1]


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"CLEARML_OFFLINE_MODE": "1"}, "clearml"),
        ({"TRACELET_BACKEND": "tensorboard"}, "tensorboard"),
        ({"CLEARML_OFFLINE_MODE": "1", "TRACELET_BACKEND": "tensorboard"}, "tensorboard"),
    ],
)
def test_what_is_named_or_set_up_is_the_backend_without_a_word(run_default, environment, name):
    done = run_default(**environment)
    assert f"backends ['{name}'" in done.stdout, done
    assert "no credentials" not in done.stderr, done.stderr


def test_an_offline_session_that_the_program_asked_for_is_clearml(run_default):
    done = run_default("import clearml\nclearml.Task.set_offline(True)\n" + PROGRAM)
    assert "backends ['clearml'" in done.stdout, done


def test_clearml_by_name_without_credentials_is_one_short_error(run_default):
    done = run_default("""
        import tracelet, traceback
        try:
            tracelet.start_logging("none", "tests", "clearml")
        except tracelet.CredentialsError:
            text = traceback.format_exc()
            assert "MissingConfigError" not in text, text
            assert text.count('  File "') <= 2, text  # the caller's own line, above all
            print("told:", text.splitlines()[-1])
    """)
    for words in ("clearml-init", "CLEARML_OFFLINE_MODE=1", 'backend="tensorboard"'):
        assert words in done.stdout, done


def test_a_configuration_file_is_a_clearml_that_is_set_up(tmp_path, monkeypatch):
    from tracelet.backends.clearml.set_up import is_set_up

    for name in ("CLEARML_OFFLINE_MODE", "CLEARML_CONFIG_FILE", "CLEARML_API_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.modules", {})
    assert not is_set_up()
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "none.conf"))
    assert not is_set_up()
    (tmp_path / "none.conf").write_text("api {}")
    assert is_set_up()
