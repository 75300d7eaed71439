"""A sweep from the front door: its own report, one cell dead; then online, and W&B's report of exactly its runs."""

import json
import subprocess
from pathlib import Path

import pytest
from tracked import USER, command, environment
from wandb_server import WandbServer
from wandb_views import add_views, found

pytestmark = pytest.mark.slow


def sweep(runs: Path, *overrides: str, **variables: str) -> subprocess.CompletedProcess[str]:
    home = runs.parent / USER
    home.mkdir(exist_ok=True)
    env = environment(home, OPENAI_API_KEY="sk-secret-1", HF_TOKEN="hf_secret_2", **variables)
    arguments = command("-m", "mix=cot,lema", "seed=1,2", f"runs_dir={runs}", *overrides)
    return subprocess.run(arguments, cwd=home, env=env, capture_output=True, text=True, timeout=300)


def test_a_sweep_reports_on_its_own_cells_and_names_the_one_that_failed(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    own = command("tracker=none", "seed=7", f"runs_dir={runs}")
    alone = subprocess.run(own, capture_output=True, text=True, timeout=300)
    assert alone.returncode == 0, alone.stderr
    assert "written to" in alone.stdout
    done = sweep(runs, "tracker=none", "until=train")
    assert done.returncode == 0, done.stderr
    assert "# Results" not in done.stdout
    # A checkpoint that was damaged after it was made ends one cell, and only that.
    weights = next(runs.glob("train/arithmetic-tiny-cot-seed2-*/checkpoints/step-*/model.safetensors"))
    weights.write_bytes(b"damaged")
    done = sweep(runs, "tracker=none")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    [folder] = (runs / "reports").glob("multirun-*")
    text = (folder / "report.md").read_text()
    assert text in done.stdout or text.split("![")[0] in done.stdout
    assert "3 evaluated runs, and 1 that are named at the end." in text
    assert "seed7" not in text
    [named] = [line for line in text.split("## Not compared")[1].splitlines() if line]
    assert named.startswith("- arithmetic-tiny-cot-seed2: it failed after train: ")
    assert "model.safetensors: changed or removed after it was made" in named
    assert "cot has no seed 2: the other arms' runs of it pair with none." in text
    again = sweep(runs, "tracker=none", "do=report", "seed=1,2,3")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("it was not started; run its command") == 2


def test_the_report_at_wandb_is_of_the_sweeps_runs_and_tells_no_name(tmp_path: Path, server: WandbServer) -> None:
    views, runs = add_views(server), tmp_path / "runs"
    first = sweep(runs, "tracker=wandb", "tracker.group=mine", **server.environment)
    assert first.returncode == 0, first.stderr
    made = sweep(runs, "tracker=wandb", "tracker.group=mine", "do=wandb_report", **server.environment)
    assert made.returncode == 0, made.stderr
    [(view, sent)] = views.items()
    assert f"{server.url}/team/lema/reports/lema:-multirun-" in made.stdout
    by_type = {kind: {run.id for run in server.runs.values() if run.job_type == kind} for kind in ("train", "evaluate")}
    untuned = {run.id for run in server.runs.values() if run.display_name and "untuned" in run.display_name}
    text = json.dumps(list(found(sent["spec"], "filters")))
    assert all(run in text for run in by_type["train"] | by_type["evaluate"] - untuned)
    others = server.runs.keys() - by_type["train"] - (by_type["evaluate"] - untuned)
    assert others
    assert not [run for run in others if run in text]
    again = sweep(runs, "tracker=wandb", "tracker.group=mine", "do=wandb_report", **server.environment)
    assert again.returncode == 0, again.stderr
    assert list(views) == [view]
    linked = [each for each in server.artifacts.values() if each.type == "report"]
    assert linked
    assert {each.name for each in server.artifacts.values() if set(each.used_by) & set(linked[-1].logged_by)} >= {
        each.name for each in server.artifacts.values() if each.type == "predictions"
    }
    told = b"".join(body for _, body in server.received)
    for secret in (USER, "sk-secret-1", "hf_secret_2", server.environment["WANDB_API_KEY"]):
        assert secret.encode() not in told
    reported = [path.read_bytes() for path in (runs / "reports").rglob("*") if path.is_file()]
    assert not [data for data in reported if USER.encode() in data or b"secret" in data]
