"""What user code raises within a native call goes on to the caller, Ctrl-C above all; and the
call's own errors can be told of any object."""

from __future__ import annotations

import numpy as np
import pytest
import tracelet
from tracelet.errors import WrongTypeError, WrongValueError

torch = pytest.importorskip("torch")
SummaryWriter = pytest.importorskip("torch.utils.tensorboard").SummaryWriter


@pytest.fixture
def run():
    experiment = tracelet.start_logging("errors", "tests", backend="tensorboard")
    yield experiment
    tracelet.stop_logging()


@pytest.fixture
def writer(run, tmp_path):
    return SummaryWriter(str(tmp_path / "log"))


class Stop(BaseException):
    """No Exception: what asks for something on the side must not swallow it."""


def raising(name: str, error: type[BaseException], **attributes: object) -> object:
    """An object with a method or property of that name, which raises."""

    def method(self, *args, **kwargs):
        raise error("of the user's own code")

    made = method if name.startswith("__") else property(method)
    return type("Raising", (), {name: made, **attributes})()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("option", ["new_style", "double_precision"])
def test_an_option_whose_truth_raises(run, writer, option, error):
    writer.add_scalar("tag", 0.5, 1)  # from here on nothing else of a call enters Python
    with pytest.raises(error, match="of the user's own code"):
        writer.add_scalar("tag", 0.5, 1, **{option: raising("__bool__", error)})
    with pytest.raises(error, match="of the user's own code"):
        writer.add_scalar("tag", 0.5, 1, None, **{option: raising("__len__", error)})
    assert run.stats.accepted == 1
    writer.add_scalar("tag", 0.5, 1, **{option: [1]})
    assert run.stats.accepted == 2


INTERRUPTED = {
    "value.item": lambda writer, error: writer.add_scalar("tag", raising("item", error), 1),
    "value.__float__": lambda writer, error: writer.add_scalar("t", raising("__float__", error), 1),
    "step.__int__": lambda writer, error: writer.add_scalar("t", 0.5, raising("__int__", error)),
    "step.__index__": lambda writer, error: writer.add_scalar(
        "t", 0.5, raising("__index__", error)
    ),
    "walltime.__float__": lambda writer, error: writer.add_scalar(
        "t", 0.5, 1, raising("__float__", error)
    ),
    "values.__array__": lambda writer, error: writer.add_histogram(
        "t", raising("__array__", error), 1
    ),
    "bins.ndim": lambda writer, error: writer.add_histogram(
        "t", np.ones(3), 1, bins=raising("ndim", error, __index__=int, __len__=int)
    ),
    "bins.__index__": lambda writer, error: writer.add_histogram(
        "t", np.ones(3), 1, bins=raising("__index__", error, ndim=0, __len__=int)
    ),
    "max_bins.__index__": lambda writer, error: writer.add_histogram(
        "t", np.ones(3), 1, max_bins=raising("__index__", error)
    ),
    # Asked for a message: what can't be a value is described by its dtype and shape.
    "message: dtype": lambda writer, error: writer.add_scalar(
        "t", raising("dtype", error, __array__=None, shape=()), 1
    ),
    "message: shape": lambda writer, error: writer.add_scalar(
        "t", raising("shape", error, __array__=None, dtype=""), 1
    ),
    "message: shape.__str__": lambda writer, error: writer.add_scalar(
        "t", raising("none", error, __array__=None, shape=raising("__str__", error)), 1
    ),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stop])
@pytest.mark.parametrize("place", INTERRUPTED)
def test_what_is_no_exception_is_not_swallowed(run, writer, place, error):
    with pytest.raises(error, match="of the user's own code"):
        INTERRUPTED[place](writer, error)
    assert run.stats.accepted == 0
    writer.add_scalar("tag", 0.5, 1)
    assert run.stats.accepted == 1


class Metaclass(type):
    def __getattr__(cls, name):
        raise cls.error("of the user's own code")


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stop])
def test_a_class_whose_look_for_an_attribute_is_interrupted(writer, error):
    class Odd(metaclass=Metaclass):
        pass

    Odd.error = error
    with pytest.raises(error, match="of the user's own code"):
        writer.add_scalar("tag", Odd(), 1)


def without_memory(*shape: int) -> torch.Tensor:
    tensor = torch.ones(shape)
    tensor.untyped_storage().resize_(0)
    return tensor


ODD = (TypeError, ValueError)
TELLING = {
    "add_scalar's value": lambda writer, odd: writer.add_scalar("tag", odd, 1),
    "add_scalar's tag": lambda writer, odd: writer.add_scalar(odd, 0.5, 1),
    "add_histogram's tag": lambda writer, odd: writer.add_histogram(odd, np.ones(3), 1),
    "add_scalar's step": lambda writer, odd: writer.add_scalar("tag", 0.5, odd),
    "add_scalar's walltime": lambda writer, odd: writer.add_scalar("tag", 0.5, 1, odd),
    "log_metric's value": lambda writer, odd: log_metric("tag", odd, 1),
    "log_metric's name": lambda writer, odd: log_metric(odd, 0.5, 1),
}


def log_metric(*arguments):
    tracelet.get_active_experiment().log_metric(*arguments)


@pytest.mark.parametrize("argument", TELLING)
def test_a_tensor_whose_storage_has_no_memory_is_told_without_its_values(run, writer, argument):
    """`repr` of it ends the process: it is described by its type, dtype and shape."""
    with pytest.raises(ODD):
        TELLING[argument](writer, without_memory(2, 3))
    assert run.stats.accepted == 0


def test_the_message_of_a_tensor_without_memory(writer):
    with pytest.raises((WrongTypeError, WrongValueError)) as caught:
        writer.add_scalar("the-tag", without_memory(2, 3), 1)
    told = str(caught.value)
    assert "the-tag" in told
    assert "float32" in told
    assert "(2, 3)" in told or "[2, 3]" in told
