"""The SDK's run: made, adopted, gone on with, and ended, each within a deadline.

wandb has a process of its own, wandb-core, which writes the file and sends it. Whatever waits for
it, or for a server, is done by a thread that is left behind when its time is over.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from tracelet.backends.deadline import within
from tracelet.backends.own_options import checked
from tracelet.backends.wandb.names import STEP, project_name, tag_names
from tracelet.errors import BackendError, ConfigurationError
from tracelet.options import Options
from tracelet.redact import bare_url

_log = logging.getLogger("tracelet")
_within = functools.partial(within, "wandb")

_OPTIONS: Mapping[str, tuple[type, ...]] = {
    "entity": (str,), "mode": (str,), "dir": (str, os.PathLike), "group": (str,),
    "job_type": (str,), "id": (str,), "resume": (str,), "console": (str,),
    "system_metrics": (bool,),
}  # fmt: skip
_MODES = ("online", "offline", "disabled")
_RESUMES = ("allow", "must", "never")
_FLUSH_S = 0.25
_FINISH_S = 20.0
_LOCAL_S = 120.0  # for what asks no server, and is slow on a slow disk alone
_SYNC_S = 600.0  # for what `tracelet sync` sends
_OWNER = "tracelet_run"
"""Of the config of an online run: tracelet's id of the run whose process began it, or resumed it
last."""
_LATEST_S = 1e11  # a wall time beyond it is none


def own_options(options: Options) -> dict[str, Any]:
    """config["wandb"], checked. Raises ConfigurationError."""
    own = checked("wandb", options.wandb, _OPTIONS)
    for key, value in own.items():
        choices = {"mode": _MODES, "resume": _RESUMES}.get(key)
        if choices and value not in choices:
            raise ConfigurationError(
                f"config['wandb'][{key!r}] must be one of {', '.join(choices)}, not {value!r}"
            )
    return own


def active_run() -> Any:
    """The run that the user has begun by wandb itself, or None."""
    import wandb

    run = wandb.run
    return None if run is None or run.disabled else run


def start_run(options: Options, own: Mapping[str, Any], run_id: str) -> Any:
    """A new run of the SDK's, or with an id one that is gone on with; None where wandb is disabled.
    Offline, told once, where nobody has logged in (wandb would ask, and wait for an answer), or
    where the server does not answer in time. Raises BackendError."""
    timeout_s = options.start_timeout_s
    mode = _within(_LOCAL_S, "answer", lambda: _wanted_mode(own))
    if mode == "disabled":
        return None
    if mode == "online":
        deadline_s = time.monotonic() + timeout_s
        try:
            if is_logged_in(timeout_s):
                left_s = max(timeout_s / 4, deadline_s - time.monotonic())
                # Before its first row, so that who has it is known of any row.
                return _init("online", options, own, left_s, {_OWNER: run_id})
            why = "wandb has no API key here (`wandb login`, or WANDB_API_KEY)"
        except BackendError as error:
            if options.on_unreachable == "raise" or _is_refusal(error):
                raise
            why = f"W&B can't be reached ({error!s:.300})"
        _log.warning(
            "tracelet: %s: the run is kept offline, and `wandb sync` sends it. WANDB_MODE=offline "
            "says that offline is meant.", why,
        )  # fmt: skip
    return _init("offline", options, own, timeout_s)


def is_logged_in(timeout_s: float) -> bool:
    """Raises BackendError when that is not known in time: the server is asked who it is."""
    import wandb

    return bool(_within(timeout_s, "answer", lambda: wandb.login(prompt=False)))


def _wanted_mode(own: Mapping[str, Any]) -> str:
    import wandb

    mode = own.get("mode") or os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)
    if mode not in _MODES:
        raise BackendError(f"the mode {mode!r} (WANDB_MODE) can't be used: {', '.join(_MODES)}")
    return str(mode)


def go_on(own: Mapping[str, Any], is_online: bool, timeout_s: float) -> Any:
    """A further file of a run whose process has died. Raises BackendError."""
    arguments = {key: own[key] for key in ("project", "entity", "id", "dir") if own.get(key)}
    # It is to be all on the server, or the run is kept.
    settings = {"finish_timeout": _SYNC_S, "finish_timeout_raises": True}
    mode = "online" if is_online else "offline"
    return _make(mode, {**arguments, "resume": "allow"}, settings, timeout_s)


def server_of(settings: Any) -> str:
    """The server's URL as it may be written down: without a user and password."""
    return bare_url(str(settings.base_url)).rstrip("/")


