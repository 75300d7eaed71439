"""The corrector that is a model, behind a server or loaded here, in the paper's form.

It sees an instruction, four worked corrections, the question and the wrong path, and never the gold answer.
"""

from pathlib import Path

from lema.correctors.checking import Item, checked
from lema.prompts.formats import correction_prompt
from lema.prompts.replies import finds_no_error, read_correction
from lema.types import NO_ERROR, Completion, Correction, Engine, Problem, Prompt

_STOP = "\n}"  # a correction ends so, and a base model would go on
_REASONS = {"length": "cut off by length", "content_filter": "content filter", "refusal": "refusal"}
REFUSED = {"content filter", "refusal", "empty"}  # the reasons by which a corrector that answers says nothing


def correct_all(
    items: list[Item],
    demonstrations: str,
    tries: int,
    grader: str,
    engine: Engine,
    resume: Path,
    may_be_right: bool = False,
) -> list[Correction]:
    """A correction of each item, in order; further tries are of those that were rejected.

    `may_be_right`: the demonstrations allow the reply that nothing is wrong, which is not asked again.
    """
    prompts = [prompt(demonstrations, problem, steps) for problem, _, steps in items]
    made: dict[int, Correction] = {}
    for number in range(tries):
        todo = [k for k in range(len(items)) if k not in made or not (made[k].accepted or made[k].reason == NO_ERROR)]
        asked = [Prompt(prompts[index], number, _STOP) for index in todo]
        completions = engine.complete(asked, resume / f"try {number}")
        replies = zip(todo, completions, strict=True)
        made |= {index: _read(items[index], each, grader, may_be_right) for index, each in replies}
    return [made[index] for index in range(len(items))]


def prompt(demonstrations: str, problem: Problem, steps: list[str]) -> str:
    """What the corrector is asked: the demonstrations, which open with an instruction, then the wrong path."""
    asked = correction_prompt(problem.question, steps, problem.candidates)  # its first line is an instruction too
    return demonstrations.rstrip("\n") + "\n\n" + asked.partition("\n")[2]


def _read(item: Item, completion: Completion, grader: str, may_be_right: bool) -> Correction:
    problem, _, steps = item
    reason = completion.finish_reason if completion.failed else _REASONS.get(completion.finish_reason, "empty")
    read = None
    if completion.usable and may_be_right and finds_no_error(completion.text or ""):
        reason = NO_ERROR
    elif completion.usable:
        read, reason = read_correction(completion.text or "", steps, problem.candidates)
    return checked(item, read, reason, completion.model, grader)
