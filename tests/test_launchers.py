"""What a launcher started several times is refused in one line by the first, and at once."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import ROOT, TRAINING

SEVERAL = {
    "torchrun": {"WORLD_SIZE": "2", "RANK": "{}", "LOCAL_RANK": "{}", "LOCAL_WORLD_SIZE": "2"},
    "torchrun, one a node": {"WORLD_SIZE": "4", "RANK": "{}", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
    "mpirun of Open MPI": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "{}"},
    "mpirun of MPICH": {"PMI_SIZE": "2", "PMI_RANK": "{}"},
    "mpirun of MVAPICH": {"MV2_COMM_WORLD_SIZE": "8", "MV2_COMM_WORLD_RANK": "{}"},
    "srun": {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "{}"},
}
ONE = {
    "a laptop": {},
    "torchrun of one": {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
    "mpirun of one": {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0", "PMI_SIZE": "1", "PMI_RANK": "0"},
    "a batch script of sbatch -n 4": {"SLURM_NTASKS": "4", "SLURM_NPROCS": "4", "SLURM_PROCID": "0"},
    "a shell of salloc -n 4": {"SLURM_NTASKS": "4", "SLURM_NPROCS": "4"},
    "an interactive step": {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    "a size without a number": {"WORLD_SIZE": "2"},
    "no numbers": {"WORLD_SIZE": "two", "RANK": "", "LOCAL_RANK": "-1"},
}


def checked(variables: dict[str, str], number: int) -> subprocess.CompletedProcess[str]:
    """`refuse_several` as that process has it, without the wait of those that say nothing."""
    code = "from lema import launchers; launchers._SECONDS = 0.0; launchers.refuse_several(); "
    code += "import os; print('goes on', [name for name in launchers._TORCH if name in os.environ])"
    environment = os.environ | {name: value.format(number) for name, value in variables.items()}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("variables", SEVERAL.values(), ids=list(SEVERAL))
def test_one_of_several_is_refused_and_the_first_says_so(variables: dict[str, str]) -> None:
    first, second = (checked(variables, number) for number in (0, 1))
    assert (first.returncode, second.returncode) == (1, 1)
    assert first.stderr.count("\n") == 1
    assert "processes, but one process makes a cell and starts its own ranks" in first.stderr
    assert (first.stdout, second.stdout, second.stderr) == ("", "", "")


def test_a_second_task_of_slurm_is_none_of_a_batch_script() -> None:
    done = checked({"SLURM_NTASKS": "4", "SLURM_PROCID": "{}"}, 1)
    assert done.returncode == 1
    assert done.stderr.startswith("SLURM_NTASKS=4: started as 4 processes")


@pytest.mark.parametrize("variables", ONE.values(), ids=list(ONE))
def test_a_process_of_its_own_goes_on(variables: dict[str, str]) -> None:
    assert checked(variables, 0).stdout == "goes on []\n"  # what is left would have each rank wait for others


@pytest.mark.slow
def test_torchrun_ends_in_one_line(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    start = time.monotonic()
    done = subprocess.run(
        [*torchrun, str(ROOT / "run.py"), *TRAINING, f"runs_dir={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert time.monotonic() - start < 35
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if "makes a cell" in line]
    assert line.startswith("WORLD_SIZE=2: started as 2 processes")
    assert list(tmp_path.iterdir()) == []
