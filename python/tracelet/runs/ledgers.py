"""The ledgers of files that grow, of a run that is gone on with."""

from __future__ import annotations

import contextlib
import os

from tracelet import _core

_MARK = ".damaged"


def recover_ledger(path: str) -> tuple[_core.FileLedger, bool]:
    """The ledger, a new one where nothing of it can be read; and whether something in it is lost.

    That is so until `settle_ledger`, also for a later process: a new ledger looks whole. Raises
    OSError, RuntimeError for one of a later version.
    """
    ledger = _core.FileLedger.recover(path)
    if ledger.is_damaged:
        with open(path + _MARK, "ab"):  # what was unreadable is there already
            pass
    return ledger, os.path.exists(path + _MARK)


def settle_ledger(path: str) -> None:
    """The ledger is of what the files hold again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + _MARK)
