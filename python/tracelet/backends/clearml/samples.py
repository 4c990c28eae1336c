"""The files of ClearML's debug samples: where they go, and their upload.

Names, folders and destinations are those of the SDK's own reporter, from its own code
(clearml/backend_interface/metrics, clearml/storage). Its reporter itself is not used: it queues
what it is given without a limit, retries for minutes inside a call, and only logs what it drops.
"""

from __future__ import annotations

import io
import os
import threading
from dataclasses import dataclass, fields
from typing import Any

from tracelet.backends.clearml.storage import open_storage
from tracelet.backends.clearml.task import ClearMLTask
from tracelet.backends.kept import KeptLines
from tracelet.runs.whole_file import sync_file, sync_names
from tracelet.safe_names import within_bytes

_LONGEST_PART_BYTES = 100


@dataclass(frozen=True)
class Place:
    """Where a sample's file goes: chosen once for it, and kept when it is uploaded again."""

    destination: str
    key: str
    url: str


class SampleStore:
    """Uploads through the SDK's storage drivers. One thread at a time, and another one syncs."""

    def __init__(self, task: ClearMLTask, places: KeptLines) -> None:
        self._task = task.task
        self._places = places
        self._counts: dict[str, int] = {}  # the number that each series' last file has
        self._known: dict[tuple[int, int], Place] = {}  # of a process that died, by what it is of
        self._restore()
        self._folder = ""
        self._destination = ""
        self._storage: Any = None
        self._lock = threading.Lock()
        self._unsynced: set[str] = set()  # guarded by the lock; files on this machine's disk

    def close(self) -> None:
        self._places.close()

    def _restore(self) -> None:
        """Goes on where a process that died stopped: what it sent is not written over, and what it
        may have sent has the same place, and so the same event, again."""
        from clearml.backend_interface.metrics.events import MediaEvent

        lines = self._places.read(int, int, (list, type(None)), str, int)
        for sequence, part, place, series, count in lines:
            if place is not None and len(place) == len(fields(Place)):
                self._known[sequence, part] = Place(*map(str, place))
            self._counts[series] = max(count, self._counts.get(series, count))
        counters = MediaEvent._metric_counters
        for series, count in self._counts.items():
            counters[series] = max(count, counters.get(series, count))

    def forget_delivered(self) -> None:
        """All samples that have a place are delivered: of many, the numbers alone are kept."""
        if self._places.is_large:
            self._places.replace([(0, 0, None, *each) for each in self._counts.items()])

    def place(self, sequence: int, part: int, metric: str, variant: str, extension: str) -> Place:
        """A place for the next file of a series: numbered names, over and over again. It is part
        number `part` of the event with that sequence.

        How many there are is the SDK's setting (`sdk.metrics.file_history_size`, 100, or
        `Logger.set_default_debug_sample_history`).
        """
        from clearml.backend_interface.metrics.events import MediaEvent

        if (known := self._known.get((sequence, part))) is not None:
            return known
        # They are two parts of one file's name, which may have 255 bytes; the event keeps its own.
        metric = within_bytes(metric, _LONGEST_PART_BYTES)
        variant = within_bytes(variant, _LONGEST_PART_BYTES)
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
        series = f"{metric}_{variant}"  # as MediaEvent counts them
        self._counts[series] = MediaEvent._get_metric_count(metric, variant, next=False)
        self._places.append(sequence, part, (destination, key, url), series, self._counts[series])
        return Place(destination, key, url)

    def upload(self, data: bytes, place: Place) -> str:
        """Uploads a file and returns its URL; again, when it has been before.

        Raises what the storage's driver raises, after one attempt.
        """
        storage = self._storage_of(place.destination)
        url = storage._apply_url_substitutions(place.url)
        uploaded = str(
            storage.upload_from_stream(io.BytesIO(data), url, retries=1, return_canonized=False)
        )
        if path := _path_of(url):
            with self._lock:
                self._unsynced.add(path)
        return uploaded

    def sync(self) -> None:
        """Has the files that lie on this machine, and the notes of where they lie, reach the disk.
        Raises OSError."""
        self._places.sync()
        with self._lock:
            paths, self._unsynced = self._unsynced, set()
        try:
            for path in paths:
                sync_file(path)
            for folder in {os.path.dirname(path) for path in paths}:
                sync_names(os.path.join(folder, ""))
        except BaseException:
            with self._lock:
                self._unsynced |= paths
            raise

    def _storage_of(self, destination: str) -> Any:
        if destination != self._destination:
            self._storage = open_storage(destination)
            self._destination = destination
        return self._storage


def _path_of(url: str) -> str:
    """Where a file lies on this machine; "" for one on a server."""
    path = url[len("file://") :] if url.startswith("file://") else url
    return path if os.path.isabs(path) else ""
