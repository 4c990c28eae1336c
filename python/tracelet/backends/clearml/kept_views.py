"""The file in a run's folder from which another process goes on with the views of histograms.

CRC-32 of the rest in eight hexadecimal digits and a newline; a line of JSON, the log folder and the
tag of each (writer_id, tag_id); the state of the native timelines.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Mapping

from tracelet.runs.private_file import private

_log = logging.getLogger("tracelet")

_NAME = "clearml_views.bin"
_LARGEST_BYTES = 1 << 30

Names = dict[tuple[int, int], tuple[str, str]]


class KeptViews:
    def __init__(self, run_dir: str) -> None:
        self._path = os.path.join(run_dir, _NAME)

    def write(self, names: Mapping[tuple[int, int], tuple[str, str]], state: bytes) -> None:
        """In the place of the last one, whole or not at all. Failure costs no point."""
        rows = json.dumps([[*key, *series] for key, series in names.items()]).encode()
        content = rows + b"\n" + state
        try:
            with open(self._path + ".new", "wb", opener=private) as file:
                file.write(b"%08x\n" % zlib.crc32(content) + content)
            os.replace(self._path + ".new", self._path)
        except OSError as error:
            _log.debug("tracelet: views of histograms can't be kept: %s", error)

    def read(self) -> tuple[Names, bytes] | None:
        """The names and the state; None for a file that is not there or not whole."""
        try:
            if os.path.getsize(self._path) > _LARGEST_BYTES:
                return None
            with open(self._path, "rb") as file:
                crc, _, content = file.read().partition(b"\n")
        except OSError:
            return None
        rows, _, state = content.partition(b"\n")
        try:
            if int(crc, 16) != zlib.crc32(content):
                return None
            return {
                (int(writer_id), int(tag_id)): (str(log_dir), str(tag))
                for writer_id, tag_id, log_dir, tag in json.loads(rows)
            }, state
        except (TypeError, ValueError):
            return None
