"""`do=status`: each cell of a sweep is waiting, running, ended and how, or dead; 200 of them are told at once."""

import json
import os
import resource
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra
from hydra.types import RunMode

from lema import sweeps
from lema.artifacts import status
from lema.artifacts.status import SILENT_SECONDS, State, Status
from lema.reporting.standing import standing

HERE = Status(State.running, "train", 6, 10, "12 of 40 steps, about 3 minutes left", 180.0, host=socket.gethostname())
ALIVE = replace(HERE, pid=os.getpid())
GONE = replace(HERE, pid=2**30, job="77")


@pytest.mark.parametrize(
    ("left", "later", "state", "told"),
    [
        (None, 0, "waiting", ""),
        (ALIVE, 0, "running", "train, 6 of 10: 12 of 40 steps, about 3 minutes left"),
        (GONE, 0, "dead", "train, 6 of 10: silent for 2 seconds (process 1073741824 on "),
        (
            replace(ALIVE, host="elsewhere"),
            SILENT_SECONDS + 60,
            "dead",
            "train, 6 of 10: silent for 2 minutes (process",
        ),
        (replace(GONE, state=State.failed, told="train: out of memory"), 9e9, "failed", "train: out of memory"),
        (replace(GONE, state=State.stopped, told="train: stopped by SIGTERM"), 0, "stopped", "train: stopped by SIGT"),
        (replace(GONE, state=State.done), 7200, "done", "2.0 hours ago"),
        (replace(GONE, state=State.current), 0, "current", "2 seconds ago"),
        ("running", 0, "dead", "it ended without a word"),
        ("finished", 0, "done", ""),
        ("stopped after mix", 0, "done", ""),
        ("no room", 0, "failed", "no room"),
        ([], 0, "failed", "[]"),
    ],
)
def test_a_run_is_told_by_what_it_left(tmp_path: Path, left: object, later: float, state: str, told: str) -> None:
    if isinstance(left, Status):
        status.write(tmp_path, left)
    elif left is not None:  # an earlier lema left this file alone
        (tmp_path / "run.json").write_text(json.dumps({"state": left}))
    found = standing(tmp_path, status.clock(tmp_path) + later)
    assert found[0] == state
    assert found[1].startswith(told)
    assert "Slurm job 77" in found[1] or state != "dead" or left is not GONE


def test_200_cells_are_told_in_under_2_seconds(
    hydra: Hydra, tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    sweep, root = ["sweeps=demo", "seed=range(1,51)"], tmp_path / "runs"
    config = hydra.compose_config("config", sweep, RunMode.MULTIRUN, with_log_configuration=False)
    folders = [f"cell-{number}" for number in range(200)]  # as if all had been composed
    labels = [f"mix={mix} seed={seed}" for mix in ("cot", "cot_random", "cot_matched", "lema") for seed in range(1, 51)]
    sweeps.keep(config, root, dict(zip(labels, folders, strict=True)))
    for number, folder in enumerate(folders[:150]):
        (root / "cells" / folder).mkdir(parents=True)
        status.write(root / "cells" / folder, ALIVE if number < 50 else replace(GONE, state=State.done))
    took, output = list[float](), ""
    while len(took) < 10 and min(took, default=2.0) >= 2:  # a processor that is shared is at times a slower one
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        told = run_cli(*sweep, "do=status", f"runs_dir={root}")
        took.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
        assert told.returncode == 0, told.stderr
        output = told.stdout
    lines = output.splitlines()
    assert lines[0].split() == "running mix=cot seed=1 train, 6 of 10: 12 of 40 steps, about 3 minutes left".split()
    assert lines[-1].split() == "status 50 waiting, 50 running, 100 done".split()
    assert len(lines) == 201
    assert min(took) < 2, took
    tree = hydra.compose_config("config", [*sweep, "limit=5"], RunMode.MULTIRUN, with_log_configuration=False)
    assert sweeps.known(tree, root) is None, "other cells"


def test_a_sweep_that_has_not_begun_waits_and_a_folder_that_is_not_there_is_one_line(
    tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "runs").mkdir()
    told = run_cli("-m", "mix=cot,lema", "do=status", f"runs_dir={tmp_path / 'runs'}")
    assert told.stdout.split("\n") == [
        "waiting          mix=cot",
        "waiting          mix=lema",
        "status           2 waiting",
        "",
    ]
    assert not (tmp_path / "runs" / "cells").exists()
    refused = run_cli("do=status", f"runs_dir={tmp_path / 'none'}")
    assert refused.returncode == 1
    assert (
        refused.stderr == f"runs_dir={tmp_path / 'none'}: no such folder; name the folder of your runs with runs_dir=\n"
    )
