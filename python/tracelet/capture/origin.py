"""Whose a method is: its package's own, or one that somebody has put in its place."""

from __future__ import annotations

from typing import Any

# ClearML's wrapper passes everything on: its binding is off while a run of ours is on.
_OURS = ("tracelet", "clearml")


def is_its_own(cls: type, name: str) -> bool:
    """Whether `cls.name` is what its package wrote, maybe wrapped by us.

    Asks for the module whose code it is: functools.wraps copies the name of one, not its globals.
    """
    for owner in cls.__mro__:
        if name in vars(owner):
            return _is_of(vars(owner)[name], _package(owner.__module__))
    return False


def _is_of(function: Any, package: str) -> bool:
    while function is not None:
        code_of = getattr(function, "__globals__", None)
        # A method without globals is a native one: ours.
        if code_of is not None and _package(code_of.get("__name__", "")) not in (package, *_OURS):
            return False
        function = getattr(function, "__wrapped__", None)
    return True


def _package(module: str) -> str:
    return module.partition(".")[0]
