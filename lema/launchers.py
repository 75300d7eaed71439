"""One process makes a cell: what a launcher started several times is refused, as they would wait for each other.

Each launcher tells a process how many there are and which one it is. Slurm tells the tasks that were asked for also in
a batch script and in a shell of salloc, which run once: there only the tasks of a step count, or a number above 0.
"""

import os
import sys
import time

# How many there are, and which one this is.
_TOLD = (
    ("WORLD_SIZE", "RANK"),  # torchrun, accelerate launch, deepspeed
    ("LOCAL_WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),  # Open MPI's mpirun
    ("PMI_SIZE", "PMI_RANK"),  # that of MPICH and Intel MPI
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),  # that of MVAPICH
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),  # srun
)
_SECONDS = 5.0  # torchrun ends all processes as soon as one has ended: the first is to say why


def refuse_several() -> None:
    """Exit when this is one of several processes; the first of them says so."""
    for size, number in (*_TOLD, ("SLURM_NTASKS", "SLURM_PROCID")):
        count, which = (os.environ.get(name, "") for name in (size, number))
        if not (count.isdecimal() and which.isdecimal() and int(count) > 1):
            continue
        unsure = size == "SLURM_NTASKS"  # number 0 may be a batch script
        if unsure and int(which) == 0:
            continue
        if int(which) > 0 and not unsure:
            time.sleep(_SECONDS)
            sys.exit(1)
        why = f"{size}={count}: started as {count} processes, but one process on one GPU makes a cell"
        sys.exit(f"{why}; start python run.py … by itself, and more cells beside it with CUDA_VISIBLE_DEVICES=1, …")
