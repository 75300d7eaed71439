"""How jobs end and why they wait, by what a real squeue (22.05) printed; here a script prints it again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lema.cluster import queue


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`squeue(FIRST, SECOND)`: what it prints when it is asked; the last one again and again, "" after an error."""

    def printing(*answers: str) -> None:
        for number, answer in enumerate(answers):
            (tmp_path / f"{number}.answer").write_text(answer)
        script = tmp_path / "squeue"
        script.write_text(
            f"#!/bin/sh\ncd {tmp_path}\nset -- *.answer\n/bin/cat $1\ntest -s $1; rc=$?\n"
            "test $# = 1 || /bin/rm $1\nexit $rc\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(queue, "LOOK_SECONDS", 0)

    return printing


def waited(*jobs: str) -> list[str]:
    """All that is told until the jobs have ended."""
    told: list[str] = []
    queue.wait(
        jobs,
        lambda job, state, over: told.append(f"{job} {state}{' over' if over else ''}"),
        lambda those, why: told.append(f"{' '.join(those)} {why}"),
    )
    return told


def test_each_state_and_each_reason_to_wait_is_told_once(squeue: Callable[..., None]) -> None:
    waits = "18_0 PENDING {}\n18_1 PENDING {}\n"
    runs = "18_0 RUNNING None\n18_1 COMPLETING None\n"
    ended = "18_0 COMPLETED None\n18_1 FAILED NonZeroExitCode\n"
    given = [waits.format(*each) for each in (("None", "None"), ("Resources", "Priority"), ("Priority", "Resources"))]
    squeue(*given, waits.format("JobHeldUser", "Priority"), runs, ended, given[0], ended)
    held = "are held, and wait until scontrol release lets them go (JobHeldUser)"
    again = ["18_0 PENDING", "18_1 PENDING"]  # a job that is requeued looks as if it had ended
    assert waited("18_0", "18_1") == [
        *again,
        "18_0 18_1 wait for their turn",
        f"18_0 {held}",
        *("18_0 RUNNING", "18_1 COMPLETING", *again, "18_0 COMPLETED over", "18_1 FAILED over"),
    ]


def test_a_controller_that_is_away_is_told_once(squeue: Callable[..., None]) -> None:
    squeue("18 RUNNING None\n", "", "", "18 COMPLETED None\n")
    away = "18 go on, but Slurm's controller does not answer"
    assert waited("18") == ["18 RUNNING", away, "18 COMPLETED over"]


@pytest.mark.parametrize(
    ("line", "job", "state"),
    [
        ("18 CANCELLED PartitionTimeLimit\n", "18_3", "CANCELLED"),  # an array that was cancelled before it began
        ("19 PREEMPTED None\n", "19", "PREEMPTED"),  # and not requeued
        ("20 COMPLETED None\n", "21", "UNKNOWN"),  # forgotten
    ],
)
def test_every_end_of_a_job_is_one(squeue: Callable[..., None], line: str, job: str, state: str) -> None:
    squeue(line)
    assert queue.alive([job]) == []
    assert waited(job) == [f"{job} {state} over"]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Resources", "wait for their turn"),
        ("JobArrayTaskLimit", "wait for their turn"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", "wait for nodes that are down"),
        ("Nodes required for job are DOWN, DRAINED or reserved", "wait for nodes that are down"),
        ("QOSMaxGRESPerUser", "wait until other jobs"),
        ("AssocGrpGRES", "wait until other jobs"),
        ("AssocGrpCPURunMinutesLimit", "wait until other jobs"),
        ("AssocGrpBillingMinutes", "cannot start: the account or the QOS has no hours left"),
        ("PartitionTimeLimit", "cannot start: their time limit is above"),
        ("QOSMaxWallDurationPerJobLimit", "cannot start: their time limit is above"),
        ("QOSMaxGRESPerJob", "cannot start: they ask for more, or less,"),
        ("QOSMinGRES", "cannot start: they ask for more, or less,"),
        ("InvalidAccount", "cannot start: the account or the QOS may not be used here"),
        ("PartitionConfig", "cannot start: the partition has no node"),
        ("DependencyNeverSatisfied", "cannot start: the job on which they depend has failed"),
        ("Dependency", "wait (Dependency)"),
        ("launch failed requeued held", "are held"),
        ("Licenses", "wait (Licenses)"),
    ],
)
def test_what_never_passes_is_told_apart(reason: str, words: str) -> None:
    assert queue.in_words(reason).startswith(words)
