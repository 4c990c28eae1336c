"""`tracelet import`: event files of others become runs, exactly, and once also when killed."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from event_bytes import event, message, scalar, tensor, varint, write
from readers import session_events, session_scalars
from tracelet import _core
from tracelet.backends import check_backends
from tracelet.cli import main
from tracelet.reading.records import PointStream
from tracelet.records import EVENT, HISTOGRAM, PAYLOAD_IN_FILE, SCALAR
from tracelet.recovery import importing
from tracelet.runs.history import read_records

START_S = 1_600_000_000.0


def torch_run(folder: Path, points: int = 300) -> list[tuple[int, float, float]]:
    """A run of torch's own writer, with all kinds of things in it; its loss."""
    writer_class = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    rng = np.random.default_rng()
    loss = [
        (step, float(np.float32(rng.standard_normal())), START_S + step * 0.125)
        for step in range(points)
    ]
    with writer_class(str(folder)) as writer:
        for step, value, wall_time in loss:
            writer.add_scalar("train/loss", value, step, walltime=wall_time)
        writer.add_histogram("layer/weights", np.arange(100.0), 3)
        writer.add_text("note", "héllo", 4)
        writer.add_image("picture", np.zeros((3, 8, 8), np.float32), 5)
        writer.add_hparams({"lr": 0.5}, {"best": 1.0}, run_name=".")
    return loss


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """ClearML's offline sessions, by their folders in the order in which they were made."""
    pytest.importorskip("clearml")
    root = Path(os.environ["CLEARML_CACHE_DIR"]) / "offline"
    before = set(root.glob("offline-*")) if root.exists() else set()

    def sessions() -> list[Path]:
        found = [path for path in root.glob("offline-*") if path.is_dir() and path not in before]
        return sorted(found, key=lambda path: path.stat().st_ctime_ns)

    return sessions


