"""Event files by hand, from event.proto, not by the writer under test."""

from __future__ import annotations

import struct
from pathlib import Path

from tracelet import _core


def masked_crc(data: bytes) -> int:
    crc = _core.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def framed(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return (
        length
        + struct.pack("<I", masked_crc(length))
        + event
        + struct.pack("<I", masked_crc(event))
    )


def event(step: int, *values: bytes) -> bytes:
    """An event's record, written down by hand from event.proto, not by the writer under test."""
    summary = b"".join(message(1, value) for value in values)
    return framed(
        b"\x09" + struct.pack("<d", 1e9 + step) + b"\x10" + varint(step) + message(5, summary)
    )


def scalar(tag: str, value: float) -> bytes:
    return message(1, tag.encode()) + b"\x15" + struct.pack("<f", value)


def tensor(tag: str, plugin: str | None, tensor: bytes) -> bytes:
    metadata = b"" if plugin is None else message(9, message(1, message(1, plugin.encode())))
    return message(1, tag.encode()) + metadata + message(8, tensor)


def write(folder: Path, data: bytes, name: str = "events.out.tfevents.1.host") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return path
