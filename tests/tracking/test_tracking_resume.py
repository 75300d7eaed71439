"""W&B when training is killed, when it is lost before the end, and under `wandb agent`: nothing is missing there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import ROOT, TRAINING
from tracked import command, curve, environment
from wandb_log import offline_runs
from wandb_server import Run, serving

CELL = [item for item in TRAINING if item != "tracker=none"] + ["tracker=wandb"]
WANDB = str(Path(sys.executable).with_name("wandb"))
pytestmark = pytest.mark.slow


def kill_and_resume(home: Path, env: dict[str, str]) -> list[tuple[float, float]]:
    """Train, killed after the first checkpoint and then to the end; returns our own curve."""
    process = subprocess.Popen(command(*CELL), cwd=home, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(home.glob("runs/train/*.partial/resume/checkpoint-4/contents.json")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    assert not list(home.glob("runs/train/*/record.json"))
    done = subprocess.run(command(*CELL), cwd=home, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in next(home.glob("runs/train/*/metrics.jsonl")).open()]
    assert len(rows) == 12
    return [(row["step"], row["loss"]) for row in rows]


def test_run_that_was_killed_goes_on_online(tmp_path: Path) -> None:
    with serving() as server:
        expected = kill_and_resume(tmp_path, environment(tmp_path, **server.environment))
        [run] = [run for run in server.runs.values() if run.job_type == "train"]
        assert curve(run.history) == expected
        assert run.state == "finished"


def test_run_that_was_killed_offline_is_whole_and_all_can_be_synced(tmp_path: Path) -> None:
    expected = kill_and_resume(tmp_path, environment(tmp_path, WANDB_MODE="offline"))
    [trained] = [run for run in offline_runs(tmp_path / "runs") if run["job_type"] == "train"]
    assert curve(trained["history"]) == expected
    with serving() as server:
        run = synced(tmp_path, environment(tmp_path, **server.environment), server.runs)
        assert curve(run.history) == expected
        assert run.state == "finished"
        mixed = next(each for each in server.artifacts.values() if each.type == "mix")
        assert (mixed.state, run.id in mixed.used_by) == ("COMMITTED", True)


def synced(home: Path, env: dict[str, str], runs: dict[str, Run]) -> Run:
    """The training run after `wandb sync` of all offline folders, in order, from where they were made."""
    folders = sorted(str(path.relative_to(home)) for path in home.glob("runs/wandb/offline-run-*"))
    done = subprocess.run(
        [WANDB, "sync", "-n", "1", *folders], cwd=home, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    [run] = [run for run in runs.values() if run.job_type == "train"]
    return run


def test_server_that_is_lost_in_mid_run_costs_a_minute_and_nothing_else(tmp_path: Path) -> None:
    with serving() as server, serving() as later:
        env = environment(tmp_path, **server.environment)
        process = subprocess.Popen(
            command(*CELL), cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
        )
        while process.poll() is None and not list(tmp_path.glob("runs/train/*.partial/resume/checkpoint-4")):
            time.sleep(0.02)
        server.close()
        lost = time.monotonic()
        output, _ = process.communicate(timeout=150)
        assert process.returncode == 0, output
        assert time.monotonic() - lost < 75
        [line] = [line for line in output.splitlines() if "W&B did not take all of train" in line]
        assert line.endswith("wandb sync -n 1 runs/wandb/offline-run-*")
        run = next(run for run in offline_runs(tmp_path / "runs") if run["job_type"] == "train")
        rows = [json.loads(row) for row in next(tmp_path.glob("runs/train/*/metrics.jsonl")).open()]
        assert curve(run["history"]) == [(row["step"], row["loss"]) for row in rows]
        assert curve(synced(tmp_path, environment(tmp_path, **later.environment), later.runs).history) == curve(
            run["history"]
        )


def test_sweep_shows_the_score_of_each_run_that_its_agent_started(tmp_path: Path) -> None:
    with serving() as server:
        # Both commands are given where `run.py` is; what wandb itself writes goes elsewhere.
        env = environment(tmp_path, **server.environment, WANDB_DIR=str(tmp_path))
        written = [sys.executable, "run.py", "-m", *command()[2:], "seed=1,2", f"runs_dir={tmp_path / 'runs'}"]
        subprocess.run([*written, "do=wandb_sweep"], cwd=ROOT, env=env, check=True, capture_output=True, timeout=60)
        [file] = tmp_path.glob("runs/sweeps/multirun-*.yaml")
        made = [WANDB, "sweep", str(file)]
        subprocess.run(made, cwd=ROOT, env=env, check=True, capture_output=True, timeout=60)
        [name] = server.sweeps
        server.agent_runs = [{"run_id": f"agents{seed}", "args": {"seed": {"value": seed}}} for seed in (1, 2)]
        agent = [WANDB, "agent", f"team/lema/{name}"]
        done = subprocess.run(agent, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        in_sweep = {run.id: run for run in server.runs.values() if run.sweep}
        assert set(in_sweep) == {"agents1", "agents2"}, done.stderr
        for seed, run in ((1, in_sweep["agents1"]), (2, in_sweep["agents2"])):
            [path] = tmp_path.glob(f"runs/evaluate/*-seed{seed}-*/score.json")
            assert run.summary["evaluate/accuracy"] == json.loads(path.read_text())["accuracy"]
            assert run.values["seed"] == seed
        assert len([run for run in server.runs.values() if run.job_type == "train"]) == 2
