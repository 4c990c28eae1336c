"""What does it cost a call that the ring is a file, which outlives the process?

One process and one SummaryWriter; the rings take turns.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from benchmarks import loops
from benchmarks.harness import Entrant, Settings, column, interleave, ratios, summarise, worker
from benchmarks.report import Figure, Part

_SHARED_MEMORY = Path("/dev/shm")
_KINDS = {
    "anonymous": "a ring in anonymous memory",
    "shared memory": "a ring in a file in shared memory",
    "disk": "a ring in a file on disk",
}


def run(settings: Settings) -> Part:
    rounds = settings.pick(41, 2)
    with worker(settings, "benchmarks.parts.durability:Rings") as made:
        entrants = [
            Entrant(kind, lambda kind=kind: made.call("run", kind=kind, calls=50_000), rounds)
            for kind in _KINDS
        ]
        results = interleave(entrants, rounds, settings.rng("durability"))
    ns = {kind: column(results[kind], "call") for kind in _KINDS}
    figures = [
        Figure(
            f"add_scalar into {_KINDS['shared memory']}, by that into {_KINDS['anonymous']}",
            "x",
            ratios(ns["shared memory"], ns["anonymous"]),
            at_least=1.2,
            aim=1.0,
        ),
        Figure(
            f"add_scalar into {_KINDS['disk']}, by that into {_KINDS['anonymous']}",
            "x",
            ratios(ns["disk"], ns["anonymous"]),
        ),
    ]
    figures += [
        Figure(f"add_scalar into {name}", "ns", summarise(ns[kind].values()))
        for kind, name in _KINDS.items()
    ]
    return Part("durability", figures, rounds=results)


class Rings:
    """The worker. Nobody drains these rings but `run`, between its loops."""

    def __init__(self, folder: Path) -> None:
        import tracelet
        from torch.utils.tensorboard import SummaryWriter
        from tracelet import _core

        tracelet.start_logging("bench", "bench", "tensorboard")  # its patch is what is wanted
        self._core = _core
        self.writer = SummaryWriter(str(folder / "events"))
        in_memory = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else folder
        paths = {
            "anonymous": "",
            "shared memory": str(in_memory / f"tracelet-bench-{os.getpid()}.ring"),
            "disk": str(folder / "bench.ring"),
        }
        self._rings = {kind: _core.Ring.create(path, 1 << 17, 1.0) for kind, path in paths.items()}
        for path in filter(None, paths.values()):
            with contextlib.suppress(OSError):
                os.unlink(path)  # mapped until the process ends

    def run(self, kind: str, calls: int) -> dict[str, float]:
        """ns per call, loop included."""
        ring = self._rings[kind]
        self._core.set_active_run(ring)
        loop = loops.fresh(loops.positional)
        loop(self.writer, loops.TAG, loops.VALUE, 0, 100)
        elapsed_ns = loop(self.writer, loops.TAG, loops.VALUE, 0, calls)
        while ring.tail < ring.head:
            ring.lease(ring.capacity).release()
        return {"call": elapsed_ns / calls}

    def settle(self) -> None:
        pass
