"""What a run notes of what it runs in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tracelet
from tracelet.cli import main
from tracelet.monitor import environment, git_diff
from tracelet.monitor import git as git_files
from tracelet.monitor.git import repository as read
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


def changes(folder: Path, timeout_s: float = 60) -> dict[str, object]:
    return dict(git_diff.changes(str(folder), threading.Event(), timeout_s))


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
    about = record_of_run(git_diff=True).environment
    assert about["git_commit"] == commit
    assert about["git_branch"] == "work"
    assert about["git_is_changed"] is False
    assert "git_diff" not in about
    assert about["git_remote"] == "https://example.org/x.git"
    (repository / "train.py").write_text("lr = 2\n")
    (repository / "new.py").write_text("not of git\n")
    assert record_of_run().environment.keys().isdisjoint({"git_is_changed", "git_diff"})  # off
    record = record_of_run(git_diff=True)
    assert record.environment["git_is_changed"] is True
    assert "lr = 2" in record.environment["git_diff"]
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
    found = changes(repository)  # there is nothing to compare it with
    assert found == {"git_is_changed": True, "git": "git diff failed (128)"}


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
    diff = changes(repository)["git_diff"]
    assert diff.endswith("\n(cut here: only the beginning is kept)\n")
    assert len(diff) < git_diff.MOST_DIFF_BYTES + 100
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
    found = changes(repository / "deep")
    assert found["git_is_changed"] is True
    assert "+lr = 3" in found["git_diff"]
    assert not (repository / "was-run").exists()
    assert (repository / ".git" / "index").stat().st_mtime_ns == before


def test_without_a_repository_or_the_option_no_git_is_started(tmp_path, monkeypatch):
    monkeypatch.delenv("GIT_DIR", raising=False)
    fake_git(tmp_path, monkeypatch, f"touch {tmp_path}/started\n")
    assert read(str(tmp_path)) == {}
    assert changes(tmp_path) == {}
    (tmp_path / ".git").mkdir()
    assert record_of_run().environment["python"]
    assert not (tmp_path / "started").exists()


def test_git_is_started_by_the_leading_rank_alone(repository, monkeypatch):
    commit_all(repository)
    monkeypatch.setattr("tracelet.pipeline.monitors.rank_here", lambda: 1)
    about = record_of_run(git_diff=True).environment
    assert "git_commit" in about
    assert "git_is_changed" not in about


def git(*words: str) -> str:
    done = subprocess.run(("git", *words), check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_files_say_what_git_says_packed_detached_in_a_worktree_and_in_a_submodule(
    repository, monkeypatch
):
    commit = commit_all(repository)
    git("config", "remote.origin.url", "git@example.org:x.git")
    wanted = {
        "git_commit": commit, "git_branch": "work", "git_remote": "git@example.org:x.git",
    }  # fmt: skip
    assert read(str(repository / "deep")) == wanted
    git("pack-refs", "--all")
    assert not (repository / ".git/refs/heads/work").exists()
    assert read(str(repository)) == wanted
    git("worktree", "add", "-q", "-b", "feature/x", "../tree")
    assert read(str(repository.parent / "tree")) == {**wanted, "git_branch": "feature/x"}
    git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "sub")
    assert (repository / "sub" / ".git").is_file()
    assert read(str(repository / "sub"))["git_commit"] == commit
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert read("/") == wanted
    git("checkout", "-q", "--detach")
    assert read("/") == {**wanted, "git_branch": "(detached)"}


@pytest.mark.parametrize(
    ("name", "content"),
    [("HEAD", b""), ("HEAD", b"ref: ../secret\n"), ("HEAD", b"ref: refs/../../secret\n"),
     ("HEAD", b"\xff\0\n"), ("HEAD", None), ("refs/heads/work", b"nonsense\n"),
     ("refs/heads/work", None), ("commondir", None), ("refs/heads/work", b"ref: refs/\0\n")],
)  # fmt: skip
def test_a_damaged_repository_gives_nothing_and_no_pipe_is_waited_for(repository, name, content):
    commit_all(repository)
    (repository / "secret").write_text("0" * 40)  # no ref, and not to be read
    path = repository / ".git" / name
    path.unlink(missing_ok=True)
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    assert "git_commit" not in read(str(repository))


def test_a_git_file_that_is_none_gives_nothing(repository):
    for content in (b"", b"gitdir: \0\n", b"gitdir: ../nowhere\n", b"x" * 100_000):
        (repository / ".git").write_bytes(content)
        assert read(str(repository)) == {}
    (repository / ".git").unlink()
    os.mkfifo(repository / ".git")
    assert read(str(repository)) == {}


def test_a_packed_ref_is_found_wherever_the_pieces_part(repository, monkeypatch):
    commit = commit_all(repository)
    git("pack-refs", "--all")
    path = repository / ".git" / "packed-refs"
    line = f"{'0' * 40} refs/heads/other-%02d\n"
    path.write_text("".join(line % n for n in range(40)) + path.read_text())
    for size_bytes in range(57, 157):
        monkeypatch.setattr(git_files, "_PIECE_BYTES", size_bytes)
        assert read(str(repository))["git_commit"] == commit


def test_a_token_in_the_remote_s_url_is_not_noted(repository):
    commit_all(repository)
    for url in ("https://h/x.git?private_token=SECRET", "https://u:pa/SECRET@h/x.git"):
        git("config", "remote.origin.url", url)
        assert read(str(repository))["git_remote"] in ("https://h/x.git", "https://h/x.git")


@pytest.mark.parametrize(
    "script",
    ["sleep 60 &\nsleep 60\n", "sleep 60 &\nexit 0\n", "exec >&-\nsleep 60\n",
     "setsid sleep 40 &\nexit 0\n"],
    ids=["both", "a child alone", "without a pipe", "a child in a session of its own"],
)  # fmt: skip
def test_a_git_that_hangs_is_given_up_and_leaves_nothing(repository, tmp_path, monkeypatch, script):
    (repository / ".git").mkdir()
    fake_git(tmp_path, monkeypatch, script)
    made = []

    class Noted(subprocess.Popen):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(git_diff.subprocess, "Popen", Noted)
    start_s = time.monotonic()
    assert changes(repository, timeout_s=0.3) == {"git": "git did not answer in time"}
    assert time.monotonic() - start_s < 30  # it did not read to the end
    assert [each.returncode is not None and each.stdout.closed for each in made] == [True]


def test_a_git_that_says_very_much_is_ended_at_its_first_byte(repository, tmp_path, monkeypatch):
    (repository / ".git").mkdir()
    fake_git(tmp_path, monkeypatch, "exec yes ' M some/file'\n")
    real, sizes = git_diff._Git._read, []

    def noted(*given: object) -> bytes:
        output = real(*given)
        sizes.append(len(output))
        return output

    monkeypatch.setattr(git_diff._Git, "_read", noted)
    found = changes(repository)
    assert sizes == [1, git_diff.MOST_DIFF_BYTES + 1]
    assert found["git_is_changed"] is True
    assert len(str(found["git_diff"])) < git_diff.MOST_DIFF_BYTES + 100


def test_a_run_ends_while_git_hangs_and_has_all_else(repository, tmp_path, monkeypatch):
    (repository / ".git").mkdir()
    fake_git(tmp_path, monkeypatch, "exec sleep 60\n")
    start_s = time.monotonic()
    about = record_of_run(git_diff=True).environment
    assert time.monotonic() - start_s < 30
    assert about["git"] == "the run ended before git had answered"
    assert about["python"].startswith(f"{sys.version_info[0]}.")


def test_a_run_ends_while_the_start_of_git_hangs(repository, monkeypatch):
    """A fork of the user's, just then, keeps the pipe by which the new process tells that it is
    there."""
    (repository / ".git").mkdir()
    is_over = threading.Event()

    def hangs(*_: object, **__: object) -> None:
        is_over.wait(60)
        raise OSError("over")

    monkeypatch.setattr(git_diff.subprocess, "Popen", hangs)
    start_s = time.monotonic()
    try:
        assert record_of_run(git_diff=True).environment["python"]
        assert time.monotonic() - start_s < 30
    finally:
        is_over.set()


@pytest.mark.parametrize(
    ("script", "words"),
    [("exit 128\n", "git status failed (128)"), ("kill -9 $$\n", "git was ended")],
)
def test_a_git_that_fails_costs_itself(repository, tmp_path, monkeypatch, script, words):
    (repository / ".git").mkdir()
    fake_git(tmp_path, monkeypatch, script)
    assert changes(repository) == {"git": words}


def test_without_the_program_git_it_is_told(repository, monkeypatch):
    (repository / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert changes(repository) == {"git": "the program git is not there"}


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


@pytest.mark.parametrize(
    "words",
    [
        ["postgresql://u:HUNTER@h/db?sslmode=require"], ["https://u:pa/HUNTER@h/x"],
        ["--set", "db.password=HUNTER"], ["-o", "api_key=HUNTER"], ["-e", "HF_TOKEN=HUNTER"],
        ["-DPASSWORD=HUNTER"], ["db[password]=HUNTER"], ["--api-key=HUNT ER, HUNTER"],
        ["--api-keys", "HUNTER", "HUNTER"], ["--api-keys", "a=HUNTER", "http://h/?a=HUNTER"],
        ["--password", "--HUNTER"], ["--use-auth", "--password", "-HUNTER", "HUNTER"],
        ["pretrained=x,token=HUNTER"], ['{"api_key": "HUNT,ER"}'], ["wandb={api_key:HUNTER}"],
        ["{'password': 'HUNT\"ER'}"], ["--api-key:HUNTER"], ["train --api-key HUNTER"],
        ["http://h/x?token=HUNTER"], ["--url=http://h/x?a=1&sig=HUNTER"],
        ["Authorization: Bearer HUNTER"], ["-H", "Bearer HUNTER"], ["x" * 5000 + "HUNTER"],
        ["--pw", "HUNTER"], ["--pass=HUNTER"], ["--passwd=HUNTER"], ["--creds=HUNTER"],
        ["--credential=HUNTER"], ["auth=HUNTER"], ["--gh-pat", "HUNTER"], ["sig=HUNTER"],
    ],
)  # fmt: skip
def test_a_secret_in_a_command_line_is_hidden_wherever_its_name_stands(words):
    line = environment.command_line(["train.py", *words, "--lr", "0.1"])
    assert "HUNT" not in line
    assert "ER" not in line
    assert "(redacted)" in line
    assert line.startswith("train.py ")
    assert line.endswith(" --lr 0.1")


def test_what_is_no_secret_is_shown_in_a_command_line():
    line = (
        "--max-tokens 512 --tokenizer bpe --tokens 1 2 model.tokenizer=/x/y:z a=b,c=d "
        "http://localhost:8080/x@v2?page=2 s3://bucket/x {'a': 1} num_keys=3 --trust-remote-code -v"
    )
    assert environment.command_line(line.split()) == line


@pytest.mark.parametrize("word", ["a-", "key=", "token=a,", "-a ", "w://a:", "?a=", "a=b,"])
def test_a_long_word_costs_no_time(word):
    start_s = time.monotonic()
    environment.command_line([word * (4_000 // len(word))])
    assert time.monotonic() - start_s < 5  # 0.1 s at most; it would be hours


@pytest.mark.parametrize("option", ["-c", "-uc", "-c as one word"])
def test_code_given_on_the_command_line_is_not_in_it(option):
    code = "from tracelet.monitor.environment import command_line as c; print(c()) #SECRET"
    words = ["-c" + code] if option == "-c as one word" else [option, code]
    done = subprocess.run((sys.executable, *words, "--lr"), capture_output=True, text=True)
    assert done.stdout.strip().endswith("-c (code) --lr"), done


def test_code_is_not_shown_where_the_program_has_set_its_arguments_anew(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-I", "-Bc", "SECRET"], raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr"])
    assert environment.command_line().endswith("-c (code) --lr")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-I", "t.py", "-c", "x"], raising=False)
    assert environment.command_line() == "python -I t.py -c x"


def test_packages_are_those_that_the_metadata_names():
    import importlib.metadata
    import importlib.util

    found = {name.lower().replace("_", "-"): version for name, version in environment.packages()}
    for name in ("numpy", "pytest", "torch", "tensorboard"):
        if importlib.util.find_spec(name) is not None:
            assert found[name] == importlib.metadata.version(name)


def test_many_files_beside_the_script_cost_little_and_odd_entries_of_the_path_nothing(
    tmp_path, monkeypatch
):
    (tmp_path / "x-1.0.dist-info").mkdir()
    for n in range(50):
        (tmp_path / f"{n:03}{'-a' * 120}").touch()
    monkeypatch.setattr(sys, "path", [os.fsencode(tmp_path), tmp_path, None, "\0", "/nowhere"])
    looked_at = []
    monkeypatch.setattr(environment, "_DISTRIBUTION", Looked(environment._DISTRIBUTION, looked_at))
    assert environment.packages() == [("x", "1.0")]
    assert looked_at == ["x-1.0.dist-info"]
    monkeypatch.setattr(environment, "_MOST_ENTRIES", 0)
    assert environment.packages() == []


class Looked:
    """A pattern that notes what it is asked of."""

    def __init__(self, pattern: re.Pattern[str], names: list[str]) -> None:
        self.pattern, self.names = pattern, names

    def fullmatch(self, name: str) -> re.Match[str] | None:
        self.names.append(name)
        return self.pattern.fullmatch(name)


def test_the_search_for_packages_ends_when_the_run_does(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name / f"{name}-1.dist-info").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "a"), str(tmp_path / "b")])
    is_given_up = threading.Event()
    is_given_up.set()
    assert environment.packages(is_given_up) == [("a", "1")]


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
    words = ["python", "train.py", "na\udcffme"]
    monkeypatch.setattr(sys, "orig_argv", words, raising=False)
    monkeypatch.setattr(sys, "argv", words[1:])
    about = record_of_run(git_diff=True).environment
    assert about["command"] == "python train.py na\\udcffme"
    for text in about.values():
        assert "\0" not in str(text)
        str(text).encode()


def test_it_is_off_where_the_option_says_so():
    assert record_of_run(environment=False).environment == {}


def test_what_goes_wrong_in_it_is_told_and_ends_nothing(monkeypatch, caplog):
    def fails(*_: object) -> None:
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
    record = read_record(os.environ["TRACELET_HISTORY_DIR"], experiment.id)
    assert record is not None
    assert record.environment["folder"] == "(gone)"  # it costs itself alone
    assert record.environment["packages"]


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
