"""Sounds and videos logged by hand, as the events that go through the ring."""

from __future__ import annotations

import io
import os
import wave
from typing import Any

import numpy as np

from tracelet.capture.manual import array_of, event_of, image_value, messages
from tracelet.errors import TraceletError

_MOST_CHANNELS = 8
_LARGEST_SAMPLE = 32767
_FULL_SCALE = 255.0
_MOST_FPS = 1_000
_LEAST_FPS = 0.002  # a GIF has hundredths of a second in 16 bits
_LARGEST_SIDE = (1 << 16) - 1  # of a GIF
_WAV_HEADER_BYTES = 44
# How a sound file begins, and what it is.
_SOUNDS = {
    b"RIFF": "audio/wav",
    b"OggS": "audio/ogg",
    b"fLaC": "audio/flac",
    b"ID3": "audio/mpeg",
    # A frame of layer III, of MPEG 1, 2 or 2.5, with or without a checksum.
    **{bytes((0xFF, kind)): "audio/mpeg" for kind in (0xFA, 0xFB, 0xF2, 0xF3, 0xE2, 0xE3)},
}


def audio_event(name: str, audio: Any, step: int | None, sample_rate: int) -> Any:
    """Raises TypeError or ValueError for what is no sound, FileNotFoundError for a path."""
    data = _file_bytes("log_audio", audio)
    if data is None:
        data = _wav(name, _samples(name, audio), _rate(name, sample_rate))
    kind = next((kind for start, kind in _SOUNDS.items() if data.startswith(start)), None)
    if kind is None:
        raise ValueError(f"log_audio: {name!r} is no sound file: WAV, MP3, OGG and FLAC are")
    summary = messages("summary_pb2").Summary
    sound = summary.Audio(encoded_audio_string=data, content_type=kind)
    if kind == "audio/wav":
        _describe(name, data, sound)
    return event_of([summary.Value(tag=name, audio=sound)], step)


def video_event(name: str, video: Any, step: int | None, fps: float) -> Any:
    """Raises as `audio_event`."""
    data = _file_bytes("log_video", video)
    if data is None:
        data = _gif(_frames(name, video), _frames_per_s(name, fps))
    if not data.startswith(b"GIF8"):
        raise ValueError(
            f"log_video: {name!r} is no GIF: TensorBoard plays no other form; log_artifact keeps it"
        )
    width, height = (int.from_bytes(data[at : at + 2], "little") for at in (6, 8))
    return event_of([image_value(name, width, height, data)], step)


def _file_bytes(method: str, given: Any) -> bytes | None:
    """Of a path or bytes; None for another thing."""
    if isinstance(given, (bytes, bytearray)):
        return bytes(given)
    if not isinstance(given, (str, os.PathLike)):
        return None
    if not os.path.exists(given):
        raise FileNotFoundError(f"{method}: there is no file {os.fspath(given)!r}")
    with open(given, "rb") as file:
        return file.read()


def _array(method: str, name: str, given: Any, wanted: str) -> Any:
    array = array_of(given)
    if array.dtype.kind not in "uifb" or array.size == 0:
        raise TypeError(
            f"{method}: {name!r} must be {wanted}, or a path, not {type(given).__name__} of shape "
            f"{array.shape} and type {array.dtype}"
        )
    return array


def _samples(name: str, audio: Any) -> Any:
    """int16 of shape (L, C)."""
    array = _array("log_audio", name, audio, "samples of shape (L,), (L, C) or (C, L)")
    if array.ndim == 1:
        array = array[:, np.newaxis]
    elif array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T
    if array.ndim != 2 or array.shape[1] > _MOST_CHANNELS:
        raise ValueError(
            f"log_audio: {name!r} must be samples of shape (L,), (L, C) or (C, L) with "
            f"{_MOST_CHANNELS} channels at most, not of shape {np.shape(audio)}"
        )
    if array.dtype.kind == "f":
        return np.round(np.clip(np.nan_to_num(array), -1, 1) * _LARGEST_SAMPLE).astype("<i2")
    if array.dtype != np.int16:
        raise TypeError(
            f"log_audio: {name!r} must be floats from -1 to 1 or int16, not {array.dtype}"
        )
    return array.astype("<i2")


def _rate(name: str, sample_rate: Any) -> int:
    rate = sample_rate.__index__() if hasattr(sample_rate, "__index__") else 0
    if isinstance(sample_rate, bool) or not 1 <= rate < 1 << 31:
        raise ValueError(f"log_audio: {name!r}: sample_rate must be an int, 1 or more, in Hz")
    return int(rate)


def _wav(name: str, samples: Any, rate: int) -> bytes:
    """Raises ValueError for what the 32 bits of its header can't say."""
    if rate * samples.shape[1] * samples.itemsize >= 1 << 32:
        raise ValueError(
            f"log_audio: {name!r}: sample_rate={rate} is too large for {samples.shape[1]} channels"
        )
    if samples.nbytes >= (1 << 32) - _WAV_HEADER_BYTES:
        raise ValueError(
            f"log_audio: {name!r} has {len(samples)} samples: a WAV file holds 4 GiB at most"
        )
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return stream.getvalue()


def _describe(name: str, data: bytes, sound: Any) -> None:
    """What the protobuf says besides, where the file is one that Python reads."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            sound.sample_rate = file.getframerate()
            sound.num_channels = file.getnchannels()
            sound.length_frames = file.getnframes()
    except wave.Error:
        return  # of floats, say: browsers play it
    except EOFError as error:
        raise ValueError(f"log_audio: {name!r} is half a WAV file") from error


def _frames(name: str, video: Any) -> Any:
    """uint8 of shape (T, H, W) or (T, H, W, 3)."""
    wanted = "frames of shape (T, H, W), (T, C, H, W) or (T, H, W, C)"
    array = _array("log_video", name, video, wanted)
    if array.ndim == 5 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 4:
        if array.shape[1] in (1, 3):
            array = array.transpose(0, 2, 3, 1)
        if array.shape[3] == 1:
            array = array[..., 0]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3):
        raise ValueError(
            f"log_video: {name!r} must be {wanted} with 1 or 3 channels, not of shape "
            f"{np.shape(video)}"
        )
    if max(array.shape[1:3]) > _LARGEST_SIDE:
        raise ValueError(
            f"log_video: {name!r} has frames of {array.shape[2]} by {array.shape[1]} pixels, "
            f"a GIF's have {_LARGEST_SIDE} at most"
        )
    if array.dtype != np.uint8:
        scale = _FULL_SCALE if array.dtype.kind in "fb" else 1.0
        array = np.clip(np.nan_to_num(array.astype(np.float64)) * scale, 0, _FULL_SCALE)
    return np.ascontiguousarray(array.astype(np.uint8))


def _frames_per_s(name: str, fps: Any) -> float:
    is_number = isinstance(fps, (int, float)) and not isinstance(fps, bool)
    if not is_number or not _LEAST_FPS <= fps <= _MOST_FPS:
        raise ValueError(
            f"log_video: {name!r}: fps must be a number from {_LEAST_FPS} to {_MOST_FPS}, "
            f"not {fps!r}"
        )
    return float(fps)


def _gif(frames: Any, fps: float) -> bytes:
    try:
        from PIL import Image
    except ImportError as error:
        raise TraceletError("log_video of an array needs Pillow: pip install pillow") from error
    stream = io.BytesIO()
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(
        stream, format="GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0
    )
    return stream.getvalue()
