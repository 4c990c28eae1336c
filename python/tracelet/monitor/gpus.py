"""NVIDIA GPUs as NVML says it, by the package nvidia-ml-py; nothing is run on them."""

from __future__ import annotations

from typing import Any, Callable

_GIB = 1 << 30


def open_gpus() -> Gpus | None:
    """None without the package, the driver or a GPU."""
    try:
        import pynvml  # from nvidia-ml-py
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None
    return Gpus(pynvml, handles) if handles else None


class Gpus:
    """All of this node, by their numbers there. One thread."""

    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self._nvml = nvml
        self._handles = handles

    def sample(self) -> dict[str, float]:
        """What one can't say (MIG, an older GPU, one that fell off the bus) is left out."""
        found: dict[str, float] = {}
        for n, handle in enumerate(self._handles):
            self._ask(found, f"gpu{n}", handle)
        return found

    def _ask(self, found: dict[str, float], name: str, handle: Any) -> None:
        nvml = self._nvml

        def add(ask: Callable[[], dict[str, float]]) -> None:
            try:
                values = ask()
            except nvml.NVMLError:
                return
            found.update({f"{name}_{each}": value for each, value in values.items()})

        def memory() -> dict[str, float]:
            info = nvml.nvmlDeviceGetMemoryInfo(handle)
            return {"memory_gib": info.used / _GIB, "memory_percent": 100 * info.used / info.total}

        add(lambda: {"percent": float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)})
        add(memory)
        add(lambda: {"power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1000})
        add(lambda: {
            "temperature_c": float(
                nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            ),
        })  # fmt: skip
