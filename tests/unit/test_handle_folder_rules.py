"""Where a run's own points go in event files: with the first writer, and settled once."""

from __future__ import annotations

import pytest
from tracelet.backends import handle_folder as module
from tracelet.backends.handle_folder import HandleFolder
from tracelet.options import Options
from tracelet.writer_key import writer_key

FIRST, SECOND = writer_key("/logs/one", ".x"), writer_key("/logs/two", "")


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_noted", {})

    def make(name="a", backend=("tensorboard",)):
        (tmp_path / name).mkdir(exist_ok=True)
        made = HandleFolder(Options(backend=backend, exp_name="e"), str(tmp_path / name))
        made.takes_earlier_writers = True
        return made

    return make


def test_points_go_where_the_first_writer_logs(make):
    handle = make()
    handle.note_writer(FIRST)
    handle.note_writer(SECOND)
    assert handle.settle() == FIRST
    assert handle.path == "/logs/one"


def test_points_that_came_first_settle_it(make):
    handle = make()
    default = handle.settle()
    assert default == handle.default
    handle.note_writer(FIRST)
    assert handle.settle() == default


def test_a_writer_of_a_url_is_no_folder_to_go_to(make):
    handle = make()
    handle.note_writer(writer_key("s3://bucket", ""))
    handle.note_writer(FIRST)
    assert handle.settle() == FIRST


def test_an_earlier_writer_counts_for_the_run_that_it_is_of(make):
    handle = make()
    handle.takes_earlier_writers = False
    handle.note_writer(FIRST, is_earlier=True)
    assert handle.writer is None
    handle.takes_earlier_writers = True
    make("other").note_writer(SECOND)
    handle.note_writer(SECOND, is_earlier=True)  # of a run inside this one
    assert handle.writer is None
    handle.note_writer(FIRST, is_earlier=True)
    assert handle.settle() == FIRST


def test_parameters_move_with_the_first_writer_and_a_failure_is_told(make, caplog):
    handle = make()
    moved = []
    assert handle.for_params(lambda: moved.append(1)) == handle.default
    handle.note_writer(FIRST)
    handle.note_writer(SECOND)
    assert moved == [1]

    def fail():
        raise OSError("full")

    other = make("b")
    other.for_params(fail)
    other.note_writer(FIRST)
    assert "the parameters are not shown" in caplog.text
    assert other.settle() == FIRST
    settled = make("c")
    settled.settle()
    assert settled.for_params(lambda: moved.append(2)) == settled.writer
    settled.note_writer(FIRST)
    assert moved == [1]


def test_another_process_goes_on_with_the_folder_that_was_settled(make, tmp_path):
    handle = make()
    handle.note_writer(FIRST)
    handle.close()
    again = make()
    again._restore()
    assert again.settle() == FIRST


def test_a_writer_without_a_folder_takes_the_runs_where_that_is_in_use(make):
    handle = make()
    assert handle.of_new_writer() is None
    _ = handle.path
    assert handle.of_new_writer() == handle.default
    handle.settle()
    assert handle.of_new_writer() == handle.default
    handle.note_writer(FIRST)
    assert handle.of_new_writer() is None
    assert make("b", backend=("clearml",)).of_new_writer() is None
