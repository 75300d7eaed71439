"""W&B online, against a loopback server that speaks its protocol: what arrives, what is told, what a loss costs."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from small import ROOT
from tracked import USER, command, curve, environment, track
from wandb_log import offline_runs
from wandb_server import KEY, WandbServer, serving

from lema.artifacts import Artifact, Recipe, Shown, Store, write_json, write_jsonl
from lema.tracking.runs import Tracker
from lema.types import Solution, UserError

EVALUATION = Recipe("evaluate", "a-label", 1, {}, {}, Shown("predictions", ("predictions.jsonl", "score.json")))


@dataclass
class Finished:
    """A whole cell, tracked online."""

    server: WandbServer
    home: Path
    output: str


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    home = tmp_path_factory.mktemp("online") / USER
    home.mkdir()
    with serving() as server:
        env = environment(home, **server.environment, WANDB_RUN_GROUP="a-group")
        done = subprocess.run(command(), cwd=home, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        yield Finished(server, home, done.stdout + done.stderr)


@pytest.mark.slow
def test_runs_arrive_with_curve_config_and_score(online: Finished) -> None:
    runs = {run.display_name: run for run in online.server.runs.values()}
    train, score = runs["train arithmetic-tiny-lema-seed1"], runs["evaluate arithmetic-tiny-lema-seed1"]
    rows = [json.loads(line) for line in next(online.home.glob("runs/train/*/metrics.jsonl")).open()]
    assert [{name: row[f"train/{name}"] for name in rows[0]} for row in train.history] == rows
    of_cell = [run for run in runs.values() if run.job_type != "report"]  # which has no tags
    assert {(run.group, tuple(run.tags), run.state) for run in of_cell} == {
        ("a-group", ("tiny", "arithmetic", "lema"), "finished")
    }
    assert [train.job_type, score.job_type] == ["train", "evaluate"]
    assert train.values["train"]["max_steps"] == 6
    expected = json.loads(next(online.home.glob("runs/evaluate/*-lema-*/score.json")).read_text())
    assert {name: score.summary.get(f"evaluate/{name}") for name in expected} == expected  # W&B drops what is null
    assert not online.server.refused


@pytest.mark.slow
def test_artifacts_arrive_once_each_and_linked(online: Finished) -> None:
    artifacts = [each for each in online.server.artifacts.values() if each.type != "run_table"]
    jobs = {run.id: run.job_type for run in online.server.runs.values()}
    assert len(artifacts) == len(jobs) == 10
    assert all(each.state == "COMMITTED" for each in artifacts)
    used = {(each.name.split("-")[0], jobs[user]) for each in artifacts for user in each.used_by}
    assert used >= {("data", "sample"), ("sample", "correct"), ("correct", "mix"), ("mix", "train")}
    assert used >= {("train", "select"), ("select", "evaluate"), ("data", "evaluate"), ("evaluate", "report")}
    [predictions] = (each for each in artifacts if each.name.startswith("evaluate-arithmetic-tiny-lema"))
    path = next(online.home.glob("runs/evaluate/*-lema-*/predictions.jsonl"))
    assert predictions.files["predictions.jsonl"] == path.read_text()


@pytest.mark.slow
def test_nothing_that_is_told_names_the_user_and_the_key_is_nowhere(online: Finished) -> None:
    told = b"\n".join(body for _, body in online.server.received).lower()
    assert b"arithmetic-tiny-lema" in told
    for name in (USER, str(ROOT), KEY):
        assert name.lower().encode() not in told, name
    runs = online.server.runs.values()
    assert not [run for run in runs if run.host or "wandb-metadata.json" in run.files or "output.log" in run.lines]
    kept = [path for path in online.home.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in kept if KEY.encode() in path.read_bytes()]
    logs = [path for path in kept if path.suffix == ".wandb"]
    assert len(logs) == 10
    assert not [path for path in logs if USER.encode() in path.read_bytes()]
    assert KEY not in online.output


@pytest.mark.slow
def test_load_of_the_system_is_kept(online: Finished) -> None:
    assert any(
        "system.memory_percent" in line
        for run in online.server.runs.values()
        for line in run.lines.get("wandb-events.jsonl", {}).values()
    )


def test_rows_that_the_server_has_are_not_logged_again(server: WandbServer, tracker: Callable[..., Tracker]) -> None:
    track(tracker(**server.environment), range(1, 4))
    track(tracker(**server.environment), range(1, 7))  # as training does that goes on from a checkpoint
    [run] = server.runs.values()
    assert curve(run.history) == [(step, 1 / step) for step in range(1, 7)]
    assert run.state == "finished"
    assert run.summary["train/final_loss"] == 0.5


def test_id_of_a_run_that_was_deleted_is_no_reason_to_stop(
    tmp_path: Path, server: WandbServer, tracker: Callable[..., Tracker], caplog: pytest.LogCaptureFixture
) -> None:
    tracked = tracker(**server.environment, WANDB_INIT_TIMEOUT="3")  # wandb asks again until then
    track(tracked, range(1, 4))
    server.deleted.add(tracked.ids["train"])
    track(tracked, range(1, 4))
    assert "previously created and deleted" in caplog.text
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_what_is_lost_on_the_way_is_written_again_offline_and_said_in_one_line(
    tmp_path: Path, server: WandbServer, tracker: Callable[..., Tracker], warned: Callable[[], list[str]]
) -> None:
    def lose(step: int) -> None:
        if step == 3:
            server.close()
        if step == 5:
            raise UserError("it failed too")  # without a result there is less to wait for

    tracked = tracker(**server.environment, WANDB_FINISH_TIMEOUT="2")
    with pytest.raises(UserError, match="it failed too"):
        track(tracked, range(1, 7), lose)
    [line] = warned()
    assert "W&B did not take all of train" in line
    [run] = offline_runs(tmp_path)
    assert line.endswith(f"wandb sync -n 1 {tmp_path}/wandb/offline-run-*")
    assert curve(run["history"]) == [(step, 1 / step) for step in range(1, 6)]
    assert tracked.offline  # the steps that follow do not wait again


def test_evaluation_is_the_run_that_an_agent_waits_for_and_no_other_step_is_in_the_sweep(
    cell_artifact: Artifact, tmp_path: Path, server: WandbServer, tracker: Callable[..., Tracker]
) -> None:
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("wandb_version: 1\nseed:\n  value: 7\n")
    agent = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "agents", "WANDB_SWEEP_PARAM_PATH": str(parameters)}
    tracked = tracker(**server.environment, WANDB_PROJECT="lema", WANDB_ENTITY="team", **agent)
    track(tracked, range(1, 4))
    with tracked.step("evaluate", EVALUATION, {}) as run:
        run.start()
        run.complete(cell_artifact)
    assert {run.id: run.sweep for run in server.runs.values()} == {"agents": "sweep1", tracked.ids["train"]: None}
    assert tracked.ids["evaluate"] == "agents"
    assert server.runs["agents"].summary["evaluate/accuracy"] == 0.5
    assert server.runs["agents"].job_type == "evaluate"


def test_score_that_was_there_already_is_shown_to_the_agent_too(
    cell_artifact: Artifact, server: WandbServer, tracker: Callable[..., Tracker]
) -> None:
    agent = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "agents"}
    tracker(**server.environment, WANDB_PROJECT="lema", **agent).show_current(cell_artifact)
    assert server.runs["agents"].summary["evaluate/accuracy"] == 0.5
    assert "WANDB_RUN_ID" not in os.environ  # the next cell of the process is not the agent's


@pytest.fixture
def cell_artifact(tmp_path: Path) -> Artifact:
    """An evaluation."""

    def build(folder: Path) -> dict[str, float]:
        answer = Solution("arithmetic-test-1", "tiny", 0, "4", "4", True, True, False)
        write_jsonl(folder / "predictions.jsonl", [answer])
        write_json(folder / "score.json", {"accuracy": 0.5})
        return {"accuracy": 0.5}

    return Store(tmp_path).make(EVALUATION, build)[0]


@pytest.mark.parametrize("part", ["file_stream", "CreateArtifact", "/upload/artifact/"])
def test_what_the_server_refuses_after_the_start_is_written_again_offline_and_said(
    part: str, tmp_path: Path, server: WandbServer, tracker: Callable[..., Tracker], warned: Callable[[], list[str]]
) -> None:
    """wandb itself says nothing of it."""
    answer = server.answer
    refused = (403, {"errors": [{"message": "no permission"}]})
    server.answer = lambda path, body: refused if part in path or part.encode() in body else answer(path, body)
    track(tracker(**server.environment), range(1, 4))
    [line] = [line for line in warned() if "upload it later" in line]
    assert line.startswith("W&B did not take all of train (")
    assert "403" in line
    [run] = offline_runs(tmp_path)
    assert curve(run["history"]) == [(step, 1 / step) for step in range(1, 4)]
    assert run["artifacts"]
