"""From what a corrector said of a wrong solution to a `Correction`: accepted, or rejected with the reason."""

from lema.grading import grade
from lema.prompts.replies import ParsedCorrection
from lema.types import Correction, Problem, Solution

Item = tuple[Problem, Solution, list[str]]  # a wrong solution of a problem, and its steps


def checked(item: Item, said: ParsedCorrection | None, reason: str | None, corrector: str, grader: str) -> Correction:
    """Accepted when there is no `reason` against it and the final answer is right by the official rules."""
    problem, solution, wrong_steps = item
    incorrect_step, explanation, correct_steps, kind = said or (0, "", [], None)
    answer, correct = grade("\n".join(correct_steps), problem.answer, grader, candidates=problem.candidates)
    reason = reason or ("no answer" if answer is None else None if correct else "wrong answer")
    who = (problem.id, solution.model, solution.sample, corrector)
    told = (wrong_steps, incorrect_step, explanation, correct_steps, answer)
    return Correction(*who, *told, accepted=reason is None, reason=reason, kind=kind)
