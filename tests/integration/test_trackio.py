"""Runs in trackio's local database, beside what tests/contract asks of every backend."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tracelet
from tracelet.backends.base import Batch
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.kept import KeptLines
from tracelet.errors import BackendError, SinkUnavailableError
from tracelet.records import RECORD_DTYPE, SCALAR

pytest.importorskip("trackio")

from tracelet.backends.trackio.sink import TrackioSink
from tracelet.backends.trackio.store import Row, Store


def logs(run_id, project="tests"):
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs(project, run_id=run_id)
    return [
        (
            row["step"],
            {name: each for name, each in row.items() if name not in ("step", "timestamp")},
        )
        for row in rows
    ]


def config(run_id, project="tests"):
    from trackio.sqlite_storage import SQLiteStorage

    return SQLiteStorage.get_run_config(project, run_id=run_id)


@pytest.fixture
def theirs(monkeypatch):
    """A run that the user has started by trackio itself."""
    import trackio
    from trackio import context_vars

    monkeypatch.setattr("webbrowser.open", lambda *_: None)
    yield trackio.init("tests", name="theirs", auto_log_cpu=False, auto_log_gpu=False)
    if context_vars.current_run.get() is not None:
        trackio.finish()


def log_by_trackio(values):
    import trackio

    trackio.log(values)
    trackio.finish()  # now it is in the database


def test_histograms_images_and_text_have_trackios_own_types(tmp_path):
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter
    from trackio.utils import MEDIA_DIR

    experiment = tracelet.start_logging("media", "tests", "trackio")
    writer = SummaryWriter(str(tmp_path / "log"))
    values = np.concatenate([np.zeros(10), np.full(5, 2.0)])
    writer.add_histogram("weights", values, 1)
    writer.add_image("image", np.full((3, 4, 5), 0.5, np.float32), 2)
    writer.add_text("text", "*words*", 3)
    experiment.log_table("table", [["a", "b"], [1, 2]], 4)
    writer.add_pr_curve("curve", np.array([0, 1, 1]), np.array([0.1, 0.5, 0.9]), 5)
    assert experiment.flush(60)
    tracelet.stop_logging()
    found = {
        name: (step, value) for step, row in logs(experiment.id) for name, value in row.items()
    }
    step, histogram = found["weights"]
    assert (step, histogram["_type"]) == (1, "trackio.histogram")
    assert sum(histogram["values"]) == 15
    assert len(histogram["bins"]) == len(histogram["values"]) + 1 <= 513
    assert histogram["bins"][0] <= 0 < 2 <= histogram["bins"][-1]
    step, image = found["image"]
    assert (step, image["_type"]) == (2, "trackio.image")
    assert (MEDIA_DIR / image["file_path"]).read_bytes().startswith(b"\x89PNG")
    text = next(value for name, (_, value) in found.items() if name.startswith("text"))
    assert text == {"_type": "trackio.markdown", "_value": "*words*"}
    (reason,) = [r for r in experiment.stats.lanes["trackio-media"].set_aside]
    assert "no form on trackio" in reason


def test_two_runs_that_go_on_with_one_of_trackios_lose_no_point(theirs):
    """Each counts its points from the start: the rows' ids are told apart by tracelet's run."""
    for value in (1.0, 2.0):
        experiment = tracelet.start_logging("adopts", "tests", "trackio")
        assert experiment.id == theirs.id
        experiment.log_metric("a", value, int(value))
        tracelet.stop_logging()
    log_by_trackio({"theirs": 3.0})
    rows = [row for _, row in logs(theirs.id) if row]
    assert [row for row in rows if "a" in row] == [{"a": 1.0}, {"a": 2.0}]
    assert {"theirs": 3.0} in rows


def test_parameters_are_added_to_those_that_are_there():
    experiment = tracelet.start_logging(
        "config", "tests", "trackio", {"tags": ["first"], "comment": "a note"}
    )
    experiment.log_params({"lr": 0.1, "model": {"depth": 3}})
    experiment.log_params({"lr": 0.2})
    tracelet.stop_logging()
    assert config(experiment.id) == {
        "tags": ["first"], "comment": "a note", "lr": 0.2, "model/depth": 3,
    }  # fmt: skip


def test_a_project_that_trackio_refuses_is_told_at_the_start():
    with pytest.raises(BackendError, match="registry-"):
        tracelet.start_logging("name", "registry-mine", "trackio")
    assert tracelet.get_active_experiment() is None


class Tags:
    def text(self, id):
        return f"tag {id}" if id else ""


@pytest.mark.parametrize("seed", range(5))
def test_points_given_again_in_other_batches_are_there_once(seed, tmp_path, monkeypatch):
    """A batch whose answer was lost comes again with more points, or in another process."""
    random = np.random.default_rng(seed)
    store = Store("tests", "rows", f"rows-{seed}", ids=f"ids-{seed}")
    count = 300
    records = np.zeros(count, RECORD_DTYPE)
    records["sequence"] = np.arange(1, count + 1)
    records["tag_id"] = random.integers(1, 6, count)
    records["step"] = np.sort(random.integers(0, 40, count))
    records["value"] = np.arange(count)
    records["kind"] = SCALAR

    def opened():
        names = FlatNames(KeptLines(str(tmp_path), "names"), str)
        return TrackioSink(store, names)

    log = store.log

    def lose_the_answer(rows, are_finite_numbers):
        log(rows[: len(rows) // 2], are_finite_numbers)
        raise SinkUnavailableError("the answer was lost")

    sink, acknowledged = opened(), 0
    while acknowledged < count:
        end = min(count, acknowledged + int(random.integers(1, 40)))
        fate = random.integers(3)
        if fate == 2:
            monkeypatch.setattr(store, "log", lose_the_answer)
            with pytest.raises(SinkUnavailableError):
                sink.write(Batch(records[acknowledged:end].tobytes(), Tags()))
            monkeypatch.undo()
            continue
        sink.write(Batch(records[acknowledged:end].tobytes(), Tags()))
        if fate == 0:
            acknowledged = end
        else:
            sink.close(True)
            sink = opened()
    sink.close(False)
    found = [(step, name, value) for step, row in logs(store.run_id) for name, value in row.items()]
    expected = [(int(r["step"]), f"tag {r['tag_id']}", float(r["value"])) for r in records]
    assert sorted(found) == sorted(expected)


def test_numbers_are_written_as_trackios_own_call_writes_them_and_by_it_where_it_is_another(
    monkeypatch,
):
    from trackio.sqlite_storage import SQLiteStorage

    rows = [Row("1", 3, 1.5, {"a": 0.1, "b/c": -2e300}), Row("2", -4, 2.5, {"a": 0.0})]

    def written(run, are_finite_numbers):
        store = Store("tests", "numbers", run, ids=run)
        for _ in range(2):  # what is there is no second row
            store.log(rows, are_finite_numbers)
        with SQLiteStorage._get_connection(SQLiteStorage.get_project_db_path("tests")) as found:
            query = "SELECT * FROM metrics WHERE run_id = ? ORDER BY id"
            made = [dict(row) for row in found.execute(query, (run,))]
        assert [row.pop("log_id") for row in made] == [f"{run}-1", f"{run}-2"]
        return [{name: each for name, each in row.items() if name not in ("id", "run_id")}
                for row in made]  # fmt: skip

    calls, bulk_log = [], SQLiteStorage.bulk_log

    def noted(*arguments, **named):
        calls.append(named["run_id"])
        bulk_log(*arguments, **named)

    monkeypatch.setattr(SQLiteStorage, "bulk_log", staticmethod(noted))
    expected = written("by bulk_log", False)
    assert written("quickly", True) == expected
    assert calls == ["by bulk_log"] * 2
    monkeypatch.setattr(SQLiteStorage, "_table_columns", staticmethod(lambda *_: {"run_id"}))
    assert written("another table", True) == expected
    monkeypatch.delattr(SQLiteStorage, "_table_columns")
    with pytest.raises(SinkUnavailableError):  # bulk_log needs it, too
        written("another inside", True)
    assert calls[2:] == ["another table"] * 2 + ["another inside"]


def test_two_runs_that_go_on_with_one_keep_their_own_pictures(theirs):
    from trackio.utils import MEDIA_DIR

    for shade in (0, 255):
        experiment = tracelet.start_logging("adopts", "tests", "trackio")
        experiment.log_image("image", np.full((4, 4, 3), shade, np.uint8), 0)
        experiment.log_params({f"lr {shade}": 0.1})
        tracelet.stop_logging()
    log_by_trackio({"theirs": 3.0})
    images = [row["image"]["file_path"] for _, row in logs(theirs.id) if "image" in row]
    contents = {(MEDIA_DIR / path).read_bytes() for path in images}
    assert len(images) == len(contents) == 2
    assert {"lr 0", "lr 255"} <= config(theirs.id).keys()  # trackio's own write has them, too


def test_a_file_among_the_media_is_on_the_disk_before_its_row(monkeypatch):
    """Else a loss of power leaves a row whose picture is empty."""
    synced = []
    fsync = os.fsync

    def noted(fd):
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    path = Store("tests", "run", "run", "a").put_media(b"PNG", 1, "1-0.png")
    assert [os.path.basename(each) for each in synced] == ["a-1-0.png.new", "1"]
    assert path.endswith("a-1-0.png")
    with open(os.path.join(os.path.dirname(synced[0]), "a-1-0.png"), "rb") as file:
        assert file.read() == b"PNG"


def test_odd_wall_times_and_parameters_hold_up_nothing(tmp_path):
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    experiment = tracelet.start_logging("odd", "tests", "trackio")
    writer = SummaryWriter(str(tmp_path / "log"))
    for step, walltime in enumerate([1e12, -1e300, 1.7e9]):
        writer.add_scalar("a", 0.5, step, walltime=walltime)
    experiment.log_params({"large": 1 << 70, "date": np.datetime64("2026-01-02"), "lr": 0.1})
    experiment.log_params({"dates": np.array(["2026-01-02"], "datetime64[D]"), "c": 1 + 2j})
    assert experiment.flush(60)
    tracelet.stop_logging()
    assert [step for step, row in logs(experiment.id) if "a" in row] == [0, 1, 2]
    assert config(experiment.id)["large"] == str(1 << 70)
    assert config(experiment.id).keys() == {"large", "date", "lr", "dates", "c"}
    assert experiment.stats.not_taken == {}
