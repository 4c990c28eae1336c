"""A run in TensorBoard: the folders of its event files."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from tracelet.backends.artifact import Artifact, Model
from tracelet.backends.base import Backend, Identity, Later, RunInfo, Upload
from tracelet.backends.tensorboard.event_files import TensorBoardSink
from tracelet.backends.tensorboard.files import CopyUpload
from tracelet.backends.tensorboard.params import params_event
from tracelet.errors import NotTakenError
from tracelet.fork import renew_at_fork

ARTIFACTS = "artifacts"
MODELS = "models"


class TensorBoardBackend(Backend):
    """Event files, in every run unless the option `tensorboard` is another than "native".

    The verbs come only where the user named it as a backend: parameters go into the handle's event
    file, artifacts and models into folders beside it.
    """

    name = "tensorboard"
    identity = Identity.BY_COORDINATE  # an event file knows the sequence it has reached

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._folder = info.options.handle_log_dir
        self.renew_in_child()
        renew_at_fork(self)
        self._params: dict[str, Any] = {}
        self._calls = 0

    def renew_in_child(self) -> None:
        self._lock = threading.Lock()  # of the parameters

    def open_sinks(self, ring: Any) -> None:
        if self._info.options.tensorboard == "native":
            info = self._info
            is_reopened = info.reopen is not None
            self.sinks = [TensorBoardSink(ring, info.run_dir, is_reopened, info.is_other_boot)]

    def log_params(self, params: Mapping[str, Any], given: Any, later: Later) -> None:
        if not self.sinks:
            raise NotTakenError("no event file for parameters: tensorboard is not 'native'")
        with self._lock:
            self._params.update(params)
            try:
                event = params_event(self._params, self._calls)
            except ImportError as error:
                raise NotTakenError("parameters need the package tensorboard") from error
            self._calls += 1
        later.push_event(event)

    def note_embedding(self) -> None:
        """TensorBoard reads its files where they are."""

    def prepare_artifact(self, artifact: Artifact) -> Upload:
        return CopyUpload(artifact, os.path.join(self._folder, ARTIFACTS), None)

    def prepare_model(self, model: Model) -> Upload:
        assert model.file is not None
        return CopyUpload(model.file, os.path.join(self._folder, MODELS), model)
