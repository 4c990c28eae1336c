"""The text of a run's manifest: JSON that people may read, whose last line but one is a checksum.

It is that of all the bytes before it: a flipped bit in a path or in a position is JSON as good as
any other. A manifest of format 1 or 2 has none, and is read as it is; one of a later format without
one is damaged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tracelet import _core

FORMAT = 3
"""Of the manifest and of what it says of the folder's files; 1 had no number, 2 no checksum. A run
of a later one is left to the tracelet that wrote it."""

_CHECKSUM = re.compile(rb',\n  "crc32c": "([0-9a-f]{8})"\n}\n\Z')
_FIRST_FORMAT_WITH_CHECKSUM = 3


def encoded(manifest: Mapping[str, Any]) -> bytes:
    content = {name: value for name, value in manifest.items() if name != "crc32c"}
    body = json.dumps(content, indent=2).encode()[: -len("\n}")]
    return body + b',\n  "crc32c": "%08x"\n}\n' % _core.crc32c(body)


def decoded(data: bytes) -> dict[str, Any]:
    """Raises ValueError, TypeError or RecursionError for what is no manifest, or a damaged one."""
    found = _CHECKSUM.search(data)
    if found and int(found[1], 16) != _core.crc32c(data[: found.start()]):
        raise ValueError("its manifest is damaged (checksum)")
    manifest: dict[str, Any] = dict(json.loads(data))
    version = manifest.setdefault("format", 1)
    if not isinstance(version, int):
        raise ValueError("its manifest has no format")
    is_due = _FIRST_FORMAT_WITH_CHECKSUM <= version <= FORMAT or "crc32c" in manifest
    if is_due and not found:
        raise ValueError("its manifest is damaged: its checksum is not where it belongs")
    manifest.pop("crc32c", None)
    return manifest
