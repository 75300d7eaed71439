"""What Slurm says: whether it is there, which partitions it has, and how far jobs are.

Jobs are looked up with `squeue`, which knows one for some minutes after its end. `sacct` needs an accounting database,
which not every cluster has, and without it nobody would learn of a job that was killed.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from lema.types import UserError

_SECONDS = 30.0  # in which Slurm answers; its commands wait for a controller that is away
LOOK_SECONDS = 5.0
_AWAY = (
    "hydra/launcher=slurm: Slurm's controller does not answer (scontrol ping); the same command goes on when it does"
)
# A job in another state will run, runs or is about to end.
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
# Slurm's own lines in a job's log, but for `srun: error: NODE: task 0: Killed`, or Out Of Memory.
_NOISE = re.compile(r"slurmstepd|srun: (?!error: \S+: task \d+: (?!Exited))")
GONE = "UNKNOWN"  # Slurm has forgotten it


def check(partition: str | None) -> None:
    """`UserError` when no job can be sent from here, or not to this partition."""
    lacking = [name for name in ("sbatch", "squeue", "scontrol", "sinfo", "srun") if not shutil.which(name)]
    if lacking:
        where = "start it on a machine of the cluster from which jobs are sent"
        raise UserError(f"hydra/launcher=slurm: Slurm's commands are not here ({', '.join(lacking)}); {where}")
    told = _asked("sinfo", "--noheader", "--format=%R")
    if told is None:
        raise UserError(_AWAY)
    known = sorted(set(told.split()))
    if partition is not None and (wrong := set(partition.split(",")) - set(known)):
        name = ",".join(sorted(wrong))
        raise UserError(f"hydra.launcher.partition={name}: Slurm has no such partition; choose from {', '.join(known)}")


def states(jobs: Iterable[str]) -> dict[str, str] | None:
    """The state of each job that Slurm knows, `12_3` of an array; None when it does not answer."""
    sent = sorted({job.partition("_")[0] for job in jobs})
    found: dict[str, str] = {}
    for each in sent:  # of several, Slurm names none when it has forgotten one
        told = _asked("squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={each}")
        if told is None:
            return None
        found |= dict(line.split()[:2] for line in told.splitlines() if line.strip())
    return found


def wait(jobs: Iterable[str], tell: Callable[[str, str], object]) -> None:
    """Until all jobs have ended; `tell` gets each new state of a job, at last how it ended, or `GONE`."""
    before, last = dict[str, str](), dict.fromkeys(jobs, "")
    while last:
        found = states(last)
        for job in [*last] if found is not None else ():
            state = (found or {}).get(job, GONE)
            if state != last[job]:
                tell(job, state)
            # Twice in a row: a job that runs again may for a moment look as if it had ended.
            if (state in _ENDED or state == GONE) and before.get(job) == state:
                del last[job]
            else:
                before[job] = last[job] = state
        if last:
            time.sleep(LOOK_SECONDS)


def alive(jobs: Iterable[str]) -> list[str]:
    """Those of the jobs that will run or run."""
    if (found := states(jobs)) is None:
        raise UserError(_AWAY)
    return [job for job in jobs if found.get(job, GONE) not in (*_ENDED, GONE)]


def last_words(log: Path) -> str:
    """The last line of a job's log that says why it ended; "" when there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip() and not _NOISE.match(line)), "")


def _asked(*command: str) -> str | None:
    """What a command of Slurm answers; None when its controller does not. A job that it has forgotten is no line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return done.stdout
