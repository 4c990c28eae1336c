"""The other trackers, each as its users run it without a server. Each in its own environment."""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import loops
from benchmarks.contender import Contender

_WANDB_HEADER_BYTES = 7  # ":W&B", a magic number, a version
_BLOCK_BYTES = 1 << 15


class Wandb(Contender):
    """wandb, offline: `run.log({tag: value}, step=step)`."""

    loops = {"positional": loops.log_dict}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
        import wandb

        self.writer = wandb.init(project="bench", dir=str(folder))

    def close(self) -> None:
        self.writer.finish()

    def arrived(self) -> dict[str, int]:
        from wandb.proto.wandb_internal_pb2 import Record

        (path,) = self.folder.rglob("*.wandb")
        count = 0
        for data in _leveldb_records(path.read_bytes()[_WANDB_HEADER_BYTES:]):
            record = Record.FromString(data)
            keys = {item.key or "/".join(item.nested_key) for item in record.history.item}
            count += loops.TAG in keys
        return {"its file": count}


def _leveldb_records(log: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, as a .wandb file is one.

    Blocks of 32 KiB; in them pieces with CRC (4 bytes), size (2) and type (1): 1 is a whole record,
    2, 3, 4 are the first, a middle, the last piece of one.
    """
    record = b""
    # The first block lacks what the file's header took.
    position, block_end = 0, _BLOCK_BYTES - _WANDB_HEADER_BYTES
    while position < len(log):
        if block_end - position < 7:
            position, block_end = block_end, block_end + _BLOCK_BYTES
            continue
        size, kind = struct.unpack_from("<HB", log, position + 4)
        record += log[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):
            yield record
            record = b""
        if position == block_end:
            block_end += _BLOCK_BYTES


class Mlflow(Contender):
    """mlflow with a SQLite store: `mlflow.log_metric(tag, value, step=step)`."""

    def __init__(self, folder: Path, synchronous: bool = True) -> None:
        self.loops = {"positional": loops.log_metric if synchronous else loops.log_metric_async}
        super().__init__(folder)
        os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
        import mlflow

        self._mlflow = mlflow
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.set_experiment("bench")
        mlflow.start_run()
        self.writer = mlflow

    def settle(self) -> None:
        self._mlflow.flush_async_logging()

    def close(self) -> None:
        self._mlflow.flush_async_logging()
        self._mlflow.end_run()

    def arrived(self) -> dict[str, int]:
        return {"its database": _rows(self.folder / "mlflow.db", "metrics")}


class Aim(Contender):
    """aim: `run.track(value, name=tag, step=step)`."""

    loops = {"positional": loops.track}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ["__AIM_ANALYTICS__"] = "false"
        import aim

        self.writer = aim.Run(repo=str(folder), system_tracking_interval=None, log_system_params=0)

    def close(self) -> None:
        self.writer.close()

    def arrived(self) -> dict[str, int]:
        import aim

        # Opened for writing: read-only it shows nothing before the store is indexed.
        run = aim.Run(self.writer.hash, repo=str(self.folder), system_tracking_interval=None)
        return {"its store": sum(len(each.values.sparse_list()[0]) for each in run.metrics())}


class Trackio(Contender):
    """trackio: `trackio.log({tag: value}, step=step)`."""

    loops = {"positional": loops.log_dict}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ.update(
            TRACKIO_DIR=str(folder), HF_HUB_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False"
        )
        import trackio

        trackio.init(project="bench", name="bench", embed=False)
        self.writer: Any = trackio

    def close(self) -> None:
        self.writer.finish()

    def arrived(self) -> dict[str, int]:
        return {"its database": sum(_rows(p, "metrics") for p in self.folder.rglob("bench*.db"))}


def _rows(path: Path, table: str) -> int:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        return int(database.execute(f"select count(*) from {table}").fetchone()[0])
