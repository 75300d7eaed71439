r"""Whether a text answers a problem: extract its final answer and compare it with the gold one.

By the official rules, as the paper's evaluation code does, or by the symbolic rules, as a careful reader would:

>>> text = r"So she has \boxed{\$1,080}."
>>> grade(text, "1080", "math"), grade(text, "1080", "math", "symbolic").correct
(Grade(answer='1,080', correct=False), True)
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lema.grading.official import NO_CANDIDATES, VERDICTS

_RULES = ("official", "symbolic")


class Grade(NamedTuple):
    """The final answer found in a text, None when there is none, and the verdict on it."""

    answer: str | None
    correct: bool


def grade(
    text: str, answer: str, task: str, rules: str = "official", candidates: Sequence[str] = (), *, deadline: float = 2.0
) -> Grade:
    r"""Grade `text` against the data set's final `answer`, `1,080` or `\frac{1}{2}`; `candidates` are CSQA's choices.

    By the symbolic rules an answer that takes longer than `deadline` seconds to compare is wrong. Raises ValueError
    for an unknown task or unknown rules, and for CSQA without candidates.

    >>> grade("5 + 3 = 8. The answer is 8.", "8", "gsm8k")
    Grade(answer='8', correct=True)
    >>> grade("Hence $x = \\boxed{\\dfrac12}$.", "\\frac{1}{2}", "math")
    Grade(answer='\\frac{1}{2}', correct=True)
    >>> grade("The answer is a bank.", "bank", "csqa", candidates=["mall", "bank"])
    Grade(answer='bank', correct=True)
    """
    return grade_all([(text, answer, candidates)], task, rules, deadline=deadline)[0]


def grade_all(
    items: Iterable[tuple[str, str] | tuple[str, str, Sequence[str]]],
    task: str,
    rules: str = "official",
    *,
    deadline: float = 2.0,
) -> list[Grade]:
    """Grade many, in order; an item is a text, its gold answer and, for CSQA, the candidates.

    Symbolic comparisons run on all cores. The official rules need a dozen microseconds a text, hardly more than it
    costs to send it to another core, so they run here.

    >>> grade_all([("The answer is 8.", "8"), ("I give up.", "8")], "gsm8k")
    [Grade(answer='8', correct=True), Grade(answer=None, correct=False)]
    """
    for name, value, choices in (("task", task, VERDICTS), ("rules", rules, _RULES)):
        if value not in choices:
            raise ValueError(f"{name}={value!r}: must be one of {', '.join(choices)}")
    if rules == "official":
        return [Grade(*VERDICTS[task](*item)) for item in items]
    from lema.grading.symbolic import extract, quick
    from lema.grading.workers import equal

    grades: list[Grade] = []
    undecided: dict[tuple[str, str], list[int]] = {}  # what strings and numbers cannot tell, each pair once
    for text, answer, *candidates in items:
        if task == "csqa" and not any(candidates):
            raise ValueError(NO_CANDIDATES)
        found = extract(text, task, *candidates)
        verdict = False if found is None else quick(found, answer, task)
        if found is not None and verdict is None:
            undecided.setdefault((found, answer), []).append(len(grades))
        grades.append(Grade(found, bool(verdict)))
    for places, verdict in zip(undecided.values(), equal(list(undecided), deadline), strict=True):
        for place in places:
            grades[place] = Grade(grades[place].answer, verdict)
    return grades
