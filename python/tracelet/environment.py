"""The one place that reads environment variables.

`TRACELET_DIR` and one variable for each option, `TRACELET_` and the option's name in capitals:
`TRACELET_PROJECT`, `TRACELET_EXP_NAME` (or `TRACELET_EXPERIMENT_NAME`), `TRACELET_BACKEND`,
`TRACELET_STOP_TIMEOUT_S`, … A value is read as its option's type: numbers, `1/true/yes/on` and
`0/false/no/off`, comma-separated lists, JSON for mappings.

Of ClearML's own variables these are read here, most of them because its SDK does not know them:
`CLEARML_PROJECT_NAME` and `CLEARML_TASK_NAME` (after tracelet's own, before the defaults),
`CLEARML_FILES_SERVER_TIMEOUT`, `CLEARML_OFFLINE_MODE`, `CLEARML_LOG_LEVEL`, and
`CLEARML_CONFIG_FILE` for the file `~/.clearml/clearml.conf`.
"""

from __future__ import annotations

import json
import os
from typing import Any, Callable

from tracelet.errors import ConfigurationError

PREFIX = "TRACELET_"
_ALIASES = {"exp_name": "EXPERIMENT_NAME", "runs_dir": "DIR"}
_CLEARML_NAMES = {"project": "CLEARML_PROJECT_NAME", "exp_name": "CLEARML_TASK_NAME"}
_TRUE = {"1", "true", "yes", "on", "y"}
_FALSE = {"0", "false", "no", "off", "n", ""}


def clearml_offline() -> bool:
    """Whether `CLEARML_OFFLINE_MODE` asks for an offline session, now."""
    return os.environ.get("CLEARML_OFFLINE_MODE", "").strip().lower() not in _FALSE


def clearml_log_level() -> str | None:
    """`CLEARML_LOG_LEVEL` now: the SDK reads it when it is imported."""
    return os.environ.get("CLEARML_LOG_LEVEL", "").strip().upper() or None


def clearml_files_timeout_s() -> float | None:
    """`CLEARML_FILES_SERVER_TIMEOUT` in seconds. Raises ConfigurationError for what is none."""
    text = os.environ.get("CLEARML_FILES_SERVER_TIMEOUT")
    if not text:
        return None
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s < float("inf"):
        raise ConfigurationError(
            f"CLEARML_FILES_SERVER_TIMEOUT={text!r} is not a number of seconds above 0"
        )
    return timeout_s


def clearml_config_file() -> str | None:
    """The configuration file that the SDK will use, or that `use_clearml_config_file` can name."""
    for name in ("CLEARML_CONFIG_FILE", "TRAINS_CONFIG_FILE"):
        if path := os.environ.get(name):
            return os.path.expanduser(path)
    for name in ("~/clearml.conf", "~/trains.conf", "~/.clearml/clearml.conf"):
        if os.path.isfile(path := os.path.expanduser(name)):
            return path
    return None


def use_clearml_config_file() -> bool:
    """Names `~/.clearml/clearml.conf` to the SDK when there is no other; whether it was named now.

    By the variable, so that child processes find it as well.
    """
    path = clearml_config_file()
    if path != os.path.expanduser("~/.clearml/clearml.conf"):
        return False
    if os.environ.get("CLEARML_CONFIG_FILE"):
        return False
    os.environ["CLEARML_CONFIG_FILE"] = path
    return True


def option_text(name: str) -> tuple[str, str] | None:
    """The variable that sets option `name` and its text, or None when it isn't set."""
    for suffix in (name.upper(), _ALIASES.get(name)):
        if suffix and (text := os.environ.get(PREFIX + suffix)):
            return PREFIX + suffix, text
    variable = _CLEARML_NAMES.get(name)
    text = os.environ.get(variable) if variable else None
    return (variable, text) if variable and text else None


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


def _text_or_mapping(text: str) -> Any:
    return json.loads(text) if text.lstrip().startswith("{") else text


def _boolean_or_int(text: str) -> bool | int:
    return int(text) if text.strip().lstrip("-").isdigit() else _boolean(text)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_PARSERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": _boolean,
    "list": _list,
    "bool or str": _boolean_or_text,
    "bool or int": _boolean_or_int,
    "bool or mapping": _boolean_or_mapping,
    "str or mapping": _text_or_mapping,
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
