"""Writes docs/options.md from the options' declarations: `.venv/bin/python .ci/options_page.py`.

A test compares the file with `page()`.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from pathlib import Path

from tracelet import environment, options

PATH = Path(__file__).resolve().parent.parent / "docs" / "options.md"
_HEAD = """# Options

Written by `.ci/options_page.py` from the declarations in `python/tracelet/options.py`.

`exp_name`, `project` and `backend` are arguments of `tracelet.start_logging`, the others keys of
its `config`.
Type checkers know them by `tracelet.Config`: `config: tracelet.Config = {"quiet": True}`.
Each may be set by its environment variable instead; what is given to the call wins.
A value of a wrong kind is a `ConfigurationError` that names the option, what was given and what it
must be. Times of more than a year, `inf` included, are a year.
"""


def page() -> str:
    docs = _docs()
    parts = [_HEAD]
    for each in fields(options.Options):
        variables = ", ".join(f"`{name}`" for name in environment.variables_of(each.name))
        wanted = each.metadata["kind"].wanted
        about = " ".join(docs.get(each.name, "").split())
        # `start_logging` looks for a backend that is set up.
        is_found = each.default is None or each.name == "backend"
        default = "" if is_found else f" Default: `{each.default!r}`."
        parts.append(f"## {each.name}\n\n{about}\n\nMust be {wanted}.{default} {variables}\n")
    return "\n".join(parts)


def _docs() -> dict[str, str]:
    """The docstring behind each attribute, which Python does not keep."""
    body = ast.parse(inspect.getsource(options.Options)).body[0].body  # type: ignore[attr-defined]
    return {
        before.target.id: after.value.value
        for before, after in zip(body, body[1:])
        if isinstance(before, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }  # fmt: skip


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
