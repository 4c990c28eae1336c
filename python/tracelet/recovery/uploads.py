"""The artifacts and models that a dead run has not uploaded, sent by the backend they are for."""

from __future__ import annotations

import logging
import os
import time

from tracelet.backends import Backend
from tracelet.backends.base import Upload
from tracelet.backends.kept_artifacts import DamagedCopyError, KeptArtifact, kept_in
from tracelet.recovery.result import UploadResult
from tracelet.runs.run_folder import ARTIFACTS

_log = logging.getLogger("tracelet")

_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.2


def send_uploads(backend: Backend, run_dir: str) -> UploadResult:
    """Uploads what there is for it. What the server refuses for good is kept apart, with its words;
    what can't be sent now, or is damaged, stays as it is."""
    folder = os.path.join(run_dir, ARTIFACTS)
    result = UploadResult(backend.name)
    away = ""
    for kept in kept_in(folder):
        if kept.backend != backend.name:
            continue
        try:
            upload = _upload_of(backend, kept)
        except Exception as error:
            result.left[kept.what] = f"{error}"
            continue
        if away:  # its server does not answer: each would wait for it anew
            result.left[kept.what] = away
            continue
        if failure := _send(upload):
            reason = f"{failure}"[:500] or type(failure).__name__
            if upload.is_refused(failure):
                result.refused[kept.what] = reason
                upload.keep(folder)
                continue
            result.left[kept.what] = away = reason
            continue
        upload.discard()
        result.sent += 1
    return result


def _upload_of(backend: Backend, kept: KeptArtifact) -> Upload:
    artifact, model = kept.restored()
    return backend.prepare_model(model) if model is not None else backend.prepare_artifact(artifact)


def _send(upload: Upload) -> Exception | None:
    for attempt in range(_ATTEMPTS):
        try:
            upload.upload()
        except DamagedCopyError as error:
            return error
        except Exception as error:
            _log.debug("tracelet: uploading %s failed", upload.name, exc_info=error)
            failure = error
            if upload.is_refused(error):
                break
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
        else:
            return None
    return failure
