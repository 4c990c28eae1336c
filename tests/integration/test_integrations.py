"""The loggers of `tracelet.integrations`, each in its real framework: what its run holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import tracelet
from readers import event_files

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow


def scalars(folder):
    """Tag to (step, value), in the order logged."""
    logs = tracelet.read(folder)
    return {
        tag: list(zip(found.steps.tolist(), found.values.tolist()))
        for tag in logs.tags["scalars"]
        for found in [logs.scalars(tag)]
    }


def user_run():
    return tracelet.start_logging("user", "tests", "tensorboard", {"log_dir": "user"})


@pytest.fixture
def params(monkeypatch):
    """What any run gets as parameters, by their flat names."""
    from tracelet.pipeline.verbs import Verbs

    found, log_params = {}, Verbs.log_params

    def note(verbs, given):
        found.update(given)
        log_params(verbs, given)

    monkeypatch.setattr(Verbs, "log_params", note)
    return found


def test_no_framework_is_imported_before_its_module_is():
    code = (
        "import sys, tracelet, tracelet.integrations;"
        "print([name for name in ('lightning', 'pytorch_lightning', 'transformers', 'accelerate',"
        "'torch', 'lightning_utilities') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# Lightning, by both of its names.


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def pl(request):
    import importlib

    pytest.importorskip(request.param.partition(".")[0])
    return importlib.import_module(request.param)


def lightning_parts(pl, fails_at=None, epochs=2, **logger_arguments):
    """A model, its data, a trainer and its logger."""
    from tracelet.integrations.lightning import TraceletLogger

    class Model(pl.LightningModule):
        def __init__(self, lr=0.1, api_key="sesame", nested=None):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(3, 1)
            self.seen = []

        def training_step(self, batch, index):
            if self.global_step == fails_at:
                raise RuntimeError("the fit fails")
            loss = self.layer(batch).square().mean()
            self.seen.append((self.global_step, float(loss.detach())))
            self.log("loss", loss)
            return loss

        def validation_step(self, batch, index):
            self.log("val/loss", self.layer(batch).abs().mean())

        def test_step(self, batch, index):
            self.log("test/loss", self.layer(batch).abs().mean())

        def predict_step(self, batch, index):
            return self.layer(batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.hparams.lr)

    pl.seed_everything(0, verbose=False)
    data = torch.utils.data.DataLoader(torch.randn(12, 3), batch_size=4)
    logger = TraceletLogger(**logger_arguments)
    return Model(nested={"depth": {"width": 3}}), data, lightning_trainer(pl, logger, epochs)


def lightning_trainer(pl, logger, epochs=2, **others):
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, logger=logger, **others,
    )  # fmt: skip


def own(name="own"):
    return {
        "exp_name": name, "project": "tests", "backend": "tensorboard", "config": {"log_dir": name}
    }  # fmt: skip


def test_lightning_logs_into_the_users_run_which_goes_on(pl, params):
    experiment = user_run()
    model, data, trainer = lightning_parts(pl)
    trainer.fit(model, data, data)
    assert trainer.logger.experiment is experiment
    assert experiment.is_active
    trainer.test(model, data, verbose=False)
    experiment.log({"mine": 1}, 0)
    tracelet.stop_logging()
    found = scalars("user")
    assert found["loss"] == model.seen
    assert [step for step, _ in found["val/loss"]] == [2, 5]
    assert [step for step, _ in found["test/loss"]] == [6]
    assert found["mine"] == [(0, 1.0)]
    assert (params["lr"], params["nested/depth/width"]) == (0.1, 3)
    assert "sesame" not in str(params)


def test_lightnings_own_run_takes_fit_test_and_another_fit(pl):
    model, data, trainer = lightning_parts(pl, **own(), prefix="net", save_dir="saved")
    trainer.fit(model, data)
    experiment = trainer.logger.experiment
    assert (trainer.logger.name, trainer.logger.version) == ("own", experiment.id)
    assert scalars("own")["net/loss"] == model.seen  # there when fit returns
    checkpoints = os.path.join("saved", "own", experiment.id, "checkpoints")
    assert os.listdir(checkpoints)
    trainer.test(model, data, verbose=False)
    again = lightning_trainer(pl, trainer.logger, 1)  # the same logger, from step 0
    again.fit(model, data)
    assert trainer.logger.experiment is experiment
    trainer.logger.finish()
    assert tracelet.get_active_experiment() is None
    found = scalars("own")
    assert found["net/loss"] == model.seen
    assert [step for step, _ in found["net/loss"]] == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert [step for step, _ in found["net/test/loss"]] == [6]
    assert experiment.stats.dropped == {}


def test_lightning_resumed_from_a_checkpoint_goes_on_with_its_steps(pl):
    model, data, trainer = lightning_parts(pl, **own(), epochs=1)
    trainer.fit(model, data)
    trainer.save_checkpoint("first.ckpt")
    trainer.logger.finish()
    model, data, trainer = lightning_parts(pl, **own())
    trainer.fit(model, data, ckpt_path="first.ckpt", weights_only=False)
    trainer.logger.finish()
    assert [step for step, _ in scalars("own")["loss"]] == list(range(6))


def test_an_exception_in_lightnings_fit_ends_its_own_run_as_failed(pl, monkeypatch):
    from tracelet.pipeline.verbs import Verbs

    noted = []
    monkeypatch.setattr(Verbs, "note_failure", lambda verbs, failure: noted.append(failure))
    model, data, trainer = lightning_parts(pl, fails_at=4, **own())
    with pytest.raises(RuntimeError, match="the fit fails"):
        trainer.fit(model, data)
    assert [str(failure) for failure in noted] == ["the fit fails"]
    assert tracelet.get_active_experiment() is None
    assert scalars("own")["loss"] == model.seen
    assert len(model.seen) == 4


def test_lightnings_flush_before_a_requeue_ends_no_run(pl, monkeypatch):
    from tracelet.pipeline.verbs import Verbs

    noted = []
    monkeypatch.setattr(Verbs, "note_failure", lambda verbs, failure: noted.append(failure))

    class Requeued(pl.Callback):
        def on_train_batch_end(self, trainer, *others):
            if trainer.global_step == 2:  # as the handler of SLURM's signal calls it
                trainer.logger.finalize("finished")

    model, data, trainer = lightning_parts(pl, **own())
    trainer.callbacks.append(Requeued())
    trainer.fit(model, data)
    trainer.logger.finish()
    assert noted == []
    assert scalars("own")["loss"] == model.seen
    assert len(event_files("own")) == 1


def test_of_lightnings_two_loggers_of_a_trainer_the_first_writes(pl, caplog):
    from tracelet.integrations.lightning import TraceletLogger

    model, data, trainer = lightning_parts(pl, **own())
    trainer.loggers = [trainer.logger, TraceletLogger(**own("other"))]
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    tracelet.stop_logging()
    found = scalars("own")
    assert found["loss"] == model.seen
    assert len(found["test/loss"]) == 1
    assert not os.path.exists("other")
    assert sum("two loggers of one training" in each for each in caplog.messages) == 1


def test_lightnings_logger_starts_no_run_to_be_read_or_for_predict(pl):
    model, data, trainer = lightning_parts(pl, epochs=1, **own())
    logger = trainer.logger
    assert logger.version is None
    trainer.predict(model, data)
    assert logger.version is None
    assert not os.path.exists("own")
    trainer.fit(model, data)
    first = logger.version
    logger.finish()
    assert (logger.version, logger.experiment.id) == (first, first)
    trainer.predict(model, data)
    assert tracelet.get_active_experiment() is None
    assert len(event_files("own")) == 1
    lightning_trainer(pl, logger, 1).fit(model, data)
    assert logger.version != first
    logger.finish()


def test_lightnings_checkpoints_that_are_folders_are_registered(pl, monkeypatch, caplog):
    from tracelet.integrations.lightning import TraceletLogger
    from tracelet.pipeline.verbs import Verbs

    logged = []
    monkeypatch.setattr(Verbs, "log_model", lambda verbs, path, *others: logged.append(path))
    os.makedirs("sharded.ckpt/checkpoint")
    Path("sharded.ckpt/checkpoint/model_states.pt").write_bytes(b"weights")

    class Checkpoints:
        best_model_path, last_model_path = "sharded.ckpt", "s3://bucket/last.ckpt"
        best_k_models = types.MappingProxyType({"sharded.ckpt": 0.5})

    logger = TraceletLogger(**own(), log_model="all")
    for _ in range(2):
        logger.after_save_checkpoint(Checkpoints)
    assert logged == ["sharded.ckpt"]
    os.utime("sharded.ckpt/checkpoint/model_states.pt", (4e9, 4e9))  # written anew
    logger.after_save_checkpoint(Checkpoints)
    logger.finish()
    assert logged == ["sharded.ckpt"] * 2
    assert sum("s3://bucket/last.ckpt not logged" in each for each in caplog.messages) == 1


def test_lightnings_other_ranks_log_nothing(pl, monkeypatch):
    from tracelet.integrations.lightning import TraceletLogger, rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = TraceletLogger(**own())
    assert logger.experiment.log({"a": 1}) is None
    logger.log_metrics({"a": 1}, 1)
    logger.log_hyperparams({"a": 1})
    logger.save()
    logger.finalize("success")
    assert (logger.name, logger.version, logger.save_dir) == ("own", None, None)
    assert tracelet.get_active_experiment() is None
    assert not os.path.exists("own")


def test_lightnings_checkpoints_are_registered(pl, monkeypatch):
    from tracelet.pipeline.verbs import Verbs

    logged = []
    monkeypatch.setattr(Verbs, "log_model", lambda verbs, path, *others: logged.append(path))
    for log_model, count in ((False, 0), (True, 1), ("all", 2)):
        logged.clear()
        model, data, trainer = lightning_parts(pl, **own(), log_model=log_model, save_dir="saved")
        trainer.fit(model, data)
        assert len(logged) == count, log_model
        assert all(path.endswith(".ckpt") for path in logged)
        trainer.logger.finish()


def test_lightnings_logger_is_one_of_its_own(pl):
    from tracelet.integrations.lightning import TraceletLogger

    logger = TraceletLogger(**own())
    logger.log_hyperparams({"lr": 1}, {"hp_metric": 0.5})
    logger.log_hyperparams(None)
    logger.log_graph(torch.nn.Linear(1, 1))
    logger.finish()
    assert scalars("own") == {"hp_metric": [(0, 0.5)]}
    assert logger.group_separator == "/"


# transformers


@pytest.fixture
def transformers_trainer(monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )  # fmt: skip

    class Note(TrainerCallback):
        def __init__(self):
            self.logged = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.logged.append((state.global_step, dict(logs)))

    def make(callback, fails_at=None, **arguments):
        generator = torch.Generator().manual_seed(0)
        data = [
            {"input_ids": torch.randint(0, 20, (6,), generator=generator), "labels": number % 2}
            for number in range(16)
        ]
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=8, max_position_embeddings=8,
        ))  # fmt: skip

        class Failing(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == fails_at:
                    raise RuntimeError("the training fails")

        note = Note()
        training = TrainingArguments(
            "trained", max_steps=4, logging_steps=1, eval_steps=2, eval_strategy="steps",
            per_device_train_batch_size=4, report_to="none", use_cpu=True, seed=0,
            disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False,
            hub_token="hf_sesame", **arguments,
        )  # fmt: skip
        trainer = Trainer(
            model, training, train_dataset=data, eval_dataset=data,
            callbacks=[callback, note, Failing()],
        )  # fmt: skip
        return trainer, note

    return make


def expected_of(note):
    """What TensorBoardCallback would have: its names, and the numbers that were logged."""
    found = {}
    for step, logs in note.logged:
        for key, value in logs.items():
            part = "eval" if key.startswith("eval_") else "train"
            name = key[5:] if part == "eval" else key
            found.setdefault(f"{part}/{name}", []).append((step, pytest.approx(value, rel=1e-6)))
    return found


def test_transformers_logs_into_the_users_run_which_goes_on(transformers_trainer, params):
    from tracelet.integrations.transformers import TraceletCallback

    experiment = user_run()
    trainer, note = transformers_trainer(TraceletCallback)  # a class, as Trainer takes it
    trainer.train()
    assert experiment.is_active
    trainer.evaluate()
    tracelet.stop_logging()
    assert scalars("user") == expected_of(note)
    assert params["args/max_steps"] == 4
    assert params["model_config/hidden_size"] == 8
    assert "sesame" not in str(params)


def test_transformers_own_run_takes_train_evaluate_and_another_train(transformers_trainer):
    from tracelet.integrations.transformers import TraceletCallback

    callback = TraceletCallback(project="tests", backend="tensorboard", config={"log_dir": "own"})
    trainer, note = transformers_trainer(callback, run_name="a name")
    trainer.train()
    experiment = tracelet.get_active_experiment()
    assert experiment.name == "a name"
    assert scalars("own") == expected_of(note)
    trainer.evaluate()
    trainer.train()  # from step 1
    assert tracelet.get_active_experiment() is experiment
    callback.finish()
    assert tracelet.get_active_experiment() is None
    assert scalars("own") == expected_of(note)
    assert [step for step, _ in scalars("own")["train/loss"]] == [1, 2, 3, 4, 1, 2, 3, 4]


def test_after_an_exception_in_train_the_next_training_has_a_run_of_its_own(transformers_trainer):
    from tracelet.integrations.transformers import TraceletCallback

    first = TraceletCallback(**own("first"))
    trainer, first_note = transformers_trainer(first, fails_at=2)
    with pytest.raises(RuntimeError, match="the training fails"):
        trainer.train()
    trainer, note = transformers_trainer(TraceletCallback(**own("second")))
    trainer.train()
    tracelet.stop_logging()
    assert scalars("first") == expected_of(first_note)
    assert scalars("second") == expected_of(note)
    assert len(scalars("second")["train/loss"]) == 4


def test_a_trainer_within_another_logs_into_its_run(transformers_trainer):
    from tracelet.integrations.transformers import TraceletCallback
    from transformers import TrainerCallback

    inner, _ = transformers_trainer(TraceletCallback(**own("inner")))

    class Within(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            if state.global_step == 2:
                inner.train()

    outer, _ = transformers_trainer(TraceletCallback(**own("outer")))
    outer.add_callback(Within())
    outer.train()
    tracelet.stop_logging()
    assert not os.path.exists("inner")
    found = scalars("outer")["train/loss"]
    assert len(found) == 8
    assert [step for step, _ in found] == [1, 1, 2, 3, 4, 2, 3, 4]


def test_of_a_trainers_two_callbacks_the_first_writes(transformers_trainer):
    from tracelet.integrations.transformers import TraceletCallback

    trainer, note = transformers_trainer(TraceletCallback(**own()))
    trainer.add_callback(TraceletCallback(**own("other")))
    trainer.train()
    tracelet.stop_logging()
    assert not os.path.exists("other")
    assert scalars("own") == expected_of(note)


def test_transformers_other_processes_log_nothing(transformers_trainer):
    from tracelet.integrations.transformers import TraceletCallback

    class NotTheFirst(TraceletCallback):
        def on_train_begin(self, args, state, control, **others):
            state.is_world_process_zero = False
            super().on_train_begin(args, state, control, **others)

    trainer, _ = transformers_trainer(NotTheFirst(**own()))
    trainer.train()
    assert tracelet.get_active_experiment() is None
    assert not os.path.exists("own")


# Accelerate


@pytest.fixture
def accelerator():
    pytest.importorskip("accelerate")
    from accelerate import Accelerator
    from tracelet.integrations.accelerate import TraceletTracker

    return lambda **arguments: Accelerator(cpu=True, log_with=TraceletTracker(**arguments))


def accelerate_training(accelerator, steps):
    """What was logged as the loss at each step."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    losses = []
    for step in range(steps):
        loss = model(torch.ones(4, 3)).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append((step, loss.item()))
        accelerator.log({"loss": loss, "parts": {"first": step}, "words": "some"}, step=step)
    return losses


