"""What a backend is: a run in one tracker, with its sinks and what is logged to it by hand.

A sink maps a batch of points to the tracker's own bulk call. It starts no threads, holds no locks
and knows nothing of the pipeline. `write` is called by one thread at a time; it returns when the
tracker has the batch, or raises. To add one, see `tracelet.register_sink`.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Protocol, TypedDict, Union

import numpy as np

from tracelet.errors import LeaseError, NotTakenError
from tracelet.histograms import Histogram, read_histogram
from tracelet.places import warn_once
from tracelet.records import PAYLOAD_IN_FILE, RECORD_DTYPE
from tracelet.writer_key import split_writer_key

if TYPE_CHECKING:
    from tracelet.backends.artifact import Artifact, Model
    from tracelet.backends.handle_folder import HandleFolder
    from tracelet.backends.kept_params import KeptParams
    from tracelet.options import Options


_ENDED = "this batch's records were on loan until write() returned; copy what you keep"


UNREADABLE = "payload can't be read"
"""The reason under which a sink counts a record without its payload: a device did not count the
histogram in time, or the file of a large event is gone."""


class Names(Protocol):
    """The strings behind the ids of a record."""

    def text(self, id: int) -> str:
        """The tag of a `tag_id`, the `writer_key` of a `writer_id`; empty for 0."""


class Batch:
    """Points on their way to a sink, in the order in which they were logged.

    A point is a scalar, a histogram or an event; what is no scalar has its data in its record's
    payload.
    `records` is a numpy structured array (dtype `tracelet.RECORD_DTYPE`, shape (n,), read-only)
    that usually views the ring's own memory. It is on loan until `write` returns: copy what you
    keep. `buffer` is the same memory for native code.
    """

    def __init__(self, buffer: Any, names: Names, payloads: Any = None) -> None:
        self._buffer = buffer
        self._names = names
        self._payloads = payloads
        self._records: np.ndarray[Any, Any] | None = None

    @property
    def buffer(self) -> Any:
        if self._buffer is None:
            raise LeaseError(_ENDED)
        return self._buffer

    @property
    def records(self) -> np.ndarray[Any, Any]:
        if self._records is None:
            self._records = np.frombuffer(self.buffer, dtype=RECORD_DTYPE)
        return self._records

    @property
    def payloads(self) -> Any:
        """A read-only buffer of bytes, in which `payload_offset` counts; on loan as `records`."""
        if self._buffer is None:
            raise LeaseError(_ENDED)
        return self._payloads

    def histogram(self, record: Any) -> Histogram:
        """The histogram of a record whose kind is `tracelet.HISTOGRAM`; a copy, yours to keep.

        It has the bins from the first to the last that holds a value. Raises ValueError for a
        record that has none.
        """
        start = int(record["payload_offset"])
        payload = memoryview(self.payloads)[start : start + int(record["payload_size"])]
        return read_histogram(payload)

    def __len__(self) -> int:
        return memoryview(self.buffer).nbytes // RECORD_DTYPE.itemsize

    def tag(self, tag_id: int) -> str:
        """The tag of a record's `tag_id`."""
        return self._names.text(int(tag_id))

    def log_dir(self, writer_id: int) -> str:
        """The log folder of a record's `writer_id`; empty for points without a SummaryWriter."""
        return split_writer_key(self._names.text(int(writer_id)))[0]

    def filename_suffix(self, writer_id: int) -> str:
        """The `filename_suffix` of the SummaryWriter behind a record's `writer_id`."""
        return split_writer_key(self._names.text(int(writer_id)))[1]

    def event(self, record: Any) -> bytes:
        """The bytes of the Event protobuf of a record whose kind is `tracelet.EVENT`.

        Raises OSError when they lie in a file that can't be read.
        """
        start = int(record["payload_offset"])
        payload = bytes(memoryview(self.payloads)[start : start + int(record["payload_size"])])
        if not int(record["flags"]) & PAYLOAD_IN_FILE:
            return payload
        with open(os.fsdecode(payload), "rb") as file:
            return file.read()

    def end(self) -> None:
        """Ends the loan; the pipeline calls it when `write` has returned."""
        self._buffer = None
        self._payloads = None
        self._records = None