def check_server(began_at: str | None, timeout_s: float) -> None:
    """Whether this is the server where a dead run was begun, and somebody has logged in: another
    one (a cron job without the variables of the training) would take the run for a new one. Raises
    BackendError."""
    import wandb

    here = _within(_LOCAL_S, "answer", lambda: server_of(wandb.setup().settings))
    if began_at and began_at != here:
        raise BackendError(
            f"wandb: this run is on {began_at}, and the server here is {here}: set "
            f"WANDB_BASE_URL={began_at}"
        )
    if not is_logged_in(timeout_s):
        raise BackendError("wandb: this run is online, and nobody has logged in here: wandb login")


def check_owner(own: Mapping[str, Any], run_id: str, last_step: int, timeout_s: float) -> None:
    """Asks the server whether a dead run's W&B run is still that run's: one that another process
    has resumed since has that one's rows behind the steps that ours had, and to resume it would
    skip ours, and end it under the other's feet. `last_step`: of the rows that its files have.
    Raises BackendError."""
    import wandb

    path = "/".join(own[key] for key in ("entity", "project", "id") if own.get(key))

    def ask() -> tuple[Any, Any]:
        try:
            run = wandb.Api(timeout=max(1, int(timeout_s))).run(path)
        except wandb.errors.CommError as error:
            if isinstance(error.exc, ValueError):  # it has no such run: nothing has arrived yet
                return None, None
            raise
        return run.config.get(_OWNER), run.summary_metrics.get("_step")

    owner, step = _within(timeout_s, "tell whose run it is", ask)
    is_others = isinstance(owner, str) and owner != run_id
    if is_others or (isinstance(step, int) and step > last_step):
        raise BackendError(
            f"this W&B run ({path}) was resumed by another process: what its server lacks of this "
            "one's rows can't be put between them. They are kept"
        )


def _init(
    mode: str,
    options: Options,
    own: Mapping[str, Any],
    timeout_s: float,
    config: Mapping[str, Any] | None = None,
) -> Any:
    import wandb

    arguments: dict[str, Any] = {
        key: own[key]
        for key in ("entity", "dir", "group", "job_type", "id", "resume")
        if own.get(key)
    }
    is_default = options.project == Options.project
    if not is_default or not wandb.setup().settings.project:
        arguments["project"] = project_name(options.project)
    arguments["name"] = options.task_name or options.exp_name
    if config:
        arguments["config"] = dict(config)
    if options.tags:
        arguments["tags"] = tag_names(list(options.tags))
    if options.comment is not None:
        arguments["notes"] = options.comment
    settings = {
        "console": own.get("console", "off"),
        "x_disable_stats": not own.get("system_metrics", False),
        # Half, so that it is W&B who ends it, and the file with it.
        "finish_timeout": min(_FINISH_S, options.stop_timeout_s / 2, options.exit_timeout_s / 2),
        "finish_timeout_raises": True,
    }
    return _make(mode, arguments, settings, timeout_s)


def _make(
    mode: Any, arguments: Mapping[str, Any], settings: Mapping[str, Any], timeout_s: float
) -> Any:
    import wandb

    if mode == "offline":
        timeout_s = max(timeout_s, _LOCAL_S)
    whole = {
        "silent": True,
        "sync_tensorboard": False,
        "console": "off",
        "x_disable_stats": True,
        "init_timeout": timeout_s,
        "x_transaction_log_flush_interval": _FLUSH_S,
        **settings,
    }

    def make() -> Any:
        made = wandb.init(
            mode=mode, reinit="create_new", settings=wandb.Settings(**whole), **arguments
        )
        _hide(made)
        return made

    run = _within(timeout_s, "start a run", make, lambda late: late.finish())
    if run is None or not os.path.exists(run.settings.sync_file):
        raise BackendError("wandb made no file for the run")
    run.define_metric(STEP, hidden=True)
    run.define_metric("*", step_metric=STEP)
    return run


