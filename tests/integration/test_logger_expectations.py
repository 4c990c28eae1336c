"""What people expect of their loggers, by what torch's, Lightning's and tensorboardX' tests check.

Nothing here is of theirs: each test says an expectation, and holds it within a run.
"""

from __future__ import annotations

import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import tracelet
from readers import event_files, events

torch = pytest.importorskip("torch")
SummaryWriter = pytest.importorskip("torch.utils.tensorboard").SummaryWriter


@pytest.fixture
def _run():
    yield tracelet.start_logging("expectations", "tests", "tensorboard")
    tracelet.stop_logging()


def _values(folder: Path) -> dict[str, list[tuple[int, object]]]:
    tracelet.stop_logging()
    found: dict[str, list[tuple[int, object]]] = {}
    for path in event_files(folder):
        for event in events(path):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value))
    return found


@pytest.mark.usefixtures("_run")
def test_torch_a_writer_is_a_context_and_goes_on_after_close(tmp_path):
    with SummaryWriter(tmp_path / "logs") as writer:
        writer.add_scalar("in", 1.0, 1)
    writer.add_scalar("after close", 2.0, 2)
    writer.close()
    assert set(_values(tmp_path / "logs")) == {"in", "after close"}


@pytest.mark.usefixtures("_run")
def test_torch_scalars_in_both_styles_and_of_each_kind(tmp_path):
    writer = SummaryWriter(str(tmp_path / "logs"))
    writer.add_scalar("old", 1.5, 1)
    writer.add_scalar("new", 1.5, 1, new_style=True)
    writer.add_scalar("double", 0.1, 1, new_style=True, double_precision=True)
    for kind in (np.float16, np.float32, np.float64, np.int32, np.uint8):
        writer.add_scalar(kind.__name__, kind(3), 1)
    writer.add_scalar("tensor", torch.tensor([3.0]), 1)
    found = _values(tmp_path / "logs")
    assert found["old"][0][1].simple_value == 1.5
    assert list(found["new"][0][1].tensor.float_val) == [1.5]
    assert list(found["double"][0][1].tensor.double_val) == [0.1]
    for tag in ("float16", "float32", "float64", "int32", "uint8", "tensor"):
        assert found[tag][0][1].simple_value == 3.0


@pytest.mark.usefixtures("_run")
def test_torch_histograms_by_rule_number_and_edges(tmp_path):
    writer = SummaryWriter(str(tmp_path / "logs"))
    values = np.random.default_rng(0).normal(size=1000)
    for bins in ("tensorflow", "auto", "fd", 10, [-4, 0, 4]):
        writer.add_histogram(f"bins {bins}", values, 1, bins=bins)
    writer.add_histogram("ints", torch.arange(10), 1)
    found = _values(tmp_path / "logs")
    assert len(found) == 6
    for tag, each in found.items():
        histogram = each[0][1].histo
        assert histogram.num == sum(histogram.bucket) == (10 if tag == "ints" else 1000)


@pytest.mark.usefixtures("_run")
def test_lightning_versions_count_up_by_the_folders_that_are_there(tmp_path):
    loggers = pytest.importorskip("pytorch_lightning.loggers")
    for expected in range(3):
        logger = loggers.TensorBoardLogger(tmp_path, name="versions")
        assert logger.version == expected
        logger.log_metrics({"loss": torch.tensor(0.5), "steps": 3}, step=expected)
        logger.save()
        assert Path(logger.log_dir).is_dir()
    named = loggers.TensorBoardLogger(tmp_path, name="versions", version="mine", sub_dir="train")
    named.log_metrics({"loss": 1.0}, 1)
    assert named.log_dir == str(tmp_path / "versions" / "mine" / "train")
    tracelet.stop_logging()
    for expected in range(3):
        found = _values(tmp_path / "versions" / f"version_{expected}")
        assert [step for step, _ in found["loss"]] == [expected]
    assert set(_values(Path(named.log_dir))) == {"loss"}


@pytest.mark.usefixtures("_run")
def test_lightning_hyperparameters_of_each_kind_metrics_and_pickling(tmp_path):
    loggers = pytest.importorskip("pytorch_lightning.loggers")
    logger = loggers.TensorBoardLogger(tmp_path, default_hp_metric=False)
    nested = {"dict": {"a": {"b": "c"}}, "namespace": Namespace(x=Namespace(y=1))}
    given = {"float": 0.3, "int": 1, "str": "abc", "bool": True, "list": [1, 2], **nested}
    logger.log_hyperparams(given, {"loss": 0.5})
    logger.log_metrics({"loss": 0.25}, 7)
    copy = pickle.loads(pickle.dumps(logger))
    copy.log_metrics({"loss": 0.125}, 8)
    logger.finalize("success")
    with pytest.raises(ValueError, match="you tried to log"):
        logger.log_metrics({"bad": "text"}, 1)
    found = _values(Path(logger.log_dir))
    assert tuple(step for step, _ in found["loss"])[:2] == (0, 7)
    assert "_hparams_/experiment" in found
    assert (Path(logger.log_dir) / "hparams.yaml").exists()


@pytest.mark.usefixtures("_run")
def test_tensorboardx_takes_its_own_names_of_arguments(tmp_path):
    tensorboardx = pytest.importorskip("tensorboardX")
    with tensorboardx.SummaryWriter(logdir=str(tmp_path / "logs")) as writer:
        writer.add_scalar("a", 0.5, 1, display_name="shown", summary_description="words")
        writer.add_scalars("group", {"x": 1.0, "y": 2.0}, 1)
        writer.add_histogram("h", np.arange(10.0), 1)
        writer.add_text("t", "text", 1)
    found = _values(tmp_path / "logs")
    assert {"a", "h"} <= set(found)