@dataclass(frozen=True)
class Delivery:
    """What a sink did with a batch."""

    delivered: int
    not_finite: int = 0
    """Points the backend can't hold because they are NaN or infinite."""
    set_aside: Mapping[str, int] = field(default_factory=dict)
    """Points the backend would not take, by reason: refused, or without a form there."""
    not_meant: int = 0
    """Points that are not for this sink. With these, and `failed`, they are all points of the
    batch: what is missing is counted as lost."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Points it would take and did not get because of trouble on the way (a folder that can't be
    written, a file that is gone), by reason. A living run counts them; a dead one, whose points
    `tracelet sync` sends, is kept until there are none."""

    @property
    def total(self) -> int:
        aside = sum(self.set_aside.values()) + sum(self.failed.values())
        return self.delivered + self.not_finite + aside + self.not_meant


class Sink(Protocol):
    """One backend. See the module's docstring for the rules."""

    name: str
    is_remote: bool
    """Whether `write` may wait for a network: such a sink reads from the journal, on a thread that
    the pipeline gives it, so that its waits hold back nobody."""
    takes_every_point: bool
    """Whether the option `aggregate` is not for this sink."""
    record_kinds: Sequence[int]
    """The kinds of records it is given, of `tracelet.SCALAR`, `HISTOGRAM` and `EVENT`. A sink
    without this attribute is given scalars and histograms."""

    # A user's sink may also have `reopen_state`, a mapping that is JSON: what its factory needs to
    # go on with the same run in another process, see RunInfo.reopen. It lies in a file: no secrets.

    def write(self, batch: Batch) -> Delivery:
        """Delivers the batch.

        Any exception means that it could not now: the pipeline gives the same points again later,
        first of all, until they are taken. Delivering a point twice must do no harm.
        """

    def close(self, process_is_ending: bool) -> None:
        """Ends the sink. `process_is_ending`: the run was not stopped by the user."""


class FileSink:
    """What a sink extends that writes to files of this machine, which a loss of power or damage may
    leave shorter than they were when `write` returned.

    The files are the sink's own, and so is the account of what they hold. When it is reopened
    (RunInfo.reopen) it looks at them, and is given what is missing there once more, as far as the
    journal or the ring has it still.
    """

    is_certain = True
    """Of one that is reopened: whether the files hold all that was acknowledged. If not, it is
    given all records that there still are, and writes those that its files lack."""

    def sync(self) -> None:
        """Has all that `write` took before this call reach the disk, and then notes it there. By a
        thread of its own, beside `write`; may wait. Raises OSError."""

    def lost(self) -> Mapping[str, int]:
        """Points that its files had and lack, by what happened, once it was given all there is."""
        return {}

    def settle(self) -> None:
        """What `lost` told is written down: from now on the account is of what the files hold."""


class Upload(Protocol):
    """Something large on its way to a backend, apart from the points. One thread at a time."""

    name: str
    """What it is, for messages: "artifact 'config.yaml'"."""
    size_bytes: int | None
    """None: not counted among what was uploaded."""

    def upload(self) -> None:
        """Uploads it, or raises. After that it is called again; nothing may be there twice then."""

    def is_refused(self, error: Exception) -> bool:
        """Whether trying again is of no use after this error."""

    def keep(self, folder: str) -> str:
        """Keeps in `folder` what could not be uploaded; returns where that is, or ""."""

    def discard(self) -> None:
        """Removes what was kept for the upload, which is done."""


