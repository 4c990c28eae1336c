"""What is kept in the run's folder for another process: a damage costs its line, and is told."""

from __future__ import annotations

import errno
import json
import os

import pytest
from tracelet.backends.clearml.names import TaskNames
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.kept import KeptLines
from tracelet.backends.kept_params import KeptParams


def lines_of(tmp_path, content):
    (tmp_path / "kept.jsonl").write_bytes(content)
    return list(KeptLines(str(tmp_path), "kept.jsonl").read())


@pytest.mark.parametrize("damage", [b"[2, {\n", b"\xff\xfe\n", b"\0\0\0\0\n", b"\n"])
def test_a_damaged_line_costs_itself_alone(tmp_path, caplog, damage):
    assert lines_of(tmp_path, b'[1, "a"]\n' + damage + damage + b'[3, "c"]\n[4, "to') == [
        [1, "a"], [3, "c"],
    ]  # fmt: skip
    assert len([text for text in caplog.messages if "is damaged" in text]) == 1


ODD = b'7\n{"a": 1}\n[]\n[1]\n["lines", "d", "t", "k"]\n[1, 0, ["x"], "s", 4]\n["/d", "t", 3]\n'
ODD += b"[" * 100_000 + b"\n"


def test_a_line_of_another_form_costs_itself_alone(tmp_path, caplog):
    """It was an error of the sink, so that nothing of the run could be sent any more."""
    (tmp_path / "names.jsonl").write_bytes(ODD + b'["/d", "t", "a name"]\n' + ODD)
    names = FlatNames(KeptLines(str(tmp_path), "names.jsonl"), str)
    assert names.name("/d", "t") == "a name"
    names.close()
    of_clearml = ODD + b'["scalars", "/d", "t", "key"]\n["samples", "/d", 7, "key"]\n'
    (tmp_path / "clearml.jsonl").write_bytes(of_clearml)
    made = TaskNames.kept_in(KeptLines(str(tmp_path), "clearml.jsonl"))
    assert made.scalars._owner == {"key": ("/d", "t")}
    assert made.samples._owner == {}
    (tmp_path / "writer.jsonl").write_bytes(ODD + b'["a writer"]\n')
    lines = KeptLines(str(tmp_path), "writer.jsonl")
    assert [writer for (writer,) in lines.read(str)] == ["a writer"]
    assert caplog.text.count("is damaged") == 3


def test_a_closed_file_is_let_go_of(tmp_path):
    before = len(os.listdir("/dev/fd"))
    lines = KeptLines(str(tmp_path), "kept.jsonl")
    assert lines.append(1)
    assert len(os.listdir("/dev/fd")) == before + 1
    lines.close()
    lines.close()
    assert len(os.listdir("/dev/fd")) == before


class Queue:
    def __init__(self):
        self.queued = []

    def soon(self, upload):
        self.queued.append(upload)


def test_parameters_that_can_t_be_written_are_sent_and_told_once(tmp_path, caplog, monkeypatch):
    sent = []

    def send(params):
        sent.append(dict(params))
        return {}

    class NoRoom(KeptLines):
        def append(self, *values):
            def fail(*_, **__):
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr("tracelet.backends.kept.io.FileIO", fail)
            return super().append(*values)

    queue = Queue()
    params = KeptParams("clearml", NoRoom(str(tmp_path), "kept.jsonl"), send)
    params.add({"a": 1}, queue)
    params.add({"b": 2}, queue)
    assert len([text for text in caplog.messages if "lost if this process dies" in text]) == 1
    assert queue.queued == [params]
    params.upload()
    assert sent == [{"a": 1, "b": 2}]
    assert params.unsent == 0


def test_what_a_dead_process_left_is_taken_up_behind_a_damaged_line(tmp_path):
    rows = [[1, {"a": 1}], [1], [2, {"b": 2}], [3, {"b": 3, "c": 4}]]
    text = [json.dumps(row) + "\n" for row in rows]
    text.insert(3, "{torn\n")
    (tmp_path / "kept.jsonl").write_text("".join(text))
    sent = []
    params = KeptParams(
        "clearml", KeptLines(str(tmp_path), "kept.jsonl"), lambda p: sent.append(dict(p)) or {}
    )
    params.restore()
    assert params.unsent == 2
    params.upload()
    assert sent == [{"b": 3, "c": 4}]
