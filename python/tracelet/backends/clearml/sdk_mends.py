"""Bugs of ClearML's SDK (1.15.0 to 2.1.12) that hang a process, or lose what it logged, mended."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from typing import Any

from tracelet.backends.clearml.session import TASK, locked, merged, read_task, write_task

_MODELS = "offline_output_models"
_BASE = "_tracelet_base"  # of a task's data: what is in it of what this process has not changed


def mend_sdk() -> None:
    """Mends what is not mended yet; a version that is made otherwise is left as it is."""
    from clearml.backend_interface.task.task import Task

    if Task._offline_mode:  # the SDK's models ask the server for its version, when there is one
        mend_offline_models()
    if not hasattr(Task, "_tracelet_mended"):
        Task._tracelet_mended = True
        _mend_edit_lock(Task)
        _mend_offline_file(Task)
        _mend_shared_connections()


def mend_offline_models() -> None:
    """Offline, OutputModel asks a stand-in for the server's model for `locked`, which it lacks.

    So `update_weights` raises AttributeError, and the bindings of torch.save, joblib and so on
    swallow that: no model is in the session.
    """
    from clearml.backend_api.services import models

    if not hasattr(models.Model, "locked"):
        models.Model.locked = False


def _mend_edit_lock(task_class: Any) -> None:
    """A task's lock is made by whoever asks for it first, and two threads may be the first: the one
    that looks at the repository, and that of Task.init. Each then has a lock of its own, on one
    file; one holds the file and waits for the other's lock, the other waits for the file, and
    Task.init, or the end of the process, never returns (one of 150 starts on a busy machine).
    """
    made = vars(task_class).get("_edit_lock")
    if not isinstance(made, property) or made.fget is None or made.fset is None:
        return
    get, put = made.fget, made.fset
    making = [threading.Lock()]

    def get_alone(task: Any) -> Any:
        with making[0]:
            return get(task)

    def put_alone(task: Any, lock: Any) -> None:
        with making[0]:
            put(task, lock)

    task_class._edit_lock = property(get_alone, put_alone)
    if hasattr(os, "register_at_fork"):  # it may have been held by a thread that the child lacks
        os.register_at_fork(after_in_child=lambda: making.__setitem__(0, threading.Lock()))


def _mend_shared_connections() -> None:
    """The SDK keeps its connections to the server open, and a process that is forked goes on with
    the very same ones: its reporter, a worker of the user's. Where two send by one at once, their
    requests mix; the server can't read them, and the SDK drops what they held (the first lines of a
    console, at one of 60 starts on a busy machine). So each process has its own: this one from now
    on, as its reporter may be there already, a child from its fork on.
    """
    from clearml.backend_interface.base import InterfaceBase

    renew = functools.partial(_renew_connections, InterfaceBase)
    renew()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


def _renew_connections(base: Any) -> None:
    """Of the session that the class has. Waits for no lock and imports nothing: in a child nobody
    might let go of one. What is on its way stays so."""
    session = getattr(base, "_default_session", None)
    http = getattr(session, "_Session__http_session", None)
    for adapter in set(getattr(http, "adapters", {}).values()):
        with contextlib.suppress(AttributeError, TypeError):
            # As `requests` does it when one is unpickled.
            adapter.proxy_manager = {}
            adapter.init_poolmanager(
                adapter._pool_connections, adapter._pool_maxsize, block=adapter._pool_block
            )


def _mend_offline_file(task_class: Any) -> None:
    """An offline session's task.json is truncated and then written, at each change of the task. A
    process that dies in between leaves a session that `Task.import_offline_session` refuses, with
    all its points (one of 350 deaths). And it is written from what this process has in memory: what
    another process of the session has set, a rank or a subprocess, was gone.
    """
    save = getattr(task_class, "_save_data_to_offline_dir", None)
    read = getattr(task_class, "_reload", None)
    if save is None or read is None or getattr(task_class, "_offline_filename", None) != TASK:
        return

    @functools.wraps(read)
    def read_and_note(task: Any) -> Any:
        data = read(task)
        if task._offline_mode and data is not None and not hasattr(data, _BASE):
            # What this process has changed is told by comparison with what it began from.
            with contextlib.suppress(AttributeError, TypeError, ValueError):
                setattr(data, _BASE, json.loads(json.dumps(data.to_dict())))
        return data

    @functools.wraps(save)
    def save_merged(task: Any, **changes: Any) -> None:
        with task._edit_lock:
            task._offline_filename = f"{TASK}.{os.getpid()}.own"
            try:
                save(task, **changes)
            finally:
                name = task._offline_filename
                del task._offline_filename
            folder = task.get_offline_mode_folder()
            if folder:
                _merge(task, os.path.join(folder, name), folder)

    task_class._reload = read_and_note
    task_class._save_data_to_offline_dir = save_merged


def _merge(task: Any, path: str, folder: Any) -> None:
    """Puts into the session's task what this process has changed of it, and no more."""
    with open(path, encoding="utf-8") as file:
        mine = json.load(file)
    os.unlink(path)
    # The models are the task's own, whatever is read anew; none of them are read from the session.
    base = {**getattr(task.data, _BASE, {}), _MODELS: getattr(task, _BASE + _MODELS, [])}
    with locked(folder):
        theirs = read_task(folder)
        write_task(folder, merged(base, mine, theirs) if theirs else mine)
    setattr(task.data, _BASE, mine)
    setattr(task, _BASE + _MODELS, mine.get(_MODELS))
