"""What is logged by hand, given to every backend of a run."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable

from tracelet.backends.artifact import Artifact, Artifacts, Model, check_model_arguments
from tracelet.backends.base import Backend, Description, Upload
from tracelet.backends.kept_artifacts import keep
from tracelet.backends.params import check_params, flat_params
from tracelet.errors import NotTakenError
from tracelet.fork import renew_at_fork
from tracelet.option_kinds import Text, Texts
from tracelet.pipeline.uploads import Uploads

if TYPE_CHECKING:
    from tracelet.pipeline.run_record import RunNotes

_log = logging.getLogger("tracelet")


class _Later:
    """What backends see of the run's queues."""

    def __init__(
        self,
        uploads: Uploads,
        calls: Uploads,
        push_event: Callable[[Any, str | None], None],
        count: Callable[[str, str, str], None],
    ) -> None:
        self._uploads = uploads
        self._calls = calls
        self._push_event = push_event
        self._count = count

    def add(self, upload: Upload) -> None:
        self._uploads.add(upload)

    def at_end(self, upload: Upload) -> None:
        self._uploads.at_end(upload)

    def soon(self, upload: Upload) -> None:
        self._calls.add(upload)

    def count(self, backend: str, reason: str, what: str) -> None:
        self._count(backend, reason, what)

    def push_event(self, event: Any, writer: str | None = None) -> None:
        self._push_event(event, writer)


