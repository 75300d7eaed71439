"""What mistake a wrong solution makes, by the reference solution: its kind, and what its first wrong step says."""

from dataclasses import dataclass

from lema.correctors.reference import correct, equations_of
from lema.prompts.formats import split_steps
from lema.types import Problem

NO_ANSWER, NO_FORMULA = "no answer", "no formula"


@dataclass(frozen=True)
class Mistake:
    """The first mistake of a wrong solution.

    Two mistakes on one question are the same when they say the same.
    """

    kind: str  # `NO_ANSWER`, `NO_FORMULA` (none that can be read), or the kind that the reference corrector names
    step: int  # 1-based; one more than there are when a step is missing at the end
    says: str  # the step's formulas with their results, "3 5 + 8 = 9"; without one its words


def mistake(problem: Problem, solution: str, answered: bool = True) -> Mistake:
    """The mistake of a wrong solution as it is written; `answered`: whether an answer was found in it.

    Where a step is missing at the end, or no formula is there, the last step says what the mistake says.
    """
    steps = split_steps(solution)
    found = correct(problem, steps)
    unread = "<<" in problem.solution and not any(equations_of(step, 0) for step in steps)
    kind = NO_ANSWER if not answered else NO_FORMULA if unread else found.kind
    told = steps if unread else steps[: found.incorrect_step]
    return Mistake(kind or "", found.incorrect_step, _says(told[-1:]))


def _says(step: list[str]) -> str:
    """What a step says, however it writes sums, numbers and spaces; "" of none."""
    text = "".join(step)
    formulas = [f"{each.formula} = {each.result}" for each in equations_of(text, 0)]
    return "; ".join(formulas) or " ".join(text.lower().replace(",", "").rstrip(". ").split())
