"""A run in Aim, as the pipeline knows it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tracelet.backends.aim.media import AimMediaSink
from tracelet.backends.aim.run import AimRun, check_own, lock_text, open_run
from tracelet.backends.aim.sink import AimSink
from tracelet.backends.artifact import Artifact, FileUpload, Model
from tracelet.backends.base import Backend, Description, Identity, Later, RunInfo, Upload
from tracelet.backends.ending import status_of, uncaught
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.kept import KeptLines
from tracelet.backends.kept_params import KeptParams
from tracelet.backends.own_options import checked
from tracelet.errors import BackendError, ConfigurationError, SinkUnavailableError
from tracelet.options import Options
from tracelet.safe_names import relative_path

_OPTIONS: Mapping[str, tuple[type, ...]] = {
    "repo": (str, os.PathLike), "experiment": (str,), "run_hash": (str,),
}  # fmt: skip
_NAMES = "aim_names.jsonl"
_PARAMS = "aim_params.jsonl"
_DESCRIPTION = "aim_description.jsonl"


class AimBackend(Backend):
    """One run: scalars in a lane, histograms and events in another."""

    name = "aim"
    identity = Identity.BY_COORDINATE  # a series' value is kept by its step

    kept_params: KeptParams
    kept_description: KeptParams

    def __init__(self, run: AimRun, info: RunInfo) -> None:
        self._run = run
        self._is_reopened = info.reopen is not None
        self._failure: BaseException | None = None
        self.id = run.hash
        self.url = run.repo
        self.reopen_state = {
            "repo": run.repo, "hash": run.hash, "lock": lock_text(run.repo, run.hash),
        }  # fmt: skip
        self.kept_params = KeptParams(self.name, KeptLines(info.run_dir, _PARAMS), run.set_params)
        lines = KeptLines(info.run_dir, _DESCRIPTION)
        self.kept_description = KeptParams(self.name, lines, self._send_description, "description")
        names = FlatNames(KeptLines(info.run_dir, _NAMES), clean_name)  # one for both
        self.sinks = [AimSink(run, names), AimMediaSink(run, names, run.set_params)]

    @classmethod
    def opened(cls, info: RunInfo) -> AimBackend:
        """A new run, or the one that the options name."""
        options = info.options
        own = own_options(options)
        repo = os.path.expanduser(os.fspath(own["repo"])) if own.get("repo") else None
        if repo is not None:
            os.makedirs(repo, exist_ok=True)
        run = open_run(repo, own.get("run_hash"), options.start_timeout_s)
        about: dict[str, Any] = {"tags": list(options.tags or ())}
        if not own.get("run_hash"):
            about["name"] = options.task_name or options.exp_name
            about["experiment"] = own.get("experiment") or options.project
        if options.comment is not None:
            about["notes"] = options.comment
        try:
            run.describe(about)
        except SinkUnavailableError as error:
            run.close()
            raise BackendError(str(error)) from error
        return cls(run, info)

    @classmethod
    def reopened(cls, info: RunInfo) -> AimBackend:
        kept = info.reopen
        assert kept is not None
        repo, run_hash = str(kept["repo"]), str(kept["hash"])
        check_own(repo, run_hash)
        # Its process is dead, whatever its number is now; another one's lock has another text.
        held = lock_text(repo, run_hash)
        is_forced = bool(held) and held == kept.get("lock")
        run = open_run(repo, run_hash, info.options.start_timeout_s, is_forced=is_forced)
        return cls(run, info)

    def log_params(self, params: Mapping[str, Any], given: Any, later: Later) -> None:
        self.kept_params.add(params, later)

    def describe(self, about: Description, later: Later) -> None:
        self.kept_description.add(about, later)

    def _send_description(self, about: Mapping[str, Any]) -> Mapping[str, str]:
        self._run.describe(about)
        return {}

    def prepare_artifact(self, artifact: Artifact) -> Upload:
        return ArtifactUpload(artifact, self._run)

    def prepare_model(self, model: Model) -> Upload:
        assert model.file is not None
        return ArtifactUpload(model.file, self._run, model)

    def note_failure(self, failure: BaseException) -> None:
        self._failure = failure

    def close(self, process_is_ending: bool) -> None:
        self.close_kept()
        self.sinks = ()  # they have the ring, and this is in a cycle with the parameters
        try:
            if not self._is_reopened:
                failure = self._failure or (uncaught() if process_is_ending else None)
                self._run.tell("status", status_of(failure))
            elif self._run.told("status") is None:
                self._run.tell("status", "killed")
        finally:
            self._run.close()

    def let_process_end(self) -> None:
        self._run.let_process_end()


class ArtifactUpload(FileUpload):
    """A file among the run's artifacts; what is said of a model is among its parameters."""

    def __init__(self, artifact: Artifact, run: AimRun, model: Model | None = None) -> None:
        super().__init__(artifact, model=model)
        self._run = run

    def upload(self) -> None:
        source = self.make_file()
        name = relative_path(self.artifact.name, self.artifact.content.filename)
        if self.model is not None:
            name = os.path.join("models", name)
            self._run.tell(name.replace(os.sep, " "), self.about)
        self._run.put_artifact(source, name)


def own_options(options: Options) -> Mapping[str, Any]:
    """config["aim"], checked. Raises ConfigurationError."""
    own = checked("aim", options.aim, _OPTIONS)
    repo = os.fspath(own.get("repo") or "")
    if "://" in repo:
        raise ConfigurationError(
            f"config['aim']['repo'] must be a folder, not {repo!r}: Aim's client keeps what goes "
            "to another machine in memory, where a kill loses it. Give a folder, and copy the run "
            "to the other one when it has ended: aim runs cp"
        )
    return own


def clean_name(name: str) -> str:
    """A tag as Aim takes it: UTF-8, and not empty."""
    clean = name.encode("utf-8", "replace").decode()
    return clean if clean.strip() else f"tag {clean}"
