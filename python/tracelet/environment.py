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

import logging
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from tracelet.errors import ConfigurationError
from tracelet.option_kinds import nearest

PREFIX = "TRACELET_"
PARENT_RUN = PREFIX + "PARENT_RUN"
"""The run of the process that started this one, see `ParentRun`. Set by tracelet, for children."""
OF_THE_JOB = tuple(PREFIX + word for word in ("RANK", "WORLD_SIZE", "NODE", "JOB"))
"""Which rank of which job this process is: see `ranks.job`. They set no option."""
_ALIASES = {"exp_name": "EXPERIMENT_NAME", "runs_dir": "DIR"}
_CLEARML_NAMES = {"project": "CLEARML_PROJECT_NAME", "exp_name": "CLEARML_TASK_NAME"}
# Of the build and the tests of tracelet itself.
_OF_THE_BUILD = tuple(
    PREFIX + word for word in ("CRASH_", "OUTAGE_", "SANITIZE", "SOAK_", "STRICT", "TEST_", "TESTS")
)
_NO = {"0", "false", "no", "off", "n", ""}
_log = logging.getLogger("tracelet")


def clearml_offline() -> bool:
    """Whether `CLEARML_OFFLINE_MODE` asks for an offline session, now."""
    return os.environ.get("CLEARML_OFFLINE_MODE", "").strip().lower() not in _NO


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
    for variable in variables_of(name):
        if text := os.environ.get(variable):
            return variable, text
    return None


class ParentRun(NamedTuple):
    """The run that this process' parent had, when it started this one."""

    folder: str
    pid: int
    """Of the parent."""
    start: str
    """When that began, as `process_identity` has it; "" where that can't be told."""
    rank: int
    """Of the parent in its job; 0 for one that is alone."""


_PARENT_RUN = re.compile(r"(.+)\|(\d{1,9})\|([^|]*)\|(\d{1,9})", re.DOTALL)


def parent_run() -> ParentRun | None:
    found = _PARENT_RUN.fullmatch(os.environ.get(PARENT_RUN, ""))
    return found and ParentRun(found[1], int(found[2]), found[3], int(found[4]))


_inherited = os.environ.get(PARENT_RUN)


def announce_run(run: ParentRun | None) -> None:
    """To the processes that this one starts from now on; None: what this one was told itself."""
    text = _inherited if run is None else "|".join(map(str, run))
    if text:
        os.environ[PARENT_RUN] = text
    else:
        os.environ.pop(PARENT_RUN, None)


def variables_of(name: str) -> list[str]:
    """The variables that set option `name`, the first one that is set winning."""
    ours = [PREFIX + suffix for suffix in (name.upper(), _ALIASES.get(name)) if suffix]
    return ours + [variable for variable in (_CLEARML_NAMES.get(name),) if variable]


_warned: set[str] = set()  # of this process


def warn_of_unknown_variables(options: Sequence[str]) -> None:
    """Tells, once each, of `TRACELET_...` variables that set nothing: a typo, most likely."""
    known = {PREFIX + name.upper() for name in options}
    known |= {PREFIX + alias for alias in _ALIASES.values()} | {PARENT_RUN, *OF_THE_JOB}
    for variable in sorted(os.environ):
        is_ours = variable.upper().startswith(PREFIX) and not variable.startswith(_OF_THE_BUILD)
        if not is_ours or variable in known or variable in _warned:
            continue
        _warned.add(variable)
        near = nearest(variable.upper(), sorted(known))
        hint = f"did you mean {near}?" if near else "`tracelet.options.Options` has what there is"
        _log.warning("tracelet: the variable %s sets no option; %s", variable, hint)
