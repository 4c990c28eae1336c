"""A sink that takes each batch, says that it failed, and is given it again."""

from __future__ import annotations

from typing import Any


def give_again(sink: Any) -> list[int]:
    """Makes a run's sink such a one. The list gets the length of each batch."""
    write, calls = sink.write, []

    def twice(batch: Any) -> Any:
        delivery = write(batch)
        calls.append(len(batch))
        if len(calls) % 2:
            raise OSError("the answer was lost")
        return delivery

    sink.write = twice
    return calls
