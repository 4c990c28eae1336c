"""Runs on Weights & Biases, offline, beside what tests/contract asks of every backend."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tracelet
from tracelet.cli import main
from tracelet.errors import BackendError, ConfigurationError
from tracelet.runs.stored_run import find_runs
from waiting import wait_until

pytest.importorskip("wandb")
sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from tracelet.backends.wandb import run as sdk
from tracelet.backends.wandb.log_file import LogFile
from trackers import Wandb


@pytest.fixture
def tracker(tmp_path):
    return Wandb(tmp_path)


def rows_up_to(tracker, run_id, column, last):
    """On a busy machine W&B's process writes its last rows some time after the user's `finish`:
    without Tracelet, too, 3 of 12 runs had none in their file right then, and all 20 ms later."""

    def rows():
        return [row for _, row in tracker.rows(run_id)]

    wait_until(lambda: any(row.get(column) == last for row in rows()))
    return rows()


def start(tracker, **own):
    own = {**tracker.config["wandb"], **own}
    # A batch ends a row, too: none is sent because of its age.
    config = {"wandb": own, "batch_max_age_s": 60}
    return tracelet.start_logging("wandb", "tests", "wandb", config)


def record_of(tracker, run_id):
    return next(r.run for r in tracker.records(run_id) if r.HasField("run"))


def test_points_of_one_step_are_one_row_and_steps_may_go_back(tracker):
    experiment = start(tracker)
    for step in (7, 3, 3):
        experiment.log_metric("a", step / 2, step)
        experiment.log_metric("b", step * 2, step)
    tracelet.stop_logging()
    rows = [
        (step, {name: row[name] for name in ("a", "b", "global_step")})
        for step, row in tracker.rows(experiment.id)
    ]
    assert rows == [
        (0, {"a": 3.5, "b": 14, "global_step": 7}),
        (1, {"a": 1.5, "b": 6, "global_step": 3}),
        (2, {"a": 1.5, "b": 6, "global_step": 3}),
    ]
    metrics = [r.metric for r in tracker.records(experiment.id) if r.HasField("metric")]
    assert any(m.glob_name == "*" and m.step_metric == "global_step" for m in metrics) or any(
        m.name == "a" and m.step_metric == "global_step" for m in metrics
    )


def test_the_run_is_named_as_the_experiment_and_has_its_tags_and_notes(tracker):
    experiment = tracelet.start_logging(
        "of mine", "a/project", "wandb",
        {**tracker.config, "tags": ["x", "y" * 70], "comment": "why"},
    )  # fmt: skip
    experiment.log_params({"a/b": 1, "c": {"d": [1, "two"], "e": {"f": 0.5}}})
    tracelet.stop_logging()
    run = record_of(tracker, experiment.id)
    assert (run.display_name, run.project, run.notes) == ("of mine", "a-project", "why")
    assert list(run.tags) == ["x", "y" * 64]
    assert tracker.config_of(experiment.id) == {
        "a": {"b": 1}, "c": {"d": [1, "two"], "e": {"f": 0.5}},
    }  # fmt: skip
    assert Path(experiment.url).parent == tracker.folder / "wandb"


def test_a_second_call_of_log_params_keeps_what_the_first_has_nested(tracker):
    experiment = start(tracker)
    experiment.log_params({"model": {"depth": 3}})
    assert experiment.flush(60)
    experiment.log_params({"model": {"width": 4}, "model/depth/of": 1})
    tracelet.stop_logging()
    found = tracker.config_of(experiment.id)
    assert found == {"model": {"depth": 3, "width": 4}, "model/depth/of": 1}


def test_histograms_images_text_tables_and_audio_have_wandbs_own_types(tracker):
    pytest.importorskip("torch")
    pytest.importorskip("PIL")
    pytest.importorskip("plotly")
    from torch.utils.tensorboard import SummaryWriter

    experiment = start(tracker)
    writer = SummaryWriter(str(tracker.folder / "events"))
    writer.add_histogram("weights", np.arange(1_000.0), 1)
    writer.add_image("picture", np.zeros((3, 4, 5), dtype=np.uint8), 1)
    writer.add_text("words", "a < b", 1)
    writer.add_scalar("loss", 0.5, 1)
    experiment.log_table("rows", {"x": [1, 2], "y": [3, 4]}, step=2)
    writer.close()
    tracelet.stop_logging()
    assert experiment.stats.dropped == {}
    values = {}
    for _, row in tracker.rows(experiment.id):
        values.update(row)
    assert sum(values["weights"]["values"]) == 1_000
    assert len(values["weights"]["bins"]) <= 513
    kinds = {name: value["_type"] for name, value in values.items() if isinstance(value, dict)}
    assert kinds["picture"] == "image-file"
    assert kinds["words/text_summary"] == "html-file"
    assert kinds["rows"] == "plotly-file"
    assert values["loss"] == 0.5
    files = tracker.folder / "wandb" / Path(experiment.url).name / "files"
    assert "a &lt; b" in (files / values["words/text_summary"]["path"]).read_text()
    assert (files / values["picture"]["path"]).read_bytes().startswith(b"\x89PNG")


def test_an_active_run_is_logged_to_and_not_finished(tracker):
    import wandb

    theirs = wandb.init(
        dir=str(tracker.folder), project="theirs",
        settings=wandb.Settings(silent=True, console="off", x_transaction_log_flush_interval=0.2),
    )  # fmt: skip
    try:
        theirs.log({"own": 1.0})
        experiment = start(tracker)
        assert experiment.id == theirs.id
        for step in range(20):
            experiment.log_metric("loss", step * 0.5, step)
            theirs.log({"own": 2.0})
        assert experiment.flush(60)
        tracelet.stop_logging()
        assert wandb.run is theirs
        theirs.log({"own": 3.0})
    finally:
        theirs.finish()
    rows = rows_up_to(tracker, theirs.id, "own", 3.0)
    ours = [(row["global_step"], row["loss"]) for row in rows if "loss" in row]
    assert ours == [(step, step * 0.5) for step in range(20)]
    column = f"tracelet_row/{experiment._run.run_id}"
    assert [row[column] for row in rows if "loss" in row] == list(range(20))
    assert [row["own"] for row in rows if "own" in row] == [1.0, *[2.0] * 20, 3.0]


def test_two_runs_in_one_that_is_active_take_no_row_of_the_other_for_their_own(tracker):
    """Else rows that are nowhere yet are taken for written: lost, when the process is killed."""
    import wandb

    settings = wandb.Settings(silent=True, console="off", x_transaction_log_flush_interval=0.2)
    theirs = wandb.init(dir=str(tracker.folder), settings=settings)
    try:
        outer = start(tracker)
        for step in range(50):
            outer.log_metric("outer", step, step)
        assert outer.flush(60)
        with tracelet.logging("wandb", "inner", "tests", {"batch_max_age_s": 60}) as inner:
            assert inner.id == outer.id == theirs.id
            logs = [each._run.backends[0].log for each in (outer, inner)]
            for log in logs:
                log.refresh()
            assert [log.rows_end for log in logs] == [50, 0]
            for step in range(5):
                inner.log_metric("inner", step, step)
            assert inner.flush(60)
            assert [log.rows_end for log in logs] == [50, 5]
        tracelet.stop_logging()
    finally:
        theirs.finish()
    rows = rows_up_to(tracker, theirs.id, "inner", 4)
    assert [row["outer"] for row in rows if "outer" in row] == list(range(50))
    assert [row["inner"] for row in rows if "inner" in row] == list(range(5))


@pytest.mark.parametrize("reinit", ["return_previous", "finish_previous"])
def test_the_users_own_init_behind_ours_makes_a_run_of_its_own(reinit, tracker):
    """Also with `reinit="finish_previous"`, which ends what wandb knows to be active."""
    import wandb

    experiment = start(tracker)
    experiment.log_metric("ours", 0.0, 0)
    theirs = wandb.init(
        dir=str(tracker.folder), id=f"theirs-{reinit}", reinit=reinit,
        settings=wandb.Settings(silent=True, console="off"),
    )  # fmt: skip
    try:
        assert theirs.id != experiment.id
        for step in range(1, 20):
            experiment.log_metric("ours", step * 0.5, step)
            wandb.log({"mine": step})
        tracelet.stop_logging()
        assert wandb.run is theirs
        wandb.log({"mine": 20})
    finally:
        theirs.finish()
    assert experiment.stats.delivered["wandb"] == 20
    assert tracker.scalars(experiment.id) == {"ours": [(step, step * 0.5) for step in range(20)]}
    rows = rows_up_to(tracker, theirs.id, "mine", 20)
    assert [row["mine"] for row in rows] == list(range(1, 21))
    assert not any("ours" in row for row in rows)


def test_a_run_within_a_run_is_one_of_its_own(tracker):
    outer = start(tracker)
    outer.log_metric("a", 1.0, 1)
    with tracelet.logging("wandb", "inner", "tests", tracker.config) as inner:
        inner.log_metric("a", 2.0, 1)
    outer.log_metric("a", 3.0, 2)
    tracelet.stop_logging()
    assert outer.id != inner.id
    assert tracker.scalars(inner.id) == {"a": [(1, 2.0)]}
    assert tracker.scalars(outer.id) == {"a": [(1, 1.0), (2, 3.0)]}


@pytest.mark.slow
def test_without_a_login_the_run_is_offline_and_nothing_asks(tracker, run_script):
    code = f"""
        import os, tracelet
        experiment = tracelet.start_logging("wandb", "tests", "wandb", {tracker.config!r})
        experiment.log_metric("a", 1.0, 1)
        tracelet.stop_logging()
        print(experiment.id)
    """
    home = tracker.folder / "home"
    home.mkdir()
    environment = {"WANDB_MODE": "online", "HOME": str(home), "NETRC": str(home / ".netrc")}
    done = run_script(code, env=environment)
    assert done.stderr.count("the run is kept offline") == 1
    assert tracker.scalars(done.stdout.split()[-1]) == {"a": [(1, 1.0)]}


def test_an_online_run_is_not_all_sent_from_the_moment_its_end_begins(tracker):
    """Until `finish` returns: another backend that hangs may keep it from being called."""
    experiment = start(tracker)
    (backend,) = experiment._run.backends
    offline = backend._run
    backend._run = SimpleNamespace(is_owned=True, sdk=SimpleNamespace(offline=False))
    try:
        assert backend.unsent == 0
        backend.begin_end()
        assert backend.unsent == 1
    finally:
        backend._run, backend._is_behind = offline, False
    backend.begin_end()
    assert backend.unsent == 0
    tracelet.stop_logging()


def test_a_disabled_wandb_gets_nothing_and_that_is_counted(tracker):
    experiment = start(tracker, mode="disabled")
    experiment.log_metric("a", 1.0, 1)
    experiment.log_params({"a": 1})
    tracelet.stop_logging()
    assert experiment.stats.dropped == {"wandb is disabled": 1}
    assert not (tracker.folder / "wandb").exists()


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"entitty": "me"}, "did you mean 'entity'"),
        ({"mode": "shared"}, "one of online, offline, disabled"),
        ({"system_metrics": 1}, "must be a bool"),
        ({"id": 3}, "must be a str"),
    ],
)
def test_a_wrong_option_is_an_error_of_the_start(own, words, tracker):
    with pytest.raises(ConfigurationError, match=words):
        start(tracker, **own)


def test_what_a_batch_is_does_not_change_its_rows_when_it_is_given_again(tracker):
    """Some of the rows are there, and the batch comes again with more behind it."""
    experiment = start(tracker)
    (backend,) = experiment._run.backends
    log_row, calls = backend.log_row, []

    def cut(number, *arguments):
        calls.append(number)
        if len(calls) == 4:
            raise OSError("away")
        log_row(number, *arguments)

    backend.log_row = cut
    for step in range(50):
        experiment.log_metric("a", float(step), step // 2)
    assert experiment.flush(60)
    tracelet.stop_logging()
    assert calls.count(3) == 2  # the one that failed, and no other, was sent twice
    assert len(calls) == 51
    assert tracker.scalars(experiment.id)["a"] == [(step // 2, float(step)) for step in range(50)]


KILLED = """
    import os, signal, sys, tracelet
    from tracelet.backends.wandb import backend
    log_row, at = backend.WandbBackend.log_row, {at}

    def killed(self, number, *arguments):
        log_row(self, number, *arguments)
        if number == at:
            if {is_written}:
                self.log.wait_for(lambda: self.log.rows_end > at, "rows")
            {kill}

    backend.WandbBackend.log_row = killed
    experiment = tracelet.start_logging(
        "killed", "tests", "wandb", dict({config!r}, batch_max_points=64))
    print(experiment.id, flush=True)
    experiment.log_params({{"a": {{"b": 1}}}})
    experiment.log_artifact(b"kept", artifact_path="data.bin")
    for step in range(200):
        experiment.log_metric("x", step * 0.5, step)
        experiment.log_metric("y", step * 0.25, step)
    experiment.flush(60)
