"""correct: each wrong solution of a training question becomes a correction, or a rejection with its reason.

A correction is accepted when it keeps to the paper's form and its final answer is right. Who corrects is the
config's choice: the reference solution (no network), or a model behind an OpenAI-compatible server, which never
sees the gold answer.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lema.artifacts import Recipe, write_jsonl
from lema.cell import Cell
from lema.config import CorrectionMethod, digest
from lema.correctors import api, reference
from lema.grading import grade
from lema.prompts.formats import split_steps
from lema.types import Correction, Problem, Solution

VERSION = 1
# What decides the text of a reply; who is asked where, how fast and how patiently does not.
API_FIELDS = ("model", "temperature", "reasoning_effort", "max_completion_tokens")
Item = tuple[Problem, Solution, list[str]]  # the steps of the wrong solution last


def recipe(cell: Cell) -> Recipe:
    corrector, grader = cell.plain(cell.config.corrector), cell.config.task.grader
    config = {"method": corrector["method"], "grader": grader}
    if cell.config.corrector.method is CorrectionMethod.api:
        config |= {name: corrector[name] for name in API_FIELDS}
        config["demonstrations"] = digest(api.demonstrations(cell.config.corrector, grader))
    inputs = {"data": cell.artifacts["data"].digest, "samples": cell.artifacts["sample"].digest}
    label = f"{cell.task_label}-{cell.sampled_weights.name}-{cell.config.corrector.name}"
    return Recipe("correct", label, VERSION, config, inputs)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `corrections.jsonl`, accepted and rejected."""
    problems = {problem.id: problem for problem in cell.problems("train")}
    wrong = [
        (problems[solution.problem_id], solution, split_steps(solution.text))
        for solution in cell.artifacts["sample"].rows("wrong.jsonl", Solution)
        if solution.problem_id in problems  # the others are dev questions
    ]
    spent = {}
    if cell.config.corrector.method is CorrectionMethod.api:
        journal = cell.store.root / "journal.sqlite"
        replies, spending = api.correct_all(wrong, cell.config.corrector, cell.config.task.grader, journal)
        corrections = [_read(item, reply, cell) for item, reply in zip(wrong, replies, strict=True)]
        spent = vars(spending)
    else:
        corrections = list(_by_reference(wrong, cell))
    write_jsonl(folder / "corrections.jsonl", corrections)
    return {
        "corrections": len(corrections),
        "accepted": sum(correction.accepted for correction in corrections),
        "rejected": dict(Counter(correction.reason for correction in corrections if not correction.accepted)),
        "kinds": dict(Counter(correction.kind for correction in corrections if correction.kind)),
        "correctors": sorted({correction.corrector for correction in corrections}),
        **spent,
    }


def _by_reference(wrong: list[Item], cell: Cell) -> Iterator[Correction]:
    for item in tqdm(wrong, desc="correct", disable=None):
        found = reference.correct(item[0], item[2])
        explained = (found.incorrect_step, found.explanation, found.correct_steps)
        yield _graded(item, "reference", *explained, cell=cell, kind=found.kind)


def _read(item: Item, reply: api.Reply, cell: Cell) -> Correction:
    if (parsed := reply.correction) is None:
        return _graded(item, reply.model, 0, "", [], cell=cell, reason=reply.reason)
    return _graded(item, reply.model, parsed.incorrect_step, parsed.explanation, parsed.steps, cell=cell)


def _graded(
    item: Item,
    corrector: str,
    incorrect_step: int,
    explanation: str,
    correct_steps: list[str],
    *,
    cell: Cell,
    reason: str | None = None,
    kind: str | None = None,
) -> Correction:
    problem, solution, wrong_steps = item
    verdict = grade("\n".join(correct_steps), problem.answer, cell.config.task.grader)
    if reason is None and not (verdict.correct and verdict.answer is not None):
        reason = "no answer" if verdict.answer is None else "wrong answer"
    return Correction(
        problem_id=problem.id,
        model=solution.model,
        sample=solution.sample,
        corrector=corrector,
        wrong_steps=wrong_steps,
        incorrect_step=incorrect_step,
        explanation=explanation,
        correct_steps=correct_steps,
        answer=verdict.answer,
        accepted=reason is None,
        reason=reason,
        kind=kind,
    )
