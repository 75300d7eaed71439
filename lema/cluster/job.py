"""A cell in a job of Slurm: `python run.py` with the cell's arguments, in the process that submitit started.

Before Slurm ends a job, at its time limit or to let another one go first, it sends the signal that `--signal` names,
for which submitit has a handler: it has the job run again. It gets the signal once the run has saved all and stopped.
"""

import logging
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from lema import stopping

AGAIN = signal.SIGUSR2  # submitit's
_SECONDS = 30.0  # in which Slurm answers


@dataclass(frozen=True)
class Job:
    """What submitit calls in the job, with the cell's arguments."""

    script: str  # run.py

    def __call__(self, arguments: list[str]) -> None:
        """Make the cell. It ends as the command does: an exit status of 0, or not."""
        sys.argv = [self.script, *arguments]
        logging.getLogger("submitit").propagate = False  # it prints for itself
        try:
            runpy.run_path(self.script, run_name="__main__")
        except stopping.Stopped as stopped:
            if (received := stopping.received()) is None:
                raise
            if again := _runs_again(received):
                print(stopped.code, file=sys.stderr, flush=True)
            stopping.pass_on(AGAIN if again else signal.SIGTERM)
            raise

    def checkpoint(self, arguments: list[str]) -> Any:
        """The same job again: the run finds by itself how far it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, arguments)


def _runs_again(received: signal.Signals) -> bool:
    """Whether Slurm sent a signal to take the node back for a time. One who cancels a job sends SIGTERM too."""
    array, number = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    job = f"{array}_{number}" if array else os.environ.get("SLURM_JOB_ID", "")
    command = ["scontrol", "show", "job", "--oneliner", job]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    facts = {key: value for key, _, value in (each.partition("=") for each in told.split())}
    preempted = received is AGAIN or facts.get("PreemptTime", "None") != "None"
    return facts.get("Reason") == "TimeLimit" or (facts.get("JobState") == "RUNNING" and preempted)
