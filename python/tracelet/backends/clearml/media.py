"""The sink for what is neither scalar nor histogram: images, text, audio, plots, hyperparameters.

It has a lane of its own, so that uploads hold back no scalar. In memory there is what the pipeline
reads from the journal for one batch (`batch_max_bytes` and a block of 4 MiB more), one event that
lies in a file, the lines of one request, and one sample kept as a probe; nothing is queued in the
SDK. When uploads are slower than logging, the journal on disk grows.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

from tracelet.backends import parts
from tracelet.backends.base import UNREADABLE, Batch, Delivery, FileSink, RunInfo
from tracelet.backends.clearml.add_batch import REFUSED, AddBatch, RefusedError
from tracelet.backends.clearml.names import TaskNames
from tracelet.backends.clearml.offline import open_session_file, session_file_of
from tracelet.backends.clearml.probe import REFUSALS_BEFORE_SETTING_ASIDE, Probe
from tracelet.backends.clearml.samples import Place, SampleStore
from tracelet.backends.clearml.set_aside import SetAsideFile
from tracelet.backends.clearml.storage import is_verdict
from tracelet.backends.clearml.task import ClearMLTask
from tracelet.backends.kept import SAMPLES, KeptLines
from tracelet.backends.parts_reader import PartsReader, UnreadableError
from tracelet.errors import SinkUnavailableError
from tracelet.records import EVENT
from tracelet.runs.whole_file import sync_file

_log = logging.getLogger("tracelet")

# A request is sent when it has so much, so that what is uploaded shows up before its batch ends.
_REQUEST_BYTES = 1 << 20
_REQUEST_EVENTS = 100
_NOT_FINITE = "not finite"
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

_Record = Any  # np.void of RECORD_DTYPE


@dataclass
class _Item:
    """One event on its way; kept while its batch is given again, so that nothing is done twice."""

    index: int  # in the batch
    parts_done: int = 0
    place: Place | None = None  # of the file that is being uploaded
    lines: list[bytes] = field(default_factory=list)  # made, and not sent yet
    attempts: int = 0  # that failed, for whatever reason
    refusals: int = 0  # of the part at hand, while others were taken
    reason: str = ""  # why something of it is not on ClearML
    is_prepared: bool = False
    is_settled: bool = False


class ClearMLMediaSink(FileSink):
    """Gives ClearML the events of a run, offline and online. One thread at a time.

    Of an offline session the files are its own: images, and the lines that name them. What of them
    had not reached the disk at a loss of power is given again, to the same places.
    """

    name = "clearml-media"
    is_remote = True
    takes_every_point = True
    record_kinds: Sequence[int] = (EVENT,)

    def __init__(self, task: ClearMLTask, info: RunInfo, names: TaskNames) -> None:
        self._task = task
        self._names = names
        self._store = SampleStore(task, KeptLines(info.run_dir, SAMPLES))
        self._set_aside = SetAsideFile(info.run_dir, self.name)
        self._post: Callable[[Sequence[bytes]], None] | None = None  # made when it is needed
        self._uploads = Probe(self._store.upload)
        self._requests = Probe(self._give_lines)
        self._noted: set[str] = set()
        self._events = PartsReader()
        self._first_sequence = -1
        self._items: list[_Item] = []
        self._last_error = ""
        self._has_unsynced_lines = False  # set by `write`, after them; cleared by `sync`, before it
        is_after_a_loss = info.reopen is not None and info.is_other_boot
        self.is_certain = not (is_after_a_loss and task.is_offline)

    def write(self, batch: Batch) -> Delivery:
        items = self._items_of(batch)
        self._uploads.begin_attempt()
        self._requests.begin_attempt()
        group: list[_Item] = []
        # What failed before comes last: it shall not keep the others waiting.
        waiting = [item for item in items if not item.is_settled]
        for item in sorted(waiting, key=lambda item: item.attempts):
            self._prepare(batch, item)
            if item.is_prepared:
                group.append(item)
            if len(group) >= _REQUEST_EVENTS or _size_of(group) >= _REQUEST_BYTES:
                self._send(batch, group)
                group = []
        self._send(batch, group)
        left = sum(not item.is_settled for item in items)
        if left:
            raise SinkUnavailableError(f"{left} events wait: {self._last_error}")
        self._task.note_iteration(int(batch.records["step"].max()))
        self._items, self._first_sequence = [], -1
        self._store.forget_delivered()
        reasons = Counter(item.reason for item in items if item.reason)
        delivered = len(items) - sum(reasons.values())
        return Delivery(delivered, reasons.pop(_NOT_FINITE, 0), dict(reasons))

    def _items_of(self, batch: Batch) -> list[_Item]:
        """The batch's events: those known from an attempt before, and new ones behind them."""
        first_sequence = int(batch.records["sequence"][0])
        if first_sequence != self._first_sequence:
            self._items, self._first_sequence = [], first_sequence
        self._items += [_Item(index) for index in range(len(self._items), len(batch))]
        return self._items

    def _prepare(self, batch: Batch, item: _Item) -> None:
        """Uploads an event's files and makes its lines, as far as that can be done now."""
        if item.is_prepared:
            return
        record = batch.records[item.index]
        for part in self._parts_of(batch, item)[item.parts_done :]:
            probe = self._uploads if isinstance(part, parts.Sample) else self._requests
            if probe.is_away:
                return
            try:
                self._take_part(batch.log_dir(record["writer_id"]), record, item, part)
            except Exception as error:
                if not self._set_aside_refused(batch, item, error, probe):
                    return
            item.parts_done += 1
            item.place = None
            item.refusals = 0
        item.is_prepared = True

    def _parts_of(self, batch: Batch, item: _Item) -> list[parts.Part]:
        record = batch.records[item.index]
        try:
            return self._events.read(batch, record)
        except UnreadableError as error:
            _log.debug("tracelet: an event can't be shown on ClearML", exc_info=True)
            self._note_once(f"{batch.tag(record['tag_id'])!r} can't be shown: {error}")
            item.reason = UNREADABLE
            return []

    def _take_part(self, log_dir: str, record: _Record, item: _Item, part: parts.Part) -> None:
        if isinstance(part, parts.Sample):
            name = self._names.samples.sample_name(log_dir, part.tag, part.default_title)
            # The same place when it is uploaded again: then there is one file, and one event.
            sequence = int(record["sequence"])
            item.place = item.place or self._store.place(
                sequence, item.parts_done, *name, part.extension
            )
            url = self._store.upload(part.data, item.place)
            self._uploads.remember(len(part.data), part.data, item.place)
            sample = {"key": item.place.key, "url": url}
            item.lines.append(self._line(record, "training_debug_image", name, **sample))
        elif isinstance(part, parts.Plot):
            plots = self._names.plots
            name = (plots.name if part.has_series else plots.plot_name)(log_dir, part.tag)
            item.lines.append(self._line(record, "plot", name, plot_str=part.figure))
        elif isinstance(part, parts.Scalar):
            self._take_scalar(log_dir, record, item, part)
        elif isinstance(part, parts.Parameters):
            self._task.update_params(part.values)
        elif isinstance(part, parts.Configuration):
            name = self._names.configurations.plot_name(log_dir, part.name)
            self._task.set_configuration(" ".join(name).strip(), part.text)
        elif isinstance(part, parts.NoForm):
            item.reason = item.reason or f"no form on clearml: {part.what}"
            self._note_once(f"no form for a {part.what}")

    def _take_scalar(
        self, log_dir: str, record: _Record, item: _Item, scalar: parts.Scalar
    ) -> None:
        if not math.isfinite(scalar.value):
            item.reason = item.reason or _NOT_FINITE
        elif abs(scalar.value) > _LARGEST_FLOAT32:
            item.reason = item.reason or "beyond float32"
        else:
            name = self._names.scalars.name(log_dir, scalar.tag)
            line = self._line(record, "training_stats_scalar", name, value=scalar.value)
            item.lines.append(line)

    def _line(self, record: _Record, kind: str, name: tuple[str, str], **fields: Any) -> bytes:
        event = {
            "type": kind,
            "task": self._task.id,
            "iter": int(record["step"]),
            "metric": name[0],
            "variant": name[1],
            **fields,
            "timestamp": _milliseconds(float(record["wall_time"])),
        }
        return json.dumps(event).encode()

    def _send(self, batch: Batch, group: list[_Item]) -> None:
        """Sends the lines of some events, by halves when they are refused together."""
        lines = [line for item in group for line in item.lines]
        if lines:
            try:
                self._give_lines(lines)
            except RefusedError as refusal:
                if len(group) > 1:
                    half = len(group) // 2
                    self._send(batch, group[:half])
                    self._send(batch, group[half:])
                    return
                if not self._set_aside_refused(batch, group[0], refusal, self._requests):
                    if self._requests.is_away:
                        raise SinkUnavailableError(f"ClearML refuses events: {refusal}") from None
                    return
            else:
                self._requests.remember(len(lines[-1]), lines[-1:])
        for item in group:
            item.is_settled = True
            item.lines = []

    def _give_lines(self, lines: Sequence[bytes]) -> None:
        if self._post is None:
            self._post = _append_to(self._task) if self._task.is_offline else _send_by(AddBatch())
        self._post(lines)
        self._has_unsynced_lines = self._task.is_offline

    def _set_aside_refused(self, batch: Batch, item: _Item, error: Exception, probe: Probe) -> bool:
        """Whether what failed is set aside, because it is refused while other things are taken."""
        item.attempts += 1
        self._last_error = str(error)
        if not is_verdict(error):
            if not probe.passes():
                return False
            item.refusals += 1
            if item.refusals < REFUSALS_BEFORE_SETTING_ASIDE:
                return False
        self._set_aside.keep(batch, batch.records[item.index], error)
        item.reason = REFUSED
        return True

    def _note_once(self, what: str) -> None:
        if what not in self._noted:
            self._noted.add(what)
            _log.info("tracelet: ClearML: %.300s; the event file has it, stats counts it", what)

    def sync(self) -> None:
        self._store.sync()  # before the lines that name its files
        if self._names.lines is not None:
            self._names.lines.sync()
        if self._has_unsynced_lines:
            self._has_unsynced_lines = False
            try:
                sync_file(session_file_of(self._task))
            except OSError:
                self._has_unsynced_lines = True
                raise

    def close(self, process_is_ending: bool) -> None:
        """Ends nothing but its files."""
        self._store.close()
        if self._names.lines is not None:
            self._names.lines.close()


def _append_to(task: ClearMLTask) -> Callable[[Sequence[bytes]], None]:
    file = open_session_file(task)

    def append(lines: Sequence[bytes]) -> None:
        file.append(b"[" + b", ".join(lines) + b"]\n")

    return append


def _send_by(add_batch: AddBatch) -> Callable[[Sequence[bytes]], None]:
    def send(lines: Sequence[bytes]) -> None:
        taken = add_batch(b"\n".join(lines))
        if taken < len(lines):  # which one it was is not said
            raise RefusedError(200, f"{len(lines) - taken} of {len(lines)} events not taken")

    return send


def _milliseconds(wall_time_s: float) -> int:
    return int((wall_time_s if math.isfinite(wall_time_s) else time.time()) * 1000)


def _size_of(group: list[_Item]) -> int:
    return sum(len(line) for item in group for line in item.lines)
