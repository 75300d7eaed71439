"""One owner of what is made: an owner that was paused for too long, and wakes up, leaves it to who took over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_resume import METHODS, SMALL

TESTS = Path(__file__).resolve().parent
STALE = 3.0
MERGED = [*METHODS["lora"], "train.merge=original", "selection=last"]
# The stage, further overrides, and what an attempt has written when its owner is paused.
PAUSED = {
    "base": (["backbone.tiny.steps=60"], ""),
    "sample": (["mix=lema", "sampler.max_new_tokens=40", "sampler.batch_size=4"], "resume/sample 8.json"),
    "train": ([], "resume/checkpoint-4/contents.json"),
    "train a checkpoint": (METHODS["lora"], "resume/checkpoint-8"),
    "merge": (MERGED, ""),
    "merge its files": (MERGED, "merged/config.json"),
    "evaluate": (["evaluation.batch_size=1"], "resume/evaluate 1.json"),
}


def start(runs: Path, overrides: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(TESTS / "impatient.py"), str(STALE), *SMALL, *overrides, f"runs_dir={runs}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(found: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def made(runs: Path, stage: str) -> dict[str, bytes]:
    """Every file below a stage's folder but the records, which have the time."""
    files = {path.relative_to(runs).as_posix(): path for path in (runs / stage).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.endswith("record.json")}


@pytest.mark.slow
@pytest.mark.parametrize("wakes", ["during", "after"])
@pytest.mark.parametrize("case", PAUSED)
def test_an_owner_that_was_paused_leaves_the_artifact_to_who_took_over(tmp_path: Path, case: str, wakes: str) -> None:
    stage, (overrides, file) = case.split()[0], PAUSED[case]
    runs, overrides = tmp_path / "runs", [*overrides, f"until={stage}"]
    whole = start(runs, overrides)
    assert whole.wait(300) == 0, whole.stderr and whole.stderr.read()
    expected = made(runs, stage)
    assert expected
    for folder in (stage, "cells"):
        shutil.rmtree(runs / folder)
    first = start(runs, overrides)
    wait_for(lambda: bool(list(runs.glob(f"{stage}/*.partial/{file}"))), first)
    [attempt] = runs.glob(f"{stage}/*.partial")
    os.kill(first.pid, signal.SIGSTOP)
    second = start(runs, overrides)
    try:
        wait_for(lambda: not attempt.exists(), second)
        if wakes == "after":
            assert second.wait(300) == 0, second.stderr and second.stderr.read()
    finally:
        os.kill(first.pid, signal.SIGCONT)
    woken = time.monotonic()
    _, errors = first.communicate(timeout=120)
    assert time.monotonic() - woken < 60  # of which most is the import of torch, on a busy machine
    assert second.wait(300) == 0, second.stderr and second.stderr.read()
    assert first.returncode == 1
    framed = ("Error executing job with overrides: ", "Set the environment variable HYDRA_FULL_ERROR")  # Hydra's
    lines = [line for line in errors.splitlines() if line.strip() and "%|" not in line and not line.startswith(framed)]
    assert len(lines) == 1, errors
    [line] = lines

    assert "another process has taken over" in line
    assert f"; what it makes is {runs / stage}/" in line
    assert made(runs, stage) == expected
    [state] = runs.glob("cells/*/run.json")
    assert f'"stopped after {stage}"' in state.read_text() or stage == "evaluate"
