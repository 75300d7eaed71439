"""`do=plan`: what a sweep would make, need and cost, with no model, request or download; each thing once."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server import OpenAIServer
from small import SMALL, all_steps

from lema import pipeline
from lema.artifacts import Store, foreseen
from lema.cell import Cell
from lema.config import Config
from lema.models.sizes import llama
from lema.preflight import planning, sizing
from lema.types import UserError

ASKING = [*SMALL, "corrector=gpt4", "budget_usd=5"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-tests")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with OpenAIServer(reply=lambda prompt: "No.", model="gpt-6.2-sol") as opened:
        monkeypatch.setenv("OPENAI_BASE_URL", opened.url)
        yield opened


def planned(root: Path) -> dict[str, Any]:
    [file] = root.glob("reports/*/plan.json")
    return json.loads(file.read_text())


def test_planned_requests_are_those_that_are_sent_once_solutions_exist(
    make_config: Callable[..., Config], tmp_path: Path, server: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def do(*overrides: str) -> None:
        arguments = [*ASKING, f"runs_dir={tmp_path}", *overrides]
        pipeline.run(make_config(*arguments), arguments)

    do("do=plan")
    before = planned(tmp_path)
    assert set(before["cells"][0]["steps"].values()) == {"make"}
    do("until=sample")
    assert not server.requests
    do("do=plan", "until=correct")
    after = planned(tmp_path)
    assert after["cells"][0]["steps"] == {"data": "current", "base": "current", "sample_self": "current"} | {
        "correct": "make"
    }
    assert not server.requests, "a plan asks nothing"
    assert not after["total"]["missing"]
    do("until=correct")
    sent = len(server.requests)
    used = sum(len(each["messages"][-1]["content"].encode()) // 4 + 8 for each in server.requests)
    assert after["total"]["requests"] == [sent, sent]
    assert before["total"]["requests"][0] <= sent <= before["total"]["requests"][1]
    for plan in (before, after):
        low, high = plan["total"]["prompt_tokens"]
        assert low <= used <= high
    assert after["total"]["prompt_tokens"][1] < before["total"]["prompt_tokens"][1]
    do("do=plan", "until=correct")
    assert planned(tmp_path)["total"]["requests"] == [0, 0]
    assert "sk-secret" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_that_cannot_start_says_once_what_is_missing_and_plans_what_is_shared_once(
    tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    sweep = ["sweeps=main_table", "task=gsm8k", "backbone=mistral", "tracker=none", f"runs_dir={tmp_path / 'runs'}"]
    told = run_cli(*sweep, "do=plan")
    assert told.returncode == 0, told.stderr
    plan = planned(tmp_path / "runs")
    first, second = plan["cells"]
    assert first["steps"]["rationales"] == "make"
    assert (second["steps"]["rationales"], second["steps"]["evaluate_untuned"]) == ("shared", "shared")
    assert list(second["asked"]) == ["correct"], "what the first cell pays is not counted again"
    assert plan["total"]["downloads"]["mistralai/Mistral-7B-v0.1"] == pytest.approx(14.5e9, rel=0.01)
    assert 10 < first["gpu_memory_gb"] < 80
    assert 2 < first["hours"] < 24
    assert plan["total"]["hours_from"] == ["estimate for 1 A100"]
    lines = [line for line in told.stdout.splitlines() if line.startswith("missing")]
    assert sum("OPENAI_API_KEY" in line for line in lines) == 1
    assert sum("budget_usd=" in line for line in lines) == 1
    refused = run_cli(*sweep)
    assert refused.returncode == 1
    assert refused.stderr.startswith("none of the 2 cells can start; missing:\n  - ")
    assert refused.stderr.count("OPENAI_API_KEY") == 1
    assert not (tmp_path / "runs" / "cells").exists()


def test_hours_of_a_step_are_those_that_it_took_for_another_cell(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    for overrides in (["mix=lema"], ["mix=cot", "seed=2", "do=plan"]):
        arguments = [*SMALL, f"runs_dir={tmp_path}", *overrides]
        pipeline.run(make_config(*arguments), arguments)
    [cell] = planned(tmp_path)["cells"]
    assert cell["steps"] == {"data": "current", "base": "current", "evaluate_untuned": "current"} | dict.fromkeys(
        ("mix", "train", "select", "evaluate"), "make"
    )
    assert 0 < cell["hours"] < 1
    assert cell["hours_from"]
    assert all(each.startswith("measured on 1 earlier (CPU") for each in cell["hours_from"])
    assert sum(cell["hours_of"].values()) == cell["hours"]
    pipeline.run(make_config(*arguments, "do=run"), arguments)
    pipeline.run(make_config(*arguments), arguments)  # once more planned, when nothing is left to make
    [again] = planned(tmp_path)["cells"]
    assert (again["hours"], again["hours_of"]) == (0, cell["hours_of"])
    pipeline.run(make_config(*arguments, "do=report"), arguments)
    own = sum(cell["hours_of"][step] for step in ("train", "select", "evaluate"))
    table = (tmp_path / "reports/all/report.md").read_text().split("what each arm took")[1]
    head, _, *rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    said = {row[1].partition(":")[0]: row[head.index("planned")] for row in rows if len(row) == len(head)}
    assert said["cot"] == f"{own:.2g}"
    assert said["lema"] == "–"


@pytest.mark.parametrize(
    ("overrides", "hours"),
    [
        (["sampler=recorded", "sampler.file=FILE"], 0.0),
        (["sampler=server", "sampler.model=m", "sampler.base_url=http://127.0.0.1:1/v1"], 0.0),
        (["sampler=self", "engine=transformers"], 1.0),
        (["sampler=self", "engine=server", "engine.base_url=http://127.0.0.1:1/v1", "engine.model=m"], 0.0),
        (["sampler=recorded", "sampler.file=FILE", "corrector=local", "until=correct"], None),
    ],
)
def test_only_what_loads_a_model_here_takes_hours(
    make_config: Callable[..., Config], tmp_path: Path, overrides: list[str], hours: float | None
) -> None:
    (file := tmp_path / "FILE").write_text('{"question": "?", "generation": "The answer is 1."}\n')
    asked = [each.replace("FILE", str(file)) for each in overrides]
    arguments = ["backbone=mistral", "task=arithmetic", "tracker=none", f"runs_dir={tmp_path / 'runs'}", "do=plan"]
    until = [] if "until=correct" in asked else ["until=sample"]
    pipeline.run(make_config(*arguments, *until, *asked), arguments)
    [cell] = planned(tmp_path / "runs")["cells"]
    assert cell["hours"] is None if hours is None else bool(cell["hours"]) == bool(hours)
    assert cell["gpus"] == (hours != 0)


def test_of_plans_each_says_its_steps_and_a_damaged_one_nothing(tmp_path: Path) -> None:
    said = ('{"run": "a", "hours_of": {"train": 1, "evaluate": 2}}', '{"run": "a", "hours_of": {"train": 3}}')
    damaged = ('{"run": "a", "hours_of": {"train": "?"}}', '{"run": "a", "hours_of": [1]}', '{"run": "a"}', "1", "")
    files = [tmp_path / f"{number}.json" for number in range(len(said) + len(damaged))]
    for file, text in zip(files, [*said, *damaged], strict=True):
        file.write_text(f'{{"cells": [{text}]}}' if text else "{")
    os.mkfifo(pipe := tmp_path / "pipe.json")
    assert foreseen([*files, pipe, tmp_path, tmp_path / "none"]) == {"a": {"train": 3.0, "evaluate": 2.0}}


def test_a_model_without_a_price_is_missing_from_no_plan(
    make_config: Callable[..., Config], tmp_path: Path, server: OpenAIServer
) -> None:
    arguments = [*ASKING, f"runs_dir={tmp_path}", "corrector.model=mine", "do=plan"]
    pipeline.run(make_config(*arguments), arguments)
    [line] = planned(tmp_path)["total"]["missing"]
    assert line.startswith("requests: corrector.model=mine: conf/prices has no price of it: set corrector.input_usd=")


def test_a_data_set_that_is_not_there_is_missing_and_ends_no_plan(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    arguments = ["task=gsm8k", f"task.dataset.path={tmp_path / 'none'}", f"runs_dir={tmp_path}", "tracker=none"]
    pipeline.run(make_config(*arguments, "do=plan"), arguments)
    assert any(str(tmp_path / "none") in line for line in planned(tmp_path)["total"]["missing"])
    with pytest.raises(UserError, match="until=nope: no such stage"):
        pipeline.run(make_config(*arguments, "do=plan", "until=nope"), arguments)


@pytest.mark.parametrize(("parameters", "layers"), [(6_738_415_616, 32), (13_015_864_320, 40), (33_743_970_304, 56)])
def test_a_model_that_is_not_here_counts_as_a_llama_of_its_size(parameters: int, layers: int) -> None:
    config = llama(parameters)
    width, mlp = config.hidden_size, config.intermediate_size
    counted = config.num_hidden_layers * (4 * width**2 + 3 * width * mlp) + 2 * config.vocab_size * width
    assert config.num_hidden_layers == layers
    assert counted == pytest.approx(parameters, rel=0.1)


def test_cells_that_run_as_jobs_are_not_refused_for_what_this_machine_lacks(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    given = ["backbone=mistral", "task=arithmetic", "corrector=reference", "rationales=none", "tracker=none"]
    given += ["sampler=self", "train.merge=null", f"backbone.parameters={10**14}"]
    cells = {mix: Cell(make_config(*given, f"mix={mix}"), Store(tmp_path)) for mix in ("cot", "lema")}
    with pytest.raises(UserError, match=r"none of the 2 cells can start(?s:.)*GPU: (?s:.)*engine: "):
        planning.refuse(cells, pipeline._ways())
    planning.refuse(cells, pipeline._ways(jobs=True))


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (["train=qlora"], 20),  # 2,000 steps
        (["train=full"], 4),  # three epochs over two examples for each of 7,473 questions, 128 a step: 351 steps
        (["train=full", "selection=last"], 1),
    ],
)
def test_the_checkpoints_of_a_training_are_counted_before_it(
    make_config: Callable[..., Config], given: list[str], left: int
) -> None:
    assert sizing.checkpoints(make_config("backbone=llama2", "task=gsm8k", *given)) == left


def test_hours_of_what_is_asked_count_its_own_problems(make_config: Callable[..., Config], tmp_path: Path) -> None:
    rows = ["task=gsm8k", f"task.dataset.path={tmp_path / 'gsm8k'}", "evaluation.tasks=[svamp]"]
    problems = {"gsm8k": 9, "svamp": 4}
    for name, number in problems.items():
        (tmp_path / name).mkdir()
        facts = {"question": "1 + {}?", "answer": "#### 1", "Body": "", "Question": "1 + {}?", "Answer": "1"}
        lines = [json.dumps(facts).replace("{}", str(each)) + "\n" for each in range(number)]
        for split in ("train", "test"):
            (tmp_path / name / f"{split}.jsonl").write_text("".join(lines).replace("1 +", f"{split} 1 +"))
    config = make_config(*rows, "task.num_dev=3", "tracker=none", f"runs_dir={tmp_path / 'runs'}", "until=data")
    pipeline.run(config, rows)
    cell = Cell(config, Store(tmp_path / "runs"))
    pipeline.without_current(cell, pipeline.wanted(cell), tell=False)
    steps = {step.name: step for step in all_steps(cell)}
    answers = {name: planning._answers(cell, steps[name]) for name in ("select", "evaluate", "svamp_evaluate")}  # pyright: ignore[reportPrivateUsage]
    assert answers == {"select": 3, "evaluate": 9, "svamp_evaluate": 4}
    config = make_config("selection=paper", "task.num_dev=0", f"runs_dir={tmp_path / 'runs'}")
    assert planning._answers(Cell(config, Store(tmp_path)), steps["select"]) == 600, "all of the test split"  # pyright: ignore[reportPrivateUsage]
