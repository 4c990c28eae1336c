"""Parameters, artifacts and models on their way to W&B."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Callable

from tracelet.backends.artifact import Artifact, FileUpload, Model
from tracelet.backends.wandb.log_file import RunLog
from tracelet.backends.wandb.names import artifact_name
from tracelet.backends.wandb.run import SdkRun
from tracelet.fork import renew_at_fork

_UPLOAD_S = 600


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flat parameters ("a/b") as W&B's config has them: mappings within each other. One whose name
    is also the beginning of another's stays flat."""
    whole: dict[str, Any] = {}
    for name, value in params.items():
        *folders, last = name.split("/")
        place: Any = whole
        for folder in folders:
            place = place.setdefault(folder, {}) if isinstance(place, dict) else None
        if isinstance(place, dict) and not isinstance(place.get(last), dict):
            place[last] = value
        else:
            whole[name] = value
    return whole


class Config:
    """The run's config as far as tracelet has logged it. Any thread."""

    def __init__(self, run: Callable[[], SdkRun], log: RunLog) -> None:
        self._run = run
        self._log = log
        self._params: dict[str, Any] = {}
        self.renew_in_child()
        renew_at_fork(self)

    def renew_in_child(self) -> None:
        self._lock = threading.Lock()

    def know(self, params: Mapping[str, Any]) -> None:
        """What a dead process has logged: the SDK replaces a mapping as a whole."""
        with self._lock:
            self._params = {**params, **self._params}

    def send(self, params: Mapping[str, Any]) -> None:
        """Returns when they are in W&B's file. Raises SinkUnavailableError."""
        log = self._log
        log.refresh()
        with self._lock:
            self._params.update(params)
            whole = nested(self._params)
            changed = {name.split("/")[0] for name in params} | set(params)
            update = {name: value for name, value in whole.items() if name in changed}
            before = {name: log.configs[name] for name in update}
            self._run().sdk.config.update(update, allow_val_change=True)
        log.wait_for(
            lambda: all(log.configs[name] > count for name, count in before.items()), "parameters"
        )


class ArtifactUpload(FileUpload):
    """An artifact of the run, with one file; the same content again is no new version."""

    def __init__(
        self,
        artifact: Artifact,
        run: Callable[[], SdkRun],
        log: RunLog,
        model: Model | None = None,
    ) -> None:
        super().__init__(artifact, model=model)
        self._run = run
        self._log = log

    def upload(self) -> None:
        import wandb

        source = self.make_file()
        name = artifact_name(self.artifact.name)
        made = wandb.Artifact(name, type=self.kind, metadata=self.about)
        made.add_file(source, name=self.file_name)
        log = self._log
        log.refresh()
        before = log.artifacts[made.name]
        run = self._run().sdk
        logged = run.log_artifact(made)
        log.wait_for(lambda: log.artifacts[made.name] > before, "an artifact")
        if not run.offline:
            logged.wait(timeout=_UPLOAD_S)
