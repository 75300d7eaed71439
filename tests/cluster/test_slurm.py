"""A sweep on a real Slurm: jobs that are preempted, out of time, killed or cancelled, and what a cluster may lack."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import slurm
from small import ROOT, SMALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SECONDS = 400  # that a step of the test may take on a busy machine
# Four cells of the demo, of which each trains for half a minute or more.
CELLS = [
    *("sweeps=demo", "mix=lema", "seed=1,2,3,4", *SMALL, "selection=last"),
    *("train.epochs=null", "train.max_steps=300", "train.batch_size=16", "train.save_steps=50"),
]
LAUNCHER = [
    *("hydra/launcher=slurm", "hydra.launcher.partition=main", "hydra.launcher.signal_delay_s=20"),
    *("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1", "hydra.launcher.timeout_min=10"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    slurm.needed()
    with slurm.cluster() as folder:
        yield folder
    assert not folder.exists()
    assert not slurm.processes(folder / "slurm.conf")


def start(runs: Path, *overrides: str, cells: Sequence[str] = CELLS) -> subprocess.Popen[str]:
    words = [sys.executable, str(ROOT / "run.py"), *cells, *overrides, f"runs_dir={runs}"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, **pipes, text=True, cwd=runs.parent, start_new_session=True)


def ended(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=SECONDS)
    print(out)
    assert "Traceback" not in out
    return "".join(line for line in out.splitlines(keepends=True) if "at work for" not in line)  # on a busy machine


def until(seen: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + SECONDS
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.2)


def shown(job: str, what: str) -> str:
    """What Slurm says of a job: `JobState`, `PreemptTime`, …"""
    [value] = re.findall(rf"\b{what}=(\S+)", slurm.asked("scontrol", "show", "job", "--oneliner", job))
    return value


def process_of(job: str, cluster: Path) -> int:
    """The process that makes the cell of a job."""
    number = f"SLURM_JOB_ID={shown(job, 'JobId')}".encode()
    for pid in slurm.processes(cluster / "slurm.conf"):
        path = Path(f"/proc/{pid}")
        name, *words = (path / "cmdline").read_bytes().split(b"\0")
        if (
            b"python" in name
            and b"submitit.core._submit" in words
            and number in (path / "environ").read_bytes().split(b"\0")
        ):
            return pid
    raise AssertionError(f"job {job} has no process")


def weights(runs: Path) -> dict[str, dict[str, bytes]]:
    """Every file of each training but its record, which has the time; without the place of the runs folder."""
    return {
        folder.name: {
            file.relative_to(folder).as_posix(): file.read_bytes().replace(str(runs).encode(), b"RUNS")
            for file in folder.rglob("*")
            if file.is_file() and file.name != "record.json"
        }
        for folder in (runs / "train").iterdir()
        if (folder / "record.json").is_file()
    }


def test_a_sweep_survives_its_cluster(cluster: Path, tmp_path: Path) -> None:
    runs, logs = tmp_path / "runs", tmp_path / "runs/hydra/slurm"
    launcher = start(runs, *LAUNCHER)
    training = {}

    def all_train() -> bool:
        for note in logs.glob("*.json"):
            for name, job in json.loads(note.read_text()).items():
                arm = name.removeprefix("arithmetic-tiny-").rpartition("-")[0]
                if list(runs.glob(f"train/*{arm}*.partial/resume/checkpoint-50/contents.json")):
                    training[job] = arm
        return len(training) == 4

    until(all_train, launcher)
    urgent = subprocess.Popen(["srun", "--partition", slurm.HIGHER, "--cpus-per-task=1", "true"])
    until(lambda: any(shown(job, "PreemptTime") != "None" for job in training), launcher)
    [preempted] = [job for job in training if shown(job, "PreemptTime") != "None"]
    *_, killed, cancelled, timed = (job for job in training if job != preempted)
    # Slurm looks at time limits every 30 s. The job must not have ended by then; Slurm also sends SIGCONT.
    os.kill(process_of(timed, cluster), signal.SIGSTOP)
    slurm.asked("scontrol", "update", f"JobId={timed}", "TimeLimit=1")
    os.kill(process_of(killed, cluster), signal.SIGKILL)
    slurm.asked("scancel", cancelled)
    until(lambda: shown(timed, "Restarts") == "1", launcher)
    slurm.asked("scontrol", "update", f"JobId={timed}", "TimeLimit=10")
    out = ended(launcher)
    assert urgent.wait(60) == 0
    assert launcher.returncode == 1
    assert "2 of 4 jobs failed; the same command tries their cells again:" in out
    assert re.search(rf"job {killed} failed: .*Killed", out)
    assert f"job {cancelled} cancelled" in out
    begun = {job: (logs / f"{job}_0_log.out").read_text() for job in training}
    for job, times in ((preempted, 2), (timed, 2), (killed, 1), (cancelled, 1)):
        assert begun[job].count("Starting with JobEnvironment") == times, begun[job]
    assert "train: stopped by SIGTERM after step" in begun[preempted]
    assert "train: stopped by SIGUSR2 after step" in begun[timed]
    assert "train: stopped by SIGTERM after step" in begun[cancelled]

    undisturbed = tmp_path / "undisturbed"
    seeds = [training[job].partition("-seed")[2] for job in (preempted, timed)]
    alone = [start(undisturbed, f"seed={seed}") for seed in seeds]
    again = start(runs, *LAUNCHER)
    out = ended(again)
    assert again.returncode == 0
    assert len(re.findall(r"job \S+ completed", out)) == 2
    for stage, count in (("data", 1), ("base", 1), ("sample", 1), ("correct", 1), ("mix", 1), ("train", 4)):
        assert len(list(runs.glob(f"{stage}/*/record.json"))) == count, stage
    assert (runs / "reports/demo/report.md").is_file()
    assert {json.loads(cell.read_text())["state"] for cell in runs.glob("cells/*/run.json")} == {"finished"}

    for process in alone:
        ended(process)
    expected = weights(undisturbed)
    assert len(expected) == 2
    assert {name: files for name, files in weights(runs).items() if name in expected} == expected


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["hydra.launcher.partition=none"],
            "hydra.launcher.partition=none: Slurm has no such partition; choose from main",
        ),
        (["hydra.launcher.constraint=gold"], "hydra/launcher=slurm: sbatch: error: "),
    ],
)
def test_what_slurm_refuses_is_one_line(cluster: Path, tmp_path: Path, overrides: list[str], said: str) -> None:
    process = start(tmp_path / "runs", *LAUNCHER, *overrides)
    assert [said in line for line in ended(process).splitlines()] == [True]
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("trap 'exit 3' EXIT", 0, "seed1-.*: done .job [0-9]+ failed"),  # the batch script fails behind the cell
        ("exit 0", 1, "seed1-.*: job [0-9]+ completed, but data of it cannot be found in "),
    ],
)
def test_what_a_cell_left_is_believed_not_how_slurm_calls_its_job(
    cluster: Path, tmp_path: Path, line: str, status: int, said: str
) -> None:
    process = start(tmp_path / "runs", *LAUNCHER, "seed=1", "until=data", f'hydra.launcher.setup=["{line}"]')
    assert re.search(said, ended(process))
    assert process.returncode == status


def test_jobs_that_cannot_start_are_told_with_the_reason(cluster: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "runs", *LAUNCHER, "hydra.launcher.timeout_min=120", "seed=1,2")
    until(lambda: "PartitionTimeLimit" in slurm.asked("squeue", "--format=%r"), process)
    time.sleep(6)  # it looks every 5 s
    slurm.asked("scancel", "--partition=main")
    out = ended(process)
    why = r"their time limit is above that of the partition, .* or timeout_min= lowers it \(PartitionTimeLimit\)"
    assert re.search(rf"jobs (\d+)_0, \1_1 cannot start: {why}", out)
    assert len(re.findall("PartitionTimeLimit", out)) == 1
    assert len(re.findall(r"\n  - .*-seed[12]-.*: job \d+_[01] cancelled before it began", out)) == 2


@pytest.fixture
def slow_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a busy controller: jobs are sent after this file has been there for a while."""
    script, begun = tmp_path / "sbatch", tmp_path / "begun"
    script.write_text(f'#!/bin/bash\ntouch {begun}\nsleep 3\nexec {shutil.which("sbatch")} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return begun


def test_a_sweep_that_is_sent_twice_at_the_same_time_has_its_jobs_once(
    cluster: Path, tmp_path: Path, slow_sbatch: Path
) -> None:
    runs = tmp_path / "runs"
    both = [start(runs, *LAUNCHER, "seed=1,2", "until=data") for _ in range(2)]
    outs = [ended(process) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(list(runs.glob("hydra/slurm/*_submission.sh"))) == 1
    assert sorted(out.count("is in the queue already") for out in outs) == [0, 2]


def test_a_stop_while_jobs_are_sent_loses_none(cluster: Path, tmp_path: Path, slow_sbatch: Path) -> None:
    runs = tmp_path / "runs"
    process = start(runs, *LAUNCHER, "seed=1,2", "until=data")
    until(slow_sbatch.exists, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C
    out = ended(process)
    [note] = (runs / "hydra/slurm").glob("*.json")
    assert f"jobs {note.stem} of Slurm go on (scancel {note.stem} ends them): stopped by SIGINT" in out


def test_a_sweep_may_name_its_launcher_in_its_file(cluster: Path, tmp_path: Path) -> None:
    sweep = {
        "defaults": [{"override /hydra/launcher": "slurm"}],
        "hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"seed": "1"}}, "launcher": {"partition": "main"}},
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(sweep))
    process = start(tmp_path / "runs", *LAUNCHER[2:], "until=data", cells=["sweeps=mine.yaml", *SMALL])
    assert "done (job" in ended(process)
    assert process.returncode == 0


def test_a_folder_that_the_node_does_not_see_is_named(cluster: Path) -> None:
    process = start(cluster / slurm.UNSEEN / "runs", *LAUNCHER, "seed=1")
    assert "without a log: does its node see" in ended(process)
    assert process.returncode == 1


def test_a_controller_that_is_away_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm.needed()
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=away\nSlurmctldHost=localhost\nSlurmctldPort=1\nAuthType=auth/munge\n")
    monkeypatch.setenv("SLURM_CONF", str(conf))
    process = start(tmp_path / "runs", *LAUNCHER)
    [line] = ended(process).splitlines()
    assert line.startswith("hydra/launcher=slurm: Slurm's controller does not answer")
    assert process.returncode == 1