def _hide(run: Any) -> None:
    """Takes it from the runs that wandb knows to be active: the user's own `wandb.init()` returns
    the latest of those, and ends them all with `reinit="finish_previous"`. Ours is nobody else's,
    and ends by its own `finish`."""
    with contextlib.suppress(Exception):  # wandb's inside may be another one
        from wandb.sdk import wandb_setup

        wandb_setup.singleton().remove_active_run(run)


class SdkRun:
    """One run of the SDK's, and whether it is ours to end. Any thread."""

    def __init__(
        self, run: Any, is_owned: bool, column: str, has_column: bool, first_step: int = 0
    ) -> None:
        """`has_column`: W&B's steps are counted by the user, so rows have a `column` for a number.
        `first_step`: of one of those that is gone on with, W&B's step of the next row."""
        self.sdk = run
        self.is_owned = is_owned
        self._column = column
        self._has_column = has_column
        self._next_step = first_step
        self.path = str(run.settings.sync_file)
        self._pid = os.getpid()
        self._is_left = False
        if is_owned:
            # Before wandb's own hook, which was registered earlier and waits without a limit.
            atexit.register(self.let_process_end)

    def log_row(
        self, number: int, step: int, wall_time_s: float, values: Mapping[str, Any]
    ) -> None:
        """A row of its own, closed."""
        import wandb

        row = {STEP: step, **values}
        if 0 < wall_time_s < _LATEST_S:  # else it is now
            row["_timestamp"] = wall_time_s
        # W&B's patch of TensorBoard takes the step away.
        if self._has_column or wandb.patched["tensorboard"]:
            row[self._column] = number
        if not self._has_column:
            self.sdk.log(row, step=number, commit=True)
        elif self.is_owned:
            self.sdk.log(row, step=self._next_step, commit=True)
            self._next_step += 1
        else:
            self.sdk.log(row, commit=True)

    def describe(self, about: Mapping[str, Any]) -> int:
        """Sets tags and notes, as `Description` has them; others' tags stay. Returns how many
        records W&B's file gets by that."""
        count = 0
        if "tags" in about:
            ours = tag_names(about["tags"])
            gone = {*ours, *tag_names(about.get("gone", []))}
            held = [tag for tag in self.sdk.tags or () if tag not in gone]
            self.sdk.tags = (*held, *ours)
            count += 1
        if "notes" in about:
            self.sdk.notes = about["notes"]
            count += 1
        return count

    def define_step(self, name: str) -> None:
        """Of a run that is not ours: its other columns stay as they are."""
        self.sdk.define_metric(name, step_metric=STEP)

    def finish(self, exit_code: int) -> None:
        """Ends it; what is sent is waited for by wandb's `finish_timeout`. Raises TimeoutError."""
        try:
            self.sdk.finish(exit_code=exit_code)
        finally:
            if self.sdk._is_finished:
                atexit.unregister(self.let_process_end)

    def let_process_end(self) -> None:
        """A run that has not ended by now hangs in wandb-core, and wandb would wait for that one
        without a limit. What is not written is in tracelet's folder, for `tracelet sync`."""
        if not self.is_owned or self._is_left or os.getpid() != self._pid:
            return
        self._is_left = True
        kill_service()


def kill_service() -> None:
    """Ends wandb-core, where this process has started it."""
    with contextlib.suppress(Exception):  # wandb's inside may be another one
        from wandb.sdk import wandb_setup

        service = wandb_setup.singleton()._connection
        if service is not None and service._proc is not None:
            service._proc._process.kill()  # not its pid's, which may be another's by now
            service._cleanup()  # wandb's hook at the exit, which would find it gone


def _is_refusal(error: BackendError) -> bool:
    """Whether it is the user's to mend, not the network's."""
    from wandb.errors import AuthenticationError, CommError, UsageError

    cause = error.__cause__
    return isinstance(cause, (AuthenticationError, UsageError)) and not isinstance(cause, CommError)
