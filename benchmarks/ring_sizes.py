"""`python -m benchmarks.ring_sizes`: what a smaller ring would cost, and the default's worth.

Rings of 1, 1/2, 1/4 and 1/8 of the default's size in turn, ROUNDS times; nanoseconds a call of
bursts that fit none of them, some, and all. Least and median; on a busy machine compare the least.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

ROUNDS = 5
SLOTS, PAYLOAD_BYTES = 1 << 17, 16 << 20
BURSTS = (("add_scalar", 20_000), ("add_scalar", 300_000), ("add_scalar", 3_000_000),
          ("add_histogram", 20_000))  # fmt: skip


def burst_ns(divisor: int, method: str, calls: int, folder: str) -> float:
    import numpy as np
    import tracelet
    from torch.utils.tensorboard import SummaryWriter

    config = {"ring_slots": SLOTS // divisor, "payload_bytes": PAYLOAD_BYTES // divisor}
    with tracelet.start_logging("ring", "benchmarks", "tensorboard", config):
        call = getattr(SummaryWriter(folder), method)
        value = 0.5 if method == "add_scalar" else np.random.default_rng(1).random(1000)
        start_s = time.perf_counter()
        for step in range(calls):
            call("tag", value, step)
        return (time.perf_counter() - start_s) / calls * 1e9


def main() -> None:
    taken: dict[tuple[str, int, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="tracelet-rings-") as folder:
        os.environ["TRACELET_DIR"] = str(Path(folder, "runs"))
        for number in range(ROUNDS):
            for method, calls in BURSTS:
                for divisor in (1, 2, 4, 8):
                    place = str(Path(folder, f"{method}-{calls}-{divisor}-{number}"))
                    times = taken.setdefault((method, calls, divisor), [])
                    times.append(burst_ns(divisor, method, calls, place))
    for (method, calls, divisor), times in taken.items():
        size_mib = (SLOTS * 64 + PAYLOAD_BYTES) // divisor >> 20
        what = f"{method:>13} x {calls:>9,}  ring of {size_mib:>2} MiB"
        print(f"{what}: least {min(times):>7,.0f} ns, median {statistics.median(times):>7,.0f} ns")


if __name__ == "__main__":
    main()
