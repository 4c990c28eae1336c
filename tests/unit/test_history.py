"""What stays of a run that has ended, and what `tracelet runs` makes of it."""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tracelet
from dead_runs import POINTS, make_dead_runs
from tracelet.cli import main
from tracelet.commands import terminal
from tracelet.places import default_history_dir, temporary_folder
from tracelet.redact import redacted, without_user
from tracelet.runs import history
from tracelet.runs.history import RunRecord, read_record, read_records, write_record
from tracelet.runs.ledgers import noted_paths


def history_dir() -> Path:
    return Path(os.environ["TRACELET_HISTORY_DIR"])


def make_run(name: str = "kept", **config: object) -> tracelet.Experiment:
    experiment = tracelet.start_logging(name, "tests", backend="tensorboard", config=config)
    for step in range(10):
        experiment.log_metric("train/loss", 1.0 / (step + 1), step)
        experiment.log_metric("acc", step * 0.5, step)
    return experiment


def record_numbered(number: int, **changes: object) -> RunRecord:
    return replace(RunRecord(f"20260101-{number:06d}-0123abcd", exp_name=f"n{number}"), **changes)


def runs_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    capsys.readouterr()
    main(["runs", "--json", *arguments])
    return json.loads(capsys.readouterr().out)


def test_a_finished_run_leaves_a_record_for_its_owner_alone(tmp_path):
    experiment = make_run(tags=["first"])
    experiment.log_params({"lr": 0.1, "data": {"path": "x"}})
    tracelet.stop_logging()
    (record,), unreadable = read_records(str(history_dir()))
    assert unreadable == 0
    assert (record.run_id, record.exp_name, record.project) == (experiment.id, "kept", "tests")
    assert (record.state, record.points, record.tags) == ("finished", 21, ("first",))
    assert record.params == {"lr": 0.1, "data/path": "x"}
    assert record.backends == ("tensorboard",)
    assert 0 < record.started_s <= record.ended_s <= time.time()
    (path,) = record.files
    assert Path(path).parent == tmp_path / "runs" / "kept"
    assert os.path.exists(path)
    (file,) = history_dir().iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_secret_is_in_a_record():
    experiment = make_run()
    secrets = {
        "api_key": "SECRET1", "db.password": "SECRET2", "hfToken": "SECRET3",
        "nested": {"AWS_SECRET_ACCESS_KEY": "SECRET4", "tokens": ["SECRET5"], "pwd": 12345678},
        "url": "postgres://me:SECRET6@host/db",
        "hosts": ["postgres://me:SECRET7@host/db", "http://me:SECRET8@host"],
        "odd": "http://me:SEC@SECRET9#SECRET@host/x", "table": {"deep": [{"u": "s3://k:SECRETa@b"}]},
    }  # fmt: skip
    shown = {"max_tokens": 512, "num_key_value_heads": 8, "tokenizer": "bpe", "monkey": "m"}
    experiment.log_params({**secrets, **shown})
    tracelet.stop_logging()
    (file,) = history_dir().iterdir()
    text = file.read_text()
    assert "SECRET" not in text.replace("AWS_SECRET_ACCESS_KEY", "")
    assert "12345678" not in text
    record = read_record(str(history_dir()), experiment.id)
    assert record is not None
    assert {name: record.params[name] for name in shown} == shown
    assert record.params["url"] == "postgres://(redacted)@host/db"


@pytest.mark.parametrize(
    ("name", "value", "is_shown"),
    [
        ("key", "x", False), ("KEY_ID", "x", False), ("token", 5, False), ("apiKey", None, True),
        ("APIKey", "x", False), ("use_token", True, True), ("keyboard", "x", True),
        ("secretary", "x", True), ("secret_count", 3, False), ("max_tokens", 3, True),
        ("hftoken", "x", False), ("accesskey", "x", False), ("db_pass", "x", False),
        ("authorization", "x", False), ("monkey", "x", True), ("token_count", 3, True),
        ("tokenizer", "x", True), ("forward_pass", 2, True), ("bypass", "x", True),
    ],
)  # fmt: skip
def test_what_is_named_like_a_secret_is_redacted(name, value, is_shown):
    assert (redacted(name, value) == value) is is_shown


def test_a_url_without_a_user_is_shown_whole():
    texts = ["https://host/path@v2", "git+https://host/x.git@main", "http://host:80/?mail=a@b"]
    assert [without_user(text) for text in texts] == texts
    assert without_user("['http://a:b@c', 'http://d:e@f']") == (
        "['http://(redacted)@c', 'http://(redacted)@f']"
    )


