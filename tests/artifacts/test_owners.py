"""One owner of what is made: an owner that was paused for too long, and wakes up, leaves it to who took over."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asking_load import finished, served, started, stats
from simulated import TINY, answers, run
from small import METHODS, ROOT, TRAINING

from lema.artifacts import locks
from lema.artifacts.locks import TakenOver
from lema.reporting import plots, report
from lema.reporting.report import write_report

STALE = 3.0
MERGED = [*METHODS["lora"], "train.merge=original", "selection=last"]
# The stage, further overrides, and what an attempt has written when its owner is paused.
PAUSED = {
    "base": (["backbone.tiny.steps=60"], ""),
    "sample": (["mix=lema", "sampler.max_new_tokens=40", "engine.batch_tokens=600"], "resume/sample.jsonl"),
    "train": ([], "resume/checkpoint-4/contents.json"),
    "train a checkpoint": (METHODS["lora"], "resume/checkpoint-8"),
    "merge": (MERGED, ""),
    "merge its files": (MERGED, "merged/config.json"),
    "evaluate": (["engine.batch_tokens=1"], "resume/evaluate.jsonl"),
}


def start(runs: Path, overrides: list[str]) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, str(ROOT / "tests/doubles/impatient.py"), str(STALE)),
        *TRAINING,
        *overrides,
        f"runs_dir={runs}",
    ]
    quiet = os.environ | {"PYTHONWARNINGS": "ignore"}  # of libraries about each other
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=quiet)


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


def cases() -> Iterator[Any]:
    for case in PAUSED:
        for wakes in ("during", "after"):
            often = (case, wakes) == ("train a checkpoint", "during")
            yield pytest.param(case, wakes, marks=pytest.mark.slow if often else pytest.mark.full)


@pytest.mark.parametrize(("case", "wakes"), list(cases()))
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
    assert time.monotonic() - woken < 110  # of which most is the import of torch, on a busy machine
    assert second.wait(300) == 0, second.stderr and second.stderr.read()
    assert first.returncode == 1
    lines = [line for line in errors.splitlines() if line.strip() and "%|" not in line]
    assert len(lines) == 1, errors
    [line] = lines

    assert "another process has taken over" in line
    assert f"; what it makes is {runs / stage}/" in line
    assert made(runs, stage) == expected
    [state] = runs.glob("cells/*/run.json")
    assert f'"stopped after {stage}"' in state.read_text() or stage == "evaluate"


@pytest.mark.slow
def test_who_has_lost_the_journal_sends_no_more_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    journal, width = tmp_path / "journal.sqlite", 4
    with served(latency=0.3) as url:
        first = started(url, 60, journal, width=width)
        while stats(url)["requests"] < 12:
            time.sleep(0.01)
        lock = Path(f"{journal}.lock")
        lock.unlink()
        lock.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=another\nduration=60.0\n")
        sent = stats(url)["requests"]
        told = finished(first, 60)
        assert stats(url)["requests"] <= sent + 2 * width
        assert "another process has taken the journal over" in told["error"]
        lock.unlink()
        told = finished(started(url, 60, journal, width=width), 60)
        assert told["usable"] == 60
        assert stats(url)["requests"] == 60
        assert stats(url)["arrived_twice"] == 0


@pytest.mark.parametrize("when", ["compare", "plots.draw"])
def test_a_report_that_was_taken_over_meanwhile_leaves_what_is_there(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_report(tmp_path)[0]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run(tmp_path, "lema", 1, answers(20, 5), **TINY)
    place, _, name = f"lema.reporting.report.{when}".rpartition(".")
    original = getattr(report if when == "compare" else plots, name)

    def meanwhile(*arguments: Any) -> Any:
        lock = Path(f"{folder}.lock")
        lock.unlink(missing_ok=True)
        lock.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=another\nduration=60.0\n")
        monkeypatch.setattr(locks, "LOOK_SECONDS", 0)  # as much later as a paused process is
        return original(*arguments)

    monkeypatch.setattr(f"{place}.{name}", meanwhile)
    with pytest.raises(TakenOver, match=re.escape(f"what it makes is {folder}")):
        write_report(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
