"""Libraries that log by a SummaryWriter, unmodified: what reaches the event file and ClearML.

Each trains twice with one seed, in a process of its own: captured, then after `stop_logging` with
the writers as they are. All events are compared, and each scalar with that in the offline session.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from readers import events, session_plots, session_scalars

pytest.importorskip("torch")
pytest.importorskip("clearml")

pytestmark = pytest.mark.slow

RUN_TWICE = """
import json, os, warnings
warnings.simplefilter("ignore")
import torch
import tracelet

{train}

experiment = tracelet.start_logging("user", "tests", config={{"auto_resource_monitoring": False}})
logged = train("ours")
session = experiment.url
tracelet.stop_logging()
stats = experiment.stats
train("theirs")
print("RESULT", json.dumps([session, logged, stats.accepted, stats.delivered, stats.dropped]))
"""


class Outcome:
    """What both trainings left."""

    def __init__(self, run_script, folder, train):
        quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = run_script(RUN_TWICE.format(train=train), env=quiet)
        (line,) = [each for each in done.stdout.splitlines() if each.startswith("RESULT ")]
        self.session, self.logged, accepted, delivered, dropped = json.loads(line[7:])
        self.ours, self.theirs = (_events(folder / name) for name in ("ours", "theirs"))
        assert accepted == delivered["tensorboard"] == sum(map(len, self.ours.values()))
        assert all(reason.startswith("no form on clearml") for reason in dropped)  # graphs
        assert all(".tracelet" in path.name for path in _files(folder / "ours"))
        assert all(".tracelet" not in path.name for path in _files(folder / "theirs"))

    def assert_same_events(self, but_for=()):
        """That the folders hold the same, in the same order; of some tags it's only the tag."""
        assert list(self.ours) == list(self.theirs)
        for folder, expected in self.theirs.items():
            found = self.ours[folder]
            assert [_tags(each) for each in found] == [_tags(each) for each in expected]
            for mine, wanted in zip(found, expected):
                mine.wall_time = wanted.wall_time
                if not set(_tags(wanted)) & set(but_for):
                    assert mine == wanted

    def assert_clearml_has_all_scalars(self):
        """Value for value and in order: as in the event file, which has it rounded to float32."""
        expected = {}
        for folder, found in self.ours.items():
            for event in found:
                for value in event.summary.value:
                    if value.WhichOneof("value") == "simple_value":
                        points = expected.setdefault(_clearml_name(folder, value.tag), [])
                        points.append((event.step, value.simple_value))
        found = {
            name: [(step, float(np.float32(value))) for step, value, _ in points]
            for name, points in session_scalars(self.session).items()
        }
        assert found == expected


def _files(folder):
    return sorted(Path(folder).rglob("*tfevents*"))


def _events(root):
    found = {}
    for path in _files(root):
        header, *rest = events(path)
        assert header.file_version
        if rest:
            found.setdefault(str(path.parent.relative_to(root)), []).extend(rest)
    return found


def _clearml_name(folder, tag):
    title, _, series = tag.rpartition("/")
    last = folder.rpartition("/")[2]
    if last.startswith(f"{tag}_"):  # torch's add_scalars: a folder for each of its series
        return tag, last[len(tag) + 1 :]
    return title or tag, series


def _tags(event):
    return [value.tag for value in event.summary.value]


def steps_by_tag(events_):
    found = {}
    for event in events_:
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(event.step)
    return found


LIGHTNING = """
import logging
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

class Model(pl.LightningModule):
    def __init__(self, hidden=4, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.example_input_array = torch.ones(1, 3)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1)
        )

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch, index):
        loss = self(batch).square().mean()
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        self.log_dict({"val/loss": self(batch).abs().mean(), "hp_metric": 0.5})

    def on_train_epoch_end(self):
        writer = self.logger.experiment
        writer.add_histogram("weights", self.layers[0].weight, self.global_step)
        writer.add_scalars("norms", {"first": 1.0, "second": 2.0}, self.global_step)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

def train(folder):
    pl.seed_everything(0, verbose=False)
    data = torch.utils.data.DataLoader(torch.randn(32, 3), batch_size=4)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[pl.callbacks.LearningRateMonitor()],
        logger=TensorBoardLogger(folder, name="model", log_graph=True),
    )
    trainer.fit(Model(), data, data)
"""


