"""How an event lies in an event file: TFRecord, a length and the event, each with a checksum."""

from __future__ import annotations

from tracelet import _core


def masked_crc(data: bytes) -> int:
    crc = _core.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(event: bytes) -> bytes:
    size = len(event).to_bytes(8, "little")
    crcs = [masked_crc(each).to_bytes(4, "little") for each in (size, event)]
    return size + crcs[0] + event + crcs[1]
