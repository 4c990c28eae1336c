"""Bugs of ClearML's SDK (1.15.0 to 2.1.12) that hang a process, or cost it its session, mended."""

from __future__ import annotations

import functools
import os
import threading
from typing import Any


def mend_sdk() -> None:
    """Mends what is not mended yet; a version that is made otherwise is left as it is."""
    from clearml.backend_interface.task.task import Task

    if Task._offline_mode:  # the SDK's models ask the server for its version, when there is one
        mend_offline_models()
    if not hasattr(Task, "_tracelet_mended"):
        Task._tracelet_mended = True
        _mend_edit_lock(Task)
        _mend_offline_file(Task)


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


def _mend_offline_file(task_class: Any) -> None:
    """An offline session's task.json is truncated and then written, at each change of the task. A
    process that dies in between leaves a session that `Task.import_offline_session` refuses, with
    all its points (one of 350 deaths).
    """
    save = getattr(task_class, "_save_data_to_offline_dir", None)
    name = getattr(task_class, "_offline_filename", None)
    if save is None or not isinstance(name, str):
        return

    @functools.wraps(save)
    def save_whole(task: Any, **changes: Any) -> None:
        with task._edit_lock:
            task._offline_filename = name + ".new"
            try:
                save(task, **changes)
            finally:
                del task._offline_filename
            folder = task.get_offline_mode_folder()
            if folder:
                os.replace(os.path.join(folder, name + ".new"), os.path.join(folder, name))

    task_class._save_data_to_offline_dir = save_whole
