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
        ("kind", "<u2"),
        ("flags", "<u2"),  # 1: no step was given; 2: new_style; 4: double_precision
        ("producer_pid", "<u4"),
        ("payload_offset", "<u8"),
        ("payload_size", "<u8"),
    ]
)

if RECORD_DTYPE.itemsize != _core.RECORD_SIZE_BYTES:
    raise ImportError("tracelet's native core and its Python half are of different versions")
