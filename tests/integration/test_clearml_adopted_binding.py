"""The user's own task has ClearML's TensorBoard binding: off while a run gives the task the points.

Each point arrives once, by torch's writer and by tensorboardX', and after the run the task gets
what it would get without tracelet.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest
from readers import session_events

pytest.importorskip("clearml")
pytest.importorskip("torch")
pytest.importorskip("tensorboardX")

_HEAD = """
    import json
    import numpy as np, tensorboardX, tracelet
    from torch.utils.tensorboard import SummaryWriter
    from clearml import Task
    from clearml.binding.frameworks.tensorflow_bind import PatchSummaryToEventTransformer as Binding

    Task._report_subprocess_enabled = False
    IMAGE = np.zeros((3, 8, 8), dtype=np.uint8)
    task = Task.init("tests", "mine", auto_resource_monitoring=False)
    old = [SummaryWriter("old"), tensorboardX.SummaryWriter("oldX")]

    def log(when, writers):
        for name, writer in zip(("torch", "x"), writers):
            tag = f"{when}/{name}"
            writer.add_scalar(tag + "/scalar", 1.0, 1)
            writer.add_scalars(tag + "/scalars", {"one": 1.0}, 1)
            writer.add_image(tag + "/image", IMAGE, 1)
            writer.add_text(tag + "/text", "words", 1)
            writer.add_histogram(tag + "/histogram", np.arange(3.0), 1)
            writer.flush()

    def log_all(when):
        log(when + " old", old)
        log(when + " new", [SummaryWriter(f"new {when}"), tensorboardX.SummaryWriter(f"X {when}")])

    def end():
        task.flush(wait_for_uploads=True)
        print("FOLDERS", json.dumps([str(task.get_offline_mode_folder())]))
        task.close()
"""


def series(done) -> dict[str, Counter[str]]:
    """How often the task's session has which metric and variant, for each `when`, without it."""
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOLDERS"))
    found: dict[str, Counter[str]] = {}
    for event in session_events(json.loads(line.partition(" ")[2])[0]):
        name = f"{event['type']} {event['metric']}|{event['variant']}"
        for when in ("before", "during", "inner", "after"):
            if when in name:
                found.setdefault(when, Counter())[name.replace(when, "")] += 1
    return found


@pytest.mark.slow
def test_each_point_of_an_adopted_task_arrives_once(run_script):
    done = run_script(
        _HEAD
        + """
    log_all("before")
    experiment = tracelet.start_logging("mine")
    assert experiment.id == task.id
    log_all("during")
    tracelet.stop_logging()
    log_all("after")
    end()
    """
    )
    found = series(done)
    own_form = {name for name in found["during"] if name.endswith("histogram over time")}
    assert len(own_form) == 4
    assert len(found["before"]) == 4 * 5  # writers, and what each logs
    for name in own_form:
        del found["during"][name]
    assert found["during"] == found["before"] == found["after"]
    assert set(found["before"].values()) == {1}


@pytest.mark.slow
def test_the_users_task_beside_a_run_of_another_backend_gets_what_it_would(run_script, tmp_path):
    """The binding is none of that run's: it is a wrapper of the user's, which is not passed by."""
    done = run_script(
        _HEAD
        + """
    log_all("before")
    experiment = tracelet.start_logging("other", backend="tensorboard")
    log_all("during")
    tracelet.stop_logging()
    print("delivered", experiment.stats.delivered)
    log_all("after")
    end()
    """
    )
    found = series(done)
    assert len(found["before"]) == 4 * 5
    assert found["during"] == found["before"] == found["after"]
    assert set(found["before"].values()) == {1}
    assert "delivered {'tensorboard': 20}" in done.stdout


@pytest.mark.slow
def test_the_binding_is_given_back_however_a_run_ends(run_script):
    """A block that raises, runs inside runs and child tasks, ended in any order, a failed start."""
    done = run_script(
        _HEAD
        + """
    def is_on():
        assert Task.current_task() is task
        return Binding._current_task is task

    try:
        with tracelet.logging("clearml"):
            assert not is_on()
            raise ValueError("no data")
    except ValueError:
        pass
    assert is_on()

    def broken(info):
        raise OSError("no backend")

    tracelet.register_sink("broken", broken)
    for name in ("mine", "a child"):
        try:
            tracelet.start_logging(name, backend=["clearml", "broken"], config={"child_task": True})
        except OSError:
            pass
        assert is_on()
    from tracelet.backends.clearml import backend
    note_session, backend.note_session = backend.note_session, broken
    try:
        tracelet.start_logging("mine")
    except (OSError, TypeError):
        pass
    backend.note_session = note_session
    assert is_on()

    with tracelet.logging("clearml"):
        with tracelet.logging("clearml", config={"child_task": False}):
            assert not is_on()
        assert not is_on()
        with tracelet.logging("clearml", "inner"):
            assert Task.current_task() is not task
            log_all("inner")
        assert not is_on()
    assert is_on()

    with tracelet.logging("clearml", "inner"):
        assert Task.current_task() is not task
        log_all("inner")
    assert is_on()

    outer, inner = tracelet.logging("clearml"), tracelet.logging("clearml", "inner")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    log_all("inner")
    inner.__exit__(None, None, None)
    assert is_on()

    tracelet.start_logging("mine")
    log_all("during")
    task.close()
    tracelet.stop_logging()
    assert Binding._current_task is None
    print("FOLDERS", json.dumps([str(task.get_offline_mode_folder())]))
    """
    )
    assert "inner" not in series(done)
