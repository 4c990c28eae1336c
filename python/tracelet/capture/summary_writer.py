"""Patches torch's SummaryWriter while a run is active: its hot methods become native ones."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

from tracelet import _core
from tracelet.capture.compiled import know_natives
from tracelet.capture.event_writer import note_earlier_writer, package_class_of
from tracelet.capture.file_writer import (
    for_own_file_only,
    in_the_runs_folder,
    key_of_file_writer,
    patch_file_writer,
    patch_file_writer_beside,
)
from tracelet.capture.origin import is_its_own
from tracelet.capture.patch import Patch, bound_by, then
from tracelet.capture.ways import has_others_on_its_way, telling_of_new_ways, watch
from tracelet.errors import WrongTypeError, WrongValueError
from tracelet.option_kinds import describe
from tracelet.writer_key import own_writer_key

_log = logging.getLogger("tracelet")
_told_odd: set[str] = set()  # of this process
_MOST_TOLD = 1_000
_ABSENT = object()
_HOT = ("add_scalar", "add_scalars", "add_histogram", "add_histogram_raw")
_own_methods: dict[type, dict[str, Any]] = {}  # of each class, as its package wrote them
_native_methods: dict[type, dict[str, Any]] = {}
_writers: dict[int, weakref.ref[Any]] = {}


def _never(_: Any) -> bool:
    return False


# Whether a writer's calls go by torch's own methods, and so through its FileWriter.
_takes_the_long_way: Callable[[Any], bool] = _never


def _writer_key_of(writer: Any) -> str | None:
    if getattr(writer, "all_writers", _ABSENT) is None:
        with contextlib.suppress(OSError):  # it is the drainer that tells of a folder
            writer._get_file_writer()  # as torch makes it anew, used once more after its close
    if _takes_the_long_way(writer):
        return None
    key = id(writer)

    def forget(_: weakref.ref[Any]) -> None:
        _writers.pop(key, None)
        _core.forget_writers()

    _writers[key] = weakref.ref(writer, forget)
    # What is hot and what is not go to one file: its folder was made absolute when it was made.
    known = key_of_file_writer(getattr(writer, "file_writer", None))
    suffix = str(getattr(writer, "filename_suffix", None) or "")
    own = known or own_writer_key(str(writer.log_dir), suffix)
    note_earlier_writer(own)
    return own


def _enlist_entry(writer: Any, main_tag: str, entry: str) -> None:
    """torch's add_scalars makes a FileWriter of each entry's folder, and `all_writers` has it."""
    own, writers = getattr(writer, "file_writer", None), getattr(writer, "all_writers", None)
    if own is None or not isinstance(writers, dict):
        return
    folder = f"{own.get_logdir()}/{main_tag.replace('/', '_')}_{entry}"
    if folder not in writers:
        with contextlib.suppress(OSError):
            writers[folder] = type(own)(
                folder, writer.max_queue, writer.flush_secs, writer.filename_suffix
            )


def _tell_of_odd(method: str, tag: object, argument: str, given: object) -> None:
    """Once a tag: torch's writer takes it, and so does ours, but it is rarely what was meant."""
    key = f"{tag}/{argument}"
    if key in _told_odd or len(_told_odd) >= _MOST_TOLD:
        return
    _told_odd.add(key)
    _log.warning(
        "tracelet: %s(%.200r): %s=%s is taken as torch takes it, as a number; give an int for a "
        "step and a number for a value. This is said once for a tag.",
        method, tag, argument, describe(given),
    )  # fmt: skip


_core.set_writer_resolver(_writer_key_of)
_core.set_entry_lister(_enlist_entry)
_core.set_argument_errors(WrongTypeError, WrongValueError)
_core.set_odd_teller(_tell_of_odd)


def find_summary_writer() -> type | None:
    """torch's SummaryWriter, or None where torch or tensorboard is not installed.

    Imports torch. That it is imported before ClearML's Task.init matters: a background thread of
    the SDK imports and drops modules while it looks for requirements.
    """
    try:
        import torch
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    exchange_api = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # torch 2.10 and later
    if exchange_api is not None:
        _core.learn_torch(torch.Tensor, torch.nn.Parameter, exchange_api)
    # What somebody has put in its place may be derived from it, or be no class at all.
    classes = SummaryWriter.__mro__ if isinstance(SummaryWriter, type) else ()
    found = next((each for each in classes if set(_HOT) <= vars(each).keys()), None)
    if found is None:
        _log.warning(
            "tracelet: torch.utils.tensorboard.SummaryWriter is %s, and what it logs is not "
            "captured", describe(SummaryWriter),
        )  # fmt: skip
    return found


def patch_summary_writer(cls: type, flush_event_files: Callable[[], None]) -> list[Patch]:
    """Native methods for what is hot; the rest of `cls` reaches the run through its FileWriter."""
    global _takes_the_long_way
    _takes_the_long_way = functools.partial(has_others_on_its_way, cls=cls)
    module = sys.modules[cls.__module__]
    ours = _native_methods_for(cls)

    def look_again() -> None:
        flush_event_files()
        _core.forget_writers()  # that is closed: its next call makes its FileWriter anew

    for name, afterwards in (("flush", flush_event_files), ("close", look_again)):
        ours[name] = then(bound_by(vars(cls)[name]), afterwards)
    added = {"__setattr__": telling_of_new_ways(cls, is_known=lambda self: id(self) in _writers)}
    ours["__init__"] = in_the_runs_folder(bound_by(vars(cls)["__init__"]), "log_dir")
    # The FileWriter first: one that somebody has replaced raises before anything is patched.
    patches = [*patch_file_writer(module, flush_event_files), Patch(cls, ours, added)]
    watch((cls, package_class_of(module.FileWriter), package_class_of(module.EventFileWriter)))
    return patches


def patch_summary_writer_beside(cls: type) -> list[Patch]:
    """`cls` writes its own event files as ever; the run gets everything too."""
    global _takes_the_long_way
    native = _native_methods_for(cls)
    _takes_the_long_way = _never
    if len(native) < len(_HOT):
        # A native one that somebody's wrapper has kept would not write the writer's own file.
        native.clear()
        _takes_the_long_way = _always
    ours = {name: _both(method, cls.__dict__[name]) for name, method in native.items()}
    return [*patch_file_writer_beside(sys.modules[cls.__module__]), Patch(cls, ours)]


def _always(_: Any) -> bool:
    return True


def _native_methods_for(cls: type) -> dict[str, Any]:
    """Those that nobody has wrapped: a wrapper stays where it is, above torch's own method."""
    own = [name for name in _HOT if is_its_own(cls, name)]
    originals = _own_methods.setdefault(cls, dict(vars(cls)))
    for name in own:
        if type(vars(cls)[name]) is not types.MethodDescriptorType:  # ours of a run before
            originals[name] = vars(cls)[name]
    made = _core.make_methods(cls, originals)
    if cls not in _native_methods:
        # One for all runs: a compiled function that has met it knows it in the next run.
        _native_methods[cls] = made
        know_natives(cls, made)
    return {name: _native_methods[cls][name] for name in own}


def _both(native: Any, original: Any) -> Callable[..., Any]:
    call_original = bound_by(original)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        native(self, *args, **kwargs)
        with for_own_file_only():
            return call_original(self, *args, **kwargs)

    return method
