"""What an agent's task says of parameters, written back into whatever the program gave."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("clearml")

from tracelet.backends.clearml.parameters import Overrides, _as_before, _set


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Inner:
    depth: int = 3


@dataclasses.dataclass
class Given:
    lr: float = 0.1
    net: Inner = dataclasses.field(default_factory=Inner)


@dataclasses.dataclass(frozen=True)
class Frozen:
    lr: float = 0.1


def overrides(**parameters):
    task = SimpleNamespace(
        get_parameters=lambda: {f"General/{name}": each for name, each in parameters.items()},
        _get_task_property=lambda name, raise_on_error: {}, log=None,
    )  # fmt: skip
    return Overrides(task)


def test_values_are_set_in_mappings_namespaces_and_dataclasses_however_deep():
    for given in (
        {"lr": 0.1, "net": {"depth": 3}}, argparse.Namespace(lr=0.1, net={"depth": 3}), Given(),
    ):  # fmt: skip
        flat, missing = overrides(**{"lr": "0.5", "net/depth": "7"}).apply(given)
        assert flat == {"lr": 0.5, "net/depth": 7}
        assert missing == {}
        read = given if isinstance(given, dict) else vars(given)
        inner = read["net"]
        depth = inner["depth"] if isinstance(inner, dict) else inner.depth
        assert (read["lr"], depth) == (0.5, 7)
        assert isinstance(depth, int)


def test_what_the_task_does_not_have_stays_and_is_missing():
    given = {"a": 1, "b": 2}
    flat, missing = overrides(a="5").apply(given)
    assert (flat, missing, given) == ({"a": 5, "b": 2}, {"b": 2}, {"a": 5, "b": 2})
    empty = SimpleNamespace(
        get_parameters=lambda: None, _get_task_property=lambda *_, **__: None, log=None
    )
    assert Overrides(empty).get_parameters() == {}


def test_a_value_gets_the_type_that_the_program_gave(caplog):
    assert _as_before(Color.RED, "BLUE") is Color.BLUE
    assert _as_before(pathlib.PurePosixPath("a"), "b/c") == pathlib.PurePosixPath("b/c")
    assert _as_before(np.float32(1), "0.5") == np.float32(0.5)
    assert _as_before(1, 5) == 5
    assert caplog.text == ""
    assert _as_before(Color.RED, "GREEN") == "GREEN"
    assert "is left as text" in caplog.text


def test_what_can_not_be_set_is_told_and_the_rest_is(caplog):
    _set(Frozen(), ("lr",), 0.5)
    assert "lr is overridden on ClearML, but can't be set here" in caplog.text
    holder = {"a": SimpleNamespace(b={"c": 1})}
    _set(holder, ("a", "b", "c"), 2)
    assert holder["a"].b["c"] == 2
