"""One process makes a cell, and starts the ranks of its training: if a launcher starts several, we refuse.

A launcher tells each process in its environment how many processes there are, and its own number. Slurm sets the number
of tasks also in a batch script and in a shell of salloc, which run once. There we count only the tasks of a step, or
believe a task number above 0.
"""

import os
import sys
import time

# The variables of the number of processes, and of the number of this process.
_TORCH = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK")  # torchrun, accelerate launch, deepspeed
_VARIABLES = (
    _TORCH[:2],
    _TORCH[2:],
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),  # Open MPI's mpirun
    ("PMI_SIZE", "PMI_RANK"),  # mpirun of MPICH and Intel MPI
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),  # mpirun of MVAPICH
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),  # srun
)
_SECONDS = 5.0  # torchrun ends all processes once one has ended, so the others wait until the first has said why


def refuse_several() -> None:
    """Exit if this is one of several processes; the first of them prints the reason.

    Of torchrun with one process its variables go, as our own ranks would take them for theirs.
    """
    for size, number in (*_VARIABLES, ("SLURM_NTASKS", "SLURM_PROCID")):
        count, rank = (os.environ.get(name, "") for name in (size, number))
        if not (count.isdecimal() and rank.isdecimal() and int(count) > 1):
            continue
        unsure = size == "SLURM_NTASKS"  # rank 0 may be a batch script
        if unsure and int(rank) == 0:
            continue
        if int(rank) > 0 and not unsure:
            time.sleep(_SECONDS)
            sys.exit(1)
        reason = f"{size}={count}: started as {count} processes, but one process makes a cell and starts its own ranks"
        sys.exit(f"{reason}, one for each visible GPU; start python run.py … without the launcher")
    for name in _TORCH:
        os.environ.pop(name, None)
