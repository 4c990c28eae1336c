"""What W&B's files tell of a run, and a run that is brought up to them."""

from __future__ import annotations

import json
import os
import struct
import zlib
from types import SimpleNamespace

import pytest

pytest.importorskip("wandb")

from tracelet.backends.wandb import log_file
from tracelet.backends.wandb.catch_up import catch_up
from tracelet.backends.wandb.log_file import RunLog, row_column, wait_until_left
from tracelet.errors import SinkUnavailableError
from wandb.proto.wandb_internal_pb2 import Record

COLUMN = row_column("a-run")


def as_file(records):
    data = b":W&B\0\0\0"
    for record in records:
        body = record.SerializeToString()
        checksum = zlib.crc32(body, zlib.crc32(b"\1"))
        data += struct.pack("<IHB", checksum, len(body), 1) + body
    return data


def record_of(kind, items, step=None):
    """`items`: {name, or "outer/inner": value}."""
    record = Record()
    part = getattr(record, kind)
    part.SetInParent()
    place = part.item if kind == "history" else getattr(part, "config", part).update
    for name, value in items.items():
        item = place.add()
        if "/" in name and not name.startswith("tracelet"):
            item.nested_key.extend(name.split("/"))
        else:
            item.key = name
        item.value_json = json.dumps(value)
    if step is not None:
        part.step.num = step
    return record


def row(step, **items):
    return record_of("history", {"_step": step, "_runtime": 1.5, **items}, step)


def end_of(code):
    record = Record()
    record.exit.exit_code = code
    return record


def begin_of(project, entity, **config):
    record = record_of("run", config)
    record.run.project, record.run.entity = project, entity
    return record


def artifact_of(name):
    record = Record()
    record.artifact.name = name
    return record


def write(path, *records):
    path.write_bytes(as_file(records))
    return str(path)


# ---- What a run's files tell.


def test_a_run_is_known_by_its_rows_its_config_and_its_end(tmp_path):
    path = write(
        tmp_path / "run-x.wandb", begin_of("p", "e", lr=1), row(3, loss=0.5),
        record_of("config", {"lr": 2, "model/depth": 3}), artifact_of("a"), artifact_of("a"),
        row(1, loss=0.1),
    )  # fmt: skip
    log = RunLog([path], COLUMN, False)
    assert (log.rows_end, log.last_step, log.exit_code, log.runs) == (0, -1, None, 0)
    log.refresh()
    assert (log.rows_end, log.last_step, log.exit_code, log.runs) == (4, 3, None, 1)
    assert (log.project, log.entity) == ("p", "e")
    assert log.configs == {"lr": 2, "model": 1}
    assert log.artifacts == {"a": 2}
    assert log.paths == [path]
    further = write(tmp_path / "run-y.wandb", row(7), end_of(3), begin_of("p", "e"))
    log.add_file(further)
    log.refresh()
    log.refresh()  # each record once
    assert (log.rows_end, log.last_step, log.exit_code, log.runs) == (8, 7, 3, 2)
    assert log.paths == [path, further]


def test_where_others_log_rows_too_ours_are_known_by_their_column_alone(tmp_path):
    rows = [row(0, other=1), row(1, **{COLUMN: 5}), row(2, **{COLUMN: 2}),
            row(3, **{row_column("another"): 9}), row(4, **{COLUMN: "x"})]  # fmt: skip
    log = RunLog([write(tmp_path / "run-x.wandb", *rows)], COLUMN, True)
    log.refresh()
    assert (log.rows_end, log.last_step) == (6, 4)


def test_a_torn_end_of_each_file_is_cut_off(tmp_path):
    paths = [tmp_path / "a.wandb", tmp_path / "b.wandb"]
    for path in paths:
        path.write_bytes(as_file([row(0)]) + b"torn off")
    log = RunLog([str(path) for path in paths], COLUMN, False)
    log.refresh()
    log.cut_torn_ends()
    assert [path.read_bytes() for path in paths] == [as_file([row(0)])] * 2


class Time:
    """By turns of sleep, and no other time passes."""

    def __init__(self):
        self.now_s, self.at_sleep = 100.0, lambda: None

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds
        self.at_sleep()


@pytest.fixture
def clock(monkeypatch):
    made = Time()
    monkeypatch.setattr(log_file, "time", made)
    return made