def test_a_parameter_without_a_text_costs_itself_alone():
    class Silent:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    experiment = make_run()
    experiment.log_params({"huge": 10**5000, "silent": Silent(), "large": 10**30, "lr": 0.1})
    tracelet.stop_logging()
    record = read_record(str(history_dir()), experiment.id)
    assert record is not None
    assert record.params["lr"] == 0.1
    assert record.params["large"] == str(10**30)
    assert "without a text" in record.params["huge"]
    history.write_record(str(history_dir()), replace(record, params={"huge": 10**5000}), 10)
    assert read_record(str(history_dir()), experiment.id) is not None


def test_parameters_that_are_set_amid_others_wait_for_nothing(run_script):
    """By a signal's handler: that of SIGTERM ends the run."""
    script = (
        "import os, signal, tracelet\n"
        "from tracelet.pipeline import run_record\n"
        "run = tracelet.start_logging('amid', 'tests', 'tensorboard')\n"
        "signal.signal(signal.SIGUSR1, lambda *_: run.log_params({'inner': 1}))\n"
        "keep = run_record.keep_notes\n"
        "def interrupted(*arguments):\n"
        "    run_record.keep_notes = keep\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    keep(*arguments)\n"
        "run_record.keep_notes = interrupted\n"
        "run.log_params({'outer': 2})\n"
        "tracelet.stop_logging()\n"
    )
    run_script(script, timeout_s=45)
    (record,), _ = read_records(str(history_dir()))
    assert record.params == {"inner": 1, "outer": 2}


def test_a_known_parameter_is_noted_anew_behind_those_that_are_too_many():
    experiment = make_run()
    experiment.log_params({f"p{number}": number for number in range(500)})
    experiment.log_params({"new": 1, "p0": "changed"})
    tracelet.stop_logging()
    record = read_record(str(history_dir()), experiment.id)
    assert record is not None
    assert (len(record.params), record.params["p0"]) == (500, "changed")


def test_what_is_shown_of_a_run_is_computed_from_all_its_series(capsys):
    experiment = make_run("many")
    for number in range(600):
        experiment.log_metric(f"layer{number}/norm", 1.0, 0)
    experiment.log_metric("val/loss", 0.25, 999)
    tracelet.stop_logging()
    (shown,) = runs_json(capsys)
    assert (shown["steps"], shown["last_tag"], shown["last_value"]) == (999, "val/loss", 0.25)
    main(["show", "many", "--json"])
    assert len(json.loads(capsys.readouterr().out)["summary"]) == 603


def test_long_tags_do_not_cost_a_run_its_record(tmp_path, capsys):
    make_run("tagged", tags=[f"{number}-" + "é" * 4000 for number in range(100)])
    tracelet.stop_logging()
    (shown,) = runs_json(capsys)
    assert shown["name"] == "tagged"
    record = record_numbered(1, tags=["é" * 500] * 500, points=7)
    write_record(str(tmp_path), record, 10)
    found = read_record(str(tmp_path), record.run_id)
    assert found is not None
    assert found.points == 7


def test_a_record_is_believed_only_when_it_is_whole(tmp_path, capsys):
    folder = str(tmp_path / "records")
    good = record_numbered(1, points=5, summary={"a": _series(1.0)}, files=("/x",))
    write_record(folder, good, 100)
    assert read_records(folder) == ([good], 0)
    path = tmp_path / "records" / f"{good.run_id}.json"
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[place] ^= 0x04
        path.write_bytes(damaged)
        assert read_records(folder) == ([], 1), place
    path.write_bytes(data[: len(data) // 2])
    assert read_records(folder) == ([], 1)
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert read_records(folder) == ([], 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "\x1b[31m"}, {"points": -1}, {"points": True}, {"urls": {"a": 5}}, {"files": "x"},
        {"summary": {"a": {}}}, {"started_s": float("nan")}, {"started_s": 10**400},
        {"ended_s": 1e300}, {"started_s": -1.0}, {"params": {"a": [1]}}, {"tags": [1]},
        {"run_id": "20260101-000001-0123abce"},
    ],
)  # fmt: skip
def test_a_record_with_a_wrong_part_costs_itself_alone(tmp_path, changes, monkeypatch):
    folder = str(tmp_path)
    write_record(folder, record_numbered(2), 100)
    good = record_numbered(1)
    monkeypatch.setattr(history, "_bounded", lambda record: record)
    monkeypatch.setattr(history, "asdict", lambda record: {**vars(record), **changes})
    (tmp_path / f"{good.run_id}.json").touch()
    write_record(folder, good, 100)
    monkeypatch.undo()
    records, unreadable = read_records(folder)
    assert [record.run_id for record in records] == [record_numbered(2).run_id]
    assert unreadable == 1