class Later(Protocol):
    """Where a verb leaves what is to be done in the background."""

    def add(self, upload: Upload) -> None:
        """Sends it, and again until it is sent; an upload holds back no point."""

    def at_end(self, upload: Upload) -> None:
        """Sends it when all others are done and the run ends; replaces one given before."""

    def soon(self, upload: Upload) -> None:
        """Sends something small, behind no file; the backend has it on disk until it is sent
        (`Backend.unsent`)."""

    def count(self, backend: str, reason: str, what: str) -> None:
        """Counts what the tracker refused in the end, and tells it once."""

    def push_event(self, event: Any, writer: str | None = None) -> None:
        """Puts a TensorBoard event among the points, for the event file of this `writer_key`, or of
        what the handle logs; it is kept and given again as they are."""


class Identity(enum.Enum):
    """What makes two points of a tracker the same. It decides what a resend may do."""

    BY_COORDINATE = "overwritten by coordinate"
    """The same tag and step sent again replace the point."""
    SAME_BYTES = "same bytes"
    """Sent again exactly as before it is one point, changed it is two: what a point is given must
    follow from its record, never from the clock at sending."""
    IN_ORDER = "in order"
    """Rows have a number of their own, and an old number is ignored."""


class Description(TypedDict, total=False):
    """What a run's user says of it; what is not given stays as it is."""

    tags: list[str]
    gone: list[str]
    """Tags that the run's user had given it, and has no more."""
    notes: str
    environment: dict[str, str]
    """Tags that say what the run runs in: see `Backend.note_environment`."""


