"""Whose a method is: its package's own, or one that somebody has put in its place."""

from __future__ import annotations

import sys
import types
from typing import Any

_CLEARML = "clearml.binding.frameworks.tensorflow_bind"


def is_its_own(cls: type, name: str) -> bool:
    """Whether `cls.name` is what its package wrote, maybe wrapped by us.

    Asks for the module whose code it is: functools.wraps copies the name of one, not its globals.
    """
    for owner in cls.__mro__:
        if name in vars(owner):
            return _is_of(vars(owner)[name], (package_of(owner), *_ours()))
    return False


def is_only_of(packages: tuple[str, ...], obj: Any, name: str) -> bool:
    """Whether a call of `obj.name` runs code of these packages and of ours alone: nothing stands on
    the object itself, nor in a class of its, on the way to the package's own."""
    if name in getattr(obj, "__dict__", ()):
        return False
    found = [vars(owner)[name] for owner in type(obj).__mro__ if name in vars(owner)]
    return bool(found) and all(_is_of(each, (*packages, *_ours())) for each in found)


def _ours() -> tuple[str, ...]:
    """The packages whose wrappers may be passed by. ClearML's passes all on while its binding
    reports to no task: it is off when the run itself logs to the task, else it is the user's."""
    binding = getattr(sys.modules.get(_CLEARML), "PatchSummaryToEventTransformer", None)
    is_on = getattr(binding, "_current_task", None) is not None
    return ("tracelet",) if is_on else ("tracelet", "clearml")


def package_of(cls: type) -> str:
    return _package(cls.__module__)


def _is_of(function: Any, packages: tuple[str, ...]) -> bool:
    while function is not None:
        # By its type: a wrapper may hand out the attributes, and even the class, of what it wraps.
        if type(function) is types.FunctionType:
            if _package(function.__globals__.get("__name__", "")) not in packages:
                return False
        elif type(function) is not types.MethodDescriptorType:  # a native one: ours
            return False
        function = getattr(function, "__wrapped__", None)
    return True


def _package(module: str) -> str:
    return module.partition(".")[0]
