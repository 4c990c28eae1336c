"""A run in TensorBoard: the folders of its event files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tracelet.backends.artifact import Artifact, Model
from tracelet.backends.base import Backend, Description, Identity, Later, RunInfo, Upload
from tracelet.backends.handle_folder import HandleFolder
from tracelet.backends.kept import KeptLines
from tracelet.backends.kept_params import KeptParams
from tracelet.backends.tensorboard.event_files import TensorBoardSink
from tracelet.backends.tensorboard.files import CopyUpload
from tracelet.backends.tensorboard.params import (
    description_event,
    params_event,
    params_file,
    params_file_name,
)
from tracelet.backends.tensorboard.paths import LASTING
from tracelet.errors import NotTakenError
from tracelet.fork import renew_at_fork
from tracelet.places import shown_path
from tracelet.runs.whole_file import write_whole
from tracelet.writer_key import split_writer_key

ARTIFACTS = "artifacts"
MODELS = "models"
_PARAMS = "tensorboard_params.jsonl"


class TensorBoardBackend(Backend):
    """Event files, in every run unless the option `tensorboard` is another than "native".

    The verbs come only where the user named it as a backend: parameters go into the handle's event
    file, artifacts and models into folders beside it.
    """

    name = "tensorboard"
    identity = Identity.BY_COORDINATE  # an event file knows the sequence it has reached

    kept_params: KeptParams
    sinks: Sequence[TensorBoardSink] = ()

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        kept = None if info.reopen is None else str(info.reopen.get("folder", ""))
        self._handle = info.handle or HandleFolder(info.options, info.run_dir, kept)
        # Before a working folder is another one's: that of `tracelet sync`.
        self.reopen_state = {"folder": self._handle.default} if self._handle.default else {}
        self.renew_in_child()
        renew_at_fork(self)
        self._params: dict[str, Any] = {}
        self._about = Description()
        self._calls = 0
        self._folder = ""  # where the parameters were logged last
        self._later: Later | None = None
        self._files: dict[str, str] = {}  # of hyperparameters, by their folder
        self.kept_params = KeptParams(
            self.name, KeptLines(info.run_dir, _PARAMS), self._write_params
        )

    def renew_in_child(self) -> None:
        self._lock = threading.RLock()  # of the parameters; a signal's handler may log as well

    def place(self, has_ended: bool) -> str:
        if self._info.options.tensorboard != "native":
            return ""
        if has_ended:
            files = {path for sink in self.sinks for path in sink.files}
            folders = sorted({shown_path(os.path.dirname(path)) for path in files})
            where = f" in {folders[0]}{' ...' if len(folders) > 1 else ''}" if folders else ""
            return f"{len(files)} event file{'s'[: len(files) != 1]}{where}"
        default = shown_path(split_writer_key(self._handle.default)[0])
        is_settled = self._handle.writer is not None
        return f"event files in {default}" + (
            "" if is_settled else ", or where a SummaryWriter's are"
        )

    def open_sinks(self, ring: Any) -> None:
        if self._info.options.tensorboard == "native":
            info = self._info
            is_reopened = info.reopen is not None
            self.sinks = [TensorBoardSink(ring, info.run_dir, is_reopened, info.is_other_boot)]

    def log_params(self, params: Mapping[str, Any], given: Any, later: Later) -> None:
        if not self.sinks:
            raise NotTakenError("no event file for parameters: tensorboard is not 'native'")
        with self._lock:  # first: the first SummaryWriter may have them logged again at once
            self._later = later
            self._params.update(params)
            shown = dict(self._params)
        writer = self._handle.for_params(self._log_again)
        if not self._log_into(writer, shown, later):
            self.kept_params.add(shown, later)

    def _log_into(self, writer: str, params: Mapping[str, Any], later: Later) -> bool:
        """Whether they are the first ones of their folder."""
        folder = split_writer_key(writer)[0]
        with self._lock:
            is_first = folder != self._folder
            try:
                event = params_event(params, self._calls, is_first)
            except ImportError as error:
                raise NotTakenError("parameters need the package tensorboard") from error
            self._folder = folder
            self._calls += 1
        later.push_event(event, writer)
        return is_first

    def describe(self, about: Description, later: Later) -> None:
        if not self.sinks:
            raise NotTakenError("no event file for tags and notes: tensorboard is not 'native'")
        with self._lock:
            self._later = later
            self._about.update(about)
        self._show_description(self._handle.for_params(self._log_again), about, later)

    def _show_description(self, writer: str, about: Description, later: Later) -> None:
        with self._lock:
            call = self._calls
            self._calls += 1
        try:
            event = description_event(about, call)
        except ImportError as error:
            raise NotTakenError("tags and notes need the package tensorboard") from error
        later.push_event(event, writer)

    def _log_again(self) -> None:
        """The first SummaryWriter has another folder than what was logged before it."""
        with self._lock:
            params, about, later = dict(self._params), self._about.copy(), self._later
        if later is not None and params:
            self._log_into(self._handle.settle(), params, later)
        if later is not None and about:
            self._show_description(self._handle.settle(), about, later)

    def _write_params(self, params: Mapping[str, Any]) -> Mapping[str, str]:
        """Puts all hyperparameters into a file of their own, whole or not at all."""
        folder = self._handle.path
        path = self._files.setdefault(
            folder, os.path.join(folder, params_file_name(time.time(), self._info.run_id))
        )
        try:
            os.makedirs(folder, exist_ok=True)
            # Not under a name that TensorBoard would read.
            made = os.path.join(folder, f".params-{self._info.run_id}")
            write_whole(path, params_file(params), 0o666, made)
        except OSError as error:
            if error.errno not in LASTING:
                raise
            return {"hyperparameters": str(error)}
        return {}

    def note_embedding(self) -> None:
        """TensorBoard reads its files where they are."""

    def prepare_artifact(self, artifact: Artifact) -> Upload:
        return CopyUpload(artifact, os.path.join(self._handle.path, ARTIFACTS), None)

    def prepare_model(self, model: Model) -> Upload:
        assert model.file is not None
        return CopyUpload(model.file, os.path.join(self._handle.path, MODELS), model)

    def close(self, process_is_ending: bool) -> None:
        self.close_kept()
        self._handle.close()
        self.sinks = ()  # they have the ring, and this is in a cycle with methods that it gave away
