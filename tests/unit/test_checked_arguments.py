"""What is given to the handle's methods: told at the call, escaped, or counted; never lost."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tracelet
from tracelet import Delivery
from tracelet.backends.params import flat_params
from tracelet.capture.manual import _pixels
from tracelet.pipeline.lane import NO_ACCOUNT


def test_parameters_that_a_server_would_refuse_are_escaped_and_keep_the_others():
    """ClearML refused the whole edit for an empty name, a NUL or half a character."""
    given = {"": 3, "other": 1, "a": {" ": 2}, "n\0": "v\0", "s\udc80": "t\udcff", "ü": "名"}
    assert flat_params(given) == {
        "(empty)": 3, "other": 1, "a/(empty)": 2, "n\\x00": "v\\x00", "s\\udc80": "t\\udcff",
        "ü": "名",
    }  # fmt: skip


def test_parameters_that_hold_themselves_are_an_error_that_says_so():
    cycle: dict[str, object] = {"lr": 0.1}
    cycle["me"] = cycle
    with pytest.raises(ValueError, match="'me/me/me' is nested more than 50 levels deep"):
        flat_params(cycle)
    items: list[object] = []
    items.append(items)
    assert "..." in str(flat_params({"items": items}))
    with pytest.raises(ValueError, match="two parameters have the name '1'"):
        flat_params({1: "a", "1": "b"})


def test_objects_among_the_parameters_have_no_addresses():
    class Sour:
        def __str__(self):
            raise RuntimeError

    torch = pytest.importorskip("torch")
    broken = torch.zeros(1000)
    flat = flat_params(
        {"object": object(), "function": flat_params, "class": Sour, "sour": Sour(),
         "tensor": broken, "list": [object()]}
    )  # fmt: skip
    assert flat == {
        "object": "<object object>", "function": "flat_params",
        "class": "test_objects_among_the_parameters_have_no_addresses.<locals>.Sour",
        "sour": f"{Sour.__qualname__} whose str() raises RuntimeError",
        "tensor": "Tensor of shape (1000,), torch.float32", "list": ["<object object>"],
    }  # fmt: skip


def test_many_parameters_are_made_flat_in_little_time():
    """CPU time of this thread, about 0.5 s here: 200,000 took 18 s with what the SDK does."""
    started_s = time.thread_time()
    assert len(flat_params({f"group/{n}": n for n in range(200_000)})) == 200_000
    assert time.thread_time() - started_s < 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metadata": [1]}, "log_model: metadata must be a mapping, like .*, not a list"),
        ({"metadata": {1: 2}}, "log_model: metadata must have str for keys, not 1"),
        ({"tags": "abc"}, "log_model: tags must be a list of str, like .*, not 'abc'"),
        ({"tags": [1]}, "log_model: tags must be a list of str, .* it holds 1"),
        ({"name": ""}, "log_model: name must be a str that is not empty or blank"),
        ({"name": "a\0b"}, "log_model: name must be text without a NUL character"),
        ({"name": 5}, "log_model: name must be a str that is not empty or blank, not 5"),
        ({"framework": 5}, "log_model: framework must be a str"),
    ],
)
def test_wrong_arguments_of_log_model(arguments, words, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"x")
    experiment = tracelet.start_logging("run", "project", "tensorboard")
    with pytest.raises(ValueError, match=words):
        experiment.log_model(tmp_path / "weights.pt", **arguments)
    tracelet.stop_logging()
    assert not experiment.stats.artifacts.get("failed")


def test_a_name_of_an_artifact_that_no_file_can_have(tmp_path):
    """With a NUL in it `stop_logging` raised, long after the call."""
    experiment = tracelet.start_logging("run", "project", "tensorboard")
    for wrong in ("a\0b", "a\udc80"):
        with pytest.raises(ValueError, match="log_artifact: artifact_path must be text without"):
            experiment.log_artifact({"a": 1}, wrong)
    experiment.log_artifact({"a": 1}, "../../x" * 100)
    tracelet.stop_logging()
    assert experiment.stats.artifacts["uploaded"] == 1
    assert not list(tmp_path.parent.glob("x*"))


@pytest.mark.slow
def test_a_models_name_that_clearml_would_refuse_is_told_at_the_call(tmp_path):
    """It was refused over and over, and each time a model without weights was left."""
    pytest.importorskip("clearml")
    (tmp_path / "weights.pt").write_bytes(b"x")
    experiment = tracelet.start_logging("run", "project", "clearml")
    with pytest.raises(ValueError, match="name='ab' is too short for ClearML: 3 characters"):
        experiment.log_model(tmp_path / "weights.pt", "ab")
    experiment.log_model(tmp_path / "weights.pt", "abc")
    experiment.log_image("名" * 300, np.zeros((4, 4), np.uint8), 1)
    tracelet.stop_logging()
    assert experiment.stats.artifacts["uploaded"] == 1
    assert experiment.stats.delivered["clearml-media"] == 1
    experiment = tracelet.start_logging("run", "project", "tensorboard")
    experiment.log_model(tmp_path / "weights.pt", "ab")
    tracelet.stop_logging()
    assert experiment.stats.artifacts["uploaded"] == 1


def test_float_pictures_from_0_to_255_are_told_once(caplog):
    picture = np.full((4, 4, 3), 200.0)
    for _ in range(2):
        _pixels("white", picture, None)
    _pixels("fine", picture / 255, None)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "'white' has floats up to 200" in told[0]
    assert "uint8" in told[0]


class _Forgetful:
    """A sink that says nothing of every second point."""

    name = "forgetful"
    is_remote = False
    takes_every_point = True

    def write(self, batch):
        return Delivery(len(batch) // 2)

    def close(self, process_is_ending):
        pass


def test_what_a_sink_gives_no_account_of_is_counted():
    tracelet.register_sink("forgetful", lambda info: _Forgetful())
    experiment = tracelet.start_logging("run", "project", ["forgetful"])
    for step in range(100):
        experiment.log_metric("a", 1.0, step)
    tracelet.stop_logging()
    stats = experiment.stats  # and the conftest's fixture adds all up
    assert stats.delivered["forgetful"] + stats.dropped[NO_ACCOUNT] == 100
    assert stats.lanes["tensorboard"].not_meant == 100
