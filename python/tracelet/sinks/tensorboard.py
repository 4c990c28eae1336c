"""TensorBoard event files, one for each log folder, written by the native encoder."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import time

import numpy as np

from tracelet import _core
from tracelet.sinks.base import UNREADABLE, Batch, Delivery

_log = logging.getLogger("tracelet")

_file_numbers = itertools.count()


def event_file_name(wall_time_s: float) -> str:
    """A new file's name, as TensorBoard's EventFileWriter forms it, with a last part of our own.

    TensorBoard follows the last file of a folder, by name, and reads the others once. So this name
    sorts behind that of the file that torch's own writer made in the same folder and second, whose
    last part is a number.
    """
    host = socket.gethostname()
    number = next(_file_numbers)
    return f"events.out.tfevents.{int(wall_time_s):010d}.{host}.{os.getpid()}.tracelet{number}"


class TensorBoardSink:
    """Writes the points of each SummaryWriter into a file of its log folder. One thread."""

    name = "tensorboard"
    is_remote = False
    takes_every_point = True

    def __init__(self, ring: _core.Ring) -> None:
        self._files = _core.EventFileSet(ring)
        self._remote_writers: set[int] = set()

    def write(self, batch: Batch) -> Delivery:
        for writer_id in self._files.unopened_writers(batch.buffer):
            folder = batch.log_dir(writer_id)
            if "://" in folder:
                self._note_remote(writer_id, folder)
                continue
            os.makedirs(folder, exist_ok=True)
            now_s = time.time()
            self._files.open(writer_id, os.path.join(folder, event_file_name(now_s)), now_s)
        delivered, unreadable = self._files.write(batch.buffer, batch.payloads)
        set_aside = {UNREADABLE: unreadable} if unreadable else {}
        if self._remote_writers:
            remote = int(np.isin(batch.records["writer_id"], list(self._remote_writers)).sum())
            if remote:
                set_aside["log folder is a URL"] = remote
        return Delivery(delivered, set_aside=set_aside)

    def _note_remote(self, writer_id: int, folder: str) -> None:
        if writer_id not in self._remote_writers:
            self._remote_writers.add(writer_id)
            _log.warning(
                "tracelet: event files are written to local folders only, not to %s; its points go "
                "to the other backends and are counted in stats", folder,
            )  # fmt: skip

    def close(self, process_is_ending: bool) -> None:
        self._files.close()