def test_accelerate_logs_into_the_users_run_which_goes_on(accelerator, params):
    experiment, accelerate = user_run(), accelerator()
    accelerate.init_trackers("a project", {"lr": 0.1, "secrets": {"token": "sesame"}})
    losses = accelerate_training(accelerate, 3)
    assert accelerate.get_tracker("tracelet", unwrap=True) is experiment
    accelerate.end_training()
    assert experiment.is_active
    tracelet.stop_logging()
    assert scalars("user") == {"loss": losses, "parts/first": [(step, step) for step in range(3)]}
    assert params["lr"] == 0.1
    assert "sesame" not in str(params)


def test_accelerates_own_run_ends_with_its_training(accelerator):
    for name in ("first", "second"):
        accelerate = accelerator(**own(name))
        accelerate.init_trackers("a project")
        assert tracelet.get_active_experiment().name == name
        losses = accelerate_training(accelerate, 3)
        accelerate.end_training()
        assert tracelet.get_active_experiment() is None
        assert scalars(name)["loss"] == losses


def test_two_accelerators_of_a_process_share_a_run(accelerator, caplog):
    first, second = accelerator(**own("first")), accelerator(**own("second"))
    for each in (first, second):
        each.init_trackers("a project")
    for step in range(2):
        first.log({"generator": step}, step=step)
        second.log({"critic": step}, step=step)
    second.end_training()
    handle = first.get_tracker("tracelet", unwrap=True)
    first.end_training()
    assert first.get_tracker("tracelet", unwrap=True) is handle
    assert tracelet.get_active_experiment() is None
    expected = [(0, 0.0), (1, 1.0)]
    assert scalars("first") == {"generator": expected, "critic": expected}
    assert (
        sum("goes on: 'second' logs into its run 'first'" in each for each in caplog.messages) == 1
    )


