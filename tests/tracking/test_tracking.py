"""W&B offline, read back from disk and held against our own files: one run for each step that was made."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import SMALL
from wandb_log import offline_runs

from lema import pipeline
from lema.artifacts import Artifact, Recipe, Shown
from lema.config import Config
from lema.identity import portable
from lema.tracking.runs import SHARED, Tracker, run_id
from lema.types import UserError

STEPS = "data base sample_self correct mix train select evaluate_untuned evaluate".split()


@pytest.fixture(autouse=True)
def _own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run sets for wandb is taken back."""
    for name in ("DATA_DIR", "CACHE_DIR", "SILENT", "INIT_TIMEOUT", "FINISH_TIMEOUT", "FINISH_TIMEOUT_RAISES"):
        monkeypatch.setenv(f"WANDB_{name}", "")
        monkeypatch.delenv(f"WANDB_{name}")


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., Config]) -> Path:
    """The runs folder of one whole small cell, tracked offline, with secrets in the environment."""
    folder = tmp_path_factory.mktemp("offline")
    overrides = [*SMALL, "tracker=wandb", f"runs_dir={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_RUN_GROUP", "a-group")
        patch.setenv("OPENAI_API_KEY", "sk-secret-1")
        patch.setenv("HF_TOKEN", "hf_secret_2")
        pipeline.run(make_config(*overrides), overrides)
    return folder


def runs(folder: Path) -> dict[str, dict[str, Any]]:
    """The offline runs of a runs folder, by their names, the newest where there are several."""
    return {run["name"]: run for run in offline_runs(folder)}


def test_each_step_that_is_made_has_a_run_of_its_own(cell: Path) -> None:
    found = list(runs(cell).values())
    assert [run["job_type"] for run in found] == [
        *("sample" if step == "sample_self" else step.removesuffix("_untuned") for step in STEPS),
        "report",
    ]
    assert {run["name"] for run in found} >= {
        "train arithmetic-tiny-lema-seed1",
        "evaluate arithmetic-tiny-lema-seed1",
        "evaluate arithmetic-tiny-untuned",
    }
    tags = {(run["group"], run["exit_code"], tuple(run["tags"])) for run in found}
    assert tags == {("a-group", 0, ("tiny", "arithmetic", "lema")), ("a-group", 0, ())}  # the report's last
    assert len({run["id"] for run in found}) == len(STEPS) + 1


def test_config_is_plain_nested_values_with_what_the_step_was_made_from(cell: Path) -> None:
    config = runs(cell)["train arithmetic-tiny-lema-seed1"]["config"]
    assert config["train"]["max_steps"] == 6
    assert config["task"]["name"] == "arithmetic"
    record = json.loads(next(cell.glob("train/*/record.json")).read_text())
    assert config["inputs"] == record["recipe"]["inputs"]
    assert next(cell.glob("train/*/record.json")).parent.name.endswith(config["recipe"])


def test_curve_and_summary_are_those_of_our_own_files(cell: Path) -> None:
    run = runs(cell)["train arithmetic-tiny-lema-seed1"]
    rows = [json.loads(line) for line in next(cell.glob("train/*/metrics.jsonl")).open()]
    assert [{name: row[f"train/{name}"] for name in rows[0]} for row in run["history"]] == rows
    assert all(row["train/tokens_per_second"] > 0 for row in run["history"])
    [folder] = (cell / "cells").iterdir()
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    summaries = {row["stage"]: row["summary"] for row in metrics if "summary" in row}
    assert set(summaries) == set(STEPS)
    steps = {run["config"]["recipe"]: run for run in runs(cell).values() if run["job_type"] != "report"}
    for step, summary in summaries.items():
        key = (folder / step).resolve().name.rpartition("-")[2]
        assert {name: steps[key]["summary"][f"{step}/{name}"] for name in summary} == summary


def test_artifacts_have_the_small_results_and_the_digest_never_weights_or_texts(cell: Path) -> None:
    found = {
        run["job_type"]: (name, artifact)
        for run in runs(cell).values()
        for name, artifact in run["artifacts"].items()
        if artifact["type"] not in ("run_table", "report")
    }
    files = {stage: set(artifact["files"]) for stage, (_, artifact) in found.items()}
    assert files == {
        **{stage: {"record.json"} for stage in ("data", "base", "sample", "mix")},
        "correct": {"record.json", "corrections.jsonl"},
        "train": {"record.json", "metrics.jsonl"},
        "select": {"record.json", "accuracies.jsonl"},
        "evaluate": {"record.json", "predictions.jsonl", "score.json"},
    }
    for stage, (name, artifact) in found.items():
        label_and_key = name.removeprefix(f"{stage}-")
        record = json.loads((cell / stage / label_and_key / "record.json").read_text())
        assert artifact["metadata"]["stage"] == stage
        assert str(cell) not in json.dumps(record)
    types = {stage: artifact["type"] for stage, (_, artifact) in found.items()}
    assert (types["data"], types["train"], types["evaluate"]) == ("dataset", "model", "predictions")


