"""What `torch.compile` puts into a graph in the place of a logging call. Imported by compiled.py,
once torch's compiler is there.

It is an operator whose implementation is the very call, so a compiled step logs to whatever its
writer logs to when the step runs: this run, the next one, or torch's own writer where there is
none. The operators change a tensor, as far as the compiler knows. So it neither leaves one out, nor
runs it twice, nor changes their order, and what it caches on disk knows that, too. (An operator
that changes nothing is eliminated; one with an ordered effect was, in graphs from the cache.)

Which writer it is, is a tensor that the writer has as an attribute: another writer is another input
of the same graph, and nothing is compiled anew.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch.library import Library, register_fake
from torch.utils import _python_dispatch

from tracelet import _core
from tracelet.capture.compiled_merge import merge_in_this_graph

_log = logging.getLogger("tracelet")

TARGET = "_tracelet_target"
"""The attribute of writers and handles that is the tensor which stands for them in a graph."""

_SCALAR_METHODS = ("add_scalar", "log_metric")  # of a writer, of a handle


def _as_outside(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """A tensor as if it were made outside of all that is being traced: else it would be a stand-in,
    or bound to the level of vmap, grad or inference_mode that it was first needed in."""
    its: Any = torch  # these have no types
    modes: Any = _python_dispatch
    with its.inference_mode(False), its._C._DisableFuncTorch(), modes._disable_current_modes():
        return make()


class _Target:
    """A writer or a handle that a graph logs to, for as long as it lives."""

    def __init__(self, owner: Any, number: int, forget: Callable[[Any], None]) -> None:
        self.owner = weakref.ref(owner, forget)
        # The number is for whom a copy of the tensor reaches.
        self.tensor = _as_outside(lambda: torch.tensor(number, device="cpu"))
        # The class whose methods are traced by ours. A subclass' own call them by super().
        self._cls = next(cls for cls in type(owner).__mro__ if TARGET in vars(cls))
        self._scalar_method = next(name for name in _SCALAR_METHODS if hasattr(owner, name))

    def call(self, method: str | None) -> Callable[..., None] | None:
        """The owner's method as it is now, by default that of a scalar; None without an owner."""
        owner = self.owner()
        if owner is None:
            return None
        return functools.partial(getattr(self._cls, method or self._scalar_method), owner)


class _Targets:
    """All of this process. Any thread: each step is one of a dictionary's, and so atomic."""

    def __init__(self) -> None:
        self._of_owner: dict[int, _Target] = {}
        self._of_tensor: dict[int, _Target] = {}
        self._of_number: dict[int, _Target] = {}
        self._numbers = itertools.count(1)

    def tensor_of(self, owner: Any) -> torch.Tensor:
        found = self._of_owner.get(id(owner))
        if found is None or found.owner() is not owner:
            found = self._enlist(owner)
        return found.tensor

    def find(self, tensor: torch.Tensor) -> _Target | None:
        found = self._of_tensor.get(id(tensor))
        if found is not None and found.tensor is tensor:
            return found
        return self._of_number.get(int(tensor.item()))

    def _enlist(self, owner: Any) -> _Target:
        number, key = next(self._numbers), id(owner)

        def forget(_: Any) -> None:
            gone = self._of_number.pop(number)
            self._of_tensor.pop(id(gone.tensor), None)
            if self._of_owner.get(key) is gone:
                del self._of_owner[key]

        target = _Target(owner, number, forget)
        self._of_number[number] = target
        self._of_tensor[id(target.tensor)] = target
        self._of_owner[key] = target
        return target


# Those of all imports of tracelet in this process: an operator is defined once.
_shared = _core.shared()
_targets = cast("_Targets", _shared.setdefault("compiled targets", _Targets()))
_order = cast(
    "torch.Tensor",
    _shared.setdefault("compiled order", _as_outside(lambda: torch.zeros((), device="cpu"))),
)
_one = _as_outside(lambda: torch.ones((), dtype=torch.float64, device="cpu"))


class TargetAttribute:
    """TARGET, as an attribute of a class. Its getter is no plain function, so that the compiler
    calls it, where it would trace one."""

    __get__ = functools.partial(
        lambda attribute, owner, cls=None: attribute if owner is None else _targets.tensor_of(owner)
    )

    def __set__(self, owner: Any, value: object) -> None:
        raise AttributeError(f"{TARGET} is read-only")


# What the compiler traces in the place of the methods: it runs this code while it compiles, with
# stand-ins for tensors and for numbers that change. What is left in the graph is the operator.


