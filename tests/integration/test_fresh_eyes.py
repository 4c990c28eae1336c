"""What readers with fresh eyes found: a run takes nothing of the training's, and code of the user's
may call while it is called."""

from __future__ import annotations

import random
import threading
import unittest.mock

import pytest
import tracelet
from away_sink import away_sink

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")


def test_an_outage_draws_none_of_the_trainings_random_numbers():
    away_sink()
    random.seed(0)
    expected = [random.random() for _ in range(20)]
    random.seed(0)
    experiment = tracelet.start_logging("random", backend="away")
    drawn = []
    for step in range(20):
        experiment.log_metric("a", step, step)
        assert not experiment.flush(0.05)  # the sink is tried, and backs off
        drawn.append(random.random())
    assert experiment.stats.retried > 0
    tracelet.stop_logging(1)
    assert drawn == expected


class Asking(torch.nn.Linear):
    def state_dict(self, *args, **kwargs):
        self.stats = tracelet.get_active_experiment().stats
        return super().state_dict(*args, **kwargs)


def test_a_model_may_log_while_its_weights_are_written(tmp_path):
    experiment = tracelet.start_logging(
        "models", backend="tensorboard", config={"log_dir": tmp_path / "log"}
    )
    model = Asking(2, 2)
    thread = threading.Thread(target=lambda: experiment.log_model(model, "mine"), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    tracelet.stop_logging()
    assert experiment.stats.artifacts == {"uploaded": 1}


def cyclic():
    found: dict = {}
    found["self"] = found
    return found


@pytest.mark.parametrize(
    "metadata",
    [
        {"loss": torch.ones(2, requires_grad=True) * 2},
        {"nested": {(1, 2): "a tuple"}},
        {"cycle": cyclic()},
        {"lock": threading.Lock()},
    ],
    ids=["a tensor of a graph", "a key that is a tuple", "a cycle", "a lock"],
)
def test_odd_metadata_cost_no_model(metadata, tmp_path):
    experiment = tracelet.start_logging(
        "models", backend="tensorboard", config={"log_dir": tmp_path / "log"}
    )
    experiment.log_model(torch.nn.Linear(2, 2), "mine", metadata=metadata)
    tracelet.stop_logging()
    assert experiment.stats.artifacts == {"uploaded": 1}, experiment.stats


def subclass():
    from torch.utils.tensorboard import SummaryWriter

    return type("Mine", (SummaryWriter,), {})


@pytest.mark.parametrize("make", [subclass, lambda: lambda *_: None, unittest.mock.MagicMock])
def test_a_run_starts_where_somebody_has_replaced_the_summary_writer(make, monkeypatch, tmp_path):
    import torch.utils.tensorboard as module

    monkeypatch.setattr(module, "SummaryWriter", make())
    experiment = tracelet.start_logging(
        "replaced", backend="tensorboard", config={"log_dir": tmp_path / "log"}
    )
    experiment.log_metric("a", 0.5, 1)
    tracelet.stop_logging()
    assert experiment.stats.delivered == {"tensorboard": 1}


def test_a_run_starts_where_the_file_writer_is_a_mock(monkeypatch, tmp_path, caplog):
    import torch.utils.tensorboard.writer as module

    before = dict(vars(module.SummaryWriter))
    monkeypatch.setattr(module, "FileWriter", unittest.mock.MagicMock())
    experiment = tracelet.start_logging(
        "mocked", backend="tensorboard", config={"log_dir": tmp_path / "log"}
    )
    experiment.log_metric("a", 0.5, 1)
    tracelet.stop_logging()
    assert experiment.stats.delivered == {"tensorboard": 1}
    assert "what it logs is not captured" in caplog.text
    assert dict(vars(module.SummaryWriter)) == before