def test_what_a_step_used_is_linked_so_that_lineage_goes_from_data_to_report(cell: Path) -> None:
    made = {name: run for run in runs(cell).values() for name in run["artifacts"]}
    reached, todo = set(), [runs(cell)["report all"]]
    while todo:
        used = [made[name] for name in todo.pop()["used"]]
        reached |= {run["job_type"] for run in used}
        todo += used
    assert reached == {"data", "base", "sample", "correct", "mix", "train", "select", "evaluate"}
    files = set(runs(cell)["report all"]["artifacts"]["report-all"]["files"])
    assert files >= {"report.md", "report.json", "report.csv", "differences.csv", "accuracy-arithmetic.png"}


def test_table_of_predictions_has_the_answers_and_both_verdicts(cell: Path) -> None:
    run = runs(cell)["evaluate arithmetic-tiny-lema-seed1"]
    table = json.loads((run["folder"] / "files" / run["summary"]["predictions/path"]).read_text())
    [path] = cell.glob("evaluate/arithmetic-tiny-lema-*/predictions.jsonl")
    predictions = [json.loads(line) for line in path.open()]
    assert table["columns"] == ["problem_id", "text", "answer", "correct", "symbolic"]
    assert table["data"] == [[each[column] for column in table["columns"]] for each in predictions]


def test_no_secret_reaches_what_is_written(cell: Path) -> None:
    written = [path for path in cell.rglob("*") if path.is_file() and not path.is_symlink()]
    assert written
    assert not [path for path in written if b"sk-secret-1" in path.read_bytes() or b"hf_secret_2" in path.read_bytes()]


def test_what_is_current_is_not_logged_again(cell: Path, make_config: Callable[..., Config]) -> None:
    before = len(list((cell / "wandb").glob("offline-run-*")))
    overrides = [*SMALL, "tracker=wandb", f"runs_dir={cell}"]
    pipeline.run(make_config(*overrides), overrides)
    assert len(list((cell / "wandb").glob("offline-run-*"))) == before


def test_run_of_a_step_that_fails_is_marked_as_failed(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    tracker = Tracker(make_config(*SMALL, "tracker=wandb"), tmp_path)

    def fail(_: Path) -> dict[str, Any]:
        tracker.log({"train/loss": 1.0}, step=1)
        raise UserError("it failed")

    def step() -> None:
        with tracker.step("train", Recipe("train", "a-label", 1, {}, {}, Shown("model")), {}) as run:
            run.starting(fail)(tmp_path)

    with pytest.raises(UserError, match="it failed"):
        step()
    assert runs(tmp_path)["train a-label"]["exit_code"] == 1
    assert tracker.ids == {"train": runs(tmp_path)["train a-label"]["id"]}


def test_config_and_summary_tell_no_path_of_this_machine(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    task = ["task=gsm8k", f"task.dataset.path={tmp_path}/mine", "task.num_train=null", "task.num_test=null"]
    config = make_config(*SMALL, "tracker=wandb", *task)
    with Tracker(config, tmp_path).step("data", Recipe("data", "a-label", 1, {}, {}, Shown("model")), {}) as run:
        run.start()
    logged = runs(tmp_path)["data a-label"]
    assert logged["config"]["task"]["dataset"]["path"] == "mine"
    assert str(tmp_path) not in json.dumps(logged["config"])
    assert portable({"model": ["/home/me/llama", "org/llama"]}) == {"model": ["llama", "org/llama"]}


def test_earlier_attempt_stays_until_a_later_one_has_it_all(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    tracker = Tracker(make_config(*SMALL, "tracker=wandb"), tmp_path)

    def attempt(error: Exception | None, *steps: int) -> None:
        with (
            contextlib.suppress(UserError),
            tracker.step("train", Recipe("train", "a", 1, {}, {}, Shown("model")), {}) as run,
        ):
            run.start()
            for step in steps:
                tracker.log({"train/loss": 1.0}, step)
            if error:
                raise error

    attempt(UserError("killed"), 1, 2)
    attempt(UserError("out of memory, before any step"))
    assert len(offline_runs(tmp_path)) == 2
    attempt(None, 1, 2, 3)
    [run] = offline_runs(tmp_path)
    assert [row["train/step"] for row in run["history"]] == [1, 2, 3]


def test_a_run_keeps_its_id_in_one_runs_folder_alone(tmp_path: Path) -> None:
    assert run_id(tmp_path / "a", "train", "key") == run_id(tmp_path / "a", "train", "key")
    ids = {run_id(tmp_path / root, stage, key) for root in "ab" for stage in ("train", "mix") for key in ("1", "2")}
    assert len(ids) == 8


def test_report_is_an_artifact_that_uses_the_evaluations(
    cell: Path, tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / SHARED).write_text("# Results\n")
    (folder / "scores.csv").write_text("a,b\n")
    evaluations = [
        Artifact(path.parent, "digest", {}, Shown("predictions"))
        for path in sorted(cell.glob("evaluate/*/record.json"))
    ]
    tracker = Tracker(make_config(*SMALL, "tracker=wandb", "tracker.group=other"), tmp_path)
    tracker.report(folder, evaluations)
    run = runs(tmp_path)["report mine"]
    assert run["job_type"] == "report"
    assert run["artifacts"]["report-mine"]["type"] == "report"
    assert set(run["artifacts"]["report-mine"]["files"]) == {"report.md", "scores.csv"}
    assert list(run["used"]) == [f"evaluate-{each.path.name}" for each in evaluations]
    assert tracker.ids["report"] == run["id"]