def test_the_oldest_records_go_first_beyond_the_budget(tmp_path, monkeypatch):
    folder = str(tmp_path)
    (tmp_path / "mine.json").write_text("not a record")
    for number in range(10):
        write_record(folder, record_numbered(number), 4)
    records, _ = read_records(folder)
    assert [record.exp_name for record in records] == ["n6", "n7", "n8", "n9"]
    assert (tmp_path / "mine.json").exists()
    monkeypatch.setattr(history, "MOST_BYTES", 1_500)
    write_record(folder, record_numbered(10), 100)
    names = [record.exp_name for record in read_records(folder)[0]]
    assert names[-1] == "n10"
    assert len(names) < 5
    assert sum(path.stat().st_size for path in tmp_path.glob("2*.json")) <= 1_500


def test_a_record_too_large_keeps_what_can_t_be_found_elsewhere(tmp_path):
    many = {f"{n}" + "x" * 400: "y" * 400 for n in range(500)}
    large = {f"{n}" + "t" * 400: _series(1.0) for n in range(400)}
    record = record_numbered(1, params=many, summary=large, points=7)
    write_record(str(tmp_path), record, 10)
    found = read_record(str(tmp_path), record.run_id)
    assert found is not None
    assert found.points == 7


def _series(last: float) -> dict:
    return {"last": last, "least": 0.0, "greatest": 2.0, "points": 3, "last_step": 9}


def test_no_history_where_none_is_wanted_and_none_that_harms(tmp_path, caplog, monkeypatch):
    make_run(history_runs=0)
    tracelet.stop_logging()
    assert not history_dir().exists()
    blocked = tmp_path / "a file"
    blocked.touch()
    experiment = make_run(history_dir=str(blocked / "history"))
    tracelet.stop_logging()
    assert experiment.stats.pending == 0
    assert "not noted in the history" in caplog.text
    assert list((tmp_path / "tracelet-runs").iterdir()) == []


def test_the_history_is_beside_the_default_folder_and_inside_a_chosen_one(tmp_path):
    home = os.path.expanduser("~/.tracelet")
    assert default_history_dir(f"{home}/runs") == f"{home}/history"
    away = temporary_folder()
    assert default_history_dir(f"{away}/runs") == f"{away}/history"
    assert default_history_dir(str(tmp_path)) == str(tmp_path / "history")


def test_the_history_in_the_runs_folder_is_no_run_and_no_orphan(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("TRACELET_HISTORY_DIR")
    make_run()
    tracelet.stop_logging()
    folder = tmp_path / "tracelet-runs" / "history"
    old_s = time.time() - 10_000
    os.utime(folder, (old_s, old_s))
    assert len(list(folder.iterdir())) == 1
    assert [each["state"] for each in runs_json(capsys)] == ["finished"]
    assert main(["clean", "--yes"]) == 0
    assert len(list(folder.iterdir())) == 1


def test_a_run_that_failed_says_so(capsys):
    with pytest.raises(RuntimeError), make_run():
        raise RuntimeError("training failed")
    assert [each["state"] for each in runs_json(capsys)] == ["failed"]


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ("raise RuntimeError('training failed')", "failed"),
        ("raise KeyboardInterrupt", "stopped"),
        ("with experiment: sys.exit(0)", "finished"),
        ("with experiment: sys.exit(1)", "stopped"),
        ("pass", "finished"),
    ],
)
def test_how_a_process_ended_is_noted_without_a_block_too(run_script, capsys, end, state):
    script = (
        "import sys, tracelet\n"
        "experiment = tracelet.start_logging('ends', 'tests', 'tensorboard', {'quiet': True})\n"
        f"experiment.log_metric('loss', 1.0, 1)\n{end}\n"
    )
    run_script(script, check=False)
    assert [each["state"] for each in runs_json(capsys)] == [state]


def test_a_killed_run_is_listed_as_unsent_then_as_killed(capsys, tmp_path):
    (run,) = make_dead_runs(tmp_path, ["victim"]).values()
    (listed,) = runs_json(capsys)
    assert (listed["run"], listed["name"]) == (run.run_id, "victim")
    assert (listed["state"], listed["points"], listed["pending"]) == ("unsent", POINTS, POINTS)
    assert listed["path"] == run.path
    assert main(["sync", "victim"]) == 0
    (listed,) = runs_json(capsys)
    assert (listed["state"], listed["points"], listed["steps"]) == ("killed", POINTS, POINTS - 1)
    assert (listed["last_tag"], listed["last_value"]) == ("a", (POINTS - 1) * 0.5)
    assert listed["path"] is None


