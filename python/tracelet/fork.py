"""Locks in a forked child: the threads that held them are not there to let go of them."""

from __future__ import annotations

import logging
import os
import weakref
from typing import Protocol


class HasLocks(Protocol):
    """What a forked child may call, and what has locks."""

    def renew_in_child(self) -> None:
        """Makes new locks, and forgets what is the parent's to do. Called in the child before
        anything else runs there, while nobody uses the object; takes no lock."""


_log = logging.getLogger("tracelet")

_each: weakref.WeakSet[HasLocks] = weakref.WeakSet()


def renew_at_fork(owner: HasLocks) -> None:
    """From now on a forked child renews the locks of `owner`, for as long as that one lives."""
    _each.add(owner)


def _after_fork_in_child() -> None:
    for owner in list(_each):
        try:
            owner.renew_in_child()
        except Exception as error:  # of one: the others' locks are renewed all the same
            _log.debug("tracelet: %r in a forked child: %s", owner, error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
