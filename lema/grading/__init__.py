"""Whether a text answers a problem: extract its final answer and compare it with the gold one."""

from typing import NamedTuple

from lema.grading.official import latex_verdict, number_verdict

_OFFICIAL = {"gsm8k": number_verdict, "math": latex_verdict}


class Grade(NamedTuple):
    """The final answer found in a text, None when there is none, and the verdict on it."""

    answer: str | None
    correct: bool


def grade(text: str, answer: str, grader: str) -> Grade:
    """Grade `text` by the official rules of `grader` against the data set's `answer`, `1,080` or `\\frac{1}{2}`.

    >>> grade("5 + 3 = 8. The answer is 8.", "8", "gsm8k")
    Grade(answer='8', correct=True)
    >>> grade("Hence $x = \\\\boxed{\\\\dfrac12}$.", "\\\\frac{1}{2}", "math")
    Grade(answer='\\\\frac{1}{2}', correct=True)
    """
    return Grade(*_OFFICIAL[grader](text, answer))
