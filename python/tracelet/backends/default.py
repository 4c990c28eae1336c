"""The backend of a run for which none is named: what is set up here serves at once."""

from __future__ import annotations

from tracelet.places import warn_once


def default_backend() -> str:
    """ "clearml" where its SDK is installed and set up (credentials as the SDK finds them, an
    offline session asked for, or a task that the program has made), else "tensorboard": event
    files, no account. Says so once where the SDK is there without credentials."""
    from tracelet.backends.clearml.set_up import is_installed, is_set_up

    if not is_installed():
        return "tensorboard"
    if is_set_up():
        return "clearml"
    warn_once(
        "no backend is named and ClearML has no credentials here: the run goes to TensorBoard "
        "event files. For ClearML run `clearml-init`, or set CLEARML_OFFLINE_MODE=1; "
        'backend="tensorboard" (or TRACELET_BACKEND=tensorboard) says that event files are meant.'
    )
    return "tensorboard"
