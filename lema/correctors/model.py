"""The corrector that is a model, behind a server or loaded here, in the paper's form.

It sees an instruction, four worked corrections, the question and the wrong path, and never the gold answer.
"""

from pathlib import Path

from lema.correctors.checking import Item, checked
from lema.prompts.formats import correction_prompt
from lema.prompts.replies import read_correction
from lema.types import Completion, Correction, Engine, Problem, Prompt

_STOP = "\n}"  # a correction ends so, and a base model would go on
_REASONS = {"length": "cut off by length", "content_filter": "content filter", "refusal": "refusal"}


def correct_all(
    items: list[Item], demonstrations: str, tries: int, grader: str, engine: Engine, resume: Path
) -> list[Correction]:
    """A correction of each item, in order; further tries are of those that were rejected."""
    prompts = [prompt(demonstrations, problem, steps) for problem, _, steps in items]
    made: dict[int, Correction] = {}
    for number in range(tries):
        todo = [index for index in range(len(items)) if index not in made or not made[index].accepted]
        asked = [Prompt(prompts[index], number, _STOP) for index in todo]
        completions = engine.complete(asked, resume / f"try {number}")
        made |= {index: _read(items[index], each, grader) for index, each in zip(todo, completions, strict=True)}
    return [made[index] for index in range(len(items))]


def prompt(demonstrations: str, problem: Problem, steps: list[str]) -> str:
    """What the corrector is asked: the demonstrations, which open with an instruction, then the wrong path."""
    asked = correction_prompt(problem.question, steps, problem.candidates)  # its first line is an instruction too
    return demonstrations.rstrip("\n") + "\n\n" + asked.partition("\n")[2]


def _read(item: Item, completion: Completion, grader: str) -> Correction:
    problem, _, steps = item
    reason = completion.finish_reason if completion.failed else _REASONS.get(completion.finish_reason, "empty")
    read = None
    if completion.usable:
        read, reason = read_correction(completion.text or "", steps, problem.candidates)
    return checked(item, read, reason, completion.model, grader)
