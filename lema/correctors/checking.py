"""From what a corrector said of a wrong solution to a `Correction`: accepted, or rejected with the reason."""

import re

from lema.grading import Grade, grade
from lema.grading.extraction import extract
from lema.prompts.formats import ANSWER
from lema.prompts.replies import ParsedCorrection, concludes
from lema.types import Correction, Problem, Solution

Item = tuple[Problem, Solution, list[str]]  # a wrong solution of a problem, and its steps

_PHRASE = ANSWER.partition("{")[0]
# What a step says that does nothing but state an answer: `So the answer is 11 pens`, the unit in two words at most.
_ONLY = re.compile(
    r"(?i:\W*(?:(?:so|thus|hence|therefore|finally|the|our|my|final|correct|right|is|equals|answer(?:\s?=)?|boxed|fbox|text|mathrm)(?:(?<==)|\b)"
    r"[^\w=]*){0,12}(?:[^\W\d_]{1,20}[^\w=]*){0,2})"
)
_BARE = re.compile(r"\W{0,8}\d[\d,.]{0,20}(?: [A-Za-z]{1,20}){0,2}\W{0,4}")  # `11`, `**$11**`, `11 pens.`


def checked(item: Item, said: ParsedCorrection | None, reason: str | None, corrector: str, grader: str) -> Correction:
    """Accepted when there is no `reason` against it and the final answer is right by the official rules.

    The last step states the answer in the paper's form, whatever the form it came in: what is trained on ends so.
    """
    problem, solution, wrong_steps = item
    incorrect_step, explanation, correct_steps, kind = said or (0, "", [], None)
    correct_steps, (answer, correct) = _stated(correct_steps, problem, grader)
    reason = reason or ("no answer" if answer is None else None if correct else "wrong answer")
    who = (problem.id, solution.model, solution.sample, corrector)
    told = (wrong_steps, incorrect_step, explanation, correct_steps, answer)
    return Correction(*who, *told, accepted=reason is None, reason=reason, kind=kind)


def ends_rightly(item: Item, grader: str) -> bool:
    """Whether the steps end in the right answer, in whatever form, as a careful reader would find it."""
    problem, _, steps = item
    return grade("\n".join(steps), problem.answer, grader, "symbolic", problem.candidates).correct


def _stated(steps: list[str], problem: Problem, grader: str) -> tuple[list[str], Grade]:
    """The steps, the last of which says `The answer is X.`, and their grade.

    A last step that says so stays as it is when the official rules read it as right. Otherwise its answer is found as
    a careful reader would: where it stands alone it is stated anew, and behind anything else in a step of its own.
    """
    verdict = grade("\n".join(steps), problem.answer, grader, candidates=problem.candidates)
    last = steps[-1] if steps else ""
    denied = f"{_PHRASE}not " in last and not problem.candidates  # a candidate may be "not happy"
    if not steps or (_PHRASE in last and verdict.correct and not denied):
        return steps, verdict
    said = f"Answer: {last}" if _BARE.fullmatch(last) else last
    concluded = concludes(last.rpartition("\n")[2]) or concludes(last) or not (problem.candidates or "=" in last)
    answer = (extract(said, grader, problem.candidates) or "").rstrip(". ") if concluded else ""
    if not answer or denied:
        return steps, verdict if _PHRASE in last and not verdict.correct else Grade(None, correct=False)
    before, _, behind = last.rpartition(answer)
    alone = _ONLY.fullmatch(before) and _ONLY.fullmatch(behind)
    stated = [*(steps[:-1] if alone else steps), ANSWER.format(answer=answer)]
    again = grade("\n".join(stated), problem.answer, grader, candidates=problem.candidates)
    return (steps, verdict) if _PHRASE in last and not again.correct else (stated, again)
