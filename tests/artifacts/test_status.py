"""Whoever sees a run's folder knows how far it is, how it ended, or that it was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small import ROOT

from lema import stopping
from lema.artifacts import status
from lema.artifacts.status import State, Status, Teller
from lema.console.progress import Progress

PROGRAM = """
import sys, time
from pathlib import Path
from lema.artifacts import status
status.BEAT_SECONDS = 0.05
teller = status.Teller(Path(sys.argv[1]))
teller.begin("train", 6, 10)
print("begun", flush=True)
time.sleep(600)
"""


def started(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert program.stdout
    assert program.stdout.readline() == "begun\n"
    return program


def found(folder: Path) -> Status:
    here = status.read(folder)
    assert here
    return here


def test_a_running_one_says_how_far_it_is_and_an_ended_one_how_it_ended(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(status, "BEAT_SECONDS", 0.02)
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_tests")
    teller = Teller(tmp_path)
    stopping.begin("train")
    with Progress("step", 40, lambda: ["hf_secret_of_the_tests"]) as steps:
        teller.begin("train", 6, 10)
        time.sleep(0.02)
        steps.advance(10)
        time.sleep(0.2)
        here = found(tmp_path)
    assert (here.state, here.step, here.number, here.steps) == (State.running, "train", 6, 10)
    assert here.told.startswith("10 of 40 steps, ***, about ")
    assert here.left
    assert 0 < here.left < 60
    assert not here.dead(status.clock(tmp_path))
    teller.end(State.failed, "train: out of memory")
    time.sleep(0.1)
    assert (found(tmp_path).state, found(tmp_path).told) == (State.failed, "train: out of memory")
    assert [each.name for each in tmp_path.iterdir()] == [status.FILE], "and nothing is left beside it"


def test_a_killed_one_is_dead_here_at_once_and_elsewhere_after_a_silence(tmp_path: Path) -> None:
    with started(tmp_path) as program:
        time.sleep(0.2)
        assert not found(tmp_path).dead(status.clock(tmp_path))
        program.send_signal(signal.SIGKILL)
    killed, now = found(tmp_path), status.clock(tmp_path)
    assert (killed.state, killed.step) == (State.running, "train")
    assert killed.dead(now)
    elsewhere = replace(killed, host="elsewhere")
    assert not elsewhere.dead(now)
    assert elsewhere.dead(now + status.SILENT_SECONDS + 1)
    assert not replace(killed, state=State.stopped).dead(now + 1e6), "one that said how it ended is not dead"


def test_the_later_of_two_attempts_waits_until_the_earlier_one_has_ended(tmp_path: Path) -> None:
    with started(tmp_path) as program:
        later = Teller(tmp_path)
        later.begin("data", 1, 10)
        assert found(tmp_path).pid == program.pid
        program.kill()
    later.begin("data", 1, 10)
    assert found(tmp_path).pid == os.getpid()
    Teller(tmp_path).end(State.current)
    assert found(tmp_path).step == "data", "nor does one that has nothing to make speak over it"
    later.end(State.done)
    Teller(tmp_path).end(State.current)
    assert found(tmp_path).state is State.current


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "asleep"}', '{"step": "train"}'])
def test_what_is_no_status_is_none(tmp_path: Path, text: str) -> None:
    assert status.read(tmp_path) is None
    (tmp_path / status.FILE).write_text(text)
    assert status.read(tmp_path) is None


def test_a_status_of_a_newer_lema_is_read_and_a_lost_folder_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / status.FILE).write_text(json.dumps({"state": "done", "colour": "red"}))
    assert found(tmp_path).state is State.done
    Teller(tmp_path / "gone").begin("data", 1, 10)
    assert not (tmp_path / "gone").exists()