"""


def ends_with_a_whole_record(path):
    """Else `wandb sync` stops there, and sends nothing of the run's next file."""
    before = path.stat().st_size
    file = LogFile(str(path))
    assert list(file.new_records())
    file.cut_torn_end()
    return path.stat().st_size == before


@pytest.mark.slow
@pytest.mark.parametrize(("at", "is_written"), [(0, False), (33, True), (70, False)])
def test_a_kill_at_any_row_loses_and_doubles_nothing(at, is_written, tracker, run_script):
    kill = "os.killpg(0, signal.SIGKILL)" if at == 70 else "os.kill(os.getpid(), signal.SIGKILL)"
    code = KILLED.format(at=at, is_written=is_written, kill=kill, config=tracker.config)
    code = "    import os; os.setsid()\n" + code
    killed = run_script(code, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (run_id,) = killed.stdout.split()
    if is_written:  # and wandb-core's last write was cut off
        (path,) = tracker.folder.rglob("run-*.wandb")
        os.truncate(path, path.stat().st_size - 7)
    (left,) = find_runs(os.environ["TRACELET_DIR"])
    assert main(["sync", left.run_id]) == 0
    for path in tracker.folder.rglob("run-*.wandb"):
        assert ends_with_a_whole_record(path)
    found = tracker.scalars(run_id)
    assert found["x"] == [(step, step * 0.5) for step in range(200)]
    assert found["y"] == [(step, step * 0.25) for step in range(200)]
    assert tracker.config_of(run_id)["a"] == {"b": 1}
    assert tracker.artifact(run_id, "data.bin") == b"kept"
    assert find_runs(os.environ["TRACELET_DIR"]) == []


@pytest.mark.slow
def test_a_service_that_hangs_holds_back_neither_the_training_nor_the_exit(tracker, run_script):
    code = f"""
        import os, signal, time, tracelet
        config = dict({tracker.config!r}, exit_timeout_s=2, stop_timeout_s=2)
        experiment = tracelet.start_logging("hangs", "tests", "wandb", config)
        experiment.log_metric("x", 0.0, 0)
        assert experiment.flush(60)
        import wandb
        pid = wandb.setup()._connection._proc._process.pid
        os.kill(pid, signal.SIGSTOP)
        begin_s = time.monotonic()
        for step in range(1, 5_000):
            experiment.log_metric("x", step * 0.5, step)
        assert time.monotonic() - begin_s < 5
        print(experiment.id, time.time(), flush=True)
    """
    import time

    done = run_script(code)
    run_id, end_s = done.stdout.split()[-2:]
    assert time.time() - float(end_s) < 30
    assert "tracelet sync" in done.stderr
    (left,) = find_runs(os.environ["TRACELET_DIR"])
    assert main(["sync", left.run_id]) == 0
    assert tracker.scalars(run_id)["x"] == [(step, step * 0.5) for step in range(5_000)]


@pytest.mark.slow
def test_a_run_whose_file_is_gone_is_kept_and_named(tracker, run_script):
    code = f"""
        import os, signal, tracelet
        experiment = tracelet.start_logging("gone", "tests", "wandb", {tracker.config!r})
        experiment.log_metric("x", 0.0, 0)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run_script(code, check=False)
    for path in tracker.folder.rglob("run-*.wandb"):
        path.unlink()
    (left,) = find_runs(os.environ["TRACELET_DIR"])
    assert main(["sync", left.run_id]) == 1
    assert find_runs(os.environ["TRACELET_DIR"]) != []


def test_a_dead_online_run_is_not_sent_to_another_server(monkeypatch):
    wandb = pytest.importorskip("wandb")
    here = SimpleNamespace(base_url="http://joe:secret@127.0.0.1:9/w/")
    monkeypatch.setattr(wandb, "setup", lambda: SimpleNamespace(settings=here))
    monkeypatch.setattr(sdk, "is_logged_in", lambda timeout_s: True)
    assert sdk.server_of(here) == "http://127.0.0.1:9/w"
    sdk.check_server("http://127.0.0.1:9/w", 30)
    sdk.check_server(None, 30)  # of an earlier version
    with pytest.raises(BackendError) as raised:
        sdk.check_server("http://127.0.0.1:8", 30)
    assert all(each in str(raised.value) for each in ("127.0.0.1:8", "127.0.0.1:9"))
    assert "secret" not in str(raised.value)


def test_what_comes_behind_an_interrupt_of_the_start_is_undone():
    """By SIGALRM, in the place of a Ctrl-C."""
    come, undone = threading.Event(), threading.Event()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            sdk._within(60, "come", lambda: come.wait(60), lambda late: undone.set())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not undone.is_set()
    come.set()
    assert undone.wait(60)


def test_an_id_that_is_in_use_is_an_error_of_the_start(tracker):
    first = start(tracker, id="taken")
    with (
        pytest.raises(BackendError, match="in use"),
        tracelet.logging("wandb", "inner", "tests", {"wandb": {"id": "taken"}}),
    ):
        pass
    first.log_metric("a", 1.0, 1)
    tracelet.stop_logging()
    assert tracker.scalars("taken") == {"a": [(1, 1.0)]}


def chunk(kind, body):
    checksum = zlib.crc32(body, zlib.crc32(bytes([kind])))
    return struct.pack("<IHB", checksum, len(body), kind) + body


FIRST = b":W&B\x00\x00\x00" + chunk(1, b"one")
LONG = b"a" * (32_768 - len(FIRST) - 7), b"b" * 40  # what ends a block, and what goes on behind it
WHOLE = FIRST + chunk(2, LONG[0]) + chunk(4, LONG[1]) + chunk(1, b"three")
RECORDS = [b"one", LONG[0] + LONG[1], b"three"]


def test_the_file_of_a_run_is_read_as_far_as_it_is_whole(tmp_path):
    """Cut off at every byte of its last 200, in a block that a record is divided by."""
    path = tmp_path / "run-x.wandb"
    for cut in range(len(WHOLE) - 200, len(WHOLE) + 1):
        path.write_bytes(WHOLE[:cut])
        file = LogFile(str(path))
        found = list(file.new_records())
        assert found == RECORDS[: len(found)]
        path.write_bytes(WHOLE)  # the rest comes
        assert found + list(file.new_records()) == RECORDS


def test_a_record_that_is_cut_off_at_the_end_is_removed_and_a_damaged_one_is_not(tmp_path):
    path = tmp_path / "run-x.wandb"
    ends = [len(FIRST), len(WHOLE) - len(chunk(1, b"three")), len(WHOLE)]
    for cut in range(len(FIRST), len(WHOLE) + 1, 263):
        path.write_bytes(WHOLE[:cut])
        file = LogFile(str(path))
        list(file.new_records())
        file.cut_torn_end()
        assert path.stat().st_size == max(end for end in ends if end <= cut)
    path.write_bytes(WHOLE[:-3] + b"!" + WHOLE[-2:])  # a byte that is not as it was
    file = LogFile(str(path))
    assert list(file.new_records()) == RECORDS[:2]
    file.cut_torn_end()
    assert path.stat().st_size == len(WHOLE)
    path.write_bytes(b"something else")
    LogFile(str(path)).cut_torn_end()
    assert path.read_bytes() == b"something else"


def test_a_json_value_of_wandb_is_what_was_logged(tracker):
    experiment = start(tracker)
    experiment.log_metric("big", 1e300, 2**40)
    experiment.log_metric("small", -5e-324, -3)
    tracelet.stop_logging()
    rows = [row for _, row in tracker.rows(experiment.id)]
    assert (rows[0]["big"], rows[0]["global_step"]) == (1e300, 2**40)
    assert (json.loads(json.dumps(rows[1]["small"])), rows[1]["global_step"]) == (-5e-324, -3)
