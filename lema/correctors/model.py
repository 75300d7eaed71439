"""The corrector that is a model, behind a server or loaded here, in the paper's form.

It sees an instruction, four worked corrections, the question and the wrong path, and never the gold answer.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lema.correctors.checking import Item, checked
from lema.prompts.formats import correction_prompt
from lema.prompts.replies import finds_no_error, read_correction
from lema.types import NO_ERROR, Completion, Correction, Engine, Problem, Prompt

_STOP = "\n}"  # a correction ends so, and a base model would go on
_REASONS = {"length": "cut off by length", "content_filter": "content filter", "refusal": "refusal"}
NO_AGREEMENT = "too few name the same step"
REFUSED = {"content filter", "refusal", "empty"}  # the reasons by which a corrector that answers says nothing


def correct_all(
    items: list[Item],
    demonstrations: str,
    tries: int,
    grader: str,
    engine: Engine,
    resume: Path,
    may_be_right: bool = False,
    agree: int = 1,
    check: Callable[[Correction], Correction] = lambda each: each,
) -> list[Correction]:
    """A correction of each item, in order; further tries are of those that were rejected, which `check` may do too.

    `may_be_right`: the demonstrations allow the reply that nothing is wrong, which is not asked again.
    `agree`: more than half of `tries`; so many must name the step of the correction that is accepted, or no step.
    """
    prompts = [prompt(demonstrations, problem, steps) for problem, _, steps in items]
    made: list[list[Correction]] = [[] for _ in items]
    for number in range(tries):
        todo = [k for k, own in enumerate(made) if _is_open(own, agree, tries - number)]
        asked = [Prompt(prompts[index], number, _STOP) for index in todo]
        completions = engine.complete(asked, resume / f"try {number}")
        for index, each in zip(todo, completions, strict=True):
            made[index].append(check(_read(items[index], each, grader, may_be_right)))
    return [_chosen(own, agree) for own in made]


def _is_open(made: list[Correction], agree: int, left: int) -> bool:
    """Whether `left` further tries can change what is chosen."""
    votes = _votes(made)
    settled = any(votes[_named(each)] >= agree for each in made if each.accepted or each.reason == NO_ERROR)
    return not settled and max(votes.values(), default=0) + left >= agree


def _chosen(made: list[Correction], agree: int) -> Correction:
    """The accepted one whose step the most name, the first of several; without an accepted one the last try."""
    votes = _votes(made)
    good = [each for each in made if each.accepted or each.reason == NO_ERROR]
    best = max(good, key=lambda each: votes[_named(each)], default=made[-1])
    if best in good and votes[_named(best)] < agree:
        return replace(best, accepted=False, reason=NO_AGREEMENT)
    return best


def _votes(made: list[Correction]) -> Counter[int | None]:
    return Counter(named for each in made if (named := _named(each)) is not None)


def _named(correction: Correction) -> int | None:
    """The step that it names, 0 where it finds every step right; None where nothing was read."""
    return 0 if correction.reason == NO_ERROR else correction.incorrect_step or None


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
