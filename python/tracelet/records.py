"""The layout of a logged point, for numpy.

One record is 64 bytes; `cpp/tracelet/record.h` is the other description of the same bytes, and the
import fails if they disagree.
"""

from __future__ import annotations

import numpy as np

from tracelet import _core

RECORD_DTYPE = np.dtype(
    [
        ("sequence", "<u8"),  # position in the stream plus one
        ("value", "<f8"),
        ("step", "<i8"),
        ("wall_time", "<f8"),  # seconds since the epoch
        ("tag_id", "<u4"),
        ("writer_id", "<u4"),  # 0: no SummaryWriter (Experiment.log_metric)
        ("kind", "<u2"),  # RecordKind
        ("flags", "<u2"),  # 1: no step was given; 2: new_style; 4: double_precision; 8: see below
        ("producer_pid", "<u4"),
        ("payload_offset", "<u8"),  # in the batch's payloads
        ("payload_size", "<u8"),
    ]
)

SKIPPED = 0
SCALAR = 1
HISTOGRAM = 2
EVENT = 3
"""The kinds of record. One that was skipped is no point: it stands in the place of one whose
process was killed inside the call that logged it, and no sink is given it. A histogram's and an
event's value is 0; its data are its payload, which for an event is a TensorBoard Event protobuf."""

AWAITS_DEVICE = 8
"""A flag: the payload was being counted on a device when the record was pushed."""
PAYLOAD_IN_FILE = 16
"""A flag: the payload is the path of a file that holds it."""

if RECORD_DTYPE.itemsize != _core.RECORD_SIZE_BYTES:
    raise ImportError("tracelet's native core and its Python half are of different versions")