def test_accelerates_other_processes_log_nothing(accelerator, monkeypatch):
    from accelerate import DistributedType, PartialState

    accelerate, state = accelerator(**own()), PartialState()
    assert state.process_index == 0
    for name, value in (
        ("process_index", 1), ("num_processes", 2), ("distributed_type", DistributedType.MULTI_CPU)
    ):  # fmt: skip
        monkeypatch.setattr(state, name, value)
    accelerate.init_trackers("a project", {"lr": 0.1})
    accelerate.log({"loss": 1}, step=0)
    for tracker in accelerate.trackers:
        tracker.finish()
    assert tracelet.get_active_experiment() is None
    assert not os.path.exists("own")


def test_each_block_of_the_page_runs(monkeypatch):
    for framework in ("pytorch_lightning", "transformers", "accelerate"):
        pytest.importorskip(framework)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "docs/integrations.md", "exec"), {"__name__": "__main__"})
        assert tracelet.get_active_experiment() is None
    steps = {
        (name, tag): tracelet.read("runs").runs[name].scalars(tag).steps.tolist()
        for name, tag in (
            ("lightning", "train/loss"), ("bert", "train/loss"), ("bert", "eval/loss"),
            ("accelerate", "loss"),
        )
    }  # fmt: skip
    assert list(steps.values()) == [list(range(8)), [1, 2, 3, 4], [4], [0, 1, 2, 3]]
