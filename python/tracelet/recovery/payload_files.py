"""Large events of a dead run: they lie in files, of which a record has the path as it was then."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tracelet.records import PAYLOAD_IN_FILE
from tracelet.runs.ownership import is_own_file

PAYLOADS = "payloads"


def in_folder(records: Any, payloads: bytes, run_dir: str) -> tuple[Any, bytes, list[str]]:
    """The records and payloads with the paths of such files in the run's folder, wherever that is
    now, and the names of files that are not there.

    A path is taken for a name only: a run that was moved finds its files, and one that was made up
    can't have any other file read and sent.
    """
    indices = np.flatnonzero(records["flags"] & PAYLOAD_IN_FILE)
    if not len(indices):
        return records, payloads, []
    records = records.copy()
    gone = []
    pieces = [payloads]
    end = len(payloads)
    for index in indices.tolist():
        start = int(records["payload_offset"][index])
        held = payloads[start : start + int(records["payload_size"][index])]
        name = os.path.basename(os.fsdecode(held))
        path = os.path.join(run_dir, PAYLOADS, name)
        if not name or not is_own_file(path):
            gone.append(name)
        piece = os.fsencode(path)
        records["payload_offset"][index], records["payload_size"][index] = end, len(piece)
        pieces.append(piece)
        end += len(piece)
    records.flags.writeable = False
    return records, b"".join(pieces), gone
