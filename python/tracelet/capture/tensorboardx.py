"""tensorboardX: its FileWriters reach the run as torch's do, whenever the package is imported.

Nothing of its SummaryWriter is replaced but add_embedding, which is counted, and __init__, which
takes the run's folder where none is given: each other method, flush and close included, goes
through a FileWriter. With `write_to_disk=False` that is a
DummyFileWriter, and nothing is captured: such a writer logs nowhere, which is what it is for (the
other ranks of a distributed run, a trial).
"""

from __future__ import annotations

import logging
import types
from collections.abc import Callable

from tracelet.capture.embedding import patch_add_embedding
from tracelet.capture.file_writer import (
    in_the_runs_folder,
    patch_file_writer,
    patch_file_writer_beside,
)
from tracelet.capture.import_hook import ImportHook
from tracelet.capture.patch import Patch, bound_by

_log = logging.getLogger("tracelet")

_MODULE = "tensorboardX.writer"


class TensorboardXCapture:
    """The patches of tensorboardX for one run: made now or when it is imported, until `undo`.

    `beside` leaves the event files to tensorboardX, and the run gets everything too.
    `flush_event_files` waits until the run's event files hold what was logged; `note_embedding` is
    called for each embedding.
    """

    def __init__(
        self,
        flush_event_files: Callable[[], None],
        beside: bool = False,
        note_embedding: Callable[[], None] = lambda: None,
    ) -> None:
        self._flush_event_files: Callable[[], None] | None = flush_event_files
        self._beside = beside
        self._note_embedding = note_embedding
        # Appended to by whichever thread imports, and popped; each of which is atomic.
        self._patches: list[Patch] = []
        self._hook = ImportHook(_MODULE, before=self._let_go_of_names, after=self._patch)

    def undo(self) -> None:
        """Puts all back; tensorboardX may be imported in another thread meanwhile."""
        self._hook.remove()
        self._flush_event_files = None  # before the patches go: who patches later undoes that
        self._undo_patches()

    def _patch(self, module: types.ModuleType) -> None:
        flush = self._flush_event_files
        if flush is None:
            return
        try:
            if any(patch.owner is module.FileWriter for patch in self._patches):
                return
            if self._beside:
                self._patches += patch_file_writer_beside(module)
            else:
                self._patches += patch_file_writer(module, flush)
                cls = module.SummaryWriter
                init = in_the_runs_folder(bound_by(vars(cls)["__init__"]), "logdir", "log_dir")
                self._patches.append(Patch(cls, {"__init__": init}))
            self._patches += patch_add_embedding(module.SummaryWriter, self._note_embedding)
        except (AttributeError, KeyError) as error:
            _log.warning(
                "tracelet: this version of tensorboardX is not known, and what it logs is not "
                "captured: %r", error,
            )  # fmt: skip
        if self._flush_event_files is None:
            self._undo_patches()

    def _let_go_of_names(self, module: types.ModuleType) -> None:
        """Before the code of a module runs, maybe anew: it binds its names, and makes new classes.

        Those that it had are in use by writers, and stay patched.
        """
        for patch in [each for each in self._patches if each.owner is module]:
            self._patches.remove(patch)
            patch.undo()

    def _undo_patches(self) -> None:
        while self._patches:
            self._patches.pop().undo()
