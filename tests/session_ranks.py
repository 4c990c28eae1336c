"""One process of several in one ClearML session: `python session_ranks.py FOLDER SEED`.

It logs a series of its own, notes after each call how many have returned, and goes on until it is
killed or the file "stop" is in FOLDER. As a rank of torchrun its rank is LOCAL_RANK; without
torchrun, rank 0 starts the others itself.
"""

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

RANKS = 3


def value_of(seed, rank, step):
    return ((step * 2654435761 + seed + rank) % (1 << 32)) / 7.0


def main():
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    is_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    rank = int(os.environ.get("LOCAL_RANK" if is_torchrun else "TEST_RANK", "0"))
    note = folder / f"rank{rank}.count"
    note.write_bytes(bytes(8))
    with open(note, "r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")

    import tracelet

    log_dir = str(folder / f"log{rank}")
    # Long: on a busy machine the SDK's own end takes its time, and the last one makes the zip.
    config = {"log_dir": log_dir, "stop_timeout_s": 120.0, "exit_timeout_s": 120.0}
    experiment = tracelet.start_logging("ranks", "tests", config=config)
    if not is_torchrun and rank == 0:
        for other in range(1, RANKS):
            environment = {**os.environ, "TEST_RANK": str(other)}
            subprocess.Popen([sys.executable, *sys.argv], env=environment)
    experiment.log_params({f"of_rank{rank}": rank})
    (folder / f"rank{rank}.new").write_text(str(os.getpid()))
    os.replace(folder / f"rank{rank}.new", folder / f"rank{rank}.pid")
    step = 0
    while not (folder / "stop").exists():
        for _ in range(20):
            experiment.log_metric(f"rank{rank}/value", value_of(seed, rank, step), step)
            step += 1
            words[0] = step
        time.sleep(0.001)
    experiment.log_params({f"end_of_rank{rank}": rank})
    tracelet.stop_logging()


if __name__ == "__main__":
    main()
