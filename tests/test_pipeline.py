"""The whole experiment on a very small cell: what is reused, what is made again, what survives a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from small import ROOT, SMALL, contents, load, rows as rows_of
from tables import some

from lema import pipeline
from lema.artifacts import Store
from lema.cell import Cell
from lema.config import Config
from lema.models import huggingface
from lema.preflight import planning
from lema.types import UserError


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of one whole small cell, made by `python run.py`."""
    runs = tmp_path_factory.mktemp("undisturbed")
    finished = start(runs).wait(300)
    assert finished == 0
    return runs


def start(runs: Path, *overrides: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "run.py"), *SMALL, *overrides, f"runs_dir={runs}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def made(before: dict[str, Path], after: dict[str, Path]) -> set[str]:
    return {step for step in after if before.get(step) != after[step]}


def test_a_cell_leaves_every_artifact_and_a_score(undisturbed: Path) -> None:
    steps = {path.name for path in undisturbed.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert steps == {"data", "base", "sample", "correct", "mix", "train", "select", "evaluate", "cells", "reports"}
    scores = [json.loads(path.read_text()) for path in undisturbed.rglob("score.json")]
    assert {score["mix"] for score in scores} == {"none", "lema"}
    for score in scores:
        assert score["num_problems"] == 12
        assert score["accuracy"] == score["num_correct"] / 12
        assert {"task", "backbone", "seed", "split", "num_unanswered"} <= score.keys()
    for path in undisturbed.rglob("predictions.jsonl"):
        rows = [json.loads(line) for line in path.open()]
        score = json.loads((path.parent / "score.json").read_text())
        assert score["accuracy_symbolic"] == sum(row["symbolic"] for row in rows) / 12
        assert score["num_unanswered"] == sum(row["answer"] is None for row in rows)
        assert score["disagreements"] == [row["problem_id"] for row in rows if row["correct"] != row["symbolic"]]
    assert not list(undisturbed.rglob("*.partial"))
    assert not list(undisturbed.rglob("*.lock"))


def test_the_same_command_makes_nothing_again_and_imports_nothing_heavy(undisturbed: Path) -> None:
    before = contents(undisturbed)
    command = [sys.executable, "-X", "importtime", str(ROOT / "run.py"), *SMALL, f"runs_dir={undisturbed}"]
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count(" current ") == 9
    assert " made " not in again.stdout
    assert contents(undisturbed) == before
    imported = {line.rsplit("|", 1)[1].strip() for line in again.stderr.splitlines() if "|" in line}
    assert imported.isdisjoint({"torch", "transformers", "wandb", "openai", "datasets"})


def test_a_change_remakes_all_that_it_can_change_and_nothing_else(run: Callable[..., dict[str, Path]]) -> None:
    whole = run("until=select")
    for change, remade in {
        "train.learning_rate=2e-3": {"train", "select"},
        "sampler.temperature=1.3": {"sample_self", "correct", "mix", "train", "select"},
        "limit=5": {"data", "sample_self", "correct", "mix", "train", "select"},
    }.items():
        assert made(whole, run("until=select", change)) == remade, change


def test_arms_and_seeds_share_data_base_and_corrections(run: Callable[..., dict[str, Path]]) -> None:
    lema, cot, seed = (run("until=train", each) for each in ("mix=lema", "mix=cot", "seed=2"))
    matched, random = (run("until=mix", each) for each in ("mix=cot_matched", "mix=cot_random"))
    assert made(lema, matched) == made(lema, random) == {"mix"}
    assert made(lema, cot) == {"mix", "train"}
    assert "correct" not in cot
    assert made(lema, seed) == {"train"}
    examples = {
        name: [json.loads(line) for line in (arm["mix"] / "examples.jsonl").open()]
        for name, arm in {"lema": lema, "cot_matched": matched, "cot_random": random, "cot": cot}.items()
    }
    cot_part = [row for row in examples["cot"] if row["source"] == "cot"]
    for rows in examples.values():
        assert [row for row in rows if row["source"] == "cot"] == cot_part
    assert len(examples["lema"]) == len(examples["cot_matched"]) == len(examples["cot_random"]) > len(cot_part)
    extra = {name: sorted(row["problem_id"] for row in rows[len(cot_part) :]) for name, rows in examples.items()}
    assert extra["lema"] == extra["cot_matched"]
    assert not set(extra["cot_random"]) & {row["problem_id"] for row in cot_part}


@pytest.fixture
def published(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., list[str]]:
    """`published("svamp")`: small data sets in their published layouts, and the overrides that make a run small."""
    problems = load(make_config(*SMALL).task)
    gsm8k = {
        name: [{"question": each.question, "answer": f"{each.solution}\n#### {each.answer}"} for each in problems[name]]
        for name in ("train", "test")
    }
    own = {"Body": "Tom has 5 apples.", "Question": "How many apples are left?"}
    csqa = {"answerKey": "A", "why": "A bank has one.\nReasons and Final Answer:\nThe most relevant is bank."}
    choices = [{"label": label, "text": text} for label, text in (("A", "bank"), ("B", "mall"), ("C", "zoo"))]
    rows = [csqa | {"question": {"stem": f"Where are {number}?", "choices": choices}} for number in range(40)]
    written = {"gsm8k": gsm8k, "csqa": {"train": rows, "dev": rows[:6]}}
    written |= {"svamp": {"test": [own | {"Answer": float(number)} for number in range(6)]}}
    written |= {"asdiv": {"ASDiv": [own | {"Answer": f"{number} (apples)"} for number in range(6)]}}
    for name, splits in written.items():
        (tmp_path / name).mkdir()
        for split, lines in splits.items():
            (tmp_path / name / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    small = [*SMALL, "task.num_train=null", "task.num_test=null"]

    def overrides(name: str) -> list[str]:
        trained = [f"task.train_dataset.path={tmp_path / 'gsm8k'}"] if name in ("svamp", "asdiv") else []
        solution = ["task.dataset.solution=why"] if name == "csqa" else []
        return [*small, f"task={name}", f"task.dataset.path={tmp_path / name}", *trained, *solution]

    return overrides


@pytest.mark.slow
def test_svamp_and_asdiv_are_asked_of_the_model_that_gsm8k_trained(
    run: Callable[..., dict[str, Path]], published: Callable[..., list[str]], make_config, tmp_path: Path
) -> None:
    gsm8k = run(*published("gsm8k"))
    cell = Cell(make_config(*published("svamp"), f"runs_dir={tmp_path / 'runs'}"), Store(tmp_path / "runs"))
    left = pipeline.without_current(cell, pipeline.wanted(cell))
    assert {step.name for step in left} >= {"test_data", "correct", "train"}
    lacking = [step.name for step in planning.to_make(cell, left, pipeline.again)[0]]
    assert lacking == ["test_data", "evaluate_untuned", "evaluate"], "what is behind them is not asked for again"
    svamp, asdiv = (run(*published(name)) for name in ("svamp", "asdiv"))
    assert made(gsm8k, svamp) == made(gsm8k, asdiv) == {"test_data", "evaluate", "evaluate_untuned"}
    for name, artifacts in {"svamp": svamp, "asdiv": asdiv}.items():
        score = json.loads((artifacts["evaluate"] / "score.json").read_text())
        assert (score["task"], score["num_problems"]) == (name, 6)
        first = json.loads((artifacts["evaluate"] / "predictions.jsonl").read_text().splitlines()[0])
        # The gold answer is 0, which the official rules find where there is nothing.
        assert [first[key] for key in ("answer", "correct", "symbolic")] == [None, True, False]
        assert score["disagreements"] == [f"{name}-test-0"]
        assert (score["accuracy"], score["accuracy_symbolic"], score["num_unanswered"]) == (1 / 6, 0, 6)
    assert made(svamp, run(*published("svamp"), "evaluation.split=dev")) == {"evaluate", "evaluate_untuned"}


@pytest.mark.slow
def test_samples_and_further_tests_are_asked_of_one_model_beside_the_greedy_answers(
    run: Callable[..., dict[str, Path]], published: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load_to_answer = huggingface.load_to_answer
    monkeypatch.setattr(huggingface, "load_to_answer", lambda *of: loaded.append(of[0].name) or load_to_answer(*of))
    drawn = ["evaluation.samples=4", "evaluation.temperature=1.0"]
    plain = run(*published("gsm8k"))
    loaded.clear()
    both = run(*published("gsm8k"), *drawn, "evaluation.tasks=[svamp,asdiv]")
    # The untuned backbone and the tuned one, each for three tests and its samples, unless one is still in memory.
    assert len(asked := list(loaded)) <= 2
    new = {f"{test}{step}" for test in ("svamp_", "asdiv_") for step in ("test_data", "evaluate", "evaluate_untuned")}
    assert made(plain, both) == {"evaluate", "evaluate_untuned", *new}
    for step in ("evaluate", "evaluate_untuned"):
        greedy, beside = (json.loads((each[step] / "score.json").read_text()) for each in (plain, both))
        assert beside == greedy | {"sampled": beside["sampled"]}
        assert greedy["sampled"] is None
        assert greedy["answered"]["engine"].startswith("transformers ")
        assert (plain[step] / "predictions.jsonl").read_bytes() == (both[step] / "predictions.jsonl").read_bytes()
    for step in ("evaluate", "svamp_evaluate", "asdiv_evaluate_untuned"):
        score = json.loads((both[step] / "score.json").read_text())
        samples, by_problem = rows_of(both[step] / "samples.jsonl"), rows_of(both[step] / "sampled.jsonl")
        assert len(samples) == 4 * score["num_problems"]
        assert len({row["text"] for row in samples if row["problem_id"] == samples[0]["problem_id"]}) > 1
        for row in by_problem:
            own = [each for each in samples if each["problem_id"] == row["problem_id"]]
            assert [each["sample"] for each in own] == [0, 1, 2, 3]
            assert (row["samples"], row["correct"]) == (4, sum(each["correct"] for each in own))
        sampled = score["sampled"]
        assert sampled["accuracy"] == sampled["pass_at"]["1"] == sum(each["correct"] for each in samples) / len(samples)
        assert sampled["low"] <= sampled["accuracy"] <= sampled["high"]
        assert list(sampled["pass_at"]) == ["1", "2", "4"]
        assert sampled["num_unanswered"] == sum(each["answer"] is None for each in samples)
    svamp = run(*published("svamp"), *drawn)
    for step in ("test_data", "evaluate", "evaluate_untuned"):
        assert svamp[step] == both[f"svamp_{step}"], "which are those of the task's own run"
    assert loaded == asked
    report = json.loads((svamp["evaluate"].parents[1] / "reports/all/report.json").read_text())
    assert {(arm["task"], arm["arm"], arm.get("samples")) for arm in report["arms"]} == {
        *((task, arm, 4) for task in ("gsm8k", "svamp", "asdiv") for arm in ("untuned", "lema")),
        *(("gsm8k", arm, None) for arm in ("untuned", "lema")),
    }


def test_csqa_with_rationales_runs_to_its_score(
    run: Callable[..., dict[str, Path]], published: Callable[..., list[str]]
) -> None:
    artifacts = run(*published("csqa"))
    prompts = [json.loads(line)["prompt"] for line in (artifacts["mix"] / "examples.jsonl").open()]
    assert all("\nCandidate Answers: bank, mall, zoo.\n" in prompt for prompt in prompts)
    assert any(prompt.endswith("\nMistakes:") for prompt in prompts)
    completions = [json.loads(line)["completion"] for line in (artifacts["mix"] / "examples.jsonl").open()]
    assert all("The most relevant is bank.\nThe answer is bank." in completion for completion in completions)
    assert json.loads((artifacts["evaluate"] / "score.json").read_text())["num_problems"] == 6


def test_a_real_backbone_runs_from_a_local_folder(
    undisturbed: Path, tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    [base] = (undisturbed / "base").glob("tiny-*")
    small = [override for override in SMALL if not override.startswith("backbone.")]
    overrides = [
        *small,
        "backbone=llama2",
        "experiment=no_api",
        "engine=transformers",
        *(f"backbone.path={base}", "backbone.name=tried", "backbone.size=own"),
        "sampler.samples=1",
    ]
    overrides += ["train.batch_size=6", f"runs_dir={tmp_path}"]
    pipeline.run(make_config(*overrides), overrides)
    [score] = [json.loads(path.read_text()) for path in tmp_path.glob("evaluate/*lema*/score.json")]
    assert (score["backbone"], score["model"]) == ("tried", base.name)  # which is the same on every machine
    assert list(tmp_path.glob("train/*/checkpoints/step-*/adapter_model.safetensors"))


@pytest.mark.parametrize("method", some(["qlora", "lora"], 2))
def test_adapters_train_merge_and_answer_on_a_cpu(
    run: Callable[..., dict[str, Path]], tmp_path: Path, method: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    artifacts = run(f"train={method}")
    agreement = json.loads((artifacts["merge"] / "agreement.json").read_text())
    assert (agreement["prompts"], agreement["equal_outputs"]) == (8, 1.0)
    assert agreement["largest_logit_difference"] < 1e-3
    [hub] = tmp_path.glob("runs/cells/*/hub")
    assert {folder.name for folder in hub.iterdir()} == {"adapter", "merged"}
    AutoModelForCausalLM.from_pretrained(hub / "merged")
    base = AutoModelForCausalLM.from_pretrained(artifacts["base"])
    PeftModel.from_pretrained(base, str(hub / "adapter"))
    for folder in hub.iterdir():
        AutoTokenizer.from_pretrained(folder)
        card = (folder / "README.md").read_text()
        front, body = yaml.safe_load(card.split("---\n")[1]), card.split("---\n")[2]
        assert front["library_name"] == ("peft" if folder.name == "adapter" else "transformers")
        assert "| arithmetic | test | 12 |" in body
        assert ("greedy outputs are equal" in body) == (folder.name == "merged")
        config = yaml.safe_load(body.split("```yaml\n")[1].removesuffix("```\n"))
        assert config["train"]["method"] == method
        for file in (file for file in folder.iterdir() if file.suffix in (".md", ".json")):
            assert str(tmp_path) not in file.read_text(), file
    onto_original = run(f"train={method}", "train.merge=original", "until=merge")
    assert made(artifacts, onto_original) == ({"merge"} if method == "qlora" else set())


def test_the_papers_choice_is_labelled_wherever_its_number_appears(
    run: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    artifacts = run("train=lora", "train.merge=null", "selection=paper")
    assert "merge" not in artifacts
    score = json.loads((artifacts["evaluate"] / "score.json").read_text())
    assert (score["selection"], score["split"]) == ("paper", "test")
    answers = (artifacts["evaluate"] / "predictions.jsonl").read_bytes()
    assert answers == (artifacts["select"] / f"step-{score['step']}.jsonl").read_bytes()
    report = (tmp_path / "runs/reports/all/report.md").read_text()
    assert "| best on test: optimistic |" in report
    assert "chosen on the test split, which they are scored on, as the paper did: optimistic" in report
    [card] = tmp_path.glob("runs/cells/*/hub/adapter/README.md")
    assert "an optimistic number" in card.read_text().split("## Scores")[1]


@pytest.mark.parametrize("method", some(["lora", "full"], 2, pytest.mark.slow))
def test_the_model_that_cot_trained_makes_the_mistakes_and_is_trained_once(
    run: Callable[..., dict[str, Path]], method: str
) -> None:
    how = [f"train={method}", "sampler=tuned"]
    cot, lema = run("mix=cot", *how), run("mix=lema", *how)
    shared = ["mix", "train", "select", *(["merge"] if method == "lora" else [])]
    assert {step: path for step, path in lema.items() if step.startswith("tuned_")} == {
        f"tuned_{stage}": cot[stage] for stage in shared
    }
    assert not any("tuned" in step for step in cot if step != "evaluate_untuned")
    untuned = run("mix=lema", f"train={method}", "sampler=self", "until=sample")
    texts = [
        [row["text"] for row in rows_of(steps[f"sample_{name}"] / "solutions.jsonl")]
        for steps, name in ((lema, "tuned"), (untuned, "self"))
    ]
    assert len(texts[0]) == len(texts[1])
    assert texts[0] != texts[1]
    other = run("mix=lema", *how, "seed=2", "until=sample")  # each seed's own model
    assert {"tuned_train", "sample_tuned"} <= made(lema, other)


def test_until_stops_and_only_needs_what_stands_before(run: Callable[..., dict[str, Path]]) -> None:
    with pytest.raises(UserError, match=r"only=train: .*mix.* must be made first"):
        run("only=train")
    assert "train" not in run("until=mix")
    assert "train" in run("only=train")


def test_a_mix_without_an_accepted_correction_is_an_error(run: Callable[..., dict[str, Path]]) -> None:
    with pytest.raises(UserError, match="mix=lema: not one of 0 corrections was accepted"):
        run("sampler.keep_unanswered=false")


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    kills = 0
    for delay in [5.0, 9.0, 12.0, 600.0]:
        process = start(tmp_path)
        deadline = time.monotonic() + delay
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if process.returncode == 0:
            break
    assert kills >= 2
    assert process.returncode == 0
    leftovers = [path for path in tmp_path.rglob("*") if path.suffix in (".partial", ".lock")]
    assert not leftovers
    assert contents(tmp_path) == contents(undisturbed)


@pytest.mark.slow
def test_two_processes_on_one_cell_end_with_one_set_of_artifacts(undisturbed: Path, tmp_path: Path) -> None:
    processes = [start(tmp_path), start(tmp_path)]
    assert [process.wait(600) for process in processes] == [0, 0]
    assert contents(tmp_path) == contents(undisturbed)


@pytest.mark.slow
def test_paid_corrections_run_through_the_same_pipeline(
    run: Callable[..., dict[str, Path]], make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    from openai_server import OpenAIServer, ReferenceReply

    config = make_config(*SMALL)
    problems = load(config.task)
    with OpenAIServer(reply=ReferenceReply([*problems["train"], *problems["dev"]]), model="gpt-6.2-sol") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        with pytest.raises(UserError, match=r"budget: corrections by gpt-6\.2-sol: .* corrector=gpt4 budget_usd=\d+ "):
            run("corrector=gpt4")
        assert server.requests == []
        first = run("corrector=gpt4", "budget_usd=100")
        paid = len(server.requests)
        assert made(first, run("corrector=gpt4", "budget_usd=100", "seed=2")) == {"train", "select", "evaluate"}
        assert len(server.requests) == paid > 0
    rows = [json.loads(line) for line in (first["correct"] / "corrections.jsonl").open()]
    assert any(row["accepted"] for row in rows)
    answers = {problem.id: problem.answer for problem in problems["train"]}
    for request in server.requests:
        assert "The answer is" in json.dumps(request)
    assert {row["problem_id"] for row in rows} <= answers.keys()


@pytest.mark.slow
def test_a_failed_cell_stops_no_other_and_the_report_comes_once(tmp_path: Path) -> None:
    overrides = [*SMALL, "sampler.keep_unanswered=false", "mix=lema,cot", f"runs_dir={tmp_path}"]
    command = [sys.executable, str(ROOT / "run.py"), "-m", *overrides]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    [line] = [line for line in finished.stdout.splitlines() if line.startswith("cell 1 of 2      failed ")]
    assert "/run.log: mix=lema: not one of 0 corrections was accepted" in line
    assert finished.stderr == "1 cell failed; the same command tries again\n"
    assert finished.stdout.count("# Results") == 1
    assert "lema-seed1: it failed after correct: mix=lema: not one of 0 corrections was accepted" in finished.stdout
    assert len(list(tmp_path.glob("cells/*/evaluate"))) == 1
