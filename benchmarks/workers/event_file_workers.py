"""Event files written and read: the worker's side."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

TRACELET, TORCH = "Tracelet", "torch SummaryWriter"
DATA_SERVER, ACCUMULATOR = "tensorboard-data-server", "EventAccumulator"

_TAGS = [f"train/metric_{number}" for number in range(20)]
_LOAD_TIMEOUT_S = 600.0


class Encoding:
    """The native event file alone: records that lie in a ring, encoded and written."""

    def __init__(self, folder: Path, points: int) -> None:
        from tracelet import _core

        self._core, self._folder, self._points = _core, folder, points
        slots = 1 << (points - 1).bit_length()
        self._ring = _core.Ring.create(str(folder / "ring"), slots, 1.0, 1 << 16)
        writer_id = self._ring.intern(str(folder))
        writer = str(folder)
        _core.set_active_run(self._ring)
        for step in range(points):
            _core.log_metric(_TAGS[step % len(_TAGS)], step * 0.001, step, writer)
        _core.set_active_run(None)
        self._writer_id = writer_id
        self._lease = self._ring.lease(points)

    def write(self) -> dict[str, float]:
        """Points per second; the file lies in the page cache afterwards."""
        path = str(self._folder / "events.out.tfevents.bench")
        files = self._core.EventFileSet(self._ring)
        files.open(self._writer_id, path, 0.0)
        start_s = time.perf_counter()
        written, _ = files.write(self._lease, None)
        files.close()
        elapsed_s = time.perf_counter() - start_s
        size_bytes = os.path.getsize(path)
        os.unlink(path)
        assert written == self._points
        return {"points_per_s": written / elapsed_s, "bytes_per_s": size_bytes / elapsed_s}

    def settle(self) -> None:
        pass


class Loading:
    """A file of scalars by Tracelet and one by torch, both read by TensorBoard's two readers."""

    def __init__(self, folder: Path, points: int) -> None:
        import tensorboard_data_server
        import tracelet
        from torch.utils.tensorboard import SummaryWriter

        self._server = tensorboard_data_server.server_binary()
        self._points = points
        self._folders = {name: folder / name.split()[0] for name in (TRACELET, TORCH)}

        def log(name: str) -> None:
            with SummaryWriter(str(self._folders[name])) as writer:
                for step in range(points):
                    writer.add_scalar(_TAGS[step % len(_TAGS)], step * 0.001, step)

        log(TORCH)
        tracelet.start_logging("bench", "bench", "tensorboard")
        log(TRACELET)
        tracelet.stop_logging()

    def size_bytes(self) -> dict[str, int]:
        """Of the file that has the points, by writer."""
        return {
            name: max(file.stat().st_size for file in folder.iterdir())
            for name, folder in self._folders.items()
        }

    def load(self, reader: str, name: str) -> dict[str, float]:
        """Seconds that a reader takes for a writer's file."""
        folder = str(self._folders[name])
        read = self._by_server if reader == DATA_SERVER else self._by_accumulator
        return {"seconds": read(folder)}

    def settle(self) -> None:
        pass

    def _by_server(self, folder: str) -> float:
        """By its own account: it says when a load cycle is done."""
        command = [self._server, "--logdir", folder, "--reload", "once", "--port", "0", "-v"]
        server = subprocess.Popen(
            [*command, "--die-after-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stderr is not None
            for line in server.stderr:
                found = re.search(r"Finished load cycle \(([\d.]+)(\w+)\)", line)
                if found:
                    return float(found[1]) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[found[2]]
            raise RuntimeError("the data server ended without having loaded")
        finally:
            server.kill()
            server.wait()
            for pipe in (server.stdin, server.stderr):
                if pipe is not None:
                    pipe.close()

    def _by_accumulator(self, folder: str) -> float:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(folder, size_guidance={"scalars": 0})
        start_s = time.perf_counter()
        accumulator.Reload()
        elapsed_s = time.perf_counter() - start_s
        held = sum(len(accumulator.Scalars(tag)) for tag in accumulator.Tags()["scalars"])
        assert held == self._points, held
        return elapsed_s