# They have no defaults: it would guard those of the method, which a wrapper may not have.


def add_scalar(self: Any, *args: Any, **kwargs: Any) -> None:
    _scalar(self, "add_scalar", ("tag", "scalar_value", "global_step"), args, kwargs)


def log_metric(self: Any, *args: Any, **kwargs: Any) -> None:
    _scalar(self, "log_metric", ("name", "value", "step"), args, kwargs)


def add_scalars(self: Any, *args: Any, **kwargs: Any) -> None:
    _call(self, "add_scalars", args, kwargs)


def add_histogram(self: Any, *args: Any, **kwargs: Any) -> None:
    _call(self, "add_histogram", args, kwargs)


def add_histogram_raw(self: Any, *args: Any, **kwargs: Any) -> None:
    _call(self, "add_histogram_raw", args, kwargs)


def log(self: Any, *args: Any, **kwargs: Any) -> None:
    _call(self, "log", args, kwargs)


def log_histogram(self: Any, *args: Any, **kwargs: Any) -> None:
    _call(self, "log_histogram", args, kwargs)


def _scalar(self: Any, method: str, parameters: Any, args: Any, kwargs: Any) -> None:
    given = {**dict(zip(parameters, args)), **kwargs}
    name, value, step = [given.get(parameter) for parameter in parameters]
    is_plain = (
        len(given) == len(args) + len(kwargs)  # none twice, nor too many
        and all(parameter in parameters for parameter in given)
        and isinstance(name, str)
        and _is_scalar(value)
        and (step is None or (isinstance(step, int) and not isinstance(step, bool)))
    )
    if not is_plain:
        _call(self, method, args, kwargs)
    elif not torch.compiler.is_exporting():
        torch.ops.tracelet.scalar(_order, self._tracelet_target, name, _as_tensor(value), step)


def _call(self: Any, method: str, args: Any, kwargs: Any) -> None:
    if torch.compiler.is_exporting():  # a program that runs elsewhere
        return
    tensors: list[Any] = []
    numbers: list[Any] = []
    plan = _pack((args, kwargs), tensors, numbers)
    torch.ops.tracelet.call(_order, self._tracelet_target, method, plan, tensors, numbers)


def _is_scalar(value: Any) -> bool:
    """Whether the point's value is the same when it is given as a float64."""
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_tensor(value: Any) -> Any:
    # A product, by which a number that changes stays one that changes: as an operator's argument
    # each of its values would be compiled.
    return value.detach() if isinstance(value, torch.Tensor) else _one * value


def _pack(value: Any, tensors: list[Any], numbers: list[Any]) -> str:
    """The form of a value, as `_Reader` reads it; what is in it is put into the two lists."""
    if value is None:
        return "0"
    if isinstance(value, bool):
        return "1" if value else "2"
    if isinstance(value, str):
        return f"s{len(value)}:{value}"
    if isinstance(value, int):
        numbers.append(value)
        return "i"
    if isinstance(value, float):
        tensors.append(_one * value)
        return "f"
    if isinstance(value, torch.Tensor):
        tensors.append(value.detach())
        return "t"
    if isinstance(value, (np.ndarray, np.generic)):
        tensors.append(torch.as_tensor(value))
        return "a"
    if isinstance(value, (list, tuple)):
        kind = "l" if isinstance(value, list) else "u"
        items = [_pack(item, tensors, numbers) for item in value]
        return f"{kind}{len(items)}:{''.join(items)}"
    if isinstance(value, dict):
        return _pack_dict(value, tensors, numbers)
    # Said at the call: with fullgraph=True as the error, else the call is made outside of a graph.
    torch._dynamo.graph_break(msg="tracelet: an argument that a compiled step can't hand over")
    raise TypeError("tracelet: an argument that a compiled step can't hand over")


def _pack_dict(value: Any, tensors: list[Any], numbers: list[Any]) -> str:
    names = "".join([_pack(name, tensors, numbers) for name in value])
    together = len(value) > 1 and all(_is_scalar(each) for each in value.values())
    if together:
        parts = [_as_tensor(each).reshape(()).to(torch.float64) for each in value.values()]
        if all(part.device.type == "cpu" for part in parts):
            tensors.append(torch.stack(parts))  # one tensor for the graph to hand over
            return f"v{len(value)}:{names}"
    items = "".join([_pack(item, tensors, numbers) for item in value.values()])
    return f"d{len(value)}:{names}{items}"


