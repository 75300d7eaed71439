"""correct: each wrong solution of a training question becomes a correction, or a rejection with its reason.

A correction is accepted when it keeps to the paper's form and its final answer is right.
"""

from collections import Counter
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

# What decides the text of a reply; who is asked where, how fast and how patiently does not.
API_FIELDS = ("model", "temperature", "reasoning_effort", "max_completion_tokens")


def recipe(cell: Cell) -> Recipe:
    corrector, grader = cell.plain(cell.config.corrector), cell.config.task.trained.grader
    config = {"method": corrector["method"], "grader": grader}
    if cell.config.corrector.method is CorrectionMethod.api:
        config |= {name: corrector[name] for name in API_FIELDS}
        config["demonstrations"] = digest(api.demonstrations(cell.config.corrector, grader))
    inputs = {"data": cell.artifacts["data"].digest, "samples": cell.artifacts["sample"].digest}
    label = f"{cell.train_label}-{cell.sampled_weights.name}-{cell.config.corrector.name}"
    return Recipe("correct", label, version=2, config=config, inputs=inputs)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `corrections.jsonl`, accepted and rejected."""
    problems = {problem.id: problem for problem in cell.problems("train")}
    wrong = [
        (problems[solution.problem_id], solution, split_steps(solution.text))
        for solution in cell.artifacts["sample"].rows("wrong.jsonl", Solution)
        if solution.problem_id in problems  # the others are dev questions
    ]
    grader = cell.config.task.trained.grader
    if cell.config.corrector.method is CorrectionMethod.api:
        replies, spending = api.correct_all(wrong, cell.config.corrector, grader, cell.store.root / "journal.sqlite")
        spent = vars(spending)
    else:
        found = [reference.correct(problem, steps) for problem, _, steps in tqdm(wrong, desc="correct", disable=None)]
        replies, spent = [api.Reply(correction, None, "reference") for correction in found], {}
    corrections = [_graded(*item, reply, grader) for item, reply in zip(wrong, replies, strict=True)]
    write_jsonl(folder / "corrections.jsonl", corrections)
    return {
        "corrections": len(corrections),
        "accepted": sum(correction.accepted for correction in corrections),
        "rejected": dict(Counter(correction.reason for correction in corrections if not correction.accepted)),
        "kinds": dict(Counter(correction.kind for correction in corrections if correction.kind)),
        "correctors": sorted({correction.corrector for correction in corrections}),
        **spent,
    }


def _graded(problem: Problem, solution: Solution, wrong_steps: list[str], reply: api.Reply, grader: str) -> Correction:
    incorrect_step, explanation, correct_steps, kind = reply.correction or (0, "", [], None)
    answer, correct = grade("\n".join(correct_steps), problem.answer, grader, candidates=problem.candidates)
    reason = reply.reason or ("no answer" if answer is None else None if correct else "wrong answer")
    who = (problem.id, solution.model, solution.sample, reply.model)
    said = (wrong_steps, incorrect_step, explanation, correct_steps, answer)
    return Correction(*who, *said, accepted=reason is None, reason=reason, kind=kind)
