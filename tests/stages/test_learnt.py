"""What was learnt: a model's mistakes on dev, and on the questions whose mistakes were corrected."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from small import all_steps, rows, summary

from lema.artifacts import Artifact, Recipe, Shown, Store, write_jsonl
from lema.cell import Cell
from lema.config import Config
from lema.stages import evaluate
from lema.types import Completion, Correction, Problem, Prompt, Solution, UserError

RIGHT = "5 + 3 = 8. The answer is 8."
# The ids of questions, and what the model answers to them now.
DEV = {"d0": RIGHT, "d1": "5 + 3 = 9. The answer is 9.", "d2": "5 - 3 = 2. The answer is 2.", "d3": "I do not know."}
TRAIN = {
    "t0": RIGHT,
    "t1": "He has 3+5=9 nuts. The answer is 9.",  # as one of two that were corrected
    "t2": "5 + 3 = 7. The answer is 7.",
    "t3": "5 + 3 = 9. The answer is 9.",  # of which no correction was accepted
}
MADE = [("t0", 9, True), ("t1", 7, True), ("t1", 9, True), ("t2", 9, True), ("t3", 9, False)]


class Model:
    """An engine that answers each question as it stands above, and keeps what it was asked."""

    def __init__(self) -> None:
        self.costs: dict[str, Any] = {}
        self.about = {"engine": "double"}
        self.asked: list[str] = []

    def complete(self, prompts: Sequence[Prompt], resume: Path) -> list[Completion]:
        ids = [prompt.text.partition("#")[2][:2] for prompt in prompts]
        self.asked += ids
        return [Completion((DEV | TRAIN)[each], "stop", "double") for each in ids]


def wrong(problem: str, result: int, accepted: bool) -> Correction:
    steps = [f"5 + 3 = {result}.", f"The answer is {result}."]
    return Correction(problem, "m", 0, "gpt", steps, 2, "No.", ["The answer is 8."], "8", accepted)


@pytest.fixture
def learnt(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., tuple[Artifact, list[str]]]:
    """What an untuned or a tuned model makes of the questions above, and which of them it was asked."""

    def make(*overrides: str, tuned: bool = False, accepted: bool = True) -> tuple[Artifact, list[str]]:
        cell, model = Cell(make_config("evaluation.learnt=true", *overrides), Store(tmp_path)), Model()

        def data(folder: Path) -> dict[str, Any]:
            for split, own in (("dev", DEV), ("train", TRAIN)):
                solution = "Tom has 5 + 3 = <<5+3=8>>8 nuts."
                write_jsonl(folder / f"{split}.jsonl", [Problem(name, f"#{name}?", solution, "8") for name in own])
            return {"train": len(TRAIN)}

        def correct(folder: Path) -> dict[str, Any]:
            write_jsonl(folder / "corrections.jsonl", [wrong(*each[:2], each[2] and accepted) for each in MADE])
            return {"correctors": ["gpt"]}

        def select(folder: Path) -> dict[str, Any]:
            chosen = [Solution(name, "m", 0, RIGHT, "8", True, True, False) for name in DEV]
            write_jsonl(folder / "step-2.jsonl", map(asdict, chosen))
            return {"step": 2, "selection": "dev", "split": "dev", "accuracies": {}}

        def nothing(folder: Path) -> dict[str, Any]:
            return {}

        builds = {"data": data, "base": nothing, "correct": correct, "train": nothing, "select": select}
        for name, build in builds.items():
            recipe = Recipe(name, name, version=1, settings={"accepted": accepted}, inputs={}, shown=Shown("model"))
            cell.artifacts[name], _ = cell.store.make(recipe, build)
        recipe = evaluate.recipe(cell, tuned, learnt=True)
        context = replace(cell.context, engine=lambda *_: model)
        return cell.store.make(recipe, partial(evaluate.build, recipe.settings, recipe.inputs, context))[0], model.asked

    return make


def test_mistakes_on_dev_have_kinds_and_corrected_ones_are_known_again(
    learnt: Callable[..., tuple[Artifact, list[str]]],
) -> None:
    # With as many CoT examples as questions all are in the pool.
    made, asked = learnt("task.max_cot=4", "task.max_extra=null")
    assert asked == [*DEV, "t0", "t1", "t2"]
    assert made.summary == {
        "dev": {"questions": 4, "wrong": 3, "kinds": {"wrong result": 1, "wrong operation": 1, "no answer": 1}},
        "corrected": {"questions": 3, "right": 1, "same": 1, "another": 1},
    }
    answers = {row["problem_id"]: row for row in rows(made.path / "answers.jsonl")}
    assert [answers[name].get("again") for name in ("t0", "t1", "t2", "d1")] == [None, True, False, False]
    few, _ = learnt("task.max_cot=4", "task.max_extra=1")
    assert few.summary["corrected"]["questions"] == 1
    outside, asked = learnt("task.max_cot=1", "task.max_extra=null", "task.seed=3")
    assert set(asked) <= {*DEV, "t0", "t1", "t2"}
    assert outside.summary["corrected"]["questions"] <= 3


def test_what_the_chosen_checkpoint_answered_on_dev_is_not_asked_again(
    learnt: Callable[..., tuple[Artifact, list[str]]],
) -> None:
    made, asked = learnt("task.max_cot=4", "task.max_extra=null", tuned=True)
    assert asked == ["t0", "t1", "t2"]
    assert made.summary["dev"]["wrong"] == 0


def test_without_an_accepted_correction_one_line_says_so(
    learnt: Callable[..., tuple[Artifact, list[str]]],
) -> None:
    with pytest.raises(
        UserError, match=r"^evaluation.learnt=true: not one of 5 corrections was accepted .* or leave it out$"
    ):
        learnt("task.max_cot=4", accepted=False)


def test_each_model_is_asked_after_its_tests_and_an_arm_without_corrections_has_them_made(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    for mix in ("cot", "lema"):
        cell = Cell(make_config(f"mix={mix}", "evaluation.learnt=true"), Store(tmp_path))
        names = [step.name for step in all_steps(cell)]
        assert names[2:4] == ["sample_self", "correct"]
        assert names[-4:] == ["evaluate_untuned", "learnt_untuned", "evaluate", "learnt"]
        assert Cell(make_config(f"mix={mix}"), Store(tmp_path)).folder == cell.folder


@pytest.mark.slow
def test_asking_what_was_learnt_makes_nothing_else_anew(run: Callable[..., dict[str, Path]]) -> None:
    before = run("mix=cot")
    after = run("mix=cot", "evaluation.learnt=true")
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"sample_self", "correct", "learnt", "learnt_untuned"}
    assert run("mix=cot") == after, "what was learnt stays"
    for step in ("learnt", "learnt_untuned"):
        found = summary(after[step])
        assert found["dev"]["wrong"] == sum(found["dev"]["kinds"].values()) <= found["dev"]["questions"] == 8
        corrected = found["corrected"]
        assert corrected["questions"] == corrected["right"] + corrected["same"] + corrected["another"] > 0
