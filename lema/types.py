"""The records that flow from stage to stage, one JSON object a line on disk, and the one kind of error a user sees.

Problem -> [sample] -> Solution -> [correct] -> Correction -> [mix] -> Example -> [train] -> checkpoint
Problem -> [evaluate] -> Solution -> Score, SampledScore

Within a stage an engine answers: Prompt -> [engine] -> Completion.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from hydra.errors import CompactHydraException

from lema.privacy import shown


class UserError(CompactHydraException):
    """A mistake the user can mend, in one line: what, where, the remedy. Hydra prints it without a traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))  # it may quote a data set or a server


@dataclass(frozen=True)
class Problem:
    """One question of a task."""

    id: str  # "gsm8k-train-17": task, split of the source, 0-based row
    question: str
    solution: str  # as the data set writes it, less the answer line: "Tom has <<5+3=8>>8 apples.\nHe …"; "" if none
    answer: str  # the gold final answer: "6", "\\frac{1}{2}", "bank"
    level: str | None = None  # "Level 3" (MATH)
    subject: str | None = None  # "Algebra" (MATH)
    candidates: list[str] = field(default_factory=list)  # ["bank", "mall", …] (CSQA)


NO_PROBLEM = Problem("", "", "", "")  # for the length of a prompt without its question


@dataclass(frozen=True)
class Prompt:
    """What a model is asked."""

    text: str
    attempt: int = 0  # 0-based: tells apart what is asked several times
    stop: str | None = None  # a completion ends behind it; a strong model in a chat is not told


# The beginnings of a finish reason that says why no completion arrived.
PROMPT_TOO_LONG, CONTENT_REFUSED, TOO_LARGE = "prompt too long", "refused by the server", "reply too large"
BROKEN_OFF = "broken off"
_FAILURES = (
    *("HTTP ", "malformed body", "time-out", "connection lost"),
    *(PROMPT_TOO_LONG, CONTENT_REFUSED, TOO_LARGE, BROKEN_OFF),
)
_CUT = ("length", "content_filter", "refusal")


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    `finish_reason` is the server's ("stop", "length", "content_filter", of some "eos" or "end_turn"), or "refusal" when
    the model refused. When a request failed for good it says why: "prompt too long", "refused by the server" (for its
    content), "HTTP 500", "malformed body", "reply too large", "broken off", "time-out", "connection lost".
    """

    text: str | None
    finish_reason: str
    model: str  # that answered; when the request failed, the model that was asked
    num_tokens: int | None = field(default=None, compare=False)  # of the completion, where they are known
    error: str = field(default="", compare=False)  # the server's own words where there is no text: one line

    @property
    def cut(self) -> bool:
        """Whether the token limit or a filter ended the text, not the model."""
        return self.finish_reason in _CUT

    @property
    def usable(self) -> bool:
        """Whether there is a text, and the model ended it."""
        return not self.cut and bool(self.text and self.text.strip())

    @property
    def failed(self) -> bool:
        """Whether no completion arrived."""
        return self.text is None and self.finish_reason.startswith(_FAILURES)

    def until(self, stop: str | None) -> "Completion":
        """The completion up to its stop text, if that comes: then the model ended it, not the limit."""
        if stop is None or stop not in (self.text or ""):
            return self
        return replace(self, text=(self.text or "").partition(stop)[0] + stop, finish_reason="stop")


class Engine(Protocol):
    """Whatever turns prompts into completions: a model that is loaded here, or one behind a server."""

    @property
    def costs(self) -> dict[str, Any]:
        """What its completions cost so far, for a summary: requests, tokens, `usd`; empty when nothing is paid."""
        ...

    @property
    def about(self) -> dict[str, str]:
        """What answers, for the record: {"engine": "transformers 5.24.0"}, and what else of it can change a text."""
        ...

    def complete(self, prompts: Sequence[Prompt], resume: Path) -> list[Completion]:
        """A completion of each prompt, in order.

        `resume` is a path in an artifact's resume folder: with it as their beginning, an engine names the files from
        which an interrupted call goes on. Raises `UserError` when it cannot go on.
        """
        ...


@dataclass(frozen=True)
class Solution:
    """What a model answered to a problem, with both verdicts on it."""

    problem_id: str
    model: str
    sample: int  # 0-based, below `sampler.samples`
    text: str  # the completion as generated; of a training problem its `answer_part` alone
    answer: str | None  # final answer extracted by the official rules, None when there is none
    correct: bool  # by the official rules: the verdict that selects wrong paths and makes the accuracy
    symbolic: bool  # whether it is right by the symbolic rules
    truncated: bool  # stopped by the token limit, not by the model


def distinct(solutions: Iterable[Solution], counts: Counter[str]) -> Iterator[Solution]:
    """Each text of a problem once, white space around it aside; `counts` gets `wrong_paths` and `repeated`."""
    seen: set[bytes] = set()  # 16 bytes a text: a million take 100 MB
    for solution in solutions:
        same = hashlib.blake2b(
            f"{solution.problem_id}\0{solution.text.strip()}".encode("utf-8", "replace"), digest_size=16
        ).digest()
        counts["repeated" if same in seen else "wrong_paths"] += 1
        if same not in seen:
            seen.add(same)
            yield solution


MAY_BE_RIGHT = "may_be_right"  # `corrector.prompt`: ours, with the choice that no step is wrong
NO_ERROR = "no wrong step named"  # the reason of a rejection: the corrector finds every step right


@dataclass(frozen=True)
class Correction:
    """A corrector's reading of one wrong solution; steps stand without their `Step k: `."""

    problem_id: str
    model: str  # who made the mistake
    sample: int
    corrector: str  # who corrected it
    wrong_steps: list[str]
    incorrect_step: int  # 1-based
    explanation: str
    correct_steps: list[str]  # from `incorrect_step` on
    answer: str | None
    accepted: bool
    reason: str | None = None  # why it was rejected
    kind: str | None = None  # the kind of mistake, where the corrector names one


