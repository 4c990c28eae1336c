"""Which rank of which job this process is, as whoever started it says by variables.

torchrun, Accelerate, Ray Train and DeepSpeed set RANK and WORLD_SIZE; Lightning's own launcher sets
LOCAL_RANK, NODE_RANK and WORLD_SIZE; srun, Open MPI, MPICH (and Intel MPI) and PMIx have variables
of their own. `TRACELET_RANK`, `TRACELET_WORLD_SIZE`, `TRACELET_NODE` and `TRACELET_JOB` go first.

Sources: the environment variables of `torch.distributed.run`, Slurm's srun(1), Open MPI's mpirun(1)
and MPICH's Hydra.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tracelet.environment import OF_THE_JOB
from tracelet.runs.process_identity import start_of

_RANK, _WORLD_SIZE, _NODE, _JOB = OF_THE_JOB

_MOST_DIGITS = 9  # no job has more processes; and Python makes no number of thousands
_NO_RUN_ID = "none"  # torchrun's default, the same for all jobs


@dataclass(frozen=True)
class Job:
    """One process' place in its job."""

    id: str
    """The same on all ranks and across restarts, different for each job; "" where nobody says."""
    rank: int
    world_size: int
    local_rank: int
    """Among the processes of this node."""
    node: int
    restarts: int
    """How often the job was started anew: elastic restarts, requeues."""
    launcher: str
    """Who says so."""

    def __str__(self) -> str:
        where = f", node {self.node}" if self.node else ""
        restarts = f", restart {self.restarts}" if self.restarts else ""
        return f"rank {self.rank} of {self.world_size} ({self.launcher}{where}{restarts})"


def find_job(variables: Mapping[str, str] | None = None) -> Job | None:
    """None for a process that is no rank of anything. What is not a number, or has
    more than nine digits, counts as not set."""
    of = _Variables(os.environ if variables is None else variables)
    for find in (_named, _torchrun, _lightning, _slurm, _open_mpi, _mpich):
        job = find(of)
        if job is not None:
            return job
    return None


def rank_here() -> int:
    """0 for a process that is alone."""
    job = find_job()
    return 0 if job is None else job.rank


class _Variables:
    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def text(self, name: str) -> str:
        return self._variables.get(name, "").strip()

    def number(self, *names: str) -> int | None:
        """Of the first that has one; ranks and sizes are never below 0."""
        for name in names:
            text = self.text(name)
            if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS:
                return int(text)
        return None


def _job(
    of: _Variables,
    launcher: str,
    job_id: str,
    rank: int | None,
    world_size: int | None,
    local_rank: int | None = None,
    node: int | None = None,
    restarts: int | None = None,
) -> Job | None:
    """None unless both numbers are there and the rank is one of the world's."""
    if rank is None or not world_size or rank >= world_size:
        return None
    named = of.number(_NODE)
    return Job(
        of.text(_JOB) or job_id,
        rank,
        world_size,
        local_rank if local_rank is not None else rank,
        named if named is not None else node or 0,
        restarts or 0,
        launcher,
    )


def _named(of: _Variables) -> Job | None:
    return _job(
        of, _RANK, "", of.number(_RANK), of.number(_WORLD_SIZE), of.number("LOCAL_RANK")
    )  # fmt: skip


def _torchrun(of: _Variables) -> Job | None:
    return _job(
        of, "torchrun" if of.text("TORCHELASTIC_RUN_ID") else "RANK", _torchrun_id(of),
        of.number("RANK"), of.number("WORLD_SIZE"), of.number("LOCAL_RANK"),
        of.number("GROUP_RANK", "NODE_RANK"), of.number("TORCHELASTIC_RESTART_COUNT"),
    )  # fmt: skip


def _torchrun_id(of: _Variables) -> str:
    run_id = of.text("TORCHELASTIC_RUN_ID")
    if run_id and run_id != _NO_RUN_ID:
        return f"torchrun-{run_id}"
    if of.text("SLURM_JOB_ID"):
        return _slurm_id(of)
    meeting = f"{of.text('MASTER_ADDR')}:{of.text('MASTER_PORT')}"
    if run_id and (of.number("GROUP_WORLD_SIZE") or 1) == 1:
        # Its agent, which outlives restarts; the port of the meeting does not.
        return f"torchrun-{os.getppid()}-{start_of(os.getppid())}"
    return "" if meeting == ":" else f"meeting-{meeting}"


def _lightning(of: _Variables) -> Job | None:
    """Its launcher names no rank, but as many processes as there are on each node."""
    local_rank, node = of.number("LOCAL_RANK"), of.number("NODE_RANK", "GROUP_RANK")
    world_size = of.number("WORLD_SIZE")
    if local_rank is None or world_size is None:
        return None
    each = of.number("LOCAL_WORLD_SIZE")
    if node and each is None:
        return None  # which rank it is can't be told
    rank = (node or 0) * (each or 0) + local_rank
    return _job(of, "Lightning", _torchrun_id(of), rank, world_size, local_rank, node)


def _slurm(of: _Variables) -> Job | None:
    """Of processes that srun started: in a batch script itself there is no step."""
    if not of.text("SLURM_STEP_ID"):
        return None
    return _job(
        of, "Slurm", _slurm_id(of), of.number("SLURM_PROCID"),
        of.number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), of.number("SLURM_LOCALID"),
        of.number("SLURM_NODEID"), of.number("SLURM_RESTART_COUNT"),
    )  # fmt: skip


def _slurm_id(of: _Variables) -> str:
    """A job of an array has an id of its own; a job that is requeued keeps it, and its steps."""
    job = of.text("SLURM_JOB_ID")
    return f"slurm-{job}-{of.text('SLURM_STEP_ID') or 0}" if job else ""


def _open_mpi(of: _Variables) -> Job | None:
    return _job(
        of, "Open MPI", _mpi_id(of), of.number("OMPI_COMM_WORLD_RANK"),
        of.number("OMPI_COMM_WORLD_SIZE"), of.number("OMPI_COMM_WORLD_LOCAL_RANK"),
    )  # fmt: skip


def _mpich(of: _Variables) -> Job | None:
    return _job(
        of, "MPICH", _mpi_id(of), of.number("PMI_RANK", "PMIX_RANK"),
        of.number("PMI_SIZE", "PMIX_SIZE"), of.number("MPI_LOCALRANKID", "MPI_LOCALRANK_ID"),
    )  # fmt: skip


def _mpi_id(of: _Variables) -> str:
    if of.text("SLURM_JOB_ID"):
        return _slurm_id(of)
    space = of.text("PMIX_NAMESPACE") or of.text("OMPI_MCA_ess_base_jobid") or of.text("PMI_JOBID")
    return f"mpi-{space}" if space else ""