def test_a_killed_run_with_nothing_to_send_is_not_called_unsent(run_script, capsys):
    run_script(
        """
        import os, signal, tracelet
        experiment = tracelet.start_logging("all sent", "tests", backend="tensorboard")
        experiment.log_metric("a", 1.0, 1)
        assert experiment.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        check=False,
    )
    (listed,) = runs_json(capsys)
    assert (listed["state"], listed["pending"]) == ("killed", 0)
    main(["runs"])
    told = capsys.readouterr().out
    assert "unsent" not in told
    assert "this ends them: tracelet sync --all" in told
    assert main(["sync", "--all"]) == 0
    assert [each["path"] for each in runs_json(capsys)] == [None]


def test_a_terminal_of_80_columns_is_enough(capsys, monkeypatch):
    make_run("a name that is very long " * 10)
    tracelet.stop_logging()
    write_record(
        str(history_dir()),
        record_numbered(
            1, state="failed", project="日本語" * 30, exp_name="evil\x1b[2Jname\n",
            summary={"a/very/long/tag/that/goes/on/and/on/loss": _series(1.2345678e-10)},
            urls={"clearml": "https://app.example/" + "x" * 90}, points=123_456_789,
            backends=("clearml", "mlflow", "trackio"),
        ),
        100,
    )  # fmt: skip
    monkeypatch.setattr(terminal, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert max(map(terminal.columns_of, lines)) <= 80
    assert "\x1b" not in "".join(lines)
    assert "1.235e-10" in lines[1]
    assert " 123.5M " in lines[1]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    main(["runs"])
    assert "\x1b[31mfailed\x1b[0m" in capsys.readouterr().out


def test_many_ended_runs_are_cut_to_the_last(capsys):
    for number in range(25):
        write_record(str(history_dir()), record_numbered(number, ended_s=float(number)), 100)
    assert main(["runs"]) == 0
    told = capsys.readouterr().out
    assert "5 older ones have ended: tracelet runs --all lists them" in told
    assert "/ n5" in told
    assert "/ n4" not in told
    assert len(runs_json(capsys, "--all")) == 25


def test_clean_history_removes_records_alone(capsys, tmp_path):
    first = make_run("first")
    tracelet.stop_logging()
    make_run("second")
    tracelet.stop_logging()
    assert main(["clean", "--history", "--dry-run"]) == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert len(read_records(str(history_dir()))[0]) == 2
    assert main(["clean", "--history", "--yes", "second"]) == 0
    assert [each["run"] for each in runs_json(capsys)] == [first.id]
    assert main(["clean", "--history", "--yes"]) == 0
    assert runs_json(capsys) == []
    assert list((tmp_path / "runs" / "first").iterdir())


def test_clean_dry_run_removes_nothing(capsys, tmp_path):
    (run,) = make_dead_runs(tmp_path, ["victim"]).values()
    assert main(["clean", "victim", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"{POINTS} points NOT SENT" in told
    assert "a dry run: nothing was removed" in told
    assert os.path.isdir(run.path)


def test_a_run_is_found_by_its_id_its_name_or_how_one_begins(capsys, tmp_path):
    runs = make_dead_runs(tmp_path, ["resnet-a", "resnet-b", "vit"])
    assert main(["sync", "--dry-run", "vit"]) == 0
    assert main(["sync", "--dry-run", "vi"]) == 0
    assert main(["sync", "--dry-run", runs["vit"].run_id]) == 0
    told = capsys.readouterr().out.splitlines()
    assert all(line.startswith(runs["vit"].run_id) for line in told)
    assert main(["sync", "--dry-run", "resnet"]) == 1
    told = capsys.readouterr().err
    assert "more than one run 'resnet' (2)" in told
    assert f"{runs['resnet-a'].run_id} ('resnet-a', unsent)" in told
    assert main(["sync", "--dry-run", "resnet-x"]) == 1
    told = capsys.readouterr().err
    assert "there is no run 'resnet-x'" in told
    assert "the nearest: " in told
    assert "'resnet-a'" in told


def test_the_files_of_a_run_that_goes_on_are_read_from_its_ledger_untouched(tmp_path):
    experiment = make_run()
    assert experiment.flush()
    (folder,) = (tmp_path / "tracelet-runs").iterdir()
    ledger = folder / "event_files.bin"
    before = ledger.read_bytes()
    (path,) = noted_paths(str(ledger))
    assert Path(path).parent == tmp_path / "runs" / "kept"
    assert [entry[1] for entry in _entries(ledger, tmp_path)] == [path]
    assert ledger.read_bytes() == before
    damaged = bytearray(before)
    damaged[24] ^= 1
    ledger.write_bytes(damaged)
    assert noted_paths(str(ledger)) == []
    ledger.write_bytes(before)
    assert noted_paths(str(tmp_path / "none")) == []


def _entries(ledger: Path, tmp_path: Path) -> list:
    """What the core reads of a copy: the other description of the same bytes."""
    copy = tmp_path / "copy.bin"
    copy.write_bytes(ledger.read_bytes())
    return tracelet._core.FileLedger.open(str(copy)).entries()
