"""The records that flow from stage to stage, and the one kind of error a user sees.

    Problem -> [sample] -> Solution -> [correct] -> Correction -> [mix] -> Example -> [train] -> checkpoint
    Problem -> [evaluate] -> Solution -> Score

Every record is a frozen dataclass of plain values, one JSON object a line on disk. A prediction is a
`Solution` on the test split: sampling and evaluation share one type. "No answer" is `None`, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from hydra.errors import CompactHydraException


class UserError(CompactHydraException):
    """A mistake the user can mend: one message saying what, where and the remedy.

    A `CompactHydraException`, because Hydra prints these without a traceback, also from a sweep's worker processes.
    """


@dataclass(frozen=True)
class Problem:
    """One question of a task.

    `solution` is the reference rationale as the data set writes it, steps separated by newlines where the
    data set does so: `"Tom has <<5+3=8>>8 apples.\\nHe eats 2, so 8-2=<<8-2=6>>6 are left."`, without the final
    answer line; "" when the data set has none. `answer` is the gold final answer: `"6"`, `"\\\\frac{1}{2}"`.
    """

    id: str  # "gsm8k-train-17": task, split of the source, 0-based row
    question: str
    solution: str
    answer: str
    level: str | None = None  # "Level 3" (MATH)
    subject: str | None = None  # "Algebra" (MATH)


@dataclass(frozen=True)
class Solution:
    """What a model answered to a problem, with its verdict. `text` is the completion as generated."""

    problem_id: str
    model: str
    sample: int  # 0-based, below `sampler.samples`
    text: str
    answer: str | None  # extracted final answer, None when there is none
    correct: bool
    truncated: bool  # stopped by the token limit, not by the model


@dataclass(frozen=True)
class Correction:
    """A corrector's reading of one wrong solution.

    `wrong_steps` are the wrong solution's steps, `correct_steps` the right ones from `incorrect_step`
    (1-based) on, both without their `Step k: `. A rejected correction says why in `reason`.
    """

    problem_id: str
    model: str  # who made the mistake
    sample: int
    corrector: str  # who corrected it
    wrong_steps: list[str]
    incorrect_step: int
    explanation: str
    correct_steps: list[str]
    answer: str | None
    accepted: bool
    reason: str | None = None
    kind: str | None = None  # the kind of mistake, where the corrector names one


@dataclass(frozen=True)
class Example:
    """One training example: loss falls on `completion` alone. `source` says which part of the mix it is."""

    problem_id: str
    source: str  # "cot", "correction", "corrected_cot", "random_cot"
    prompt: str
    completion: str


@dataclass(frozen=True)
class Score:
    """One model's result on one split: the content of `score.json`."""

    task: str
    backbone: str
    mix: str  # "none" for the untuned backbone
    seed: int | None  # the training seed, None for the untuned backbone
    split: str
    limit: int | None
    num_problems: int
    num_correct: int
    num_unanswered: int
    num_truncated: int
    accuracy: float  # num_correct / num_problems, in [0, 1]
    model: str  # id or folder of the weights that answered