class Verbs:
    """Arguments are checked and frozen once, here, where an error is the caller's; from there on
    what a backend can't take is counted and told once, and costs the others nothing.

    All methods may be called by any thread.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        folder: str,
        push_event: Callable[[Any, str | None], None],
        notes: RunNotes | None = None,
    ) -> None:
        """`notes`: what is noted of the run for the history."""
        self._backends = list(backends)
        self._notes = notes
        # All that the run has had, at any time.
        self._tags_set = dict.fromkeys(notes.tags if notes is not None else ())
        self.uploads = Uploads(folder)
        self.calls = Uploads(folder, are_kept=True)
        """What is small, and in the run's folder until it is sent: a file of gigabytes among the
        uploads holds back no parameters."""
        self._later = _Later(self.uploads, self.calls, push_event, self._count)
        self._artifacts = Artifacts(folder)
        self._not_taken: Counter[str] = Counter()
        self.renew_in_child()
        renew_at_fork(self)

    def renew_in_child(self) -> None:
        self._lock = threading.Lock()  # of the counts
        # Held while user code runs (state_dict, a signal's handler), which may log as well.
        self._preparing = threading.RLock()

    @property
    def not_taken(self) -> dict[str, int]:
        """Calls that a backend could not take, by "BACKEND: what and why"."""
        with self._lock:
            return dict(self._not_taken)

    @property
    def unsent(self) -> int:
        """Calls that are in the run's folder and not in their tracker yet."""
        return sum(backend.unsent for backend in self._backends)

    def stop(self) -> None:
        """Ends the queues once all is sent; `finish` waits for them."""
        self.calls.stop()
        self.uploads.stop()

    def finish(self, deadline_s: float) -> None:
        """Waits for the queues until then, as time.monotonic() has it."""
        for queue in (self.calls, self.uploads):
            queue.finish(max(0.0, deadline_s - time.monotonic()))

    def log_params(self, params: Any) -> None:
        check_params(params)
        flat = flat_params(params)
        for backend in self._backends:
            with self._counted("log_params", backend):
                backend.log_params(flat, params, self._later)
            # Anew: on a task that an agent runs, what was edited there is set in `params`.
            flat = flat_params(params)
        if self._notes is not None:
            self._notes.note_params(flat)

    def set_tags(self, tags: Sequence[str]) -> None:
        """Those that were set before, and are not among these, go."""
        tags = list(dict.fromkeys(Texts().check("set_tags: tags", tags)))
        if blank := [tag for tag in tags if not tag.strip()]:
            raise ValueError(f"set_tags: a tag must not be empty or blank, as {blank[0]!r} is")
        with self._lock:
            self._tags_set.update(dict.fromkeys(tags))
            gone = [tag for tag in self._tags_set if tag not in tags]
            if self._notes is not None:
                self._notes.note_tags(tags)
        self._describe("set_tags", Description(tags=tags, gone=gone))

    def set_notes(self, text: str) -> None:
        checked: str = Text().check("set_notes: text", text)
        self._describe("set_notes", Description(notes=checked))

    def _describe(self, verb: str, about: Description) -> None:
        for backend in self._backends:
            with self._counted(verb, backend):
                backend.describe(about, self._later)

    def note_environment(self, environment: Mapping[str, Any]) -> None:
        """What the run runs in: see `Backend.note_environment`."""
        for backend in self._backends:
            with self._counted("environment", backend):
                backend.note_environment(environment, self._later)

    def log_artifact(self, artifact: Any, artifact_path: str | None) -> None:
        with self._preparing:
            found = self._artifacts.prepare(artifact, artifact_path, len(self._backends))
        for copy, backend in zip(found, self._backends):
            with self._counted("log_artifact", backend, copy):
                upload = backend.prepare_artifact(copy)
                self._keep(copy, backend)
                self.uploads.add(upload)

    def log_model(
        self,
        model: Any,
        name: str | None,
        metadata: Mapping[str, Any] | None,
        tags: Sequence[str] | None,
        framework: str | None,
    ) -> None:
        check_model_arguments(name, metadata, tags, framework)
        if name is not None:
            for backend in self._backends:
                backend.check_model_name(name)
        with self._preparing:
            found = self._artifacts.prepare_model(
                model, name, metadata, tags, framework, len(self._backends)
            )
        for copy, backend in zip(found, self._backends):
            with self._counted("log_model", backend, copy.file):
                upload = backend.prepare_model(copy)
                if copy.file is not None:
                    self._keep(copy.file, backend, copy)
                self.uploads.add(upload)

    def upload_kept(self, artifacts: Mapping[str, Artifact]) -> None:
        """Artifacts that are on disk with their entries, by the names of their backends."""
        for backend in self._backends:
            if (artifact := artifacts.get(backend.name)) is not None:
                with self._counted("console", backend, artifact):
                    self.uploads.add(backend.prepare_artifact(artifact))

    def _keep(self, artifact: Artifact, backend: Backend, model: Model | None = None) -> None:
        """Says beside the copy what it is: a killed process' are sent by `tracelet sync`."""
        try:
            keep(artifact, backend.name, model)
        except Exception as error:  # it is uploaded all the same
            _log.warning(
                "tracelet: %r is uploaded, and is lost if this process dies before that: %s",
                artifact.name, error,
            )  # fmt: skip

    def note_embedding(self) -> None:
        """A SummaryWriter has written an embedding to files of its own."""
        for backend in self._backends:
            with self._counted("add_embedding", backend):
                backend.note_embedding()

    def let_go(self) -> None:
        """Forgets the backends, when the run has ended: their sinks hold the ring."""
        self._backends = []

    def note_failure(self, failure: BaseException) -> None:
        for backend in self._backends:
            with self._counted("note_failure", backend):
                backend.note_failure(failure)

    @contextlib.contextmanager
    def _counted(
        self, verb: str, backend: Backend, artifact: Artifact | None = None
    ) -> Iterator[None]:
        """Counts what goes wrong in the block, and tells it once; training goes on."""
        try:
            yield
        except Exception as error:
            reason = str(error)[:200] if isinstance(error, NotTakenError) else type(error).__name__
            if artifact is not None:
                artifact.discard()
            self._count(backend.name, reason, verb, str(error))
            _log.debug("tracelet: %s on %r failed", verb, backend.name, exc_info=error)

    def _count(self, backend: str, reason: str, what: str, words: str = "") -> None:
        """Counts what a backend does not take, and tells the first of a kind."""
        with self._lock:
            is_new = f"{backend}: {reason}" not in self._not_taken
            self._not_taken[f"{backend}: {reason}"] += 1
        if is_new:
            _log.warning(
                "tracelet: %s: the backend %r can't take it: %.500s. stats counts it; the "
                "other backends have it.", what, backend, words or reason,
            )  # fmt: skip
