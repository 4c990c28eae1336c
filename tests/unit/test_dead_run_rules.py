"""What must hold for what dead processes left; each a rule that a small slip in the code breaks."""

from __future__ import annotations

import json
import os

import pytest
from dead_runs import POINTS, make_dead_runs
from tracelet import _core
from tracelet.backends.kept import KeptLines
from tracelet.journal.journal import Journal
from tracelet.journal.names import NamesFile, read_names
from tracelet.recovery import rescue
from tracelet.runs.process_identity import is_alive, process_identity
from tracelet.runs.progress import Progress
from tracelet.runs.run_folder import RUN_LOCK
from tracelet.runs.stored_run import StoredRun

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def dead(tmp_path):
    return make_dead_runs(tmp_path, ["victim"])["victim"]


def test_the_ring_goes_when_the_journal_has_reached_the_disk_and_the_manifest_says_so(
    dead, monkeypatch
):
    order = []
    sync, update, unlink = Journal.sync, StoredRun.update, os.unlink
    monkeypatch.setattr(Journal, "sync", lambda *a: (order.append("sync"), sync(*a))[1])
    monkeypatch.setattr(
        StoredRun, "update", lambda run, **c: (order.append(sorted(c)), update(run, **c))[1]
    )

    def unlinked(path, **options):
        if path == dead.ring_path:
            order.append("unlink")
        unlink(path, **options)

    monkeypatch.setattr(rescue.os, "unlink", unlinked)
    rescue.recover_journal(dead).journal.close()
    assert order == ["sync", ["end", "ring_is_drained"], "unlink"]


def test_pending_is_what_the_slowest_sink_lacks(dead):
    assert dead.pending() == POINTS
    progress = Progress.open(dead.path)
    progress.close()
    Progress.create(dead.path, [POINTS - 3, POINTS - 90]).close()
    assert dead.pending() == 90


def test_a_process_of_a_host_that_is_not_this_one_is_not_taken_for_dead(dead):
    elsewhere = {**process_identity(), "host": "another-host"}
    assert is_alive(elsewhere) is None
    assert is_alive({**process_identity(), "pid": None}) is None
    assert not dead.is_alive
    os.unlink(os.path.join(dead.path, RUN_LOCK))
    os.mkdir(os.path.join(dead.path, RUN_LOCK))  # nothing can be told by its lock
    dead.update(host="another-host")
    assert dead.is_alive
    assert dead.state == "running"


def test_names_behind_a_torn_tail_are_read(tmp_path):
    class Source:
        def __init__(self, texts):
            self.texts = texts

        def text_count(self):
            return len(self.texts)

        def text(self, id):
            return self.texts[id - 1]

    texts = ["first", "second"]
    names = NamesFile(str(tmp_path))
    names.update(Source(texts))
    names.close()
    path = next(tmp_path.iterdir())
    with open(path, "ab") as file:
        file.write(path.read_bytes()[16:-3])  # most of a block
    texts += ["third"]
    names = NamesFile(str(tmp_path))
    names.update(Source(texts))
    names.close()
    assert read_names(str(tmp_path)) == ["", *texts]


def test_kept_lines_behind_a_torn_tail_are_read_and_a_closed_file_is_opened_anew(tmp_path):
    (tmp_path / "kept.jsonl").write_bytes(b'[1]\n[2, "to')
    lines = KeptLines(str(tmp_path), "kept.jsonl")
    assert lines.append(3)
    lines.close()
    assert lines.append(4)
    lines.close()
    lines.close()
    assert list(KeptLines(str(tmp_path), "kept.jsonl").read()) == [[1], [3], [4]]
    assert (tmp_path / "kept.jsonl").read_bytes() == b"[1]\n[3]\n[4]\n"