@dataclass(frozen=True)
class Labelled:
    """A model's solution of a problem whose first wrong step people have named; steps stand without `Step k: `."""

    problem_id: str
    generator: str  # the model that wrote it
    kind: str  # of the question, where the file tells kinds apart: "original", "reversed"; else ""
    steps: list[str]
    label: int | None  # the first wrong step, 1-based; None: every step is right
    gradable: bool  # whether its problem's answer is known


@dataclass(frozen=True)
class Example:
    """One training example: loss falls on `completion` alone.

    `weights` are of the loss: (number of characters, weight), from the beginning of the completion to its end, the last
    also of the end token; none are 1 throughout.
    """

    problem_id: str
    source: str  # which part of the mix: "cot", "rationale", "correction", "corrected_cot", "random_cot", …
    prompt: str
    completion: str
    weights: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Sampled:
    """What later steps read of the summary of a sampling."""

    models: list[str]  # that answered
    wrong_paths: int


@dataclass(frozen=True)
class Corrected:
    """What later steps read of the summary of corrections."""

    correctors: list[str]  # the models that really corrected


@dataclass(frozen=True)
class Trained:
    """What later steps read of the summary of a training."""

    checkpoints: list[int]  # their steps


@dataclass(frozen=True)
class Selected:
    """What later steps read of a selection's summary: the checkpoint to evaluate. All None for the untuned backbone."""

    step: int | None
    selection: str | None  # how it was chosen: "dev", "last", or "paper": on the problems of the score, optimistic
    split: str | None  # on which it was chosen; None: on none
    accuracies: dict[str, float]  # of each checkpoint on that split, by its step


@dataclass(frozen=True)
class SampledScore:
    """What the samples of each problem, drawn at a temperature, are worth: `Score.sampled`; accuracies in [0, 1]."""

    samples: int  # of each problem; one that did not arrive counts as a wrong one
    temperature: float
    seed: int
    num_unanswered: int  # of all samples
    num_truncated: int
    accuracy: float  # the mean over problems of the share of right samples
    low: float  # the 95 % interval of that over problems
    high: float
    accuracy_symbolic: float
    pass_at: dict[str, float]  # pass@k by k, as JSON has it: {"1": 0.4, "2": 0.5, "4": 0.6}
    majority: float  # maj@k for k = `samples`


SCORE_VERSION = 5  # of the evaluation: raised when the same answers would get another score


def rules_version(grader: str | None) -> int:
    """How often this task's rules have changed; added to the version of each artifact that holds their verdicts."""
    return 1 if grader == "csqa" else 0


@dataclass(frozen=True)
class Score:
    """One model's result on one split: the content of `score.json`."""

    task: str
    backbone: str
    mix: str  # "none" for the untuned backbone
    seed: int | None  # the training seed, None for the untuned backbone
    step: int | None  # of the checkpoint
    selection: str | None  # how it was chosen: "dev", "last", or "paper": on the problems below themselves, optimistic
    split: str
    limit: int | None
    num_problems: int
    num_correct: int
    num_unanswered: int
    num_truncated: int
    accuracy: float  # num_correct / num_problems, in [0, 1]
    accuracy_symbolic: float  # the same by the symbolic rules
    disagreements: list[str]  # the problems on which the two rules disagree
    model: str  # id of the weights that answered, or the name of their folder
    correctors: list[str]  # the models that really corrected what it was trained on
    prompt: str | None = None  # how it was asked: "lema", "alpaca", "few_shot"; None of a score by an earlier version
    sampled: dict[str, Any] | None = None  # of a `SampledScore`, where samples were drawn beside the greedy answers
    answered: dict[str, str] | None = None  # `Engine.about` of what answered; a fact, and no part of any recipe
