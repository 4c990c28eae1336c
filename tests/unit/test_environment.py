"""What a run notes of what it runs in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tracelet
from tracelet.cli import main
from tracelet.monitor import environment, git
from tracelet.monitor.git import Git
from tracelet.pipeline.monitors import EnvironmentNoter
from tracelet.runs.history import RunRecord, read_record, write_record


def commit_all(folder: Path) -> str:
    """Makes a repository of the folder; its one commit."""
    run = ("git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org")
    for words in (("init", "-q", "-b", "work"), ("add", "-A"), ("commit", "-qm", "all")):
        subprocess.run((*run, *words), check=True)
    head = subprocess.run((*run, "rev-parse", "HEAD"), check=True, capture_output=True, text=True)
    return head.stdout.strip()


@pytest.fixture(autouse=True)
def _is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is by default: conftest.py has it off for all other tests."""
    monkeypatch.delenv("TRACELET_ENVIRONMENT")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    folder = tmp_path / "code"
    (folder / "deep").mkdir(parents=True)
    (folder / "train.py").write_text("lr = 1\n")
    monkeypatch.chdir(folder)
    return folder


def fake_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Another program `git`, first in PATH."""
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def record_of_run(**config: object) -> RunRecord:
    experiment = tracelet.start_logging("r", "tests", backend="tensorboard", config=config)
    tracelet.stop_logging()
    record = read_record(os.environ["TRACELET_HISTORY_DIR"], experiment.id)
    assert record is not None
    return record


def test_commit_branch_remote_and_changes_are_noted_and_shown(repository, capsys):
    commit = commit_all(repository)
    subprocess.run(
        ("git", "remote", "add", "origin", "https://me:SECRET@example.org/x.git"), check=True
    )
    about = record_of_run().environment
    assert about["git_commit"] == commit
    assert about["git_branch"] == "work"
    assert about["git_is_changed"] is False
    assert about["git_remote"] == "https://example.org/x.git"
    (repository / "train.py").write_text("lr = 2\n")
    (repository / "new.py").write_text("not of git\n")
    record = record_of_run()
    assert record.environment["git_is_changed"] is True
    assert "git_diff" not in record.environment  # off unless asked for
    capsys.readouterr()
    assert main(["show", record.run_id]) == 0
    shown = capsys.readouterr().out
    assert f"{commit[:12]} on work, with changes" in shown
    assert "packages" in shown
    assert main(["show", record.run_id, "--json"]) == 0
    packages = json.loads(capsys.readouterr().out)["environment"]["packages"]
    assert "numpy" in packages


def test_a_repository_without_a_commit_is_shown_as_one(repository, capsys):
    subprocess.run(("git", "init", "-q", "-b", "work"), check=True)
    record = record_of_run(git_diff=True)
    assert record.environment["git_branch"] == "work"
    assert "git_commit" not in record.environment
    capsys.readouterr()
    main(["show", record.run_id])
    assert "no commit yet on work" in capsys.readouterr().out
    subprocess.run(("git", "add", "train.py"), check=True)
    found = Git(str(repository)).found(with_diff=True)  # there is nothing to compare it with
    assert (found["git_branch"], found["git_is_changed"]) == ("work", True)
    assert found["git"] == "git diff failed (128)"


def test_the_diff_is_kept_when_it_is_asked_for_and_git_takes_it_back(repository, capsys):
    commit_all(repository)
    (repository / "train.py").write_text("lr = 2\n")
    run_id = record_of_run(git_diff=True).run_id
    capsys.readouterr()
    assert main(["show", run_id, "--diff"]) == 0
    diff = capsys.readouterr().out
    subprocess.run(("git", "checkout", "-q", "."), check=True)
    subprocess.run(("git", "apply"), input=diff, check=True, text=True)
    assert (repository / "train.py").read_text() == "lr = 2\n"
    assert main(["show", record_of_run().run_id, "--diff"]) == 1  # none was kept


def test_a_diff_beyond_the_limit_is_cut_and_says_so(repository):
    commit_all(repository)
    (repository / "train.py").write_text("x" * 60 + "\n" + "long line\n" * 100_000)
    diff = Git(str(repository)).found(with_diff=True)["git_diff"]
    assert diff.endswith("\n(cut here: only the beginning is kept)\n")
    assert len(diff) < git.MOST_DIFF_BYTES + 100
    # It fits into a record with the most packages that one takes.
    run_id = "20260101-000000-0123abcd"
    about = {"git_diff": diff, "packages": "p" * 100_000}
    write_record("history", RunRecord(run_id, environment=about), 10)
    assert read_record("history", run_id).environment["git_diff"] == diff


def test_git_runs_no_program_of_the_repository_and_writes_nothing(repository):
    commit_all(repository)
    for setting in ("core.fsmonitor", "diff.external", "core.pager"):
        subprocess.run(("git", "config", setting, f"touch {repository}/was-run; false"), check=True)
    (repository / "train.py").write_text("lr = 3\n")
    (repository / ".git" / "index.lock").touch()  # another git is at work, or died
    before = (repository / ".git" / "index").stat().st_mtime_ns
    found = Git(str(repository / "deep")).found(with_diff=True)
    assert found["git_is_changed"] is True
    assert "+lr = 3" in found["git_diff"]
    assert not (repository / "was-run").exists()
    assert (repository / ".git" / "index").stat().st_mtime_ns == before


def test_without_a_repository_no_git_is_started(tmp_path, monkeypatch):
    monkeypatch.delenv("GIT_DIR", raising=False)
    fake_git(tmp_path, monkeypatch, f"touch {tmp_path}/started\n")
    assert Git(str(tmp_path)).found(with_diff=True) == {}
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("script", "words"),
    [("sleep 1000 &\nsleep 1000\n", "git did not answer in time"),
     ("sleep 1000 &\nexit 0\n", "git status says nothing that is known"),
     ("exec >&-\nsleep 1000\n", "git did not answer in time")],
    ids=["both", "a child alone", "without a pipe"],
)  # fmt: skip
def test_a_git_that_hangs_with_a_child_that_holds_its_pipe_is_given_up(
    repository, tmp_path, monkeypatch, script, words
):
    (repository / ".git").mkdir()
    fake_git(tmp_path, monkeypatch, script)
    start_s = time.monotonic()
    assert Git(str(repository), timeout_s=0.3).found(False) == {"git": words}
    assert time.monotonic() - start_s < 30


def test_a_run_ends_while_git_hangs_and_has_all_else(repository, tmp_path, monkeypatch):
    (repository / ".git").mkdir()
    fake_git(tmp_path, monkeypatch, "exec sleep 1000\n")
    start_s = time.monotonic()
    about = record_of_run().environment
    assert time.monotonic() - start_s < 30
    assert about["git"] == "the run ended before git had answered"
    assert about["python"].startswith(f"{sys.version_info[0]}.")


@pytest.mark.parametrize(
    ("script", "words"),
    [("exit 128\n", "git status failed (128)"), ("echo nonsense\n", "nothing that is known"),
     ("printf '\\377\\n'; kill -9 $$\n", "git was ended")],
)  # fmt: skip
def test_a_git_that_fails_costs_itself(repository, tmp_path, monkeypatch, script, words):
    (repository / ".git").mkdir()
    fake_git(tmp_path, monkeypatch, script)
    assert words in Git(str(repository)).found(False)["git"]


def test_without_the_program_git_it_is_told(repository, monkeypatch):
    (repository / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert Git(str(repository)).found(False) == {"git": "the program git is not there"}


def test_secrets_of_a_command_line_are_not_in_it():
    words = (
        "python train.py --api-key SECRET1 --hf-token=SECRET2 db.password=SECRET3 "
        "--url s3://me:SECRET4@host/x -v --secret -SECRET5 --wandb_api_key 1234567 "
        "--max-tokens 512 --tokenizer bpe --lr -0.1 --key-file"
    )
    line = environment.command_line(words.split())
    assert "SECRET" not in line
    assert "1234567" not in line
    for shown in ("--max-tokens 512", "--tokenizer bpe", "--lr -0.1", "--api-key (redacted)"):
        assert shown in line


def test_code_given_on_the_command_line_is_not_in_it(run_script):
    code = "from tracelet.monitor.environment import command_line as c; print(c(), 'SECRET' in c())"
    done = subprocess.run((sys.executable, "-c", f"{code} #SECRET"), capture_output=True, text=True)
    assert done.stdout.strip().endswith("-c (code) False"), done


def test_packages_are_those_that_the_metadata_names():
    import importlib.metadata

    found = {name.lower().replace("_", "-"): version for name, version in environment.packages()}
    for name in ("numpy", "pytest", "torch", "tensorboard"):
        assert found[name] == importlib.metadata.version(name)


def test_the_program_s_folder_is_the_script_s_unless_that_is_installed(tmp_path, monkeypatch):
    import __main__

    (tmp_path / "code").mkdir()
    monkeypatch.setattr(__main__, "__file__", "code/train.py", raising=False)
    assert environment.program_folder(str(tmp_path)) == str(tmp_path / "code")
    for installed in (os.path.join(sys.prefix, "bin", "torchrun"), pytest.__file__, "gone/x.py"):
        monkeypatch.setattr(__main__, "__file__", installed, raising=False)
        assert environment.program_folder(str(tmp_path)) == str(tmp_path)
    monkeypatch.delattr(__main__, "__file__")
    assert environment.program_folder(str(tmp_path)) == str(tmp_path)


def test_what_is_no_utf_8_is_made_fit_for_every_tracker(repository, monkeypatch):
    """A tracker that refuses a text would be asked again and again, to the run's end."""
    commit_all(repository)
    (repository / "train.py").write_bytes(b"name = '\xff\x01'\n")
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "na\udcffme"], raising=False)
    about = record_of_run(git_diff=True).environment
    assert about["command"] == "python train.py na\\udcffme"
    for text in about.values():
        assert "\0" not in str(text)
        str(text).encode()


