"""The other ways to log scalars, each as its users run it. Versions: those installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import arrivals, loops
from benchmarks.contender import Contender, wait_for_scan


class TorchWriter(Contender):
    """torch's SummaryWriter, unpatched."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "events"))

    def settle(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

    def arrived(self) -> dict[str, int]:
        return {"event file": arrivals.event_file_points(self.folder / "events")}


class TensorboardXWriter(TorchWriter):
    """tensorboardX's SummaryWriter."""

    def __init__(self, folder: Path) -> None:
        Contender.__init__(self, folder)
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(folder / "events"))


def _offline_task(in_threads: bool = False, frameworks: Any = True) -> Any:
    """A ClearML task with the SDK's defaults; `in_threads`: without its reporter process."""
    from clearml import Task

    if in_threads:
        Task._report_subprocess_enabled = False
    task = Task.init(project_name="bench", task_name="bench", auto_connect_frameworks=frameworks)
    wait_for_scan(task)
    return task


class ClearMLLogger(Contender):
    """`Logger.report_scalar` of ClearML's SDK."""

    loops = {"positional": loops.report_scalar}  # noqa: RUF012

    def __init__(self, folder: Path, in_threads: bool = False) -> None:
        super().__init__(folder)
        self._task = _offline_task(in_threads)
        self.writer = self._task.get_logger()

    def close(self) -> None:
        self._task.close()

    def arrived(self) -> dict[str, int]:
        return {"clearml": arrivals.clearml_points(self.folder / "clearml")}


class ClearMLBinding(Contender):
    """torch's SummaryWriter with the TensorBoard binding of ClearML's SDK."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from torch.utils.tensorboard import SummaryWriter  # before Task.init: see clearml.md

        self._task = _offline_task()
        self.writer = SummaryWriter(str(folder / "events"))

    def close(self) -> None:
        self.writer.close()
        self._task.close()

    def arrived(self) -> dict[str, int]:
        return {
            "clearml": arrivals.clearml_points(self.folder / "clearml"),
            "event file": arrivals.event_file_points(self.folder / "events"),
        }


class PurePython(ClearMLBinding):
    """torch's SummaryWriter with the pure-Python backend, which reports to ClearML's logger."""

    def __init__(self, folder: Path) -> None:
        Contender.__init__(self, folder)
        from torch.utils.tensorboard import SummaryWriter

        from benchmarks.rivals.pure_python_backend import PurePythonBackend

        self._task = _offline_task(frameworks={"tensorboard": False})
        self._backend = PurePythonBackend(SummaryWriter, self._task.get_logger())
        self._backend.start()
        self.writer = SummaryWriter(str(folder / "events"))

    def settle(self) -> None:
        self._backend.drain()

    def close(self) -> None:
        self._backend.stop()
        super().close()
