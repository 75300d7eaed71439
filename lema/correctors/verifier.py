"""The verifier: a second model says of each accepted correction whether its step is the first incorrect one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lema.grading.generated import without_thinking
from lema.prompts.markup import plain, undressed
from lema.types import Correction, Engine, Problem, Prompt

DENIED, NO_VERDICT = "another step by the verifier", "no verdict by the verifier"
_STOP = "\nQuestion:"  # a base model would go on
_PROMPT = (
    "A step of the following solution was named as its first incorrect step. Please check whether it is: whether this "
    "step is incorrect, and every step before it is correct.\n"
    "Question: {question}\nSolution:\n{{\n{steps}\n}}\nNamed Step: Step {number}.\n"
    "Is it the first incorrect step, yes or no?\nAnswer:"
)
_LEAD = (
    r"\W{0,12}(?:(?:the |my )?(?:final )?(?:answer|verdict|conclusion)\W{0,8}(?:is\b\W{0,8})?)?"
    r"(?:\\boxed\W{1,4}(?:text\W)?)?"
)
# A verdict opens the reply, or is all of its last line. "No step before it is wrong" is none.
_OPENS = re.compile(rf"(?i){_LEAD}(yes\b|no(?=[\W_]{{0,6}}$|[*_\"']{{0,3}} ?[,.;:!(—–-]))")
_ENDS = re.compile(rf"(?i){_LEAD}(yes|no)[\W_]{{0,12}}")


def verified(
    corrections: Sequence[Correction], problems: Mapping[str, Problem], engine: Engine, resume: Path
) -> tuple[list[Correction], list[str]]:
    """The same corrections in order, those that the verifier does not confirm no more accepted; and who answered.

    `problems` are by their ids.
    """
    accepted = [number for number, each in enumerate(corrections) if each.accepted]
    prompts = [Prompt(prompt(problems[corrections[k].problem_id], corrections[k]), 0, _STOP) for k in accepted]
    made, completions = list(corrections), engine.complete(prompts, resume) if prompts else []
    for number, completion in zip(accepted, completions, strict=True):
        says = verdict(completion.text or "") if completion.usable else None
        if not says:
            reason = NO_VERDICT if says is None else DENIED
            made[number] = replace(made[number], accepted=False, reason=reason)
    return made, sorted({each.model for each in completions})


def prompt(problem: Problem, correction: Correction | None = None) -> str:
    """What the verifier is asked: it sees neither explanation nor corrected steps, nor the gold answer."""
    steps, number = (correction.wrong_steps, correction.incorrect_step) if correction else ([], 0)
    told = "\n".join(f"Step {k}: {step}" for k, step in enumerate(steps, 1))
    return _PROMPT.format(question=problem.question, steps=told, number=number)


def verdict(text: str) -> bool | None:
    r"""Whether a reply confirms the step; None where it says neither, or both.

    >>> verdict(" **Yes**, it adds."), verdict("Step 1 holds.\n\nAnswer: no"), verdict("No step is."), verdict("")
    (True, False, None, None)
    """
    lines = [line for line in map(plain, undressed(without_thinking(text)).split("\n")) if line]
    found = [_OPENS.match(lines[0]), _ENDS.fullmatch(lines[-1])] if lines else []
    said = {each[1].lower() for each in found if each}
    return said == {"yes"} if len(said) == 1 else None