def test_files_of_torch_become_a_run_on_clearml_exactly(tmp_path, offline, capsys):
    loss = torch_run(tmp_path / "logs" / "first")
    assert main(["import", "logs", "--backend", "clearml", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "first: 307 points in 2 files; would be imported to clearml" in told
    assert offline() == []
    assert main(["import", "logs", "--backend", "clearml", "--project", "old ones"]) == 0
    assert "first: 307 points are imported" in capsys.readouterr().out
    (session,) = offline()
    points = session_scalars(session)["train", "loss"]
    assert points == [(step, value, round(time_s * 1000)) for step, value, time_s in loss]
    kinds = {each["type"] for each in session_events(session)}
    assert {"training_stats_scalar", "plot", "training_debug_image"} <= kinds
    task = json.loads((session / "task.json").read_text())
    assert task["name"] == "first"
    assert "imported" in task["tags"]
    assert str(tmp_path / "logs" / "first") in task["comment"]
    # A second time there is nothing to do; with --again it is a run of its own.
    assert main(["import", "logs", "--backend", "clearml", "--project", "old ones"]) == 0
    assert "first: was imported before, 307 points" in capsys.readouterr().out
    assert len(offline()) == 1
    again = ["import", "logs", "--backend", "clearml", "--project", "old ones", "--again"]
    assert main(again) == 0
    assert len(offline()) == 2
    assert os.listdir(tmp_path / "tracelet-runs") == []
    records, _ = read_records(os.environ["TRACELET_HISTORY_DIR"])
    assert [(each.exp_name, each.state, each.points) for each in records] == [
        ("first", "finished", 307)
    ] * 2
    assert all(Path(path).parent.parent == tmp_path / "logs" for path in records[0].files[:1])
    assert len(records[0].files) == 2


def test_two_imports_at_once_make_one_run(tmp_path, offline, monkeypatch, capsys):
    torch_run(tmp_path / "logs" / "first", points=5)
    command = ["import", "logs", "--backend", "clearml", "--project", "old ones"]
    codes: list[int] = []

    def slow(options):
        """The other one does all of it between this one's look at the history and its lock."""
        monkeypatch.setattr(importing, "check_backends", check_backends)
        codes.append(main(command))
        check_backends(options)

    monkeypatch.setattr(importing, "check_backends", slow)
    codes.append(main(command))
    assert codes == [0, 0]
    told = capsys.readouterr().out
    assert "first: 12 points are imported" in told
    assert "first: was imported before, 12 points" in told
    assert len(offline()) == 1
    assert os.listdir(tmp_path / "tracelet-runs") == []


def test_an_import_that_can_t_be_noted_is_kept_and_gone_on_with(
    tmp_path, offline, monkeypatch, capsys
):
    write(tmp_path / "logs", event(1, scalar("a", 1.0)))
    monkeypatch.setenv("TRACELET_HISTORY_RUNS", "0")  # of runs that end; not of imports

    def failing(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("tracelet.recovery.noted.write_record", failing)
    assert main(["import", "logs", "--backend", "clearml"]) == 1
    assert "the disk is full" in capsys.readouterr().err
    (folder,) = (tmp_path / "tracelet-runs").iterdir()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACELET_DIR", str(folder.parent))
    monkeypatch.setenv("TRACELET_HISTORY_DIR", str(tmp_path / "history"))
    assert main(["import", "logs", "--backend", "clearml"]) == 0
    (session,) = offline()
    assert [step for step, _, _ in session_scalars(session)["a", "a"]] == [1]
    assert main(["import", "logs", "--backend", "clearml"]) == 0
    assert "was imported before" in capsys.readouterr().out


def test_files_that_have_grown_since_are_told(tmp_path, offline, capsys):
    path = write(tmp_path / "logs", event(1, scalar("a", 1.0)))
    assert main(["import", "logs", "--backend", "clearml"]) == 0
    path.write_bytes(path.read_bytes() + event(2, scalar("a", 2.0)))
    capsys.readouterr()
    assert main(["import", "logs", "--backend", "clearml"]) == 0
    assert "its files have 1 more by now" in capsys.readouterr().out


_KILLED = """
import os, signal, sys
from tracelet.cli import main
from tracelet.journal.journal import Journal
from tracelet.pipeline.lane import Lane
from tracelet.recovery import importing, resend
from tracelet.runs.stored_run import StoredRun

resend._LOCAL_BATCH_POINTS = 64
place, left, when = {place!r}, [{number}], {when!r}
owner, name = {{
    "journal": (Journal, "append"), "open": (importing, "open_backend"),
    "manifest": (importing, "write_manifest"), "record": (importing, "write_record"),
    "send": (Lane, "_write"), "acknowledge": (Lane, "_note_success"),
    "noted": (resend, "note_sent"), "remove": (StoredRun, "remove"),
}}[place]
original = getattr(owner, name)

def dying(*args, **kwargs):
    left[0] -= 1
    if left[0] == 0 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    made = original(*args, **kwargs)
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return made

if place:
    setattr(owner, name, dying)
sys.exit(main(["import", "logs", "--backend", "clearml"]))
"""
_PLACES = [
    ("journal", 1, "after"), ("open", 1, "before"), ("manifest", 2, "before"),
    ("manifest", 2, "after"), ("record", 1, "after"), ("send", 1, "before"), ("send", 2, "after"),
    ("acknowledge", 3, "before"), ("noted", 1, "before"), ("noted", 1, "after"),
    ("remove", 1, "before"), ("remove", 1, "after"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "number", "when"),
    [
        pytest.param(*each, marks=() if n in (3, 6) else pytest.mark.slow)
        for n, each in enumerate(_PLACES)
    ],
)
def test_an_import_that_is_killed_and_called_again_doubles_and_loses_nothing(
    place, number, when, run_script, tmp_path
):
    pytest.importorskip("clearml")
    write(
        tmp_path / "logs",
        b"".join(event(step, scalar("train/loss", step / 4)) for step in range(300)),
    )
    code = _KILLED.format(place=place, number=number, when=when)
    assert run_script(code, check=False).returncode == -9
    again = "import sys\nfrom tracelet.cli import main\n"
    again += 'sys.exit(main(["import", "logs", "--backend", "clearml"]))'
    run_script(again)
    sessions = [path for path in (tmp_path / "clearml" / "offline").iterdir() if path.is_dir()]
    with_points = [path for path in sessions if session_scalars(path)]
    # Killed in the moment between, the tracker has a task that is empty.
    assert len(sessions) == (2 if (place, when) == ("manifest", "before") else 1)
    (session,) = with_points
    points = [(step, value) for step, value, _ in session_scalars(session)["train", "loss"]]
    assert points == [(step, step / 4) for step in range(300)]
    assert os.listdir(tmp_path / "tracelet-runs") == []
    assert "was imported before, 300 points" in run_script(again).stdout


def test_sync_goes_on_with_an_import_that_was_killed(run_script, tmp_path, capsys):
    pytest.importorskip("clearml")
    write(tmp_path / "logs", b"".join(event(s, scalar("a", s / 4)) for s in range(300)))
    code = _KILLED.format(place="send", number=2, when="after")
    assert run_script(code, check=False).returncode == -9
    assert main(["runs", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["state"], listed["name"], listed["points"]) == ("unsent", "logs", 300)
    assert main(["sync", "logs"]) == 0
    (session,) = [p for p in (tmp_path / "clearml" / "offline").iterdir() if p.is_dir()]
    assert [step for step, _, _ in session_scalars(session)["a", "a"]] == list(range(300))


@pytest.mark.slow
def test_an_import_to_mlflow_has_values_steps_and_times(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    loss = torch_run(tmp_path / "logs")
    assert main(["import", "logs", "--backend", "mlflow"]) == 0
    client = MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "logs"]
    (run,) = client.search_runs([experiment.experiment_id])
    metrics = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((m.step, m.value, m.timestamp) for m in metrics) == [
        (step, value, round(time_s * 1000)) for step, value, time_s in loss
    ]
    assert run.data.params["TB_hparams/lr"] == "0.5"
    assert run.info.status == "FINISHED"


def test_an_import_to_trackio_has_values_and_steps(tmp_path):
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    loss = torch_run(tmp_path / "logs" / "one")
    project = f"imported-{os.getpid()}"
    assert main(["import", "logs", "--backend", "trackio", "--project", project]) == 0
    (record,) = read_records(os.environ["TRACELET_HISTORY_DIR"])[0]
    rows = SQLiteStorage.get_logs(project, run_id=record.ids["trackio"])
    found = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert found == [(step, value) for step, value, _ in loss]


def test_what_can_t_be_imported_is_an_error_that_says_why(tmp_path, capsys):
    assert main(["import", "nothing", "--backend", "clearml"]) == 1
    assert "there are no event files" in capsys.readouterr().err
    write(tmp_path / "logs", event(1, scalar("a", 1.0)))
    assert main(["import", "logs", "--backend", "tensorboard"]) == 1
    assert "name a tracker, like clearml" in capsys.readouterr().err
    assert main(["import", "logs", "--backend", "clearmll"]) == 1
    assert "clearmll" in capsys.readouterr().err
    write(tmp_path / "empty", _core.version_event(1.0))
    assert main(["import", "empty", "--backend", "clearml"]) == 1
    assert "event files without a point" in capsys.readouterr().err
    assert os.listdir(tmp_path / "tracelet-runs") == []


class Kept:
    """What `PointStream.chunks` gives, put together."""

    def __init__(self, *paths: Path) -> None:
        self.stream = PointStream([str(path) for path in paths])
        self.names: list[str] = []
        self.files: list[bytes] = []
        self.rows = [
            (self.names[int(row["tag_id"])], row.copy(), payloads)
            for records, payloads in self.stream.chunks(7, self.intern, self.keep)
            for row in records
        ]

    def intern(self, text: str) -> int:
        self.names.append(text)
        return len(self.names) - 1

    def keep(self, position: int, payload: bytes) -> bytes:
        self.files.append(payload)
        return b"/a path"

    def event(self, index: int):
        from tensorboard.compat.proto.event_pb2 import Event

        return Event.FromString(self.payload(index))

    def payload(self, index: int) -> bytes:
        _, row, payloads = self.rows[index]
        start = int(row["payload_offset"])
        return payloads[start : start + int(row["payload_size"])]


def test_points_come_in_the_order_of_time_and_each_series_in_its_own(tmp_path):
    # The clock of `a` goes back: its order stays.
    times = [("a", 5.0), ("a", 3.0), ("b", 4.0), ("a", 6.0), ("b", 5.5), ("a", float("nan"))]
    data = b""
    for step, (tag, time_s) in enumerate(times):
        framed = event(step, scalar(tag, step))
        body = framed[12:-4]
        assert body[0] == 0x09
        data += _core.framed_event(b"\x09" + struct.pack("<d", time_s) + body[9:])
    kept = Kept(write(tmp_path, data))
    assert [(tag, int(row["step"])) for tag, row, _ in kept.rows] == [
        ("b", 2), ("a", 0), ("a", 1), ("b", 4), ("a", 3), ("a", 5),
    ]  # fmt: skip
    assert [int(row["sequence"]) for _, row, _ in kept.rows] == [1, 2, 3, 4, 5, 6]
    assert [float(row["wall_time"]) for _, row, _ in kept.rows] == [4.0, 5.0, 3.0, 5.5, 6.0, 0.0]


def test_tensors_of_tensorflow_2_become_scalars_histograms_and_events(tmp_path):
    double = b"\x08\x02" + message(4, struct.pack("<d", 0.1))
    rows = b"\x08\x02" + message(4, struct.pack("<6d", 0.0, 1.0, 3.0, 1.0, 2.0, 4.0))
    text = b"\x08\x07" + message(8, "héllo".encode())
    path = write(
        tmp_path,
        event(1, tensor("loss", "scalars", double)) + event(2, tensor("loss", None, double))
        + event(3, tensor("h", "histograms", rows))
        + event(4, tensor("t", "text", text)) + event(5, tensor("t", None, text)),
    )  # fmt: skip
    kept = Kept(path)
    assert [(tag, int(row["kind"]), float(row["value"])) for tag, row, _ in kept.rows] == [
        ("loss", SCALAR, 0.1), ("loss", SCALAR, 0.1), ("h", HISTOGRAM, 0.0),
        ("t", EVENT, 0.0), ("t", EVENT, 0.0),
    ]  # fmt: skip
    limits, counts, low, high, total, squares, num, *_ = _core.read_histogram(kept.payload(2))
    assert (limits.tolist(), counts.tolist()) == ([1.0, 2.0], [3.0, 4.0])
    assert (low, high, num) == (0.0, 2.0, 7)
    assert (total, squares) == (3 * 0.5 + 4 * 1.5, 3 * 0.25 + 4 * 2.25)
    for index in (3, 4):  # the second has its plugin from the first
        found = kept.event(index)
        assert (found.step, found.wall_time) == (index + 1, 1e9 + index + 1)
        (value,) = found.summary.value
        assert value.metadata.plugin_data.plugin_name == "text"
        assert value.tensor.string_val[0].decode() == "héllo"


def test_a_summary_of_several_values_gives_each_once(tmp_path):
    pytest.importorskip("tensorboard")
    image = message(4, b"\x08\x01\x10\x01" + message(4, b"png"))  # height, width, bytes
    both = event(9, scalar("loss", 0.5), message(1, b"picture") + image, scalar("acc", 0.25))
    graph = _core.framed_event(b"\x22" + varint(3) + b"abc")
    kept = Kept(write(tmp_path, both + graph))
    assert [(tag, int(row["kind"])) for tag, row, _ in kept.rows] == [
        ("loss", SCALAR), ("picture", EVENT), ("acc", SCALAR),
    ]  # fmt: skip
    (value,) = kept.event(1).summary.value
    assert (value.tag, value.image.encoded_image_string) == ("picture", b"png")
    assert kept.stream.graphs == 1


def test_a_large_event_goes_by_a_file_and_many_by_several_blocks(tmp_path):
    pytest.importorskip("tensorboard")

    def image(tag: str, size: int) -> bytes:
        return message(1, tag.encode()) + message(4, message(4, bytes(size)))

    data = b"".join(event(step, image("small", 900_000)) for step in range(12))
    kept = Kept(write(tmp_path, data + event(12, image("large", 3_000_000))))
    flags = [int(row["flags"]) for _, row, _ in kept.rows]
    assert flags == [0] * 12 + [PAYLOAD_IN_FILE]
    assert kept.payload(12) == b"/a path"
    assert len(kept.files[0]) > 3_000_000
    assert max(len(payloads) for _, _, payloads in kept.rows) < 6 << 20
    assert [int(row["sequence"]) for _, row, _ in kept.rows] == list(range(1, 14))
    assert len(kept.event(11).summary.value[0].image.encoded_image_string) == 900_000
