"""What can be an artifact, and the file it becomes: types and formats are ClearML's own.

So its `Task.artifacts[name].get()` gives the object back, as for those of Task.upload_artifact.
The value is that of the call: objects are copied, small files too; a file of more than
`COPIED_BYTES` is read where it lies, and one that changes until it is uploaded is told.
"""

from __future__ import annotations

import gzip
import json
import mimetypes
import os
import shutil
import sys
import zipfile
from dataclasses import dataclass, replace
from typing import Any, Callable

import numpy as np

COPIED_BYTES = 256 << 20
_QUICK_BYTES = 1 << 20  # to be compressed: some 30 ms
_PREVIEW_CHARACTERS = 65_536


@dataclass
class Content:
    """A value on its way to a file."""

    kind: str
    """The artifact's type, as ClearML names it."""
    filename: str
    """The uploaded file's name."""
    preview: str
    write: Callable[[str], None] | None
    """Writes the file; None: `path` is it already."""
    path: str = ""
    state: tuple[int, int] | None = None
    """Size and time of change of a file that is read where it lies, as they were at the call."""
    folder: str = ""
    """The folder that `write` makes an archive of."""
    is_quick: bool = True
    """Whether `write` takes a moment only, so that a call may wait for it."""

    @property
    def is_object(self) -> bool:
        """Whether it is in memory until `write` was called."""
        return self.write is not None and not self.folder

    @property
    def content_type(self) -> str | None:
        if self.kind == "numpy":
            return "application/numpy"
        return "text/csv" if self.kind == "pandas" else mimetypes.guess_type(self.filename)[0]

    def linked_to(self, path: str, first: str) -> Content:
        """The same content for another backend; what was copied to `first` is at `path` too."""
        if not os.path.exists(first):
            return replace(self)  # an object, or a file that is read where it lies
        if os.path.isdir(first):
            shutil.copytree(first, path, copy_function=_link)
            return replace(self, write=zip_of(path), folder=path)
        _link(first, path)
        return replace(self, path=path)

    def check_unchanged(self) -> None:
        """Raises ChangedError when the file is no longer the one of the call."""
        if self.state is not None and _state_of(self.path) != self.state:
            raise ChangedError(
                f"{self.path} changed before it was uploaded; log it again when it is whole"
            )


class ChangedError(Exception):
    """A file that was to be uploaded is not what it was."""


def content_of(value: Any, name: str, copy_to: str, is_ours: bool = False) -> Content:
    """The content of an artifact; `copy_to` is where a small file or folder is copied to.

    A file that `is_ours` is moved there.

    Raises TypeError for a value of no known kind.
    """
    base = os.path.basename(name.rstrip("/")) or "artifact"
    if isinstance(value, (str, os.PathLike)):
        return _of_path(os.fspath(value), copy_to, is_ours)
    if isinstance(value, np.ndarray):
        array = value.copy()
        return Content(
            "numpy", _with_end(base, ".npz"), repr(array)[:_PREVIEW_CHARACTERS],
            lambda path: _write_array(path, name, array),
        )  # fmt: skip
    if isinstance(value, (dict, list, tuple)):
        text = _json_of(value, name)
        return Content("dict", _with_end(base, ".json"), text[:_PREVIEW_CHARACTERS],
                       lambda path: _write_text(path, text))  # fmt: skip
    if isinstance(value, (bytes, bytearray)):
        data = bytes(value)
        return Content("custom", base, f"{len(data)} bytes", lambda path: _write_bytes(path, data))
    if _is_a(value, "pandas", "DataFrame"):
        return _of_frame(value.copy(), base)
    if _is_a(value, "PIL.Image", "Image"):
        image = value.copy()
        is_quick = image.size[0] * image.size[1] * len(image.getbands()) <= _QUICK_BYTES
        return Content("image", _with_end(base, ".png"), f"{image.size[0]}x{image.size[1]} pixels",
                       lambda path: image.save(path, format="PNG"), is_quick=is_quick)  # fmt: skip
    if _is_a(value, "matplotlib.figure", "Figure"):
        data = figure_png(value)
        return Content("image", _with_end(base, ".png"), "figure",
                       lambda path: _write_bytes(path, data))  # fmt: skip
    raise TypeError(
        f"log_artifact: {name!r} is a {type(value).__name__}; an artifact is a path, dict, list, "
        "bytes, numpy array, pandas DataFrame, PIL image or matplotlib figure. Save it to a file "
        "first; models go to log_model"
    )


def figure_png(figure: Any) -> bytes:
    import io

    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _is_a(value: Any, module: str, name: str) -> bool:
    """Whether it is one of a class of a package that may not be installed."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(value, cls)


def _of_path(path: str, copy_to: str, is_ours: bool) -> Content:
    filename = os.path.basename(os.path.abspath(path))
    if os.path.isdir(path):
        size_bytes = sum(os.path.getsize(each) for each in files_in(path))
        source = path
        if size_bytes <= COPIED_BYTES:
            shutil.copytree(path, copy_to)
            source = copy_to
        preview = "\n".join(
            f"{os.path.relpath(each, source)} - {os.path.getsize(each)} bytes"
            for each in files_in(source)
        )
        return Content("archive", filename + ".zip", preview[:_PREVIEW_CHARACTERS],
                       zip_of(source), folder=source)  # fmt: skip
    size_bytes = os.path.getsize(path)
    preview = f"{filename} - {size_bytes} bytes"
    if is_ours:
        os.replace(path, copy_to)
        return Content("custom", filename, preview, None, copy_to)
    if size_bytes > COPIED_BYTES:
        path = os.path.abspath(path)
        return Content("custom", filename, preview, None, path, _state_of(path))
    shutil.copyfile(path, copy_to)
    return Content("custom", filename, preview, None, copy_to)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _state_of(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def files_in(folder: str) -> list[str]:
    return sorted(
        os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names
    )


def _of_frame(frame: Any, base: str) -> Content:
    is_quick = int(frame.memory_usage(deep=True).sum()) <= _QUICK_BYTES
    if frame.index.nlevels > 1 or frame.columns.nlevels > 1:
        return Content("pickle", _with_end(base, ".pkl"), str(frame)[:_PREVIEW_CHARACTERS],
                       lambda path: frame.to_pickle(path, compression=None),
                       is_quick=is_quick)  # fmt: skip
    filename = base + ".gz" if base.endswith(".csv") else _with_end(base, ".csv.gz")

    def write(path: str) -> None:
        # Without the time of day: the same frame is the same file.
        with gzip.GzipFile(path, "wb", mtime=0) as file:
            file.write(frame.to_csv(index=True).encode())

    return Content("pandas", filename, str(frame)[:_PREVIEW_CHARACTERS], write, is_quick=is_quick)


def _json_of(value: Any, name: str) -> str:
    try:
        return json.dumps(value, sort_keys=True, indent=4)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"log_artifact: {name!r} can't be written as JSON ({error}); save it to a file first"
        ) from error


def _with_end(base: str, end: str) -> str:
    return base if base.endswith(end) else base + end


def _write_array(path: str, name: str, array: Any) -> None:
    # A large one as it is: the call waits for it, so that it is on disk from then on.
    save = np.savez_compressed if array.nbytes <= _QUICK_BYTES else np.savez
    with open(path, "wb") as file:
        save(file, **{name: array})


def _write_text(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _write_bytes(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def zip_of(folder: str) -> Callable[[str], None]:
    """What writes an archive of a folder to a path."""

    def write(path: str) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            for each in files_in(folder):
                archive.write(each, os.path.relpath(each, folder))

    return write