class Backend:
    """A run in one tracker. This one has no form for anything but points.

    Made by its factory when a run starts, or is reopened by `tracelet sync`. Any thread may call
    the verbs, and they must not wait for a network: what has to wait is left for `later`. A verb
    that the tracker has no form for raises NotTakenError with the reason; like any other exception
    in a verb it is counted and told once, and never reaches the training.
    """

    name: str
    """As in `backend="name"`."""
    identity: Identity = Identity.BY_COORDINATE
    sinks: Sequence[Sink] = ()
    """One for each lane, from `open_sinks` on; what is slow in one does not hold back the others.
    While the first is busy beyond the deadline, the backend is not closed."""
    id: str | None = None
    """The run's id in the tracker; None where it has none."""
    url: str | None = ""
    """Where the run is to be seen: a page, a folder, or "". None: there would be a page, were the
    server not away."""
    reopen_state: Mapping[str, Any] = {}
    """What the factory needs to go on with the same run in another process, see RunInfo.reopen. It
    is JSON and lies in a file: no secrets. `{"may_lack": True}` says that a server may lack what
    every sink has taken, so a run that died is none of which all is sent."""

    samples_system: bool = False
    """Whether the tracker's SDK logs CPUs, memory and GPUs of this run itself, all the time."""

    captures_console: bool = False
    """Whether it keeps what this run's process prints itself."""

    kept_params: KeptParams | None = None
    """Calls of `log_params`, where they are on disk until they are sent."""
    kept_description: KeptParams | None = None
    """Those of `set_tags` and `set_notes`, likewise."""

    def place(self, has_ended: bool) -> str:
        """Where the run is to be seen, for a line that is shown at its start and, before the sinks
        are closed, at its end; no secrets. Must not wait, and changes nothing."""
        return self.url or ""

    def open_sinks(self, ring: Any) -> None:
        """Makes the sinks. Called once, before the first point; `ring` is for native encoders that
        read the tags from it."""

    def log_params(self, params: Mapping[str, Any], given: Any, later: Later) -> None:
        """Logs parameters: `params` are flat, "a/b" to a plain value; `given` is what the user
        gave, for a tracker that writes overrides back into it."""
        raise NotTakenError("no form for parameters")

    def describe(self, about: Description, later: Later) -> None:
        """Sets tags and notes; tags that others gave the run stay. A tracker without a form for
        them shows them among the parameters."""
        shown: dict[str, Any] = {}
        if "tags" in about:
            shown["tags"] = ", ".join(about["tags"])
        if "notes" in about:
            shown["notes"] = about["notes"]
        try:
            self.log_params(shown, shown, later)
        except NotTakenError as error:
            raise NotTakenError("no form for tags and notes") from error
        warn_once(f"{self.name} has no form for tags and notes: they are among its parameters")

    def note_environment(self, environment: Mapping[str, Any], later: Later) -> None:
        """Is told what the run runs in ("git_commit", "python", "packages" and so on: plain values,
        no secrets), once, some time after the start, by a thread that may wait a little. Does
        nothing where the tracker finds it out itself, or has no form for it."""

    @property
    def _kept(self) -> list[KeptParams]:
        both = (self.kept_params, self.kept_description)
        return [each for each in both if each is not None]

    @property
    def unsent(self) -> int:
        """Calls of verbs that are in the run's folder and not in the tracker yet."""
        return sum(each.unsent for each in self._kept)

    def send_unsent(self) -> int:
        """Sends what a dead process' verbs have left in the run's folder; returns how many calls
        that were. Called once the sinks of a run that is reopened have been given all points; may
        be called again. Raises when the tracker can't take it now. Artifacts and models come after
        that, by `prepare_artifact` and `prepare_model`."""
        return sum([each.send_left() for each in self._kept])

    def close_kept(self) -> None:
        """Closes the files of what is kept; for `close`."""
        for each in self._kept:
            each.close()

    def check_model_name(self, name: str) -> None:
        """Raises ValueError for a name that the tracker would refuse, before anything is made."""

    def prepare_artifact(self, artifact: Artifact) -> Upload:
        """The upload of an artifact."""
        raise NotTakenError("no form for artifacts")

    def prepare_model(self, model: Model) -> Upload:
        """The upload of a model's weights file."""
        raise NotTakenError("no form for models")

    def note_embedding(self) -> None:
        """SummaryWriter.add_embedding has written files beside the event files: no sink is given
        anything of it."""
        raise NotTakenError("no form for embeddings")

    def note_failure(self, failure: BaseException) -> None:
        """Says what ended the run, if it did not end well, before `close`."""

    def begin_end(self) -> None:
        """Told that the end begins, before any backend is closed: from now on `unsent` counts what
        only `close` makes sure of, since another one that hangs may keep it from being called. Must
        not wait, and may be called again."""

    def give_back(self) -> None:
        """Gives back what it took of the process while SummaryWriters logged to the run: they do no
        more. Called first of all at the run's end, also when `close` will not be; must not wait,
        and may be called again."""

    def close(self, process_is_ending: bool) -> None:
        """Ends the run in the tracker, after its sinks were closed. `process_is_ending`: it was not
        stopped by the user."""

    def leave(self, process_is_ending: bool) -> None:
        """In the place of `close` while the first sink is busy beyond the deadline: the run stays
        open in the tracker, for `tracelet sync`, and the process may begin another."""

    def let_process_end(self) -> None:
        """Takes away what would hold back the process that ends: the time is over. Must not wait;
        also called when `close` was not, or has not returned."""


@dataclass(frozen=True)
class RunInfo:
    """What a sink is told of the run it belongs to."""

    options: Options
    run_id: str
    run_dir: str
    """The run's folder on disk: a sink may keep files of its own there."""
    reopen: Mapping[str, Any] | None = None
    """None for a new run. When another process sends what this run's left behind (`tracelet sync`):
    the `reopen_state` that the sink had then, {} for a sink without one."""
    is_other_boot: bool = False
    """Whether the machine was started anew since the run logged: of what was not synced to the disk
    any part may be there."""
    handle: HandleFolder | None = None
    """Of a new run: where what the handle logs goes among the event files."""


SinkFactory = Callable[[RunInfo], Union[Sink, Sequence[Sink], Backend]]