def test_a_parked_scalar_whose_process_died_is_lost_and_its_ticket_no_value(run_script, tmp_path):
    pytest.importorskip("torch.utils.tensorboard")
    run_script(
        """
        import os, signal, torch, tracelet
        from tracelet import _core
        experiment = tracelet.start_logging("victim", "tests", "tensorboard",
            config={"log_dir": "log", "drain_interval_s": 100.0, "ring_slots": 1024})
        _core.treat_cpu_as_device(True)
        _core.set_parking(lambda tensor: 123456789, lambda ticket: None)
        from torch.utils.tensorboard import SummaryWriter
        writer = SummaryWriter("log")
        writer.add_scalar("a", 0.5, 0)
        writer.add_scalar("a", torch.zeros(()), 1)
        writer.add_scalar("a", 1.5, 2)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        check=False,
        env={"TRACELET_RING_DIR": str(tmp_path)},
    )
    (path,) = (tmp_path / "tracelet-runs").iterdir()
    run = StoredRun(str(path))
    ring = _core.StoredRing.open(run.ring_path)
    assert ring.head == 3
    recovered = rescue.recover_journal(run)
    records, _ = recovered.journal.read(0, 10, 1 << 20)
    assert 123456789.0 not in records["value"].tolist()
    assert [v for k, v in zip(records["kind"], records["value"]) if k == 1] == [0.5, 1.5]


class Answers:
    """The server's side of TaskEdits."""

    def __init__(self, status):
        self.status = status
        self.requests = []

    def task(self):
        return {"status": self.status}

    def call(self, request, **body):
        self.requests.append(request)


@pytest.mark.parametrize(
    ("status", "is_stopped"),
    [("in_progress", True), ("created", True), ("queued", True), ("completed", False),
     ("failed", False), ("stopped", False), ("published", False), ("closed", False)],
)  # fmt: skip
def test_sync_ends_a_task_that_nobody_has_ended_and_no_other(status, is_stopped):
    pytest.importorskip("clearml")
    from tracelet.backends.clearml.reopen import ReopenedTask

    task = ReopenedTask.__new__(ReopenedTask)
    task.is_offline, task.is_owned, task._edits = False, True, Answers(status)
    task.close(process_is_ending=False)
    assert task._edits.requests == (["StoppedRequest"] if is_stopped else [])
    task.is_owned = False
    task._edits = Answers("in_progress")
    task.close(process_is_ending=False)
    assert task._edits.requests == []


def test_what_a_dead_run_has_left_of_its_configuration_goes_to_the_server():
    pytest.importorskip("clearml")
    from tracelet.backends.clearml.reopen import ReopenedTask

    class Edits:
        def set_configuration(self, *given):
            self.given = given

    task = ReopenedTask.__new__(ReopenedTask)
    task.is_offline, task._edits = False, Edits()
    task.set_configuration("model", "layers: 3")
    assert task._edits.given == ("model", "layers: 3")


def test_no_password_of_a_place_for_files_is_kept():
    pytest.importorskip("clearml")
    from tracelet.backends.clearml.reopen import StoredTask, reopen_state
    from tracelet.errors import SinkUnavailableError

    class SdkTask:
        output_uri = "https://user:hunter2@files.example/x"
        id = "1"
        is_owned = True
        is_offline = False

        @property
        def task(self):
            return self

        def get_logger(self):
            return self

        def get_default_upload_destination(self):
            return self.output_uri

        def _get_output_destination_suffix(self, *_):
            return "p/t.1/metrics"

        def get_default_debug_sample_history(self):
            return 100

    state = reopen_state(SdkTask())
    assert "hunter2" not in json.dumps(state)
    stored = StoredTask(state)
    for ask in (stored.get_default_upload_destination, lambda: stored.output_uri):
        with pytest.raises(SinkUnavailableError):
            ask()
    SdkTask.output_uri = "s3://bucket/x"
    stored = StoredTask(reopen_state(SdkTask()))
    assert stored.get_default_upload_destination() == stored.output_uri == "s3://bucket/x"
