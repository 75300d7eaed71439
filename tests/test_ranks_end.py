"""Ranks that are killed, stopped or fail: every process ends, one line says why, and the same command goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load
from small import METHODS, ROOT, TRAINING, trained

# Rows so short that both ranks have passes.
TWO = [*METHODS["lora"], "train.batches=packed", "train.processes=2", "train.row_tokens=128"]
TWO += ["train.max_source_tokens=64", "train.max_target_tokens=64"]
GOES_ON = "the same command goes on from"


def start(runs: Path, *overrides: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run.py"), *TRAINING, *TWO, *overrides, f"runs_dir={runs}"]
    environment = {**os.environ, **variables}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ranks(parent: int) -> dict[int, int]:
    """The processes of the ranks by their numbers."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"lema.models.rank" in words and words[-2] == str(parent).encode():
            found[int(words[-4])] = int(path.parent.name)
    return found


def often(case: object) -> pytest.MarkDecorator:
    """Each case takes a minute: one of each kind runs in CI, all of them by hand."""
    return pytest.mark.slow if case in ("the parent", signal.SIGTERM) else pytest.mark.full


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that nobody interrupts."""
    runs = tmp_path_factory.mktemp("whole")
    process = start(runs)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    return runs


def interrupted(
    runs: Path, whole: Path, end: Callable[[int, dict[int, int]], object], **variables: str
) -> tuple[int, str]:
    """Begin the training, and end it after a checkpoint; the exit status and what stderr got."""
    shutil.copytree(whole, runs, ignore=shutil.ignore_patterns("train", "cells"))
    process = start(runs, **variables)
    while process.poll() is None and not list(runs.glob("train/*.partial/resume/checkpoint-4/contents.json")):
        time.sleep(0.02)
    team = ranks(process.pid)
    assert team
    end(process.pid, team)
    began = time.monotonic()
    _, errors = process.communicate(timeout=120)
    while ranks(process.pid) and time.monotonic() - began < 60:
        time.sleep(0.05)
    assert time.monotonic() - began < 30, "every process has ended"
    assert not ranks(process.pid)
    return process.returncode, errors


def goes_on(runs: Path, whole: Path) -> None:
    process = start(runs)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "goes on from" in output
    assert trained(runs) == trained(whole)


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


KILLS: dict[str, tuple[Callable[[int, dict[int, int]], object], str]] = {
    "rank 1": (lambda _, team: kill(team[1]), "train: rank 1 of 2 was ended by SIGKILL"),
    "rank 0": (lambda _, team: kill(team[0]), "train: rank 0 of 2 was ended by SIGKILL"),
    "both ranks": (lambda _, team: kill(*team.values()), "was ended by SIGKILL"),
    "the parent": (lambda parent, _: kill(parent), ""),
    "all": (lambda parent, team: kill(*team.values(), parent), ""),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=often(name)) for name in KILLS])
def test_after_a_kill_nothing_is_left_behind_and_the_same_command_goes_on(name: str, tmp_path: Path, whole) -> None:
    end, line = KILLS[name]
    status, errors = interrupted(tmp_path / "runs", whole, end)
    assert status != 0
    assert line in errors
    assert GOES_ON in errors or not line
    assert "Traceback" not in errors
    goes_on(tmp_path / "runs", whole)


@pytest.mark.parametrize(
    "number", [pytest.param(each, marks=often(each)) for each in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)]
)
def test_a_stop_signal_to_the_parent_alone_saves_a_checkpoint(number: signal.Signals, tmp_path: Path, whole) -> None:
    status, errors = interrupted(tmp_path / "runs", whole, lambda parent, _: os.kill(parent, number))
    assert status != 0
    assert f"train: stopped by {number.name} after step " in errors
    assert "Traceback" not in errors
    goes_on(tmp_path / "runs", whole)


# In rank 1 alone, once a checkpoint is saved, the loss is what `WRONG` says.
WRONG_LOSS = """
import os, sys
from pathlib import Path
if "lema.models.rank" in sys.orig_argv and sys.orig_argv[-3] == "1":
    from torch.nn import functional
    right = functional.cross_entropy
    def cross_entropy(*given, **options):
        if next(Path(os.environ["RUNS"]).glob("train/*.partial/resume/checkpoint-4/contents.json"), None):
            return right(*given, **options) * eval(os.environ["WRONG"])
        return right(*given, **options)
    functional.cross_entropy = cross_entropy
"""
WRONG = {
    "1 / 0": r"train: rank 1 of 2 ended with exit status 1 \(.*ZeroDivisionError: division by zero\): " + GOES_ON,
    "float('nan')": r"train: the loss of step \d+ is nan, on ",
}


@pytest.mark.full
@pytest.mark.parametrize("wrong", WRONG)
def test_a_rank_that_raises_or_has_no_number_ends_all(wrong: str, tmp_path: Path, whole) -> None:
    (tmp_path / "sitecustomize.py").write_text(WRONG_LOSS)
    variables = {"PYTHONPATH": str(tmp_path), "RUNS": str(tmp_path / "runs"), "WRONG": wrong}
    status, errors = interrupted(tmp_path / "runs", whole, lambda *_: None, **variables)
    assert status != 0
    assert re.search(WRONG[wrong], errors), errors
    assert "Traceback" not in errors
    goes_on(tmp_path / "runs", whole)


@pytest.mark.full
@pytest.mark.parametrize("left", [0, 140_000])  # the second is enough for the adapter, but not for its optimiser
def test_a_disk_that_is_full_for_rank_0_ends_all_and_the_same_command_goes_on(
    left: int, tmp_path: Path, whole, disk
) -> None:
    full = disk(64 << 20)
    filler, runs = full / "filler", full / "runs"

    def fill(*_: object) -> None:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 12))
        os.truncate(filler, filler.stat().st_size - left)

    status, errors = interrupted(runs, whole, fill)
    assert status != 0
    assert "no space is left on its disk; free some" in errors
    assert "Traceback" not in errors
    filler.unlink()
    process = start(runs)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert trained(runs) == trained(whole)


@pytest.mark.full
def test_another_number_of_ranks_goes_on_too(tmp_path: Path, whole) -> None:
    interrupted(tmp_path / "runs", whole, lambda parent, _: os.kill(parent, signal.SIGTERM))
    process = start(tmp_path / "runs", "train.processes=1")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "goes on with 1 rank what 2 began" in output
    files = [trained(each) for each in (tmp_path / "runs", whole)]
    one, other = ([json.loads(line)["loss"] for line in each["metrics.jsonl"].splitlines()] for each in files)
    assert one == pytest.approx(other, rel=1e-4)
    found, expected = (load(each["checkpoints/step-12/adapter_model.safetensors"]) for each in files)
    for name, value in expected.items():
        assert float((found[name] - value).norm() / value.norm()) < 1e-3, name
