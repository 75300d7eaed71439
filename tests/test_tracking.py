"""W&B offline, read back from disk and held against our own metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from test_pipeline import SMALL
from wandb_log import read_run

from lema import pipeline
from lema.config import Config
from lema.tracking import Tracker
from lema.types import UserError


def test_offline_run_has_config_curve_and_scores(
    tmp_path: Path, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "a-group")
    overrides = [*SMALL, "tracker=wandb", f"runs_dir={tmp_path}"]
    pipeline.run(make_config(*overrides), overrides)
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    run = read_run(folder)
    assert run["tags"] == ["tiny", "arithmetic", "lema"]
    assert (run["group"], run["job_type"], run["exit_code"]) == ("a-group", "cell", 0)
    assert run["config"]["train"]["max_steps"] == 6
    assert run["config"]["task"]["name"] == "arithmetic"
    [cell] = (tmp_path / "cells").iterdir()
    metrics = [json.loads(line) for line in (cell / "metrics.jsonl").open()]
    curve = [row for row in metrics if row["stage"] == "train" and "step" in row]
    assert [(row["train/step"], row["train/loss"]) for row in run["history"]] == [
        (row["step"], row["loss"]) for row in curve
    ]
    [score] = [row["summary"] for row in metrics if row["stage"] == "evaluate"]
    assert {name: run["summary"][f"evaluate/{name}"] for name in score} == score
    pipeline.run(make_config(*overrides), overrides)
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1  # nothing was made, so nothing is logged


def test_run_of_a_cell_that_fails_is_marked_as_failed(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    tracker = Tracker(make_config(*SMALL, "tracker=wandb", f"runs_dir={tmp_path}"), "name", "key1")

    def fail() -> None:
        with tracker:
            tracker.log({"train/loss": 1.0}, step=1)
            raise UserError("it failed")

    with pytest.raises(UserError, match="it failed"):
        fail()
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    assert read_run(folder)["exit_code"] == 1


def test_no_secret_reaches_what_is_written(
    tmp_path: Path, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret_2")
    overrides = [*SMALL, "tracker=wandb", "mix=cot", f"runs_dir={tmp_path}"]
    pipeline.run(make_config(*overrides), overrides)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert written
    assert not [path for path in written if b"sk-secret-1" in path.read_bytes() or b"hf_secret_2" in path.read_bytes()]
