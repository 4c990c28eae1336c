"""The backend of a run for which none is named: what is set up here serves at once."""

from __future__ import annotations

import logging

from tracelet import environment

_log = logging.getLogger("tracelet")
_has_told = False


def default_backend() -> str:
    """ "clearml" where its SDK is installed and set up (credentials as the SDK finds them, an
    offline session asked for, or a task that the program has made), else "tensorboard": event
    files, no account. Says so once where the SDK is there without credentials."""
    from tracelet.backends.clearml.set_up import is_installed, is_set_up

    if not is_installed():
        return "tensorboard"
    if is_set_up():
        return "clearml"
    _tell()
    return "tensorboard"


def _tell() -> None:
    global _has_told
    if _has_told:
        return
    _has_told = True
    _log.warning(
        "tracelet: no backend is named and ClearML has no credentials here: the run goes to "
        "TensorBoard event files. For ClearML run `clearml-init`, or set CLEARML_OFFLINE_MODE=1; "
        'backend="tensorboard" (or %sBACKEND=tensorboard) says that event files are meant.',
        environment.PREFIX,
    )
