"""What the frameworks' loggers share: which run they log to, and what becomes of odd values."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import gc
import logging
import pickle
import types
import weakref

import numpy as np
import pytest
import tracelet
from readers import event_files
from tracelet.integrations import shown as shown_module
from tracelet.integrations.logger_run import LoggerRun


def make(name="own", **config):
    return LoggerRun(name, "tests", "tensorboard", {"log_dir": name, **config})


def logged(name):
    return {
        tag: list(zip(found.steps.tolist(), found.values.tolist()))
        for tag in tracelet.read(name).tags["scalars"]
        for found in [tracelet.read(name).scalars(tag)]
    }


def test_a_run_of_the_users_is_used_and_not_ended():
    experiment = tracelet.start_logging("user", "tests", "tensorboard", {"log_dir": "user"})
    logger = make()
    logger.log({"loss": 0.5}, 3)
    logger.end_training()
    logger.finish(RuntimeError("fit failed"))
    assert experiment.is_active
    logger.log({"loss": 0.25}, 4)
    tracelet.stop_logging()
    assert logged("user") == {"loss": [(3, 0.5), (4, 0.25)]}


def test_a_run_of_its_own_takes_what_follows_and_is_ended():
    logger = make()
    logger.log({"loss": 0.5}, 1)
    run = tracelet.get_active_experiment()
    logger.end_training()
    assert logged("own") == {"loss": [(1, 0.5)]}
    logger.log({"test": 2}, 1)
    assert tracelet.get_active_experiment() is run
    logger.finish()
    logger.finish()
    assert tracelet.get_active_experiment() is None
    assert logged("own") == {"loss": [(1, 0.5)], "test": [(1, 2.0)]}


def test_the_next_logger_ends_the_run_of_one_whose_training_has_ended():
    first, second = make("first"), make("second")
    first.log({"loss": 1}, 0)
    second.log({"loss": 2}, 0)  # two loggers of one training
    first.end_training()
    third = make("third")
    third.log({"loss": 3}, 0)
    assert tracelet.get_active_experiment().name == "third"
    first.log({"loss": 4}, 1)  # its run has ended: into the one that goes on
    third.finish()
    assert logged("first") == {"loss": [(0, 1.0), (0, 2.0)]}
    assert logged("third") == {"loss": [(0, 3.0), (1, 4.0)]}


def test_a_training_that_did_not_say_its_end_keeps_no_other_from_a_run():
    make("first").log({"loss": 1}, 0)
    second = make("second")
    second.begin_training()
    second.log({"loss": 2}, 0)
    second.finish()
    assert logged("first") == {"loss": [(0, 1.0)]}
    assert logged("second") == {"loss": [(0, 2.0)]}


class Training:
    """What the loggers of one training are all given."""


def test_a_training_that_goes_on_shares_its_run_and_the_second_logger_says_so(caplog):
    first, second = make("first"), make("second")
    first.begin_training()
    first.log({"loss": 1}, 0)
    second.begin_training()  # of another Accelerator, or of a Trainer within the first
    second.log({"inner": 2}, 0)
    second.log({"inner": 3}, 1)
    second.end_training()
    first.log({"loss": 4}, 1)
    first.finish()
    assert logged("first") == {"loss": [(0, 1.0), (1, 4.0)], "inner": [(0, 2.0), (1, 3.0)]}
    assert [record.getMessage() for record in caplog.records] == [
        "tracelet: the training of another logger goes on: 'second' logs into its run 'first', "
        "and its own name and options are not used"
    ]


def test_a_training_that_is_known_to_have_failed_shares_no_run():
    first, second = make("first"), make("second")
    first.begin_training(Training(), goes_on=lambda: False)
    first.log({"loss": 1}, 0)
    second.begin_training()
    second.log({"loss": 2}, 0)
    second.finish()
    assert logged("first") == {"loss": [(0, 1.0)]}
    assert logged("second") == {"loss": [(0, 2.0)]}


@pytest.mark.parametrize("is_users", [False, True])
def test_of_two_loggers_of_one_training_the_first_writes(caplog, is_users):
    if is_users:
        tracelet.start_logging("own", "tests", "tensorboard", {"log_dir": "own"})
    training, loggers = Training(), [make("own"), make("other")]
    for number in range(2):  # fit, then test
        for each in loggers:
            each.begin_training(training)
        for each in loggers:
            each.log({"loss": number}, number)
            each.log_params({"lr": 1})
            each.log_model("gone.ckpt")
        for each in loggers:
            each.end_training()
    loggers[1].begin_training(Training())  # another training of the second one alone
    loggers[1].log({"more": 7}, 0)
    for each in loggers:
        each.end_training()
    tracelet.stop_logging()
    expected = {"loss": [(0, 0.0), (1, 1.0)]}
    if is_users:
        expected["more"] = [(0, 7.0)]
    else:  # the first one's training had ended, and so its run
        assert logged("other") == {"more": [(0, 7.0)]}
    assert logged("own") == expected
    told = [each for each in caplog.messages if "two loggers of one training" in each]
    assert len(told) == 1
    assert sum("gone.ckpt" in each for each in caplog.messages) == 1


def test_one_bad_number_costs_itself_alone(caplog):
    logger = make()
    logger.log({"good": 1.5, "big": 10**400, "other": 2, "nested": {"big": -(10**400), "a": 3}}, 4)
    logger.finish()
    assert logged("own") == {"good": [(4, 1.5)], "other": [(4, 2.0)], "nested/a": [(4, 3.0)]}
    assert [each.partition(" not logged: ")[0] for each in caplog.messages] == [
        "tracelet: big", "tracelet: nested/big"
    ]  # fmt: skip


def test_a_name_that_is_refused_costs_itself_alone(monkeypatch, caplog):
    logger = make()
    experiment = logger.experiment()
    log = experiment.log

    def refuse(values, step):
        if "refused" in values:
            raise ValueError("refused is refused")
        log(values, step)

    monkeypatch.setattr(experiment, "log", refuse)
    logger.log({"good": 1.5, "refused": 1}, 4)
    logger.finish()
    assert logged("own") == {"good": [(4, 1.5)]}
    assert caplog.messages == ["tracelet: refused not logged: refused is refused"]


def test_nothing_raises_into_the_training(caplog, monkeypatch):
    class Worse:
        def item(self):
            raise RuntimeError("no item")

    logger, held, twice = make(), {"a": 1}, []
    held["itself"] = held
    twice += [twice, twice]
    for step in (float("nan"), "x", float("inf"), object()):
        logger.log({"loss": 1.0}, step)
    logger.log({"loss": 2.0, "worse": Worse(), "held": held, "twice": twice}, 1)
    logger.log(None, 2)
    logger.log_params({"lr": 1, "twice": twice, "held": held})
    logger.log_model(object())
    experiment = logger.experiment()

    def ended(*others):
        raise RuntimeError("this run has ended")

    monkeypatch.setattr(experiment, "log", ended)
    logger.log({"late": 1.0}, 3)
    logger.finish()
    assert logged("own") == {"loss": [(1, 2.0)]}
    for name in ("metrics", "worse", "held", "twice", "parameters", "late"):
        assert f"tracelet: {name} not logged: " in caplog.text


def test_ctrl_c_passes(monkeypatch):
    logger = make()

    class Slow:
        def item(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logger.log({"loss": Slow()}, 1)
    logger.finish()


def test_a_tensor_without_data_is_shown_by_its_shape():
    torch = pytest.importorskip("torch")
    logger = make()
    shown = params_of(logger, {"lr": 1, "mean": torch.empty((), device="meta")})
    assert shown == {"lr": 1, "mean": "Tensor of shape (), torch.float32"}


def params_of(logger, params):
    """What the run gets when the logger is given these."""
    shown, verbs = {}, logger.experiment()._run.verbs
    log_params = verbs.log_params
    verbs.log_params = lambda each: (log_params(each), shown.update(each))
    logger.log_params(params)
    logger.finish()
    return shown


Named = collections.namedtuple("Named", "api_key size")


@dataclasses.dataclass
class Fields:
    api_key: str = "sesame"
    size: int = 3


class Pydantic:
    __pydantic_fields__ = types.MappingProxyType({"api_key": None, "size": None})
    api_key, size = "sesame", 3

    def __str__(self):
        return "api_key='sesame' size=3"


@pytest.mark.parametrize(
    "holder",
    [
        argparse.Namespace(api_key="sesame", size=3), Named("sesame", 3), Fields(), Pydantic(),
        types.SimpleNamespace(api_key="sesame", size=3), {"api_key": "sesame", "size": 3},
    ],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_no_secret_of_what_has_named_parts_is_shown(holder):
    within = types.SimpleNamespace(deep=[{"holder": holder}])
    given = {"one": holder, "many": [holder], "pair": (holder, 1), "within": within, "max_keys": 4}
    shown = params_of(make(), given)
    assert "sesame" not in str(shown)
    assert (shown["one/api_key"], shown["one/size"]) == ("(redacted)", 3)
    assert "'size': 3" in str(shown["many"])
    assert "'size': 3" in str(shown["pair"])
    assert "'size': 3" in str(shown["within/deep"])
    assert shown["max_keys"] == 4
    assert params_of(make(), holder) == {"api_key": "(redacted)", "size": 3}


def test_a_long_list_of_numbers_is_looked_at_once(monkeypatch):
    names = []
    monkeypatch.setattr(
        shown_module, "redacted", lambda name, value: (names.append(name), value)[1]
    )
    assert params_of(make(), {"betas": list(range(1000))}) == {"betas": list(range(1000))}
    assert names == ["betas"] * 2


def test_numbers_in_a_list_of_a_secret_name_are_not_shown():
    shown = params_of(make(), {"many": [{"pin_password": [1, 2], "sizes": [7]}]})
    assert str(shown["many"]) == "[\"{'pin_password': '(redacted)', 'sizes': [7]}\"]"


def test_no_secret_of_an_omegaconf_configuration_in_a_list_is_shown():
    omegaconf = pytest.importorskip("omegaconf")
    made = omegaconf.OmegaConf.create({"parts": [{"api_key": "sesame", "size": 3}]})
    shown = params_of(make(), {"in": [made], "parts": made.parts, "all": made})
    assert "sesame" not in str(shown)
    assert str(shown).count("'size': 3") == 3


def test_to_read_the_logger_starts_no_run():
    logger = make()
    assert logger.id is None
    first = logger.handle()  # the first one: there is no other to show
    assert (logger.id, first.is_active) == (first.id, True)
    logger.end_training()
    assert logger.handle() is first
    logger.finish()
    assert (logger.id, logger.name, logger.handle()) == (first.id, "own", first)
    assert tracelet.get_active_experiment() is None
    logger.begin_training()
    assert logger.handle() is tracelet.get_active_experiment()
    assert logger.id != first.id
    logger.finish()


def test_a_run_that_stop_logging_has_ended_is_followed_by_another():
    logger = make()
    logger.log({"loss": 1}, 0)
    tracelet.stop_logging()
    logger.log({"loss": 2}, 1)
    assert tracelet.get_active_experiment() is logger.experiment()
    logger.finish()
    assert logged("own") == {"loss": [(0, 1.0), (1, 2.0)]}


def test_a_failure_is_noted_on_a_run_of_its_own(monkeypatch):
    logger, noted = make(), []
    run = logger.experiment()._run
    monkeypatch.setattr(run, "note_failure", noted.append)
    error = RuntimeError("fit failed")
    logger.finish(error)
    assert noted == [error]
    assert tracelet.get_active_experiment() is None


def test_what_is_no_number_is_left_out_with_one_warning_and_the_rest_is_logged(caplog):
    logger = make()
    values = {
        "loss": np.float32(0.5), "nested": {"a": 1, "b": {"c": 2}}, "text": "some words",
        "several": np.ones(3), "nothing": None, "object": object(), 7: 8.0, "one": np.ones((1, 1)),
    }  # fmt: skip
    with caplog.at_level(logging.WARNING, "tracelet"):
        logger.log(values, 5.0)  # a step that was a metric is a float
        logger.log(values, 4)  # it goes back when a training is resumed
    run = logger.experiment()
    logger.finish()
    expected = {"loss": 0.5, "nested/a": 1, "nested/b/c": 2, "7": 8, "one": 1}
    assert logged("own") == {tag: [(5, value), (4, value)] for tag, value in expected.items()}
    assert tracelet.read("own").texts("text/text_summary").values == ["some words"] * 2
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 3
    for name in ("several", "nothing", "object"):
        assert sum(f"tracelet: {name} not logged: " in each for each in warned) == 1
    assert run.stats.dropped == {}


def test_without_a_step_it_counts_up_whatever_is_among_the_values():
    logger = make()
    for _ in range(2):
        logger.log({"loss": 1.0})
        logger.log({"loss": 1.0, "no": None})
    logger.finish()
    assert logged("own") == {"loss": [(step, 1.0) for step in range(4)]}


def test_parameters_are_flat_and_without_secrets_and_never_raise(caplog, monkeypatch):
    class Odd:
        def __str__(self):
            raise ValueError("no text")

    logger, shown, held = make(), {}, {}
    verbs = logger.experiment()._run.verbs
    log_params = verbs.log_params
    monkeypatch.setattr(verbs, "log_params", lambda each: (log_params(each), shown.update(each)))
    held["itself"] = held
    with caplog.at_level(logging.WARNING, "tracelet"):
        logger.log_params(
            {
                "lr": 0.1, "a": {"b": 1}, "a/b": 2, "hub_token": "hf_secret", "odd": Odd(),
                "db": {"password": "hunter2"}, "url": "https://user:secret@host/x",
                "many": [{"api_key": "sesame", "size": 3}], "max_tokens": 512,
            }
        )  # fmt: skip
        logger.log_params(held)
    logger.finish()
    assert (shown["lr"], shown["a/b"], shown["max_tokens"]) == (0.1, 2, 512)
    assert shown["odd"].endswith("Odd whose str() raises ValueError")
    (path,) = event_files("own")
    for secret in ("hf_secret", "hunter2", "secret@", "sesame"):
        assert secret not in str(shown)
        assert secret.encode() not in path.read_bytes()
    assert b"max_tokens" in path.read_bytes()
    assert "'size': 3" in str(shown["many"])
    assert [each.getMessage()[:34] for each in caplog.records] == [
        "tracelet: parameters not logged: l"
    ]


def test_a_wrong_option_is_told_where_the_logger_is_made():
    with pytest.raises(tracelet.ConfigurationError, match="ring_slotz"):
        LoggerRun("own", None, None, {"ring_slotz": 3})


def test_a_copy_finds_the_run_that_goes_on():
    logger = make()
    logger.log({"loss": 1}, 0)
    for other in (copy.deepcopy(logger), pickle.loads(pickle.dumps(logger))):
        assert other.experiment() is logger.experiment()
        other.finish()  # it is not the copy's own
    logger.log({"loss": 2}, 1)
    logger.finish()
    assert logged("own") == {"loss": [(0, 1.0), (1, 2.0)]}


def test_no_tensor_is_kept_alive():
    torch = pytest.importorskip("torch")
    logger = make()
    tensors = [torch.ones(1, requires_grad=True) * 2, torch.ones(3), torch.tensor(3.0)]
    gone = [weakref.ref(each) for each in tensors]
    logger.log({"a": tensors[0], "several": tensors[1]}, 0)
    logger.log({"a": tensors[2]}, 1)
    logger.log_params({"weights": tensors[1]})
    del tensors
    gc.collect()
    assert [each() for each in gone] == [None, None, None]
    logger.finish()
    assert logged("own") == {"a": [(0, 2.0), (1, 3.0)]}


def test_a_checkpoint_that_is_gone_does_not_raise(caplog):
    logger = make()
    logger.log_model("gone.ckpt")
    logger.finish()
    assert "gone.ckpt not logged" in caplog.text


def test_the_name_is_known_before_the_run(monkeypatch):
    assert make("first").name == "first"
    monkeypatch.setattr("sys.argv", ["train_it.py"])
    assert LoggerRun(None, None, None, None).name == "train_it"
