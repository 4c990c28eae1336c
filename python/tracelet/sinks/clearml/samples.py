"""The files of ClearML's debug samples: where they go, and their upload.

Names, folders and destinations are those of the SDK's own reporter, from its own code
(clearml/backend_interface/metrics, clearml/storage). Its reporter itself is not used: it queues
what it is given without a limit, retries for minutes inside a call, and only logs what it drops.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from tracelet.sinks.clearml.storage import open_storage
from tracelet.sinks.clearml.task import ClearMLTask


@dataclass(frozen=True)
class Place:
    """Where a sample's file goes: chosen once for it, and kept when it is uploaded again."""

    destination: str
    key: str
    url: str


class SampleStore:
    """Uploads through the SDK's storage drivers. One thread at a time."""

    def __init__(self, task: ClearMLTask) -> None:
        self._task = task.task
        self._folder = ""
        self._destination = ""
        self._storage: Any = None

    def place(self, metric: str, variant: str, extension: str) -> Place:
        """A place for the next file of a series: numbered names, over and over again.

        How many there are is the SDK's setting (`sdk.metrics.file_history_size`, 100, or
        `Logger.set_default_debug_sample_history`).
        """
        from clearml.backend_interface.metrics.events import MediaEvent

        logger = self._task.get_logger()
        destination = str(logger.get_default_upload_destination()).rstrip("/")
        self._folder = self._folder or self._task._get_output_destination_suffix("metrics")
        event = MediaEvent(
            metric=metric,
            variant=variant,
            stream=io.BytesIO(),
            upload_uri=destination,
            override_filename_ext=extension,
            file_history_size=logger.get_default_debug_sample_history(),
        )
        key, url = event.get_target_full_upload_uri(
            destination, self._folder.strip("/"), quote_uri=False
        )
        return Place(destination, key, url)

    def upload(self, data: bytes, place: Place) -> str:
        """Uploads a file and returns its URL; again, when it has been before.

        Raises what the storage's driver raises, after one attempt.
        """
        storage = self._storage_of(place.destination)
        url = storage._apply_url_substitutions(place.url)
        return str(
            storage.upload_from_stream(io.BytesIO(data), url, retries=1, return_canonized=False)
        )

    def _storage_of(self, destination: str) -> Any:
        if destination != self._destination:
            self._storage = open_storage(destination)
            self._destination = destination
        return self._storage
