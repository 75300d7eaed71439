"""correct: each wrong solution of a training question becomes a correction, or a rejection with its reason.

A correction is accepted when it keeps to the paper's form and its final answer is right. Who corrects is the
config's choice: the reference solution (no network), or a model behind an OpenAI-compatible server, which never
sees the gold answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lema.artifacts import Recipe, write_jsonl
from lema.cell import Cell
from lema.config import CorrectionMethod
from lema.correctors import reference
from lema.grading import grade
from lema.prompts.formats import split_steps
from lema.types import Correction, Problem, Solution

VERSION = 1
# What decides the text of a reply; who pays, how fast and how patiently does not.
API_FIELDS = ("model", "temperature", "reasoning_effort", "max_completion_tokens")


def recipe(cell: Cell) -> Recipe:
    corrector = cell.plain(cell.config.corrector)
    config = {"method": corrector["method"], "grader": cell.config.task.grader.value}
    if cell.config.corrector.method is CorrectionMethod.api:
        config |= {name: corrector[name] for name in API_FIELDS}
    inputs = {"data": cell.artifacts["data"].digest, "samples": cell.artifacts["sample"].digest}
    label = f"{cell.task_label}-{cell.sampled_weights.name}-{cell.config.corrector.name}"
    return Recipe("correct", label, VERSION, config, inputs)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `corrections.jsonl`, accepted and rejected."""
    problems = {problem.id: problem for problem in cell.problems("train")}
    wrong = [
        (problems[solution.problem_id], solution)
        for solution in cell.artifacts["sample"].rows("wrong.jsonl", Solution)
        if solution.problem_id in problems  # the others are dev questions
    ]
    corrections = list(_by_reference(cell, wrong))
    write_jsonl(folder / "corrections.jsonl", corrections)
    reasons = Counter(correction.reason for correction in corrections if not correction.accepted)
    kinds = Counter(correction.kind for correction in corrections if correction.kind)
    return {
        "corrections": len(corrections),
        "accepted": sum(correction.accepted for correction in corrections),
        "rejected": dict(reasons),
        "kinds": dict(kinds),
    }


def _by_reference(cell: Cell, wrong: list[tuple[Problem, Solution]]) -> Iterator[Correction]:
    for problem, solution in tqdm(wrong, desc="correct", disable=None):
        steps = split_steps(solution.text)
        found = reference.correct(problem, steps)
        verdict = grade(found.correct_steps[-1], problem.answer, cell.config.task.grader.value)
        yield Correction(
            problem_id=problem.id,
            model=solution.model,
            sample=solution.sample,
            corrector="reference",
            wrong_steps=steps,
            incorrect_step=found.incorrect_step,
            explanation=found.explanation,
            correct_steps=found.correct_steps,
            answer=verdict.answer,
            accepted=verdict.correct,
            reason=None if verdict.correct else "wrong answer",
            kind=found.kind,
        )
