"""Writes python/tracelet/config.py, the type of `config`, from the options' declarations.

    .venv/bin/python .ci/config_types.py

A test says so when it is no longer as they are.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from tracelet.option_kinds import (
    Choice,
    Count,
    Either,
    Flag,
    Folder,
    Kind,
    Seconds,
    Table,
    Text,
    Texts,
)
from tracelet.options import Options

PATH = Path(__file__).resolve().parent.parent / "python" / "tracelet" / "config.py"
HEAD = '''"""The type of `config`, an argument of `start_logging`: its keys are the options.

Written by `.ci/config_types.py` from the declarations in `options.py`, which say what each is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict


class Config(TypedDict, total=False):
    """Options of a run, see `tracelet.options.Options`. None stands for the default."""

'''
ARGUMENTS = ("exp_name", "project", "backend")
"""Of `start_logging` itself."""
_TYPES: tuple[tuple[type[Kind], str], ...] = (
    (Seconds, "float"), (Count, "int"), (Flag, "bool"), (Text, "str"), (Texts, "Sequence[str]"),
    (Folder, "str | os.PathLike[str]"), (Table, "Mapping[str, object]"),
)  # fmt: skip


def text() -> str:
    lines = [
        f"    {each.name}: {_type_of(each.metadata['kind'])} | None"
        for each in fields(Options)
        if each.name not in ARGUMENTS
    ]
    return HEAD + "\n".join(map(_fit, lines)) + "\n"


def _type_of(kind: Kind) -> str:
    if isinstance(kind, Either):
        parts = [part for each in kind.kinds for part in _type_of(each).split(" | ")]
        return " | ".join(dict.fromkeys(parts))
    if isinstance(kind, Choice):
        return f"Literal[{', '.join(f'{choice!r}' for choice in kind.choices)}]".replace("'", '"')
    for cls, name in _TYPES:
        if isinstance(kind, cls):
            return name
    raise TypeError(f"{type(kind).__name__} has no type in .ci/config_types.py")


def _fit(line: str) -> str:
    """As ruff formats what is longer than a line."""
    if len(line) <= 100:
        return line
    name, _, rest = line.partition("Literal[")
    choices, _, _ = rest.partition("]")
    inner = "".join(f"            {choice.strip()},\n" for choice in choices.split(","))
    return f"{name}(\n        Literal[\n{inner}        ]\n        | None\n    )"


if __name__ == "__main__":
    PATH.write_text(text(), "utf-8")
