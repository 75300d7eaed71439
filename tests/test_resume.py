"""A training run that is killed, or asked to stop, ends in the bytes of one that was left alone."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import METHODS, ROOT, TRAINING, trained
from tables import some


def start(runs: Path, overrides: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run.py"), *TRAINING, *overrides, f"runs_dir={runs}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


KILLS = [(signal.SIGKILL, method, batches) for method in METHODS for batches in ("packed", "padded")]
STOPS = [(signal.SIGTERM, "full", "padded"), (signal.SIGUSR2, "lora", "packed"), (signal.SIGINT, "full", "packed")]


@pytest.mark.parametrize(
    ("number", "method", "batches"),
    [*some(KILLS[::-1], 9, pytest.mark.slow), *some(STOPS, 3, pytest.mark.slow)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_run_goes_on_to_the_same_bytes(tmp_path: Path, number: signal.Signals, method: str, batches: str) -> None:
    overrides = [*METHODS[method], f"train.batches={batches}"]
    process = start(tmp_path, overrides)
    assert process.wait(300) == 0, process.stderr and process.stderr.read()
    expected = trained(tmp_path)
    for folder in ("train", "cells"):
        shutil.rmtree(tmp_path / folder)
    process = start(tmp_path, overrides)
    while process.poll() is None and not list(tmp_path.glob("train/*.partial/resume/checkpoint-4/contents.json")):
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if number is not signal.SIGKILL:
        assert f"train: stopped by {number.name} after step " in errors
        assert "Traceback" not in errors
    assert not list(tmp_path.glob("train/*/record.json"))
    process = start(tmp_path, overrides)
    assert process.wait(300) == 0, process.stderr and process.stderr.read()
    assert trained(tmp_path) == expected
