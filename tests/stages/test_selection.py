"""Which checkpoint is evaluated: checkpoints that answer differently, in an experiment that knows how well."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from small import ROOT, all_steps, pretraining

from lema.artifacts import RESUME, Artifact, Recipe, Shown, Store, keep, kept, write_jsonl
from lema.cell import Cell
from lema.config import Config
from lema.models import tiny
from lema.models.encoding import encode_completion, encode_prompt
from lema.models.huggingface import load_tokenizer
from lema.models.weights import Weights
from lema.prompts.formats import cot_prompt
from lema.stages import evaluate, select, train
from lema.types import Completion, Problem, Prompt, Solution, UserError

SMALL = ["backbone.tiny.steps=4", "backbone.tiny.corpus_size=200", "evaluation.max_new_tokens=12", "tracker=none"]
SAYS = {2: "7", 4: "9", 6: "9"}  # what the checkpoint of each step answers to every question
GOLD = {"dev": "99977", "test": "77799"}  # so the best is step 4 on dev, step 2 on test


def problems(split: str, answers: str) -> list[Problem]:
    facts = enumerate(answers)
    return [Problem(f"{split}-{n}", f"Tom has {n} nuts. How many does he want?", "", gold) for n, gold in facts]


@pytest.fixture(scope="module")
def parrots(tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., Config]) -> Path:
    """A base, and models that say one answer to all questions: `base/`, `7/`, `9/`."""
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("parrots")
    tiny.build(root / "base", [], pretraining(make_config(*SMALL)))
    tokenizer = load_tokenizer(Weights("tiny", str(root / "base"), None, ""))
    prompt = encode_prompt(tokenizer, cot_prompt("lema", problems("dev", "7")[0].question))
    for answer in sorted(set(SAYS.values())):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_pretrained(root / "base")
        completion = encode_completion(tokenizer, f"The answer is {answer}.")
        ids = torch.tensor([prompt + completion])
        labels = torch.tensor([[-100] * len(prompt) + completion])
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
        for _ in range(60):
            optimizer.zero_grad()
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
        model.save_pretrained(root / answer)
        tokenizer.save_pretrained(root / answer)
    return root


@pytest.fixture
def cell(parrots: Path, tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., Cell]:
    """`cell("selection=paper")`: a cell whose training has ended with the parrots as its checkpoints."""

    def trained(folder: Path, steps: list[int]) -> dict[str, Any]:
        for step in steps:
            shutil.copytree(parrots / SAYS[step], folder / "checkpoints" / f"step-{step}")
        return {"steps": steps[-1], "checkpoints": steps}

    def base(folder: Path) -> dict[str, Any]:
        shutil.copytree(parrots / "base", folder, dirs_exist_ok=True)
        return {}

    def data(folder: Path) -> dict[str, Any]:
        for split, answers in GOLD.items():
            write_jsonl(folder / f"{split}.jsonl", problems(split, answers))
        return {}

    def make(*overrides: str, steps: tuple[int, ...] = tuple(SAYS)) -> Cell:
        made = Cell(make_config(*SMALL, *overrides), Store(tmp_path))
        builds = {"data": data, "base": base, "train": partial(trained, steps=list(steps))}
        for name, build in builds.items():
            recipe = Recipe(name, name, version=1, settings={"steps": list(steps)}, inputs={}, shown=Shown("model"))
            made.artifacts[name], _ = made.store.make(recipe, build)
        return made

    return make


def made(cell: Cell, name: str) -> Artifact:
    [step] = [step for step in all_steps(cell) if step.name == name]
    recipe = step.recipe(cell)
    return cell.store.make(recipe, partial(step.build, recipe, cell))[0]


def selected(cell: Cell) -> Artifact:
    cell.artifacts["select"] = made(cell, "select")
    return cell.artifacts["select"]


def scored(cell: Cell) -> dict[str, Any]:
    return json.loads((made(cell, "evaluate").path / "score.json").read_text())


def test_dev_takes_the_best_on_dev_and_of_equals_the_earliest(cell: Callable[..., Cell]) -> None:
    chosen = selected(cell("selection=dev"))
    accuracies = {"2": 0.4, "4": 0.6, "6": 0.6}
    facts = {"step": 4, "selection": "dev", "split": "dev", "accuracies": accuracies}
    answered = {"engine": f"transformers {version('transformers')}", "device": "cpu", "attention": "sdpa"}
    assert chosen.summary == facts | {"answered": answered}
    rows = [json.loads(line) for line in (chosen.path / "accuracies.jsonl").open()]
    assert [(row["step"], row["accuracy"]) for row in rows] == [(2, 0.4), (4, 0.6), (6, 0.6)]


def test_the_score_is_that_of_the_selected_checkpoint_and_says_how_it_was_chosen(cell: Callable[..., Cell]) -> None:
    found = {}
    for selection in ("dev", "last", "paper"):
        tried = cell(f"selection={selection}")
        selected(tried)
        score = scored(tried)
        found[selection] = (score["selection"], score["step"], score["split"], score["accuracy"])
    assert found == {
        "dev": ("dev", 4, "test", 0.4),
        "last": ("last", 6, "test", 0.4),
        "paper": ("paper", 2, "test", 0.6),
    }


def test_last_and_a_single_checkpoint_need_no_answers(cell: Callable[..., Cell]) -> None:
    for tried, step in (
        (cell("selection=last"), 6),
        *((cell(f"selection={s}", steps=(4,)), 4) for s in ("dev", "paper")),
    ):
        chosen = selected(tried)
        assert chosen.summary == {"step": step, "selection": "last", "split": None, "accuracies": {}}
        assert {file.name for file in chosen.path.iterdir()} == {"accuracies.jsonl", "record.json"}


@pytest.mark.parametrize("overrides", [("selection=paper",), ("selection=dev", "evaluation.split=dev")])
def test_what_was_answered_to_choose_is_not_asked_again(cell: Callable[..., Cell], overrides: tuple[str, ...]) -> None:
    tried = cell(*overrides)
    chosen = selected(tried)
    shutil.rmtree(tried.artifacts["train"].path / "checkpoints")  # so nothing can answer
    assert scored(tried)["accuracy"] == max(chosen.summary["accuracies"].values()) == 0.6


def test_dev_without_dev_questions_is_an_error_that_names_the_remedy(cell: Callable[..., Cell]) -> None:
    with pytest.raises(UserError, match=r"selection=dev task\.num_dev=0: .* selection=last, or .* task\.num_dev="):
        selected(cell("selection=dev", "task.num_dev=0"))
    assert selected(cell("selection=dev", "task.num_dev=0", steps=(4,))).summary["step"] == 4
    assert selected(cell("selection=paper", "task.num_dev=0")).summary["step"] == 2


def test_training_depends_on_the_choice_alone_and_not_on_what_lies_on_the_disk(cell: Callable[..., Cell]) -> None:
    recipes = {}
    for choice in ("dev", "last", "paper", "last"):
        tried = cell(f"selection={choice}")
        tried.artifacts["mix"] = tried.artifacts["data"]
        recipe = train.recipe(tried)
        assert recipes.setdefault(choice, recipe.identity()) == recipe.identity()
        tried.store.make(recipe, lambda folder: {})
    assert recipes["dev"] == recipes["paper"] != recipes["last"], "of `last` one checkpoint alone is kept"


def test_the_untuned_score_does_not_depend_on_the_choice(cell: Callable[..., Cell]) -> None:
    recipes = [evaluate.recipe(cell(f"selection={each}"), tuned=False).identity() for each in ("dev", "last", "paper")]
    assert recipes[0] == recipes[1] == recipes[2]


class Base:
    """An engine that answers as a base does: it goes on with questions of its own. It keeps its prompts."""

    def __init__(self) -> None:
        self.costs: dict[str, Any] = {}
        self.about = {"engine": "base"}
        self.prompts: list[Prompt] = []

    def complete(self, prompts: Sequence[Prompt], resume: Path) -> list[Completion]:
        self.prompts += prompts
        return [Completion("The answer is 7.\n\nQuestion: And 4 + 5?\nThe answer is 9.", "stop", "base")] * len(prompts)


def test_the_untuned_backbone_can_be_asked_after_worked_solutions(cell: Callable[..., Cell]) -> None:
    asked, plain = cell("evaluation.untuned_prompt=few_shot"), cell()
    for one, prompt in ((asked, "few_shot"), (plain, "lema")):
        base, recipe = Base(), evaluate.recipe(one, tuned=False)
        context = replace(one.context, engine=lambda *_, base=base: base)
        artifact, _ = one.store.make(recipe, partial(evaluate.build, recipe.settings, recipe.inputs, context))
        assert artifact.summary["prompt"] == prompt
        assert (
            base.prompts[0].text.count("The answer is") > 3
            if one is asked
            else "The answer" not in base.prompts[0].text
        )
        own = artifact.rows("predictions.jsonl", Solution)
        assert all(("Question" in each.text) == (one is plain) for each in own), "its own questions are no answer"
    for one in (asked, plain):
        one.artifacts["select"], _ = one.store.make(select.recipe(one), lambda folder: {"step": 2})
    assert evaluate.recipe(asked, tuned=True) == evaluate.recipe(plain, tuned=True)


def test_a_checkpoint_that_has_answered_is_not_asked_again_after_an_end(cell: Callable[..., Cell]) -> None:
    tried, whole = cell("selection=dev"), cell("selection=dev")
    recipe = select.recipe(tried)

    def cut_short(folder: Path) -> dict[str, Any]:
        (tried.artifacts["train"].path / "checkpoints" / "step-4").rename(tried.store.root / "away")
        return select.build(recipe.settings, recipe.inputs, tried.context, folder)

    with pytest.raises(UserError, match="step-4"):
        tried.store.make(recipe, cut_short)
    [partial_folder] = tried.store.root.glob("select/*.partial")
    assert [file.name for file in (partial_folder / RESUME).glob("step-*")] == ["step-2.json"]
    checkpoints = tried.artifacts["train"].path / "checkpoints"
    (tried.store.root / "away").rename(checkpoints / "step-4")
    shutil.rmtree(checkpoints / "step-2")
    assert selected(whole).summary["accuracies"] == {"2": 0.4, "4": 0.6, "6": 0.6}
    assert len(whole.artifacts["select"].rows("step-2.jsonl", Solution)) == 5


@pytest.mark.slow
def test_killed_while_choosing_the_same_command_goes_on(tmp_path: Path) -> None:
    small = ["task.num_train=40", "task.num_test=6", "task.num_dev=12", "task.max_cot=16", "mix=cot"]
    small += ["train.max_steps=6", "train.save_steps=1", "train=lora", "until=select", f"runs_dir={tmp_path}"]
    command = [sys.executable, str(ROOT / "run.py"), *SMALL, *small, "engine.batch_tokens=600"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    answered: list[Path] = []
    deadline = time.monotonic() + 120
    while not answered and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
        answered = list(tmp_path.glob("select/*.partial/resume/step-1.json"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert answered
    assert not list(tmp_path.glob("select/*/record.json"))
    rows = [row | {"correct": True} for row in kept(answered[0])]
    keep(answered[0], rows)  # a mark that answering again would not leave
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    [chosen] = tmp_path.glob("select/*/record.json")
    summary = json.loads(chosen.read_text())["summary"]
    assert (summary["step"], summary["accuracies"]["1"]) == (1, 1.0)
    assert summary["accuracies"].keys() == {"1", "2", "3"}
