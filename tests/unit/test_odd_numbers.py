"""Steps and values of odd kinds: taken as torch takes them, told once; the handle refuses them."""

from __future__ import annotations

import numpy as np
import pytest
import tracelet
from readers import event_file_scalars, quick_events

SummaryWriter = pytest.importorskip("torch.utils.tensorboard").SummaryWriter


def test_summary_writer_takes_what_torch_takes_and_tells_once_a_tag(tmp_path, caplog):
    tracelet.start_logging("run", "project", "tensorboard")
    writer = SummaryWriter(str(tmp_path / "logs"))
    for _ in range(2):
        writer.add_scalar("odd step", 1.0, 1.5)
        writer.add_scalar("odd text", 1.0, "7")
        writer.add_scalar("odd value", "0.5", 3)
    writer.add_scalar("fine", np.float32(0.5), np.int64(4))
    tracelet.stop_logging()
    found = event_file_scalars(tmp_path / "logs")
    assert [point[:2] for point in found["odd step"]] == [(1, 1.0), (1, 1.0)]
    assert found["odd text"][0][0] == 7
    assert found["odd value"][0][1] == 0.5
    told = [record.getMessage() for record in caplog.records if "is taken as" in record.msg]
    assert len(told) == 3
    assert "global_step=1.5 (a float)" in told[0]
    assert "scalar_value='0.5' (a str)" in told[2]


@pytest.mark.parametrize(
    ("value", "step", "words"),
    [
        (1.0, 1.5, "step must be an int, not of type float"),
        (1.0, "7", "step must be an int, not of type str"),
        (1.0, np.float32(2), "step must be an int, not of type numpy.float32"),
        ("0.5", 1, "the value must be a number, not of type str"),
        ({"a": 1}, 1, "not of type dict: log"),
    ],
)
def test_log_metric_takes_numbers_and_whole_steps_alone(value, step, words):
    experiment = tracelet.start_logging("run", "project", "tensorboard")
    with pytest.raises(TypeError, match=words):
        experiment.log_metric("a", value, step)
    experiment.log_metric("a", True, np.int64(3))
    tracelet.stop_logging()
    assert experiment.stats.accepted == 1


@pytest.mark.parametrize(
    ("value", "theirs"),
    [
        (None, NotImplementedError), ([1], NotImplementedError), ({}, NotImplementedError),
        ("x", ValueError), (np.zeros(2), AssertionError), (10**400, OverflowError),
        (1j, TypeError),
    ],
)  # fmt: skip
def test_errors_are_of_the_type_that_torchs_writer_raises(value, theirs, tmp_path):
    writer = SummaryWriter(str(tmp_path / "theirs"))
    with pytest.raises(theirs):
        writer.add_scalar("tag", value, 1)
    tracelet.start_logging("run", "project", "tensorboard")
    writer = SummaryWriter(str(tmp_path / "ours"))
    with pytest.raises(theirs):
        writer.add_scalar("tag", value, 1)
    with pytest.raises((TypeError, ValueError)):
        writer.add_scalar("tag", value, 1)
    with pytest.raises(TypeError):
        writer.add_scalar("tag", 1.0, 1, "5")
    with pytest.raises(ValueError, match="embedded null byte"):
        writer.add_scalars("a\0b", {"c": 1.0}, 1)


class _Doubled(float):
    def __float__(self):
        return 2 * super().__float__()


class _DoubledNumpy(np.float64):
    def __float__(self):
        return 2 * super().__float__()


class _Plain(float):
    pass


@pytest.mark.filterwarnings("ignore:Warning. converting a masked element")
@pytest.mark.parametrize(
    "value",
    [
        _Doubled(1.5), _DoubledNumpy(1.5), _Plain(1.5), np.float64(1.5), np.ma.masked,
        np.ma.array(1.5, mask=True), np.ma.array([1.5], mask=[True]), np.ma.array([1.5]),
    ],
    ids=lambda value: f"{type(value).__name__} {value}",
)  # fmt: skip
def test_float_of_a_subclass_and_of_a_masked_value_is_what_torch_writes(value, tmp_path):
    """A masked value's memory may hold any number: it is NaN, never that number."""
    theirs = SummaryWriter(str(tmp_path / "theirs"))
    theirs.add_scalar("a", value, 1)
    theirs.add_scalars("b", {"c": value}, 1)
    theirs.close()
    experiment = tracelet.start_logging(
        "run", "p", "tensorboard", config={"log_dir": str(tmp_path / "handle")}
    )
    ours = SummaryWriter(str(tmp_path / "ours"))
    ours.add_scalar("a", value, 1)
    ours.add_scalars("b", {"c": value}, 1)
    experiment.log_metric("a", value, 1)
    tracelet.stop_logging()

    def values(folder):
        (path,) = (tmp_path / folder).glob("*tfevents*")
        return [v.simple_value for event in quick_events(path) for v in event.summary.value]

    for folder in ("", "/b_c"):
        np.testing.assert_array_equal(values("ours" + folder), values("theirs" + folder))
    np.testing.assert_array_equal(values("handle"), values("theirs"))
