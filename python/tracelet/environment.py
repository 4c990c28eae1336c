"""The one place that reads environment variables.

`TRACELET_DIR` and one variable for each option, `TRACELET_` and the option's name in capitals:
`TRACELET_PROJECT`, `TRACELET_EXP_NAME` (or `TRACELET_EXPERIMENT_NAME`), `TRACELET_BACKEND`,
`TRACELET_STOP_TIMEOUT_S`, … A value is read as its option's type: numbers, `1/true/yes/on` and
`0/false/no/off`, comma-separated lists, JSON for mappings.
"""

from __future__ import annotations

import json
import os
from typing import Any, Callable

from tracelet.errors import ConfigurationError

PREFIX = "TRACELET_"
_ALIASES = {"exp_name": "EXPERIMENT_NAME", "runs_dir": "DIR"}
_TRUE = {"1", "true", "yes", "on", "y"}
_FALSE = {"0", "false", "no", "off", "n", ""}


def clearml_offline() -> bool:
    """Whether `CLEARML_OFFLINE_MODE` asks for an offline session, now."""
    return os.environ.get("CLEARML_OFFLINE_MODE", "").strip().lower() not in _FALSE


def option_text(name: str) -> tuple[str, str] | None:
    """The variable that sets option `name` and its text, or None when it isn't set."""
    for suffix in (name.upper(), _ALIASES.get(name)):
        if suffix and (text := os.environ.get(PREFIX + suffix)):
            return PREFIX + suffix, text
    return None


def _boolean(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError(text)


def _boolean_or_text(text: str) -> bool | str:
    try:
        return _boolean(text)
    except ValueError:
        return text


def _boolean_or_mapping(text: str) -> Any:
    return json.loads(text) if text.lstrip().startswith("{") else _boolean(text)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_PARSERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": _boolean,
    "list": _list,
    "bool or str": _boolean_or_text,
    "bool or mapping": _boolean_or_mapping,
    "mapping": json.loads,
}


def read_option(name: str, kind: str) -> Any:
    """The value that the environment gives option `name`, or None.

    `kind` is one of the keys of ``_PARSERS``. Raises ConfigurationError naming the variable.
    """
    found = option_text(name)
    if found is None:
        return None
    variable, text = found
    try:
        return _PARSERS[kind](text)
    except ValueError as error:
        raise ConfigurationError(f"{variable}={text!r} is not a {kind}") from error
