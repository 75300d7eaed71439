"""What Slurm says: whether it is there, which partitions it has, how far jobs are, and why some wait.

Jobs are looked up with `squeue`, which knows one for some minutes after its end. `sacct` needs an accounting database,
which not every cluster has, and without it nobody would learn of a job that was killed.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lema.types import UserError

_SECONDS = 30.0  # in which Slurm answers; its commands wait for a controller that is away
LOOK_SECONDS = 5.0
_AWAY = (
    "hydra/launcher=slurm: Slurm's controller does not answer (scontrol ping); the same command goes on when it does"
)
# A job in another state will run, runs or is about to end.
_ENDED = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"),
    "PREEMPTED",  # and not requeued
}
# Slurm's own lines in a job's log, but for `srun: error: NODE: task 0: Killed`, or Out Of Memory.
_NOISE = re.compile(r"slurmstepd|srun: (?!error: \S+: task \d+: (?!Exited))")
GONE = "UNKNOWN"  # Slurm has forgotten it
_JUST_SENT = ("", "None")  # Slurm has not thought of it yet
_TURN = "wait for their turn"
# What Slurm's reasons mean (squeue's manual); of two that fit, the first. Others are told as they are.
_REASONS = {
    r"Resources|Priority|JobArrayTaskLimit|BeginTime|Cleaning|Prolog$": _TURN,
    r"ReqNodeNotAvail|Nodes?[ _]required|NodeDown|Partition(Down|Inactive)": (
        "wait for nodes that are down or reserved; sinfo shows which"
    ),
    r"(Assoc|QOS)Grp(\w*(?<!Run)Minutes|Wall)": "cannot start: the account or the QOS has no hours left",
    r"(Assoc|QOS)(Grp|Max(Jobs|Submit|\w*Per(User|Account)))|(Association|QOS)JobLimit": (
        "wait until other jobs of the user, the account or the QOS have ended"
    ),
    r"\w*(TimeLimit|MaxWall)": (
        "cannot start: their time limit is above that of the partition, the account or the QOS; "
        "hydra.launcher.most_hours= or timeout_min= lowers it"
    ),
    r"(Assoc|QOS)M(ax|in)|(Association|QOS)ResourceLimit|MaxMemPer": (
        "cannot start: they ask for more, or less, than the account or the QOS lets a job have"
    ),
    r"Invalid(Account|QOS)|(QOS|Account)NotAllowed|AccountingPolicy": (
        "cannot start: the account or the QOS may not be used here; hydra.launcher.account= and qos= name others"
    ),
    r"BadConstraints|Partition(Config|NodeLimit)": (
        "cannot start: the partition has no node with all that they ask for; "
        "hydra.launcher.partition=, constraint= or card= name others"
    ),
    r"DependencyNeverSatisfied": "cannot start: the job on which they depend has failed",
    r"ReservationDeleted|RequiresReservation|ReqResv": "cannot start: the reservation is gone, or one must be named",
    r"JobHeld|.*held": "are held, and wait until scontrol release lets them go",
}


def check(partition: Any) -> None:
    """`UserError` when no job can be sent from here, or not to this partition."""
    lacking = [name for name in ("sbatch", "squeue", "scontrol", "sinfo", "srun") if not shutil.which(name)]
    if lacking:
        where = "start it on a machine of the cluster from which jobs are sent"
        raise UserError(f"hydra/launcher=slurm: Slurm's commands are not here ({', '.join(lacking)}); {where}")
    told = _asked("sinfo", "--all", "--noheader", "--format=%R")  # also of hidden ones, which sbatch may take
    if told is None:
        raise UserError(_AWAY)
    known = sorted(set(told.split()))
    if partition is not None and (wrong := set(str(partition).split(",")) - set(known)):
        name = ",".join(sorted(wrong))
        raise UserError(f"hydra.launcher.partition={name}: Slurm has no such partition; choose from {', '.join(known)}")


def states(jobs: Iterable[str]) -> dict[str, tuple[str, str]] | None:
    """The state of each job that Slurm knows, `12_3` of an array, and why it waits; None when it does not answer."""
    found: dict[str, tuple[str, str]] = {}
    jobs = [*jobs]
    for each in sorted({job.partition("_")[0] for job in jobs}):  # of several, it names none when it has forgotten one
        told = _asked("squeue", "--noheader", "--array", "--states=all", "--format=%i %T %r", f"--jobs={each}")
        if told is None:
            return None
        for line in told.splitlines():
            name, state, reason = [*line.split(maxsplit=2), "", "", ""][:3]
            found[name] = state, reason.strip() if state == "PENDING" else ""
    # What of an array never began ends under the array's own number.
    return {job: found.get(job) or found.get(job.partition("_")[0], (GONE, "")) for job in jobs}


def wait(
    jobs: Iterable[str], tell: Callable[[str, str, bool], object], waiting: Callable[[list[str], str], object]
) -> None:
    """Until all jobs have ended; `tell` gets each new state of a job, and whether the job has ended, maybe as `GONE`.

    `waiting` gets jobs and, in words, for what they wait: once for each job and reason.
    """
    last, told, silent = dict.fromkeys(jobs, ""), set[tuple[str, str]](), False
    while last:
        found, new = states(last), dict[str, list[str]]()
        if found is None and not silent:
            waiting([*last], "go on, but Slurm's controller does not answer")
        silent = found is None
        for job, (state, reason) in (found or {}).items():
            over = state in (*_ENDED, GONE)
            # Twice in a row: a job that runs again may for a moment look as if it had ended.
            if over and last[job] == state:
                del last[job]
                tell(job, state, True)
                continue
            if state != last[job] and not over:
                tell(job, state, False)
            last[job] = state
            if reason not in _JUST_SENT and (job, words := in_words(reason)) not in told:
                told.add((job, words))
                new.setdefault(words, []).append(job)
        for words, those in new.items():
            waiting(those, words)
        if last:
            time.sleep(LOOK_SECONDS)


def in_words(reason: str) -> str:
    """Why jobs wait, by Slurm's reason."""
    words = next((words for known, words in _REASONS.items() if re.match(known, reason)), "wait")
    return words if words == _TURN else f"{words} ({reason})"


def alive(jobs: Iterable[str]) -> list[str]:
    """Those of the jobs that will run or run."""
    if (found := states(jobs)) is None:
        raise UserError(_AWAY)
    return [job for job, (state, _) in found.items() if state not in (*_ENDED, GONE)]


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