def test_it_is_off_where_the_option_says_so():
    assert record_of_run(environment=False).environment == {}


def test_what_goes_wrong_in_it_is_told_and_ends_nothing(monkeypatch, caplog):
    def fails(folder: str) -> None:
        raise RuntimeError("odd machine")

    monkeypatch.setattr("tracelet.pipeline.monitors.machine_and_program", fails)
    assert record_of_run().environment == {}
    assert "odd machine" in caplog.text
    monkeypatch.setattr(EnvironmentNoter, "start", lambda self: fails(""))
    assert record_of_run().environment == {}


def test_a_working_folder_that_is_gone_costs_no_run(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    experiment = tracelet.start_logging(
        "r", "tests", backend="tensorboard", config={"log_dir": str(tmp_path / "logs")}
    )
    experiment.log_metric("a", 1.0, 0)
    tracelet.stop_logging()
    assert experiment.stats.accepted == 1


def test_a_killed_run_has_it_too(run_script, capsys):
    run_script(
        """
        import os, time, tracelet
        run = tracelet.start_logging("killed", "tests", backend="tensorboard")
        path = os.path.join(run._run.folder.path, "environment.json")
        while not os.path.exists(path):
            time.sleep(0.01)
        os.kill(os.getpid(), 9)
        """,
        check=False,
    )
    assert main(["show", "killed", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)["environment"]
    assert about["packages"]
    assert about["host"]
