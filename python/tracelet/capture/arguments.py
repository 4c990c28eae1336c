"""Command lines that were parsed before ClearML's SDK was imported.

The SDK records what ArgumentParsers parse from its own import on. tracelet imports it late, when a
run starts, so a script that has parsed its arguments by then would lose them. Until the SDK is
there, this module keeps its place.
"""

from __future__ import annotations

import functools
import sys
import types
from typing import TYPE_CHECKING, Any

from tracelet.capture.import_hook import ImportHook

if TYPE_CHECKING:  # not imported for it: it takes 6 ms, and not every program has a command line
    import argparse

_SDK = "clearml.binding.args"
_MOST = 16  # command lines kept: a program has one, its libraries may have some

_parsed: list[tuple[argparse.ArgumentParser, argparse.Namespace]] = []
_depth = 0  # subcommands are parsed by a call inside a call


def watch_argument_parsers() -> None:
    """Records what is parsed from now on, whenever argparse is imported. Once for the process."""

    def watch(module: types.ModuleType) -> None:
        hooks.pop().remove()
        _watch(module.ArgumentParser)

    hooks: list[ImportHook] = []
    if "argparse" in sys.modules:
        _watch(sys.modules["argparse"].ArgumentParser)
    else:
        hooks.append(ImportHook("argparse", before=lambda module: None, after=watch))


def _watch(parser_class: Any) -> None:
    original = parser_class.parse_known_args
    if _SDK in sys.modules:
        return

    @functools.wraps(original)
    def parse_known_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        global _depth
        _depth += 1
        try:
            result = original(self, *args, **kwargs)
        finally:
            _depth -= 1
        if _depth == 0 and _SDK not in sys.modules and len(_parsed) < _MOST:
            _parsed.append((self, result[0]))
        return result

    parser_class.parse_known_args = parse_known_args


def take_parsed_arguments() -> list[tuple[argparse.ArgumentParser, argparse.Namespace]]:
    """The parsers and what each gave, in order; each is given out once.

    The namespaces are the caller's own: what is changed in them, the caller sees.
    """
    taken = list(_parsed)
    _parsed.clear()
    return taken
