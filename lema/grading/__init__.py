"""Whether a text answers a problem: extract its final answer and compare it with the gold one."""

from __future__ import annotations

from dataclasses import dataclass

from lema.grading.official import latex_verdict, number_verdict

# A task whose answers are of a known kind is one more line.
_OFFICIAL = {"gsm8k": number_verdict, "arithmetic": number_verdict, "math": latex_verdict}


@dataclass(frozen=True)
class Grade:
    """The final answer found in a text, None when there is none, and the verdict on it."""

    answer: str | None
    correct: bool


def grade(text: str, answer: str, task: str) -> Grade:
    """Grade a model's text against the gold `answer` by the official rules of `task`.

    `answer` is the final answer as the data set gives it, such as `1,080` or `\\\\frac{1}{2}`.

    >>> grade("5 + 3 = 8. The answer is 8.", "8", "gsm8k")
    Grade(answer='8', correct=True)
    """
    return Grade(*_OFFICIAL[task](text, answer))