class _Reader:
    """Makes of `_pack`'s form, and of what a graph hands over, the arguments of a call."""

    def __init__(self, plan: str, tensors: Iterator[Any], numbers: Iterator[int]) -> None:
        self._plan, self._at = plan, 0
        self._tensors, self._numbers = tensors, numbers

    def value(self) -> Any:
        kind = self._plan[self._at]
        self._at += 1
        if kind in "012":
            return (None, True, False)[int(kind)]
        if kind == "i":
            return next(self._numbers)
        if kind == "f":
            return float(next(self._tensors))
        if kind == "t":
            return next(self._tensors)
        if kind == "a":
            return next(self._tensors).numpy()
        return self._sized(kind)

    def _sized(self, kind: str) -> Any:
        colon = self._plan.index(":", self._at)
        size, self._at = int(self._plan[self._at : colon]), colon + 1
        if kind == "s":
            self._at += size
            return self._plan[self._at - size : self._at]
        if kind in "lu":
            items = [self.value() for _ in range(size)]
            return items if kind == "l" else tuple(items)
        names = [self.value() for _ in range(size)]
        if kind == "v":
            return dict(zip(names, next(self._tensors).tolist()))
        return {name: self.value() for name in names}


# The operators: what a graph calls when it runs.


def _method_of(target: torch.Tensor, method: str | None = None) -> Callable[..., None]:
    found = _targets.find(target)
    return (None if found is None else found.call(method)) or _tell_gone


def _run_scalar(
    order: torch.Tensor, target: torch.Tensor, name: str, value: torch.Tensor, step: int | None
) -> None:
    _method_of(target)(name, value, step)


def _run_scalars(
    order: torch.Tensor,
    targets: list[torch.Tensor],
    plan: str,
    values: torch.Tensor,
    steps: list[int],
) -> None:
    methods = [_method_of(each) for each in targets]
    # What is on a device stays there: who takes it does not wait for it.
    each_value = values.tolist() if values.device.type == "cpu" else values.unbind()
    for (which, name, at), value in zip(_read_plan(plan), each_value):
        methods[which](name, value, None if at is None else steps[at])


@functools.lru_cache(maxsize=1024)
def _read_plan(plan: str) -> list[tuple[int, str, int | None]]:
    return [(which, name, at) for which, name, at in json.loads(plan)]


def _run_call(
    order: torch.Tensor,
    target: torch.Tensor,
    method: str,
    plan: str,
    tensors: list[torch.Tensor],
    numbers: list[int],
) -> None:
    args, kwargs = _Reader(plan, iter(tensors), iter(numbers)).value()
    _method_of(target, method)(*args, **kwargs)


_is_told_gone = False


def _tell_gone(*_: Any, **__: Any) -> None:
    global _is_told_gone
    if not _is_told_gone:
        _is_told_gone = True
        _log.warning(
            "tracelet: a compiled step logs by a writer that is gone; its points are dropped. This "
            "is said once."
        )


_OPERATORS: Mapping[str, tuple[str, Callable[..., None]]] = {
    # One call of add_scalar or log_metric.
    "scalar": ("Tensor target, str name, Tensor value, SymInt? step", _run_scalar),
    # Several of them: see compiled_merge.py.
    "scalars": ("Tensor[] targets, str plan, Tensor values, SymInt[] steps", _run_scalars),
    # Any other call, its arguments as `_pack` puts them.
    "call": (
        "Tensor target, str method, str plan, Tensor[] tensors, SymInt[] numbers",
        _run_call,
    ),
}


def _tags() -> tuple[Any, ...]:
    """A CUDA graph is made around it, where this torch can part graphs: within, it would be called
    when the graph is recorded, and never again."""
    tag = getattr(torch.Tag, "cudagraph_unsafe", None)
    return () if tag is None else (tag,)


def _define() -> Library:
    library = Library("tracelet", "DEF")
    for name, (arguments, implementation) in _OPERATORS.items():
        library.define(f"{name}(Tensor(a!) order, {arguments}) -> ()", tags=_tags())
        library.impl(name, implementation, "CompositeExplicitAutograd")
        register_fake(f"tracelet::{name}", _note_graph, lib=library)
    return library


def _note_graph(*_: Any) -> None:
    """What stands for an operator while a graph is being made."""
    merge_in_this_graph()


_shared.setdefault("compiled operators", None)
if _shared["compiled operators"] is None:
    _shared["compiled operators"] = _define()  # for as long as the process lives