def test_a_file_that_grows_is_waited_for_and_one_that_does_not_is_given_up(
    tmp_path, clock, monkeypatch
):
    monkeypatch.setattr(log_file, "_POLL_S", 0.5)
    path = tmp_path / "run-x.wandb"
    write(path, row(0))
    log = RunLog([str(path)], COLUMN, False)
    log.wait_for(lambda: log.rows_end == 1, "rows")
    assert clock.now_s == 100.0  # it is there
    with pytest.raises(SinkUnavailableError, match="does not write rows"):
        log.wait_for(lambda: False, "rows")
    assert log_file._NO_PROGRESS_S < clock.now_s - 100.0 < log_file._NO_PROGRESS_S + 1
    rows = [row(0)]

    def grow():
        if clock.now_s > next_s[0]:
            rows.append(row(len(rows)))
            write(path, *rows)
            next_s[0] += log_file._NO_PROGRESS_S - 1

    start_s = clock.now_s
    next_s = [start_s + log_file._NO_PROGRESS_S - 1]
    clock.at_sleep = grow
    log.wait_for(lambda: log.rows_end == 4, "rows")
    assert clock.now_s - start_s > 2 * log_file._NO_PROGRESS_S
    path.unlink()
    with pytest.raises(SinkUnavailableError, match="can't be read"):
        log.wait_for(lambda: False, "rows")


def test_a_dead_runs_file_is_left_to_who_has_it_open(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(log_file, "_POLL_S", 2.0)  # each look at all processes takes its time
    path = tmp_path / "run-x.wandb"
    path.touch()
    link = tmp_path / "link"
    link.symlink_to(path)
    wait_until_left([str(path)])
    if not os.path.isdir("/proc/self/fd"):
        return
    with open(path), pytest.raises(SinkUnavailableError, match="still writes this run"):
        wait_until_left([str(tmp_path / "other"), str(link)])
    assert log_file._LEFT_S < clock.now_s - 100.0 <= log_file._LEFT_S + 2
    file = open(path)  # noqa: SIM115
    clock.at_sleep = file.close
    wait_until_left([str(path)])
    assert file.closed
    before_s = clock.now_s
    monkeypatch.setattr(os.path, "isdir", lambda path: False)  # no /proc
    wait_until_left([str(path)])
    assert clock.now_s - before_s == log_file._MOMENT_S


# ---- A run that is brought up to what its files have.


class Sdk:
    """The SDK's run, as far as it is asked here."""

    def __init__(self, starting_step):
        self.starting_step = starting_step
        self.rows, self.configs, self.files = [], [], []
        self.config = SimpleNamespace(
            update=lambda values, allow_val_change: self.configs.append((values, allow_val_change))
        )

    def log(self, values, step, commit):
        assert commit
        self.rows.append((step, values))

    def save(self, path, base_path, policy):
        assert policy == "now"
        self.files.append(os.path.relpath(path, base_path))


def test_a_resumed_run_gets_the_rows_that_its_server_lacks_with_their_numbers(tmp_path):
    first = write(tmp_path / "a.wandb", begin_of("p", "e", lr=1, **{"_wandb": {}, "m/d": 2}),
                  *(row(n, loss=n / 2) for n in range(4)))  # fmt: skip
    second = write(tmp_path / "b.wandb", record_of("config", {"lr": 3, "m/w": 4}),
                   *(row(n, loss=n / 2, **{"x/y": n}) for n in range(3, 6)))  # fmt: skip
    sdk = Sdk(starting_step=2)
    catch_up(SimpleNamespace(sdk=sdk), [first, second])
    assert [step for step, _ in sdk.rows] == [2, 3, 4, 5]  # 3 once, though both have it
    assert sdk.rows[0][1] == {"loss": 1.0}
    assert sdk.rows[2][1] == {"loss": 2.0, "x": {"y": 4}}
    assert sdk.configs == [({"lr": 3, "m": {"w": 4}}, True)]


def test_a_run_without_a_config_is_given_none_and_one_that_has_all_no_row(tmp_path):
    sdk = Sdk(starting_step=9)
    catch_up(SimpleNamespace(sdk=sdk), [write(tmp_path / "a.wandb", row(0), row(8))])
    assert (sdk.rows, sdk.configs) == ([], [])


def test_files_of_a_row_are_sent_and_none_that_lies_elsewhere(tmp_path):
    for name in ("files/media/a.png", "files/media/b.txt", "secret", "filesystem"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    os.symlink(tmp_path / "secret", tmp_path / "files" / "link")
    images = [{"_type": "image-file", "path": name} for name in (
        "media/a.png", "../secret", "../filesystem", str(tmp_path / "secret"), "link", "gone", 7
    )]  # fmt: skip
    values = {f"image{n}": image for n, image in enumerate(images)}
    values["nested"] = {"deep": {"_type": "table-file", "path": "media/b.txt"}}
    values["none"] = {"_type": "histogram", "path": "media/b.txt"}
    sdk = Sdk(starting_step=0)
    catch_up(SimpleNamespace(sdk=sdk), [write(tmp_path / "a.wandb", row(0, **values))])
    assert sdk.files == ["media/a.png", "media/b.txt"]