def test_pytorch_lightning(run_script, tmp_path):
    pytest.importorskip("pytorch_lightning")
    outcome = Outcome(run_script, tmp_path, LIGHTNING)
    outcome.assert_same_events()
    own_folder = outcome.ours["model/version_0"]
    steps = steps_by_tag(own_folder)
    assert steps["train/loss_step"] == list(range(16))
    assert steps["train/loss_epoch"] == steps["val/loss"] == [7, 15]
    assert steps["lr-SGD"] == [0, 8]
    assert steps["weights"] == [8, 16]
    assert any(event.graph_def for event in own_folder)
    assert "_hparams_/experiment" in steps
    assert set(outcome.ours) == {
        f"model/version_0{end}" for end in ("", "/norms_first", "/norms_second")
    }
    scalars = session_scalars(outcome.session)
    assert [point[0] for point in scalars["train", "loss_step"]] == list(range(16))
    assert [point[:2] for point in scalars["norms", "second"]] == [(8, 2), (16, 2)]
    outcome.assert_clearml_has_all_scalars()
    assert {plot["iter"] for plot in session_plots(outcome.session)} >= {8, 16}


TRANSFORMERS = """
from transformers import (
    BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments
)

class Note(TrainerCallback):
    def __init__(self):
        self.logged = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logged.append([state.global_step, dict(logs)])

def train(folder):
    os.environ["TENSORBOARD_LOGGING_DIR"] = folder
    generator = torch.Generator().manual_seed(0)
    data = [
        {"input_ids": torch.randint(0, 20, (6,), generator=generator), "labels": number % 2}
        for number in range(16)
    ]
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=8,
    ))
    note = Note()
    arguments = TrainingArguments(
        "trained", max_steps=6, logging_steps=1, eval_steps=3, eval_strategy="steps",
        per_device_train_batch_size=4, report_to="tensorboard", use_cpu=True, seed=0,
        disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False,
    )
    Trainer(
        model, arguments, train_dataset=data, eval_dataset=data, callbacks=[note]
    ).train()
    return note.logged
"""
TAKES_TIME = [
    f"{part}{measure}"
    for part in ("train/train_", "eval/")
    for measure in ("runtime", "samples_per_second", "steps_per_second")
]


def test_transformers_trainer(run_script, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    outcome = Outcome(run_script, tmp_path, TRANSFORMERS)
    outcome.assert_same_events(but_for=[*TAKES_TIME, "args/text_summary"])
    steps = steps_by_tag(outcome.ours["."])
    assert steps["train/loss"] == [1, 2, 3, 4, 5, 6]
    assert steps["eval/loss"] == [3, 6]
    assert "model_config/text_summary" in steps
    outcome.assert_clearml_has_all_scalars()
    # What a callback of the same training was told: in full, not rounded to float32.
    scalars = session_scalars(outcome.session)
    for key in ("loss", "grad_norm", "learning_rate", "epoch"):
        expected = [(step, logs[key]) for step, logs in outcome.logged if key in logs]
        assert [point[:2] for point in scalars["train", key]] == expected
    evaluated = [(step, logs["eval_loss"]) for step, logs in outcome.logged if "eval_loss" in logs]
    assert [point[:2] for point in scalars["eval", "loss"]] == evaluated


IGNITE = """
import sys
from ignite.engine import Engine, Events
from ignite.handlers.tensorboard_logger import (
    GradsHistHandler, TensorboardLogger, WeightsHistHandler, WeightsScalarHandler
)
from ignite.metrics import RunningAverage

def train(folder):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(engine, batch):
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    engine = Engine(step)
    RunningAverage(output_transform=float).attach(engine, "average")
    logger = TensorboardLogger(log_dir=folder)
    assert type(logger.writer).__module__ == "tensorboardX.writer"
    logger.attach_output_handler(
        engine, Events.ITERATION_COMPLETED, tag="training",
        output_transform=lambda loss: {"loss": loss}, metric_names="all",
    )
    logger.attach_opt_params_handler(engine, Events.ITERATION_STARTED, optimizer=optimizer)
    every_second = Events.ITERATION_COMPLETED(every=2)
    for handler in (WeightsScalarHandler, WeightsHistHandler, GradsHistHandler):
        logger.attach(engine, log_handler=handler(model), event_name=every_second)
    engine.run(torch.randn(8, 4, 3).unbind(), max_epochs=2)
    logger.close()

assert "tensorboardX" not in sys.modules
"""


def test_pytorch_ignite(run_script, tmp_path):
    """It prefers tensorboardX, and imports it when its logger is made: after `start_logging`."""
    pytest.importorskip("ignite")
    pytest.importorskip("tensorboardX")
    outcome = Outcome(run_script, tmp_path, IGNITE)
    outcome.assert_same_events()
    steps = steps_by_tag(outcome.ours["."])
    for tag in ("training/loss", "training/average", "lr/group_0"):
        assert len(steps[tag]) == 16
    assert steps["weights/weight"] == steps["grads/weight"] == list(range(2, 17, 2))
    outcome.assert_clearml_has_all_scalars()
    assert {plot["iter"] for plot in session_plots(outcome.session)} >= set(range(2, 17, 2))
