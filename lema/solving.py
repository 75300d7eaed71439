"""Solving: problems, how they are asked, an engine and whose rules compare answers make graded solutions.

Sampling, rationales, selection and evaluation all come here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from lema.console.progress import Progress
from lema.grading import grade_all
from lema.grading.generated import answer_part
from lema.prompts.formats import cot_prompt, few_shot_prompt
from lema.types import Engine, Problem, Prompt, Solution

_CHUNK = 10_000  # texts that are graded together: enough to keep the symbolic workers busy


@dataclass(frozen=True)
class Wording:
    """How a problem is asked: zero-shot in a style, or after worked solutions, which take the place of a style."""

    style: str | None  # a key of `lema.prompts.formats.COT_PROMPTS`; None after demonstrations
    demonstrations: str | None = None

    def text(self, problem: Problem) -> str:
        """The prompt's text."""
        if self.demonstrations is not None:
            return few_shot_prompt(self.demonstrations, problem.question, problem.candidates)
        assert self.style
        return cot_prompt(self.style, problem.question, problem.candidates)

    def prompts(self, asked: Iterable[tuple[Problem, int]]) -> list[Prompt]:
        """The prompt of each (problem, attempt)."""
        stop = None if self.demonstrations is None else "\nQuestion:"
        texts: dict[str, str] = {}
        for problem, _ in (asked := list(asked)):
            if problem.id not in texts:
                texts[problem.id] = self.text(problem)
        return [Prompt(texts[problem.id], attempt, stop) for problem, attempt in asked]


class Text(NamedTuple):
    """A text that is to be graded."""

    problem: Problem
    model: str
    sample: int
    text: str
    truncated: bool


def solve(
    asked: list[tuple[Problem, int]], wording: Wording, engine: Engine, grader: str, resume: Path, *, whole: bool
) -> list[Solution]:
    """A solution of each (problem, attempt) that was answered at all, in order.

    Without `whole` a text is cut to its `answer_part`. The engine raises `UserError` when it cannot go on.
    """
    completions = engine.complete(wording.prompts(asked), resume)
    texts = (
        Text(problem, each.model, attempt, each.text if whole else answer_part(each.text), each.cut)
        for (problem, attempt), each in zip(asked, completions, strict=True)
        if each.text is not None
    )
    with Progress(f"grading {len(completions):,} answers"):
        return list(graded(texts, grader))


def graded(texts: Iterable[Text], grader: str) -> Iterator[Solution]:
    """Solutions, with the verdicts of the official and of the symbolic rules."""
    texts = iter(texts)
    while chunk := list(islice(texts, _CHUNK)):
        items = [(each.text, each.problem.answer, each.problem.candidates) for each in chunk]
        verdicts = zip(grade_all(items, grader), grade_all(items, grader, "symbolic"), strict=True)
        for each, (official, symbolic) in zip(chunk, verdicts, strict=True):
            yield Solution(
                problem_id=each.problem.id,
                model=each.model,
                sample=each.sample,
                text=each.text,
                answer=official.answer,
                correct=official.correct,
                symbolic=symbolic.correct,
                truncated=each.truncated,
            )
