"""The corrector that is a model, behind a server or loaded here, in the paper's form.

It sees an instruction, four worked corrections, the question and the wrong path, and never the gold answer.
"""

from collections.abc import Callable
from typing import Any

from lema.api.journal import Answer
from lema.correctors.checking import Item, checked
from lema.prompts.formats import correction_prompt
from lema.prompts.replies import read_correction
from lema.types import Correction, Problem

# An answer to each (prompt, try), and what they cost, after so many dollars for earlier tries.
Answering = Callable[[list[tuple[str, int]], float], tuple[list[Answer], dict[str, Any]]]
_REASONS = {"length": "cut off by length", "content_filter": "content filter", "refusal": "refusal"}


def correct_all(
    items: list[Item], demonstrations: str, tries: int, grader: str, answering: Answering
) -> tuple[list[Correction], dict[str, Any]]:
    """A correction of each item, in order, and what they cost; further tries are of those that were rejected."""
    prompts = [prompt(demonstrations, problem, steps) for problem, _, steps in items]
    made: dict[int, Correction] = {}
    spent: dict[str, Any] = {}
    for number in range(tries):
        todo = [index for index in range(len(items)) if index not in made or not made[index].accepted]
        answers, cost = answering([(prompts[index], number) for index in todo], spent.get("usd", 0.0))
        spent = {name: value + spent.get(name, 0) for name, value in cost.items()} | {"failed": cost.get("failed", 0)}
        made |= {index: _read(items[index], answer, grader) for index, answer in zip(todo, answers, strict=True)}
    return [made[index] for index in range(len(items))], spent


def prompt(demonstrations: str, problem: Problem, steps: list[str]) -> str:
    """What the corrector is asked: the demonstrations, which open with an instruction, then the wrong path."""
    asked = correction_prompt(problem.question, steps, problem.candidates)  # its first line is an instruction too
    return demonstrations.rstrip("\n") + "\n\n" + asked.partition("\n")[2]


def _read(item: Item, answer: Answer, grader: str) -> Correction:
    problem, _, steps = item
    said, reason = None, answer.ended if answer.failed else _REASONS.get(answer.ended, "empty")
    if answer.usable:
        said, reason = read_correction(answer.text or "", steps, problem.candidates)
    return checked(item, said, reason, answer.model, grader)
