"""A run on Weights & Biases, as the pipeline knows it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from tracelet.backends.artifact import Artifact, Model
from tracelet.backends.base import Backend, Description, Identity, Later, RunInfo, Upload
from tracelet.backends.ending import uncaught
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.kept import KeptLines
from tracelet.backends.kept_params import KeptParams
from tracelet.backends.wandb import run as sdk
from tracelet.backends.wandb.catch_up import catch_up
from tracelet.backends.wandb.log_file import RunLog, row_column, wait_until_left
from tracelet.backends.wandb.names import clean_name
from tracelet.backends.wandb.rows import Plans
from tracelet.backends.wandb.run import SdkRun
from tracelet.backends.wandb.sink import DisabledSink, WandbSink
from tracelet.backends.wandb.uploads import ArtifactUpload, Config
from tracelet.errors import BackendError
from tracelet.fork import renew_at_fork
from tracelet.runs.ownership import is_own_file

_log = logging.getLogger("tracelet")

_NAMES = "wandb_names.jsonl"
_PARAMS = "wandb_params.jsonl"
_DESCRIPTION = "wandb_description.jsonl"
_ROWS = "wandb_rows.jsonl"
_FILES = "wandb_files.jsonl"
_INTERRUPTED = 130
_KILLED = 137


class WandbBackend(Backend):
    """One run; rows of all kinds in one lane, because their numbers only grow."""

    name = "wandb"
    identity = Identity.IN_ORDER  # a row has a number, and W&B's file says how far they go

    kept_params: KeptParams
    kept_description: KeptParams

    def __init__(self, info: RunInfo, paths: list[str], first_row: int, has_column: bool) -> None:
        self._has_column = has_column
        self._run_id = info.run_id
        self._timeout_s = info.options.start_timeout_s
        self._is_reopened = info.reopen is not None
        self._is_online = False  # of one that is reopened: whether a server is to have it
        self._is_behind = False  # the server, at the end
        self._failure: BaseException | None = None
        self._start_error: Exception | None = None
        self._run: SdkRun | None = None  # of one that is reopened: once there is something to log
        self._defined: set[str] = set()
        self.renew_in_child()
        renew_at_fork(self)
        self._files = KeptLines(info.run_dir, _FILES)
        self.log = RunLog(paths, row_column(info.run_id), has_column)
        self._config = Config(self._sdk_run, self.log)
        self.kept_params = KeptParams(
            self.name, KeptLines(info.run_dir, _PARAMS), self._send_params
        )
        lines = KeptLines(info.run_dir, _DESCRIPTION)
        self.kept_description = KeptParams(self.name, lines, self._send_description, "description")
        names = FlatNames(KeptLines(info.run_dir, _NAMES), clean_name)
        plans = Plans(KeptLines(info.run_dir, _ROWS), first_row)
        self.sinks = [WandbSink(self, plans, names, self._log_media_params)]

    def renew_in_child(self) -> None:
        self._opening = threading.Lock()

    @classmethod
    def opened(cls, info: RunInfo) -> Backend:
        """The run that is active, or a new one."""
        own = sdk.own_options(info.options)
        run = active = sdk.active_run()
        if active is None:
            run = sdk.start_run(info.options, own, info.run_id)
        if run is None:
            return DisabledBackend()
        is_owned = active is None
        made_run = SdkRun(run, is_owned, row_column(info.run_id), not is_owned)
        # Of one that is resumed W&B says where its steps go on.
        first_row = int(run.starting_step) if is_owned else 0
        made = cls(info, [], first_row, not is_owned)
        made._take(made_run)
        made.reopen_state = {
            "id": run.id,
            "dir": run.settings.root_dir,
            "is_online": not run.offline,
            "is_owned": is_owned,
            "first_row": first_row,
            # wandb-core sends a row some time after it is in its file.
            "may_lack": is_owned and not run.offline,
            "base_url": None if run.offline else sdk.server_of(run.settings),
        }
        made.id = run.id
        made.captures_console = run.settings.console != "off"
        made.samples_system = not run.settings.x_disable_stats
        made.url = os.path.dirname(made_run.path) if run.offline else run.url
        return made

    @classmethod
    def reopened(cls, info: RunInfo) -> WandbBackend:
        """Its files are read; a further one is begun for what they lack."""
        kept = info.reopen
        assert kept is not None
        files = KeptLines(info.run_dir, _FILES)
        paths = [str(line[0]) for line in files.read() if isinstance(line, list) and line]
        missing = [path for path in paths if not is_own_file(path)]
        if missing or not paths:
            raise BackendError(
                "wandb: the run's file is gone, or is no file of this user's: "
                f"{', '.join(missing) or 'no name'}"
            )
        wait_until_left(paths)
        made = cls(info, paths, int(kept["first_row"]), not kept["is_owned"])
        made.reopen_state = dict(kept)
        made.id = str(kept["id"])
        made.url = os.path.dirname(paths[0])
        # Of one that was the user's, rows are not ours to send once more: `wandb sync` does.
        made._is_online = bool(kept["is_online"] and kept["is_owned"])
        made.log.refresh()
        made.log.cut_torn_ends()
        return made

    def log_row(
        self, number: int, step: int, wall_time_s: float, values: Mapping[str, Any]
    ) -> None:
        run = self._sdk_run()
        if not run.is_owned:
            for name in values.keys() - self._defined:
                self._defined.add(name)
                run.define_step(name)
        run.log_row(number, step, wall_time_s, values)

    def _sdk_run(self) -> SdkRun:
        with self._opening:
            if self._start_error is not None:  # it is begun, and can't be once more
                raise self._start_error
            if self._run is None:
                own = {**self.reopen_state, "project": self.log.project, "entity": self.log.entity}
                timeout_s = self._timeout_s
                if self._is_online:
                    sdk.check_server(own.get("base_url"), timeout_s)
                    sdk.check_owner(own, self._run_id, self.log.last_step, timeout_s)
                sdk_run = sdk.go_on(own, self._is_online, timeout_s)
                first_step = self.log.last_step + 1
                run = SdkRun(sdk_run, True, self.log.column, self._has_column, first_step)
                try:
                    if self._is_online:
                        catch_up(run, self.log.paths)
                except Exception as error:
                    self._start_error = error
                    raise
                self._take(run)
            assert self._run is not None
            return self._run

    def _take(self, run: SdkRun) -> None:
        self._files.append(run.path)
        self.log.add_file(run.path)
        self._run = run

    def log_params(self, params: Mapping[str, Any], given: Any, later: Later) -> None:
        self.kept_params.add(params, later)

    def describe(self, about: Description, later: Later) -> None:
        self.kept_description.add(about, later)

    def _send_description(self, about: Mapping[str, Any]) -> Mapping[str, str]:
        """Returns when they are in W&B's file. Raises SinkUnavailableError."""
        run, log = self._sdk_run(), self.log
        log.refresh()
        wanted = log.runs + run.describe(about)
        log.wait_for(lambda: log.runs >= wanted, "tags and notes")
        return {}

    def _send_params(self, params: Mapping[str, Any]) -> Mapping[str, str]:
        self._config.know(self.kept_params.logged)
        self._config.send(params)
        return {}

    def _log_media_params(self, params: Mapping[str, Any]) -> None:
        self._config.send(params)

    def prepare_artifact(self, artifact: Artifact) -> Upload:
        return ArtifactUpload(artifact, self._sdk_run, self.log)

    def prepare_model(self, model: Model) -> Upload:
        assert model.file is not None
        return ArtifactUpload(model.file, self._sdk_run, self.log, model)

    def note_failure(self, failure: BaseException) -> None:
        self._failure = failure

    def begin_end(self) -> None:
        """wandb-core may have sent nothing yet, and is ended with the process."""
        run = self._run
        if run is not None and run.is_owned and not run.sdk.offline:
            self._is_behind = True

    def close(self, process_is_ending: bool) -> None:
        self.close_kept()
        self._files.close()
        self.sinks = ()  # they have the ring, and this is in a cycle with the parameters
        if self._is_reopened:
            if self._is_online:  # also where the files have all: the server may not
                self._sdk_run()
            code = _KILLED if self.log.exit_code is None else self.log.exit_code
        else:
            failure = self._failure or (uncaught() if process_is_ending else None)
            code = _exit_code(failure)
        self.begin_end()
        if self._run is not None and self._run.is_owned:
            self._finish(self._run, code)
        self._run = None

    def _finish(self, run: SdkRun, code: int) -> None:
        try:
            run.finish(code)
        except TimeoutError as error:
            raise BackendError(
                "W&B's server has not got all of this run yet, which is on this machine's disk"
            ) from error
        self._is_behind = False

    @property
    def unsent(self) -> int:
        """Also of a run that its server has not got as a whole when it ends: it is kept for
        `tracelet sync`, which asks the server how far it has come."""
        return super().unsent + self._is_behind

    def let_process_end(self) -> None:
        if self._run is not None:
            self._run.let_process_end()


class DisabledBackend(Backend):
    """Of WANDB_MODE=disabled."""

    name = "wandb"

    def __init__(self) -> None:
        _log.warning("tracelet: wandb is disabled (WANDB_MODE): it gets nothing of this run")
        self.sinks = [DisabledSink()]


def _exit_code(failure: BaseException | None) -> int:
    if failure is None:
        return 0
    if isinstance(failure, SystemExit):
        return failure.code if isinstance(failure.code, int) else int(failure.code is not None)
    return _INTERRUPTED if isinstance(failure, KeyboardInterrupt) else 1
