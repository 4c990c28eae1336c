"""Which rank of which job a process is, by the variables of each launcher."""

from __future__ import annotations

import os

import pytest
from tracelet.ranks.job import find_job
from tracelet.runs.process_identity import start_of

_AGENT = f"torchrun-{os.getppid()}-{start_of(os.getppid())}"
_TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "abc",
    "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip
_SRUN = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "3", "SLURM_PROCID": "9", "SLURM_NTASKS": "16",
    "SLURM_STEP_NUM_TASKS": "12", "SLURM_LOCALID": "1", "SLURM_NODEID": "2",
}  # fmt: skip
_LIGHTNING = {"LOCAL_RANK": "3", "NODE_RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": "4711"}  # fmt: skip

JOBS = {
    "torchrun": (_TORCHRUN, ("torchrun-abc", 5, 8, 1, 1, 2, "torchrun")),
    "torchrun without an id, one node": (
        {**_TORCHRUN, "TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": "1"},
        (_AGENT, 5, 8, 1, 1, 2, "torchrun"),
    ),
    "torchrun without an id, several nodes": (
        {**_TORCHRUN, "TORCHELASTIC_RUN_ID": "none"},
        ("meeting-node0:29500", 5, 8, 1, 1, 2, "torchrun"),
    ),
    "torchrun without an id, under srun": (
        {**_SRUN, **_TORCHRUN, "TORCHELASTIC_RUN_ID": "none"},
        ("slurm-77-3", 5, 8, 1, 1, 2, "torchrun"),
    ),
    "RANK set by hand": ({"RANK": "0", "WORLD_SIZE": "2"}, ("", 0, 2, 0, 0, 0, "RANK")),
    "Lightning": (_LIGHTNING, ("meeting-127.0.0.1:4711", 3, 4, 3, 0, 0, "Lightning")),
    "Lightning, second node": (
        {**_LIGHTNING, "NODE_RANK": "1", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"},
        ("meeting-127.0.0.1:4711", 7, 8, 3, 1, 0, "Lightning"),
    ),
    "Slurm": (_SRUN, ("slurm-77-3", 9, 12, 1, 2, 0, "Slurm")),
    "Slurm, requeued": (
        {**_SRUN, "SLURM_RESTART_COUNT": "1"},
        ("slurm-77-3", 9, 12, 1, 2, 1, "Slurm"),
    ),
    "Open MPI": (
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4",
         "OMPI_COMM_WORLD_LOCAL_RANK": "0", "PMIX_NAMESPACE": "prterun-1"},
        ("mpi-prterun-1", 1, 4, 0, 0, 0, "Open MPI"),
    ),
    "MPICH": (
        {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "2", "PMI_JOBID": "j"},
        ("mpi-j", 2, 4, 2, 0, 0, "MPICH"),
    ),
    "named": (
        {**_TORCHRUN, "TRACELET_RANK": "1", "TRACELET_WORLD_SIZE": "3", "TRACELET_JOB": "mine",
         "TRACELET_NODE": "4"},
        ("mine", 1, 3, 1, 4, 0, "TRACELET_RANK"),
    ),
    "named job of torchrun": (
        {**_TORCHRUN, "TRACELET_JOB": "mine"}, ("mine", 5, 8, 1, 1, 2, "torchrun"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_a_launchers_variables_say_who_this_is(name):
    variables, wanted = JOBS[name]
    job = find_job(variables)
    found = (job.id, job.rank, job.world_size, job.local_rank, job.node, job.restarts, job.launcher)
    assert found == wanted


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "", "WORLD_SIZE": ""},
        {"RANK": "two", "WORLD_SIZE": "4"},
        {"RANK": "-1", "WORLD_SIZE": "4"},
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "0"},
        {"WORLD_SIZE": "4"},
        {"LOCAL_RANK": "1"},
        # int() takes no more than 4,300 digits, and a rank has none of these.
        {"RANK": "1" * 5000, "WORLD_SIZE": "4"},
        {"RANK": "0", "WORLD_SIZE": "1" * 10},
        # Of a batch script or an interactive shell, where no rank was started.
        {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_NTASKS": "16"},
        # Which rank of eight this is can't be told.
        {"LOCAL_RANK": "1", "NODE_RANK": "1", "WORLD_SIZE": "8"},
    ],
)
def test_what_says_it_by_halves_is_no_job(variables):
    assert find_job(variables) is None


def test_it_reads_as_a_line():
    assert str(find_job(_TORCHRUN)) == "rank 5 of 8 (torchrun, node 1, restart 2)"


def test_doctor_tells_it(monkeypatch, capsys, tmp_path):
    from tracelet.cli import main

    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    for name, value in _SRUN.items():
        monkeypatch.setenv(name, value)
    main(["doctor", "--runs-dir", str(tmp_path)])
    assert "ok    job: rank 9 of 12 (Slurm, node 2), job slurm-77-3" in capsys.readouterr().out
